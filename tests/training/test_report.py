"""What a run says at its ends: which data, which recipe, what to do next."""

from __future__ import annotations

import random
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import TINY, identical, labelled_folder, lines, tiny_run, weights, write_images

import mec
from mec.cli.main import main
from mec.data.opening import open_data
from mec.evaluation.features import extract
from mec.evaluation.subject import pixels_info, resolve
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
    assert Options().named(replace(digits, suits="images")) == "auto"


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("labels", [True, False])
def test_the_commands_that_it_ends_with_run_as_they_are(tmp_path, monkeypatch, capsys, columns, labels, quick_report):
    """At any width, with spaces in a folder's name, and as a pipe gets them: no path is wrapped."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "a folder of images with a name that is longer than sixty columns are"
    if labels:
        labelled_folder(data, train=8, test=4, classes="ab")
    else:
        write_images(data, 16)
    monkeypatch.setattr("mec.training.report.pixels_info", lambda: pixels_info(8))  # quick
    tiny_run(tmp_path / "my run", data, limit=None, batch_size=8, steps=2, evaluate=True, quiet=False)
    said = capsys.readouterr().out
    assert str(tmp_path / "my run" / "encoder.safetensors") in said
    commands = said.partition("Next:")[2].strip().splitlines()
    assert [shlex.split(line)[1] for line in commands] == ["embed", "evaluate" if labels else "export"]
    for line in commands:
        assert main(shlex.split(line)[1:]) == 0, line
    assert (tmp_path / "features.npz").exists()


def test_commands_for_data_with_a_name_have_their_root(finished):
    run = Run(finished, read_settings(finished), read_info(finished))
    asked = replace(run.settings, asked={"data": "cifar10", "data_root": "/my data"})
    words = next_steps(replace(run, settings=asked), open_data("digits")).splitlines()
    assert shlex.split(words[0])[4:] == ["knn", "cifar10", "--data-root", "/my data"]
    assert shlex.split(words[1])[1:] == ["export", str(finished), "--to", "timm"]
    asked = replace(run.settings, asked={"data": "photos", "labels": "my labels.csv"})
    words = next_steps(replace(run, settings=asked), open_data("digits")).splitlines()
    assert shlex.split(words[0])[4:] == ["knn", "photos", "--labels", "my labels.csv"]
    own = replace(run, encoder=replace(run.encoder, backbone="custom"))
    assert next_steps(own, open_data("digits")) == ""  # no command can load it


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
    digits = open_data("digits", limit=96)
    before = mec.evaluate((encoder.eval(), image_transform(info_of(8))), "knn", digits, k=20)[0].value
    out = tiny_run(tmp_path / "run", data=digits, encoder=encoder, evaluate=True)
    found = [line for line in lines(out / "results.jsonl") if line["metric"] == "top-1"]
    rows = {(line["encoder"], line["protocol"]): line["value"] for line in found}
    assert rows["untrained", "knn"] == pytest.approx(before, abs=1e-9)
    assert rows["untrained", "linear-fast"] != rows["mec-joint", "linear-fast"]


def test_the_rows_of_a_folder_are_those_that_evaluate_gives(tmp_path, quick_report):
    """Raw pixels, the untrained encoder by RUN@untrained, and the trained one: like is compared with like."""
    data = labelled_folder(tmp_path / "data", train=12, test=8, classes="abc", width=40, height=90)
    out = tiny_run(tmp_path / "run", data, limit=None, batch_size=12, seed=3, steps=2, evaluate=True)
    rows = {r["encoder"]: r["value"] for r in lines(out / "results.jsonl") if (r["protocol"], r["metric"]) == TOP_1}
    assert set(rows) == {"pixels", "untrained", "mec-joint"}
    for run, row in {"pixels": "pixels", f"{out}@untrained": "untrained", str(out): "mec-joint"}.items():
        found = mec.evaluate(run, "knn", data, k=20, out=tmp_path / "out")
        assert found[0].value == pytest.approx(rows[row], abs=1e-9), row
        assert found[0].encoder == row
    before, after = (
        np.load(mec.embed(run, data, out=tmp_path / f"{name}.npy"))
        for run, name in ((f"{out}@untrained", "before"), (out, "after"))
    )
    assert not np.allclose(before, after)


def test_an_untrained_encoder_has_the_weights_that_its_run_began_with(tmp_path):
    """Judged by a run of the same seed that does not move."""
    out = tiny_run(tmp_path / "run", seed=3)
    still = tiny_run(tmp_path / "still", seed=3, epochs=None, steps=1, set=(*TINY, "optimizer.base_lr=1e-12"))
    began, stood = dict(resolve(f"{out}@untrained").encoder.named_parameters()), weights(still)
    assert all(torch.allclose(tensor, stood[name], atol=1e-7) for name, tensor in began.items())
    assert not torch.allclose(next(iter(began.values())), weights(out)[next(iter(began))], atol=1e-4)


TOP_1 = ("knn", "top-1")


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


@pytest.mark.parametrize(
    ("pixels", "untrained", "mine", "words"),
    [
        ((50, 40), (30, 30), (49, 40), "raw pixels"),
        ((50, 40), (30, 30), (49, 41), ""),
        ((10, 10), (30, 30), (30, 29), "the untrained encoder's"),
        ((10, 10), (30, 30), (31, 29), ""),
    ],
)
def test_features_that_gained_nothing_by_any_measure_are_told(pixels, untrained, mine, words):
    from mec.evaluation.results import Result
    from mec.training.report import without_gain

    rows = {"pixels": pixels, "untrained": untrained, "mec-joint": mine}
    results = [
        Result(protocol, "top-1", value, encoder=name, settings={"k": 20} if protocol == "knn" else {})
        for name, values in rows.items()
        for protocol, value in zip(("knn", "linear-fast"), values)
    ]
    told = without_gain(results, "mec-joint")
    assert (words in told) if words else told == ""
