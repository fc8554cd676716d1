"""What a run says at its ends: which data, which recipe, what to do next."""

from __future__ import annotations

import random
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import identical, lines, tiny_run, weights

import mec
from mec.cli.main import main
from mec.data.opening import open_data
from mec.evaluation.features import extract
from mec.networks.backbones import build_encoder
from mec.networks.encoder_file import EncoderInfo, image_transform, read_info
from mec.recipes.table import RECIPES
from mec.training.options import Options
from mec.training.report import Standing, next_steps
from mec.training.run import Run, read_settings


def test_digits_are_known_by_what_they_are_and_not_by_a_folder_s_name():
    digits = open_data("digits")
    assert Options().named("digits") == Options().named(digits) == "digits"
    assert Options().named("photos/digits") == Options().named(Path("/photos/digits")) == "auto"
    assert Options().named(replace(digits, suits="photographs")) == "auto"


def test_the_command_that_it_ends_with_is_one_that_runs(tmp_path, capsys):
    """Also with spaces in a folder's name, and for data that need --data-root."""
    out = tmp_path / "my run"
    run = Run(out, read_settings(tiny_run(out)), read_info(out))
    words = next_steps(run, open_data("digits")).splitlines()[1]
    assert main(shlex.split(words)[1:]) == 0
    assert "knn top-1" in capsys.readouterr().out
    asked = replace(run.settings, asked={"data": "cifar10", "data_root": "/my data"})
    words = next_steps(replace(run, settings=asked), open_data("digits")).splitlines()[1]
    assert shlex.split(words)[3:] == ["knn", "cifar10", "--data-root", "/my data"]


def test_supervised_does_not_say_that_labels_only_measure(tmp_path, capsys, quick_report):
    flags = ["--limit", "64", "--epochs", "1", "--batch-size", "32", "--set", "views.size=8"]
    assert main(["pretrain", "digits", "--method", "supervised", "--out", str(tmp_path / "run"), *flags]) == 0
    said = capsys.readouterr().out
    assert "with the labels of 10 classes" in said
    assert "only for measuring" not in said


def test_an_interrupt_while_measuring_leaves_the_trained_weights_in_the_callers_encoder(tmp_path, monkeypatch):
    """The untrained encoder is measured beside it, but never loaded into it."""
    torch.manual_seed(0)
    encoder = build_encoder("resnet10-fast", 8)
    seen = []

    def interrupted(module, *rest, **options):
        if isinstance(module, Standing):
            seen.append(module)
            raise KeyboardInterrupt
        return extract(module, *rest, **options)

    monkeypatch.setattr("mec.training.report.extract", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tiny_run(tmp_path / "run", encoder=encoder, evaluate=True)
    assert seen
    assert identical(encoder.state_dict(), weights(tmp_path / "run"))


def test_the_row_of_the_untrained_encoder_is_that_of_its_first_weights(tmp_path, monkeypatch):
    """Judged by the encoder itself, before training and loaded with nothing."""
    monkeypatch.setattr("mec.training.report.MAPPED", 10**9)  # no map: it takes seconds
    torch.manual_seed(0)
    encoder = build_encoder("resnet10-fast", 8)
    digits = open_data("digits", limit=192)
    before = mec.evaluate((encoder.eval(), image_transform(info_of(8))), "knn", digits, k=20)[0].value
    out = tiny_run(tmp_path / "run", data=digits, encoder=encoder, evaluate=True)
    found = [line for line in lines(out / "results.jsonl") if line["metric"] == "top-1"]
    rows = {(line["encoder"], line["protocol"]): line["value"] for line in found}
    assert rows["untrained", "knn"] == pytest.approx(before, abs=1e-9)
    assert rows["untrained", "linear-fast"] != rows["mec-joint", "linear-fast"]


def info_of(size: int) -> EncoderInfo:
    view = RECIPES["digits"].views[0]
    return EncoderInfo(
        "custom", 0, size, True, view.interpolation, view.mean, view.std, "", "", "", "", 0
    )  # fmt: skip


def test_training_leaves_the_callers_random_state_alone(tmp_path, quick_report):
    torch.manual_seed(7)
    np.random.seed(7)  # noqa: NPY002 (the state that callers of old code have)
    random.seed(7)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    tiny_run(tmp_path / "run", evaluate=True)
    now = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    assert torch.equal(before[0], now[0])
    assert before[1:] == now[1:]
