"""A study trains what is missing once, tells what came of it, and draws it."""

from __future__ import annotations

import json
import math
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import labelled_folder, lines
from PIL import Image
from torch.nn import functional as F

from mec.data.opening import open_data
from mec.errors import BadInput
from mec.evaluation.features import extract
from mec.evaluation.probing.knn import knn
from mec.networks.encoder_file import load_encoder
from mec.recipes.recipe import Network, Optimizer, Recipe, View
from mec.training import health

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import distortion as studies
from distortion import distortion_study

TINY = Recipe(
    source="a test",
    method="mec",
    settings={"order": 4, "distortion": 0.5},
    views=(View(size=8, jitter=0.0, copies=2),),
    network=Network("resnet10-tiny", projector=(16, 8)),
    batch_size=12,
    epochs=2,
    precision="fp32",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return labelled_folder(tmp_path_factory.mktemp("images"), train=12, test=8)


@pytest.fixture(scope="module")
def study(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    distortion_study(data=str(folder), out=out, recipe=TINY, sweep=[2.0], device="cpu", quiet=True)
    return out


def test_the_study_trains_one_run_a_distortion_alike_but_for_it(study):
    runs = {0.01: "distortion-0.01", 0.12: "distortion-0.12", 2.0: "distortion-2"}
    stored = [json.loads((study / name / "settings.json").read_text()) for name in runs.values()]
    for distortion, settings in zip(runs, stored, strict=True):
        assert settings["recipe"]["settings"].pop("distortion") == distortion
        assert settings["steps"] == 6
        assert settings["recipe"] == stored[0]["recipe"]
        assert settings["seed"] == 0


def test_its_curves_are_what_the_runs_logged_and_its_picture_is_an_image(study):
    curves = json.loads((study / "distortion.json").read_text())
    assert [c["distortion"] for c in curves] == [0.01, 0.12, 2.0]
    for curve in curves:
        metrics = health.read_metrics(study / f"distortion-{curve['distortion']:g}")
        metrics = [line for line in metrics if "norm_c" in line]
        assert curve["steps"] == [line["step"] for line in metrics]
        assert curve["diverged"] or curve["steps"] == [1, 6]
        assert curve["norm_c"] == [line["norm_c"] for line in metrics]
        assert curve["gap"] == [line["series_gap"] for line in metrics]
        assert curve["spectrum"][:1] == ([] if math.isnan(curve["knn"]) else [1])
    assert not curves[-1]["diverged"]
    with Image.open(study / "distortion.png") as picture:
        assert picture.width > 1000
        assert len(picture.convert("RGB").getcolors(2**24)) > 100


def test_a_second_call_trains_nothing_and_says_the_same(study, folder, monkeypatch, capsys):
    monkeypatch.setattr(studies, "pretrain", None)
    before = (study / "distortion.json").read_text()
    distortion_study(data=str(folder), out=study, recipe=TINY, sweep=[2.0], device="cpu")
    assert (study / "distortion.json").read_text() == before
    assert "ε_d² 0.12" in capsys.readouterr().out
    with pytest.raises(BadInput, match="holds a run with other settings"):
        distortion_study(
            data=str(folder), out=study, recipe=replace(TINY, epochs=3), sweep=[2.0], device="cpu", quiet=True
        )


def test_a_run_is_measured_on_held_out_images_and_drawn_by_its_singular_values(study, folder):
    data, run = open_data(str(folder)), study / "distortion-2"
    curve = json.loads((study / "distortion.json").read_text())[-1]
    encoder, transform = load_encoder(run)
    train, test = (extract(encoder, split, transform) for split in (data.train, data.test))
    assert curve["knn"] == knn(train, test)[0].value
    values = torch.linalg.svdvals(F.normalize(train.x, dim=1))
    assert curve["spectrum"] == pytest.approx((values / values[0]).tolist())
    assert curve["verdict"] == str(health.health(run))


@pytest.mark.parametrize(("loss", "rank", "lost"), [(-0.5, 7.0, False), (-1.2, 7.0, True), (-0.5, 1.01, True)])
def test_a_loss_below_its_bound_and_a_collapse_are_crossed_out(study, folder, tmp_path, loss, rank, lost):
    shutil.copytree(study, tmp_path / "study")
    for path in tmp_path.glob("study/*/metrics.jsonl"):
        metrics = lines(path)
        bound = {"loss": loss, "loss_bound": -0.9, "effective_rank": rank, "similarity": 0.0}
        path.write_text("".join(json.dumps({**line, **bound}) + "\n" for line in metrics))
    distortion_study(data=str(folder), out=tmp_path / "study", recipe=TINY, sweep=[2.0], device="cpu", quiet=True)
    curves = json.loads((tmp_path / "study" / "distortion.json").read_text())[1:]  # the first diverged by itself
    assert [curve["diverged"] for curve in curves] == [lost] * 2
    assert not any(math.isnan(curve["knn"]) for curve in curves)


def test_a_run_that_diverges_is_drawn_and_no_error(folder, tmp_path, quick_report):
    wild = replace(TINY, optimizer=Optimizer(base_lr=1e30))
    for _ in range(2):  # the second time nothing is trained
        distortion_study(data=str(folder), out=tmp_path, recipe=wild, sweep=[2.0], device="cpu", quiet=True)
    curves = json.loads((tmp_path / "distortion.json").read_text())
    assert [curve["diverged"] for curve in curves] == [True] * 3
    assert all(math.isnan(curve["knn"]) and curve["verdict"].startswith("diverged") for curve in curves)


def test_without_labels_the_study_says_what_it_needs(digit_folder, tmp_path):
    with pytest.raises(BadInput, match="has no labels: the figure colours by class"):
        distortion_study(data=str(digit_folder), out=tmp_path / "out", recipe=TINY, device="cpu")
