"""A study trains what is missing once, tells what came of it, and draws it."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from helpers import labelled_folder
from PIL import Image
from torch.nn import functional as F

from mec.data.opening import open_data
from mec.errors import BadInput, Diverged
from mec.evaluation.probing.knn import knn
from mec.recipes.recipe import Network, Recipe, View
from mec.reports import distortion as distortion_module
from mec.reports.distortion import distortion_study, network_of, outcome_of, spectrum, training_features
from mec.training import health

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
        lines = health.read_metrics(study / f"distortion-{curve['distortion']:g}")
        lines = [line for line in lines if "norm_c" in line]
        assert curve["steps"] == [line["step"] for line in lines]
        assert curve["diverged"] or curve["steps"] == [1, 6]
        assert curve["norm_c"] == [line["norm_c"] for line in lines]
        assert curve["gap"] == [line["series_gap"] for line in lines]
        assert curve["spectrum"][:1] == ([] if math.isnan(curve["knn"]) else [1])
    assert not curves[-1]["diverged"]
    with Image.open(study / "distortion.png") as picture:
        assert picture.width > 1000
        assert len(picture.convert("RGB").getcolors(2**24)) > 100


def test_a_second_call_trains_nothing_and_says_the_same(study, folder, monkeypatch, capsys):
    monkeypatch.setattr(distortion_module, "pretrain", None)
    before = (study / "distortion.json").read_text()
    distortion_study(data=str(folder), out=study, recipe=TINY, sweep=[2.0], device="cpu")
    assert (study / "distortion.json").read_text() == before
    assert "ε_d² 0.12" in capsys.readouterr().out
    with pytest.raises(BadInput, match="holds a run with other settings"):
        distortion_study(
            data=str(folder), out=study, recipe=replace(TINY, epochs=3), sweep=[2.0], device="cpu", quiet=True
        )


def test_an_outcome_is_measured_on_held_out_images(study, folder):
    data, run = open_data(str(folder)), study / "distortion-2"
    recipe = replace(TINY, settings={"order": 4, "distortion": 2.0})
    found = outcome_of(recipe, data, run)
    train, test = (training_features(run, split) for split in (data.train, data.test))
    assert found.knn == knn(train, test)[0].value
    network, _ = network_of(run, recipe, None)
    with torch.no_grad():
        values = torch.linalg.svdvals(F.normalize(network.projector(test.x), dim=1))
    shares = values / values.sum()
    assert found.rank == pytest.approx(math.exp(-(shares * shares.log()).sum()), rel=1e-3)
    assert found.rank_limit == 8
    assert found.loss == health.read_metrics(run)[-1]["loss"]


def test_features_are_drawn_by_their_singular_values():
    x = torch.randn(9, 4)
    values = torch.linalg.svdvals(F.normalize(x, dim=1))
    assert spectrum(x) == pytest.approx((values / values[0]).tolist())


@pytest.mark.parametrize(
    ("loss", "rank", "why"),
    [(-0.5, 30.0, ""), (-1.2, 30.0, "below the bound"), (-0.5, 1.5, "few directions"), (math.nan, 30.0, "not finite")],
)
def test_divergence_has_a_reason(study, folder, tmp_path, monkeypatch, loss, rank, why):
    line = {"step": 6, "loss": loss, "loss_bound": -0.9}
    monkeypatch.setattr(distortion_module.health, "read_metrics", lambda run: [line])
    monkeypatch.setattr(distortion_module.health, "effective_rank", lambda rows: rank * 8 / 64)
    found = distortion_module.look(TINY, open_data(str(folder)), study / "distortion-2", None, None)
    assert found.diverged == why


@pytest.mark.parametrize(("loss", "why"), [(-90.0, "below the bound"), (-0.5, "not finite"), (math.nan, "not finite")])
def test_a_run_that_diverges_is_an_outcome_and_not_an_error(folder, tmp_path, monkeypatch, loss, why):
    def diverges(*_, out, **__):
        out.mkdir()
        (out / "metrics.jsonl").write_text('{"step": 3, "loss": -0.8, "loss_bound": -0.9, "effective_rank": 3}\n')
        raise Diverged("diverged at step 4", loss)

    monkeypatch.setattr(distortion_module, "pretrain", diverges)
    found = outcome_of(TINY, open_data(str(folder)), tmp_path / "run")
    assert (found.diverged, found.loss_bound, found.steps) == (why, -0.9, 3)
    assert found.loss == pytest.approx(loss, nan_ok=True)
    assert math.isnan(found.knn)


def test_without_labels_the_study_says_what_it_needs(digit_folder, tmp_path):
    with pytest.raises(BadInput, match="has no labels: the figure colours by class"):
        distortion_study(data=str(digit_folder), out=tmp_path / "out", recipe=TINY, device="cpu")
