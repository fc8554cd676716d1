"""Training of classifiers: the optimizer as published, every image once an epoch, nothing frozen moves."""

from __future__ import annotations

import copy
import dataclasses
import io
import math
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import labelled_folder, write_images
from rich.console import Console
from torch import nn
from torch.testing import assert_close

from mec.data.dataset import Split
from mec.data.images import Files
from mec.data.opening import open_data
from mec.errors import BadInput, TrainingStopped
from mec.evaluation import classifier
from mec.evaluation.classifier import Training, classifier_loss, classifier_optimizer, new_head, rate_factor, suited
from mec.evaluation.subject import Subject
from mec.networks.backbones import build_encoder
from mec.networks.encoder_file import EncoderInfo

WHOLE = {"crop": (1.0, 1.0), "flip": 0.0}  # views are the images themselves


def info(size: int = 8) -> EncoderInfo:
    return EncoderInfo("custom", 0, size, True, "bilinear", (0.5,) * 3, (0.25,) * 3, "", "", "", "", 0)


def train_classifier(encoder, head, train, targets, recipe, about, **options):
    """On the CPU, with targets in place of the labels."""
    subject = Subject("", encoder, about, "", "cpu", Path("nowhere"), workers=options.pop("workers", 0))
    classifier.train_classifier(subject, head, Split(train.images, targets.numpy()), recipe, **options)


@pytest.fixture(scope="module")
def digits():
    return open_data("digits", limit=120)


def larc(p, g, state, *, lr, wd, tc=0.001, momentum=0.9):
    """The update of LARS as NVIDIA's LARC defines it without clipping, in float64, one tensor."""
    p_norm, g_norm = p.norm(), g.norm()
    if p_norm != 0 and g_norm != 0:
        g = (g + wd * p) * (tc * p_norm / (g_norm + wd * p_norm + 1e-8))
    state = g if state is None else momentum * state + g
    return p - lr * state, state


@pytest.mark.parametrize("weight_decay", [0.0, 1e-3])
def test_lars_is_the_published_update_also_without_weight_decay_and_for_biases(weight_decay):
    recipe = Training("", base_lr=0.05, optimizer="lars", weight_decay=weight_decay, frozen=True)
    head = new_head(6, 4, recipe, seed=0).double()
    optimizer = classifier_optimizer(nn.Identity(), head, recipe, batch_size=4096)
    judged = {name: (p.detach().clone(), None) for name, p in head.named_parameters()}
    assert judged["bias"][0].norm() == 0  # its first step is not scaled
    generator = torch.Generator().manual_seed(0)
    assert len(optimizer.param_groups[0]["params"]) == 2
    for step in range(5):
        lr = 0.8 * (1 + math.cos(math.pi * step / 5)) / 2
        for group in optimizer.param_groups:
            assert group["full_lr"] == pytest.approx(0.8)  # 0.05 x 4096 / 256
            group["lr"] = lr
        for name, p in head.named_parameters():
            p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64)
            judged[name] = larc(judged[name][0], p.grad.clone(), judged[name][1], lr=lr, wd=weight_decay)
        optimizer.step()
    for name, p in head.named_parameters():
        assert_close(p.detach(), judged[name][0], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("head_norm", [False, True])
def test_a_frozen_probe_is_its_restatement(digits, head_norm):
    """Full batches of whole images: features are constants, and the loop can be written down in ten lines."""
    recipe = Training(
        "", base_lr=300.0, batch_size=1000, epochs=7, optimizer="lars", frozen=True, head_norm=head_norm, **WHOLE
    )
    torch.manual_seed(0)
    encoder = build_encoder("resnet10-tiny", 8).eval()
    head = new_head(256, 10, recipe, seed=3)
    y = torch.from_numpy(digits.train.labels)
    x = (digits.train.images.pixels.float() / 255 - 0.5) / 0.25
    with torch.no_grad():
        features = encoder(x).double()
    w, b = (copy.deepcopy(p).double().detach() for p in list(head.parameters()))
    assert w.std() == pytest.approx(0.01, rel=0.1)
    assert b.abs().max() == 0
    if head_norm:
        features = (features - features.mean(0)) / (features.var(0, unbiased=False) + 1e-6).sqrt()
    states = [None, None]
    for epoch in range(7):
        w.requires_grad_()
        b.requires_grad_()
        nn.functional.cross_entropy(features @ w.T + b, y).backward()
        lr = 300 * len(y) / 256 * (1 + math.cos(math.pi * epoch / 7)) / 2
        (w, states[0]), (b, states[1]) = (
            larc(p.detach(), p.grad, s, lr=lr, wd=0.0) for p, s in zip((w, b), states)
        )  # fmt: skip
    train_classifier(encoder, head, digits.train, y, recipe, info(), seed=3)
    found_w, found_b = (p.detach().double() for p in head.parameters())
    assert_close(found_w, w, rtol=2e-3, atol=2e-4)
    assert_close(found_b, b, rtol=2e-3, atol=2e-4)


def test_the_norm_of_the_head_keeps_running_statistics_of_the_batches(digits):
    recipe = Training("", base_lr=0.1, batch_size=1000, epochs=1, frozen=True, head_norm=True, **WHOLE)
    head = new_head(192, 10, recipe, seed=0)
    train_classifier(nn.Flatten(), head, digits.train, torch.from_numpy(digits.train.labels), recipe, info())
    x = ((digits.train.images.pixels.float() / 255 - 0.5) / 0.25).flatten(1)
    assert_close(head[0].running_mean, 0.1 * x.mean(0), rtol=1e-4, atol=1e-5)
    assert head[0].eps == 1e-6
    assert list(head[0].parameters()) == []


@pytest.mark.parametrize("optimizer", ["sgd", "lars"])
def test_a_frozen_backbone_is_bit_identical_afterwards(digits, optimizer):
    torch.manual_seed(0)
    encoder = build_encoder("resnet10-tiny", 8)
    first = next(encoder.parameters())
    first.requires_grad_(False)
    before = copy.deepcopy(encoder.state_dict())
    recipe = Training("", base_lr=0.5, batch_size=50, epochs=2, optimizer=optimizer, frozen=True, weight_decay=0.1)
    head = new_head(256, 10, recipe, seed=0)
    start = copy.deepcopy(head.state_dict())
    train_classifier(encoder, head, digits.train, torch.from_numpy(digits.train.labels), recipe, info())
    after = encoder.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)  # weights, statistics and counters
    assert not torch.equal(start["weight"], head.state_dict()["weight"])
    assert [p.requires_grad for p in encoder.parameters()] == [False] + [True] * (len(list(encoder.parameters())) - 1)
    assert all(p.grad is None for p in encoder.parameters())


