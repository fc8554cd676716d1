"""The studies in benchmarks/ are what they say: their grids, their bound, their tables."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ranks
import reference
import torch
from helpers import environment
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from mec.data.opening import open_data
from mec.objectives.methods import METHODS
from mec.recipes.recipe import changed
from mec.recipes.table import AUTO
from mec.training.plan import with_method

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import chebyshev
import pictures
import race
import scale
import search
import small
import stability
import step
import tracking


@pytest.mark.parametrize("b", [0.5, 4.0, 16.7, 100.0])
@pytest.mark.parametrize("order", [1, 2, 4, 8, 16])
def test_the_chebyshev_series_of_log_keeps_its_bound(b, order):
    x = np.linspace(0, b, 1001)
    series = np.polynomial.chebyshev.chebval(2 * x / b - 1, chebyshev.coefficients(b, order))
    worst = np.abs(series - np.log1p(x)).max()
    assert worst <= chebyshev.bound(b, order) + 1e-13
    assert worst > chebyshev.bound(b, order) / 10  # and the bound is not far off


@pytest.mark.parametrize(("m", "d"), [(6, 9), (9, 6)])
@pytest.mark.parametrize("order", [1, 2, 4, 7, 16])
def test_the_chebyshev_form_is_the_series_of_the_eigenvalues_and_its_gradient(m, d, order):
    rows = torch.nn.functional.normalize(torch.randn(m, d, dtype=torch.float64), dim=1).requires_grad_()
    lam, b = 1 / (m * 0.3), 1 / 0.3
    value, gradient = chebyshev.value_and_gradient(rows.detach(), lam, b, order)
    mu = (m + d) / 2
    exact = reference.coding_length(rows.detach(), 0.3) / mu
    assert abs(value - exact) <= min(m, d) * chebyshev.bound(b, order)
    gram = rows @ rows.T if m <= d else rows.T @ rows
    side = min(m, d)
    t = 2 * lam / b * gram - torch.eye(side, dtype=torch.float64)
    c = chebyshev.coefficients(b, order)
    terms, powers = c[0] * side, [torch.eye(side, dtype=torch.float64), t]
    for k in range(1, order + 1):
        terms = terms + c[k] * powers[k].trace()
        powers.append(2 * t @ powers[k] - powers[k - 1])
    torch.testing.assert_close(value, terms.detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gradient, torch.autograd.grad(terms, rows)[0], rtol=1e-8, atol=1e-9)


def test_the_grid_has_every_cell_once_and_its_corners_with_three_seeds():
    cells = stability.cells(seeds=3)
    assert len(set(cells)) == len(cells) == 3 * 4 * 4 + 2 * 2**3
    assert {c[:3] for c in cells if c[3] > 0} == {
        (b, e, r) for b in (64, 628) for e in (0.01, 1.0) for r in (0.03, 1.0)
    }


@pytest.mark.parametrize("form", small.FORMS)
def test_a_form_of_the_grid_differs_from_the_others_only_in_what_it_says(form):
    method, settings, asymmetric = small.FORMS[form]
    chosen = small.recipe(
        method, settings, asymmetric, distortion=0.25, batch=64, lr=0.5, epochs=20,
        views=small.digits_views(), warm_up="warm-up" in form,
    )  # fmt: skip
    assert chosen.optimizer.base_lr * chosen.batch_size / 256 == 0.5
    assert (chosen.network.target is not None) == bool(chosen.network.predictor) == asymmetric
    assert METHODS[method].objective == ("joint_coding" if "joint" in form else "maximum_entropy_coding")
    start = chosen.settings["distortion"]
    assert start == (small.Linear(2.0, 0.25, 2.0) if "warm-up" in form else 0.25)
    assert chosen.settings.get("order") == (4 if "order 4" in form else None)
    assert chosen.network.projector[-1] == small.EMBEDDING


def test_a_cell_trains_once_and_the_table_counts_what_diverged(tmp_path):
    study = small.Study(open_data("digits", limit=64), small.digits_views(), tmp_path / "found.jsonl")
    todo = [(64, 0.25, 0.1, 0)]
    found = stability.run(study, {64: 2}, todo)
    assert [cell["form"] for cell, _ in found] == list(small.FORMS)
    assert all(o.steps == 2 and 0 < o.knn < 100 and 1 < o.rank <= 128 for _, o in found)
    bad = replace(found[0][1], diverged="below the bound")
    text = stability.table([(found[0][0], bad), *found[1:]])
    assert "| order 4, λ warm-up | 1 | 1 | 1 below the bound |" in text
    assert f"| joint | 1 | 0 | - | {found[-1][1].knn:.1f} |" in text
    before = (tmp_path / "found.jsonl").read_text()
    again = small.Study(study.data, study.views, study.file, until=-math.inf)  # no time left: only what is there
    assert stability.run(again, {64: 2}, [*todo, (64, 0.25, 0.5, 0)]) == found
    assert study.file.read_text() == before


@pytest.mark.parametrize(
    ("loss", "rank", "stopped", "why"),
    [
        (-0.5, 64.0, False, ""),
        (-1.2, 64.0, False, "below the bound"),
        (-0.5, 3.0, False, "few directions"),
        (-1.0, 3.0, False, "few directions"),
        (math.nan, math.nan, True, "not finite"),
    ],
)
def test_what_counts_as_divergence(tmp_path, monkeypatch, loss, rank, stopped, why):
    study = small.Study(open_data("digits", limit=64), small.digits_views(), tmp_path / "found.jsonl")
    network = small.build_siamese(small.Network(projector=(16, small.EMBEDDING)), small.encoder(64), 64)
    monkeypatch.setattr(small.health, "effective_rank", lambda rows: rank)
    figures = small.health.measure(torch.randn(2, 16, 8), None)
    line = {"step": 9, "loss": loss, "loss_bound": -0.9, **figures}
    assert study.measured(network, line, {"order": 4, "distortion": 0.06}, stopped, 1.0).diverged == why


def test_the_picture_of_the_forms_is_drawn(tmp_path):
    pictures.draw(tmp_path / "objective.png")
    with Image.open(tmp_path / "objective.png") as picture:
        assert len(picture.convert("RGB").getcolors(2**24)) > 100


@pytest.mark.parametrize("side", [step.ours, step.lightly_byol, step.lightly_simclr])
def test_each_side_of_the_step_benchmark_takes_a_step(side, monkeypatch):
    torch.manual_seed(0)
    moved, original = [], torch.optim.SGD.step

    def watched(self, *given):
        weights = [p for group in self.param_groups for p in group["params"] if p.ndim > 1]
        before = [p.detach().clone() for p in weights]
        original(self, *given)
        moved.append(any(not torch.equal(p, b) for p, b in zip(weights, before, strict=True)))

    monkeypatch.setattr(torch.optim.SGD, "step", watched)
    side(4)()
    assert moved == [True]


def test_every_trial_of_the_search_is_a_recipe_and_each_rival_has_as_many_as_the_others():
    for group, trials in search.GROUPS.items():
        assert len(set(trials)) == len(trials), group
        for trial in trials:
            method, _, changes = search.parts_of(trial)
            changed(with_method(AUTO, method or AUTO.method), changes)
    rivals = {len(search.GROUPS[name]) for name in ("simclr", "vicreg", "mmcr", "emp-ssl", "frossl", "corinfomax")}
    assert rivals == {9}
    assert search.grid(["a=1", ""], ["b=2", "b=3"]) == ["a=1 b=2", "a=1 b=3", "b=2", "b=3"]


@pytest.mark.slow
def test_the_race_runs_in_pieces_on_a_cpu(tmp_path):
    small = ["network.backbone=resnet10-fast", "batch_size=64", "network.projector=[32,16]"]
    command = [
        sys.executable, str(Path(race.__file__)), "digits", "--epochs", "2", "--limit", "128", "--device", "cpu",
        "--out", str(tmp_path / "race"),
    ]  # fmt: skip
    stopped = subprocess.run(
        [*command, "--minutes", "0.0001", "--set", *small], capture_output=True, text=True, env=environment()
    )
    assert stopped.returncode in (0, -signal.SIGTERM), stopped.stderr  # training had not begun
    whole = subprocess.run([*command, "--set", *small], capture_output=True, text=True, env=environment())
    assert whole.returncode == 0, whole.stderr
    assert "4 of 4 steps" in whole.stdout
    assert "k-NN, k 10: " in whole.stdout
    assert "linear probe: " in whole.stdout


def test_the_stand_in_for_unitrack_gives_what_ours_gives(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(7, 16, 20, 30, generator=generator), dim=1)
    labels = torch.rand(7, 3, 20, 30, generator=generator)
    pairs = (features[1:2], labels[1:2]), (features[2:], labels[2:])
    found, beside = (f(features[0], *pairs) for f in (tracking.vos.propagate, tracking.plain_propagate))
    torch.testing.assert_close(found, beside, rtol=0, atol=1e-6)
    first, search = torch.randn(8, 65, 65, generator=generator), torch.randn(3, 8, 65, 65, generator=generator)
    heads = tracking.sot.CrossCorrelation(), tracking.PlainCorrelation()
    for head in heads:
        head.start(first)
    found, beside = (head.responses(search) for head in heads)
    torch.testing.assert_close(found, beside, rtol=1e-4, atol=1e-4)


def products_counted(form: str, m: int, d: int) -> int:
    """Operations of products of matrices in a step of this rank, as torch counts them."""
    work = scale.step(form, m, d)
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


@pytest.mark.parametrize("sizes", [(64, 256), (128, 128), (512, 64)])
@pytest.mark.parametrize("form", scale.FORMS)
def test_the_products_of_a_step_are_as_many_as_torch_counts(form, sizes):
    assert products_counted(form, *sizes) == scale.cost(form, *sizes, 1)[1].product
    for size in (2, 4):
        expected = scale.cost(form, *sizes, size)[1].product
        assert ranks.run(products_counted, size, form, *sizes) == [expected] * size
