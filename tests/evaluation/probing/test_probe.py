"""The published linear probe: its numbers, the frozen backbone, best and last."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from helpers import small_subject
from torch.nn import functional as F

from mec.data.opening import open_data
from mec.evaluation.features import extract
from mec.evaluation.probing.probe import PROBES, train_probe
from mec.networks.encoder_file import image_transform


@pytest.fixture
def subject(tmp_path):
    return small_subject(tmp_path)


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_the_backbone_is_bit_identical_afterwards_and_the_head_has_learned(subject, preset):
    data = open_data("digits", limit=300)
    before = copy.deepcopy(subject.encoder.state_dict())
    modes = [m.training for m in subject.encoder.modules()]
    recipe = replace(PROBES[preset], epochs=30, base_lr=30.0, batch_size=100, crop=(0.7, 1.0))
    results = train_probe(subject, data, recipe)
    after = subject.encoder.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert modes == [m.training for m in subject.encoder.modules()]
    assert results[0].value > 50  # chance is 10 %


def test_best_is_the_best_epoch_and_last_the_last(subject):
    """Under a constant rate, training for fewer epochs is a beginning of training for more."""
    data = open_data("digits", limit=100)
    recipe = replace(PROBES["paper"], schedule="drops", optimizer="sgd", base_lr=2.0, batch_size=32)
    curves = [train_probe(subject, data, replace(recipe, epochs=n)) for n in (1, 2, 3, 4, 5)]
    last = [[r.value for r in results if r.settings["epoch"] == "last"] for results in curves]
    best = {r.metric: r for r in curves[-1] if r.settings["epoch"] == "best"}
    top1 = [values[0] for values in last]
    assert len(set(top1)) > 2
    assert best["top-1"].value == max(top1)
    assert best["top-1"].settings["epochs_done"] == top1.index(max(top1)) + 1
    assert best["top-5"].value == last[top1.index(max(top1))][1]  # of the same epoch, not its own best
    assert [r.settings["epochs_done"] for r in curves[-1] if r.settings["epoch"] == "last"] == [5, 5]


def test_accuracy_is_that_of_the_trained_head_on_plain_test_images(subject):
    """Restated: a constant head (rate 0 but for rounding) scores the features of unaugmented images."""
    from mec.evaluation.classifier import new_head

    data = open_data("digits", limit=100)
    recipe = replace(PROBES["paper"], epochs=1, base_lr=1e-12)
    found = train_probe(subject, data, recipe, seed=4)
    head = new_head(72, 10, recipe, seed=4)
    test = extract(subject.encoder, data.test, image_transform(replace(subject.info, interpolation="bilinear")))
    scores = F.linear(test.x, head.weight, head.bias)
    right = (scores.topk(5).indices == test.y[:, None]).float()
    assert found[0].value == pytest.approx(100 * right[:, 0].mean().item())
    assert found[1].value == pytest.approx(100 * right.any(1).float().mean().item())


def test_the_seed_decides_the_figure(subject):
    data = open_data("digits", limit=100)
    recipe = replace(PROBES["paper"], epochs=2, base_lr=100.0, batch_size=32)
    before = {name: (tensor.clone(), tensor.stride()) for name, tensor in subject.encoder.state_dict().items()}
    values = [[r.value for r in train_probe(subject, data, recipe, seed=seed)] for seed in (0, 0, 1)]
    for name, tensor in subject.encoder.state_dict().items():  # what is measured next finds it as it was, in layout too
        assert torch.equal(tensor, before[name][0])
        assert tensor.stride() == before[name][1]
    assert values[0] == values[1] != values[2]


def test_a_rate_too_low_for_so_few_images_is_said(subject, capsys):
    """The published rate was made for 1.28 million images; on a hundred LARS never leaves its start."""
    data = open_data("digits", limit=100)
    train_probe(subject, data, replace(PROBES["paper"], epochs=1))
    assert "A higher --base-lr" in " ".join(capsys.readouterr().err.split())
    train_probe(subject, data, replace(PROBES["paper"], epochs=1, base_lr=5000.0))
    assert "base-lr" not in capsys.readouterr().err