def test_what_is_not_frozen_moves_with_its_statistics(digits):
    torch.manual_seed(0)
    encoder = build_encoder("resnet10-tiny", 8)
    before = copy.deepcopy(encoder.state_dict())
    recipe = Training("", base_lr=0.1, batch_size=50, epochs=1)
    train_classifier(encoder, new_head(256, 10, recipe, 0), digits.train, torch.from_numpy(digits.train.labels), recipe,
                     info())  # fmt: skip
    after = encoder.state_dict()
    same = [name for name in before if torch.equal(before[name], after[name])]
    assert not [name for name in same if "conv" in name or "running" in name or "tracked" in name]
    assert encoder.bn1.num_batches_tracked == 3


class Spy(nn.Module):
    """Mean grey and its own count of images; notes what it is shown while training."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.batches: list[list[float]] = []

    def forward(self, x):
        self.batches.append(x.mean((1, 2, 3)).tolist())
        return self.weight * x.flatten(1)[:, :4]


@pytest.mark.parametrize(("batch_size", "sizes"), [(50, [50, 50, 20]), (119, [119]), (500, [120])])
def test_every_image_comes_once_an_epoch_and_the_last_batch_is_kept(digits, batch_size, sizes):
    """Only a last batch of a single image is dropped: batch norm has no variance of one."""
    spy = Spy()
    recipe = Training("", base_lr=1e-9, batch_size=batch_size, epochs=2, frozen=True, **WHOLE)
    train_classifier(spy, new_head(4, 10, recipe, 0), digits.train, torch.from_numpy(digits.train.labels), recipe,
                     info())  # fmt: skip
    assert [len(b) for b in spy.batches] == sizes * 2
    epochs = [list(chain(*spy.batches[: len(sizes)])), list(chain(*spy.batches[len(sizes) :]))]
    x = (digits.train.images.pixels.float() / 255 - 0.5) / 0.25
    expected = sorted(x.mean((1, 2, 3)).tolist())
    if sum(sizes) == 120:
        assert_close(sorted(epochs[0]), expected)
        assert_close(sorted(epochs[1]), expected)
    assert epochs[0] != epochs[1]  # another order


def test_targets_stay_with_their_images_whatever_the_order(digits):
    """A backbone that shows the class: a head trained on it is right about every image."""

    class Tells(nn.Module):
        def forward(self, x):
            return nn.functional.one_hot((x[:, 0, 0, 0] * 0.25 * 255 + 127.5).round().long(), 10).float() * 8

    data = copy.deepcopy(digits)
    data.train.images.pixels[:] = torch.from_numpy(data.train.labels).to(torch.uint8)[:, None, None, None]
    recipe = Training("", base_lr=1.0, batch_size=32, epochs=5, frozen=True)
    head = new_head(10, 10, recipe, 0)
    train_classifier(Tells(), head, data.train, torch.from_numpy(data.train.labels), recipe, info())
    assert head(torch.eye(10) * 8).argmax(1).tolist() == list(range(10))


def test_a_frozen_backbone_sees_large_batches_in_parts_and_its_head_the_whole():
    data = open_data("digits")
    spy = Spy()
    recipe = Training("", base_lr=0.1, batch_size=600, epochs=1, frozen=True, head_norm=True, **WHOLE)
    head = new_head(4, 10, recipe, 0)
    train_classifier(spy, head, data.train, torch.from_numpy(data.train.labels), recipe, info())
    assert max(map(len, spy.batches)) <= 256
    assert sum(map(len, spy.batches)) == len(data.train)
    assert head[0].num_batches_tracked == 3  # 1,257 images in batches of 600


@pytest.mark.parametrize("several", [False, True], ids=["a class each", "several labels"])
def test_parts_of_a_batch_train_as_the_batch_does(digits, several):
    """Without batch norm; labels that take no part are unequally many in the parts."""
    targets = torch.from_numpy(digits.train.labels)
    if several:
        targets = torch.randint(-1, 2, (120, 10), generator=torch.Generator().manual_seed(0))
    found = []
    for micro in (None, 13, 50):
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten()).double()
        encoder.register_forward_pre_hook(lambda _, x: (x[0].double(),))
        recipe = Training("", base_lr=0.5, batch_size=50, epochs=3, micro_batch_size=micro)
        head = new_head(144, 10, recipe, 0).double()
        train_classifier(encoder, head, digits.train, targets, recipe, info())
        found.append([*encoder.parameters(), *head.parameters()])
    for other in found[1:]:
        assert_close(other, found[0], rtol=1e-9, atol=1e-12)


def test_batch_norm_sees_the_parts_none_of_which_is_a_single_image(digits):
    encoder, seen = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(192)), []
    encoder.register_forward_pre_hook(lambda _, x: seen.append(len(x[0])))
    recipe = Training("", base_lr=0.1, batch_size=120, epochs=1, micro_batch_size=17)
    train_classifier(encoder, new_head(192, 10, recipe, 0), digits.train, torch.from_numpy(digits.train.labels), recipe,
                     info())  # fmt: skip
    assert seen == [15] * 8


def test_files_are_trained_on_as_images_in_memory_are(tmp_path):
    data = open_data(str(labelled_folder(tmp_path, width=70, height=70)))
    recipe = Training("", base_lr=0.1, batch_size=8, epochs=2, frozen=True, **WHOLE)
    spy = Spy()
    train_classifier(spy, new_head(4, 3, recipe, 0), data.train, torch.from_numpy(data.train.labels), recipe, info(70))
    assert [len(b) for b in spy.batches] == [8, 8, 8, 8, 4] * 2
    images = torch.stack([torch.from_numpy(np.array(data.train.images.read(i))) for i in range(len(data.train))])
    expected = ((images.float() / 255 - 0.5) / 0.25).mean((1, 2, 3))
    assert_close(sorted(chain(*spy.batches[:5])), sorted(expected.tolist()), rtol=1e-4, atol=1e-4)


def test_images_that_cannot_be_read_are_told_and_too_many_stop_it(tmp_path):
    paths = write_images(tmp_path, 12, width=80, height=70)
    split = Split(Files(tuple(map(str, paths))))
    recipe = Training("", base_lr=0.1, batch_size=4, epochs=2)
    console = Console(record=True, file=io.StringIO(), width=400)

    def train():
        encoder = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten())
        train_classifier(
            encoder, new_head(48, 3, recipe, 0), split, torch.arange(12) % 3, recipe, info(), console=console
        )

    paths[5].unlink()
    train()
    assert "1 of 12 training images cannot be read, and others took their places" in (said := console.export_text())
    assert paths[5].name in said
    for path in paths[6:9]:
        path.unlink()
    with pytest.raises(TrainingStopped, match=r"[34] of 12 images cannot be read, more than 20%"):
        train()


def test_rates_follow_the_published_schedules():
    by_epoch = [rate_factor(Training("", 1.0, epochs=100), 10 * e + 9, 1000, 10) for e in range(100)]
    assert by_epoch[0] == 1
    assert by_epoch[-1] == pytest.approx(0.00025, abs=1e-5)  # never 0
    assert by_epoch[50] == pytest.approx(0.5)
    by_step = [rate_factor(Training("", 1.0, schedule="cosine by step"), s, 1000, 10) for s in (0, 500, 999)]
    assert by_step == pytest.approx([1, 0.5, 0], abs=1e-5)
    swav = Training("", 1.0, epochs=20, schedule="drops", drops=(12, 16), drop=0.2)
    assert [rate_factor(swav, 10 * e, 200, 10) for e in (0, 11, 12, 15, 16, 19)] == pytest.approx(
        [1, 1, 0.2, 0.2, 0.04, 0.04]
    )


def test_the_head_may_have_a_rate_of_its_own():
    recipe = Training("", base_lr=0.005, head_lr=0.5, scaled=False)
    optimizer = classifier_optimizer(nn.Linear(2, 2), nn.Linear(2, 2), recipe, batch_size=1024)
    assert [group["full_lr"] for group in optimizer.param_groups] == [0.5, 0.005]  # head, backbone
    one = classifier_optimizer(nn.Linear(2, 2), nn.Linear(2, 2), Training("", base_lr=0.05), batch_size=1024)
    assert [group["full_lr"] for group in one.param_groups] == [0.2, 0.2]


@pytest.mark.parametrize(("steps_per_epoch", "momentum"), [(195, 10 / 195), (296, 10 / 296), (100, 0.1), (3, 0.1)])
def test_the_rule_for_batch_norms_momentum(steps_per_epoch, momentum):
    """SimCLR B.8 keeps max(1 - 10 / s, 0.9) of the statistics; torch's momentum is the rest."""
    from mec.evaluation.classifier import _trained_parts

    encoder = build_encoder("resnet10-tiny", 8)
    recipe = Training("", 0.1, norm_rule=True)
    with _trained_parts(encoder, nn.Identity(), recipe, steps_per_epoch):
        assert encoder.bn1.momentum == pytest.approx(1 - max(1 - 10 / steps_per_epoch, 0.9))
        assert encoder.layer4[0].bn2.momentum == pytest.approx(momentum)
    assert encoder.bn1.momentum == 0.1


def test_several_labels_an_image_are_scored_without_those_that_take_no_part():
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[1, -1, 0], [0, 1, 1], [-1, -1, -1], [1, 0, 0], [1, 1, -1]])
    total, count = 0.0, 0
    for row, wanted in zip(logits.double(), targets):
        for value, target in zip(row, wanted):
            if target:
                total -= math.log(1 / (1 + math.exp(-value if target > 0 else value)))
                count += 1
    assert classifier_loss(logits, targets).item() == pytest.approx(total / count, rel=1e-5)
    assert classifier_loss(logits, torch.tensor([0, 1, 2, 0, 1])).item() == pytest.approx(
        nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0, 1])).item()
    )


@pytest.mark.parametrize(
    ("frozen", "words"), [(False, r"\(now 0.1\) or --head-lr is"), (True, r"\(now 0.1\) is the usual")]
)
def test_a_loss_that_is_not_finite_stops_with_flags_that_there_are(digits, frozen, words):
    encoder = nn.Flatten()
    encoder.register_forward_hook(lambda module, inputs, features: features * torch.nan)
    recipe = Training("", base_lr=0.1, batch_size=60, epochs=3, frozen=frozen)
    with pytest.raises(TrainingStopped, match="lower --base-lr " + words):
        train_classifier(encoder, new_head(192, 10, recipe, 0), digits.train, torch.from_numpy(digits.train.labels),
                         recipe, info())  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"base_lr": 0.0}, "base_lr is 0"),
        ({"head_lr": -1.0}, "head_lr is -1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"micro_batch_size": 0}, "micro_batch_size is 0"),
        ({"epochs": 0}, "epochs is 0"),
        ({"base_lr": math.nan}, "base_lr is nan"),
        ({"weight_decay": -1.0}, "weight_decay is -1"),
        ({"crop": (0.0, 1.0)}, "the crop's share"),
    ],
)
def test_numbers_that_no_training_can_have_are_refused(change, words):
    with pytest.raises(BadInput, match=words):
        Training("", **{"base_lr": 0.1, **change})


def test_a_batch_norm_before_the_linear_layer_needs_two_images():
    Training("", 0.1, head_norm=True).check_head(images=2)
    Training("", 0.1, batch_size=1).check_head(images=1)
    with pytest.raises(BadInput, match="there is a single training image"):
        Training("", 0.1, head_norm=True).check_head(images=1)
    with pytest.raises(BadInput, match="--batch-size is 1: the batch norm before the linear layer"):
        Training("", 0.1, head_norm=True, batch_size=1).check_head(images=9)


def test_digits_are_not_mirrored(digits):
    assert suited(Training("", 0.1), digits).flip == 0
    photographs = dataclasses.replace(digits, suits="images")
    assert suited(Training("", 0.1), photographs).flip == 0.5
