"""Judges: torch.linalg, closed forms at the extremes, appendix H, and the exact words for scripted runs."""

import contextlib
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import reference
import torch
from helpers import TINY, at_step, noise_image, tiny_run
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from mec.errors import BadInput, Diverged
from mec.recipes.recipe import changed
from mec.recipes.table import RECIPES
from mec.training.health import (
    exact_loss_bound,
    hardly_trained,
    health,
    judge,
    measure,
    read_metrics,
    sparkline,
    spectral_norm,
)  # fmt: skip
from mec.training.run import RunSettings
from mec.training.trainer import Trainer


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("m", "d"), [(16, 24), (24, 16)])
def test_total_collapse_has_the_figures_that_follow_from_the_formulas(m, d):
    views = random(1, 1, d).expand(2, m, d)
    found = measure(views, None, distortion=0.06)
    r = min(m, d)
    mark = math.log(1 + 1 / 0.06) / (r * math.log(1 + 1 / (0.06 * r)))  # λ m = 1 / ε_d²
    assert found["coding_ratio_if_collapsed"] == pytest.approx(mark, rel=1e-12)
    assert found["coding_ratio"] == pytest.approx(mark, rel=1e-10)
    assert found["effective_rank"] == pytest.approx(1, abs=1e-3)
    assert found["embedding_std"] == pytest.approx(0, abs=1e-12)
    assert found["agreement"] == pytest.approx(1)
    assert found["similarity"] == pytest.approx(1)
    assert found["norm_c"] == pytest.approx(1 / 0.06)  # the bound of appendix H is reached


@pytest.mark.parametrize(("m", "d"), [(6, 16), (16, 16), (32, 16)])
def test_views_that_agree_and_spread_evenly_have_coding_ratio_and_effective_rank_of_the_most(m, d):
    found = measure(reference.even_spread(m, d).expand(2, m, d), None, distortion=0.06)
    r = min(m, d)
    assert found["coding_ratio"] == pytest.approx(1, rel=1e-10)
    assert found["effective_rank"] == pytest.approx(r, rel=1e-4)
    assert found["effective_rank_limit"] == r
    assert found["agreement"] == pytest.approx(1)
    assert found["norm_c"] == pytest.approx(1 / (0.06 * r))


@pytest.mark.parametrize("with_target", [False, True])
@pytest.mark.parametrize(("m", "d"), [(16, 24), (24, 16)])
def test_figures_are_those_of_the_definitions(m, d, with_target):
    online, target = random(2, m, d, seed=1), random(2, m, d, seed=2) if with_target else None
    found = measure(online, target, distortion=0.1)
    first = F.normalize(online[0], dim=1)
    other = F.normalize(online[1] if target is None else target[1], dim=1)
    r = min(m, d)
    most = (m + d) / 2 * r * math.log(1 + 1 / (0.1 * r))
    assert found["coding_ratio"] == pytest.approx(reference.coding_length((first + other) / 2, 0.1).item() / most)
    p = torch.linalg.svdvals(first)
    p = p / p.sum()
    assert found["effective_rank"] == pytest.approx(torch.exp(-(p * p.log()).sum()).item(), rel=1e-4)
    assert found["agreement"] == pytest.approx(F.cosine_similarity(first, other).mean().item())
    cosines = first @ first.T
    assert found["similarity"] == pytest.approx(cosines[~torch.eye(m, dtype=torch.bool)].mean().item())
    assert found["embedding_std"] == pytest.approx((first.var(0, unbiased=False).sqrt().mean() * d**0.5).item())
    norm = torch.linalg.matrix_norm(first @ other.T / (m * 0.1), ord=2).item()
    assert norm * 0.9 < found["norm_c"] <= norm * (1 + 1e-9)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.sampled_from([(1, 3), (8, 5), (5, 8), (16, 16)]),
    distortion=st.floats(1e-3, 10),
    shift=st.floats(0, 20),
    seed=st.integers(0, 2**31),
)
def test_norm_of_c_keeps_the_bound_of_appendix_h(shape, distortion, shift, seed):
    m = shape[0]
    online, target = shift + random(2, *shape, seed=seed), shift + random(2, *shape, seed=seed + 1)
    found = measure(online, target, distortion)["norm_c"]
    c = F.normalize(online[0], dim=1) @ F.normalize(target[1], dim=1).T / (m * distortion)
    holder = (torch.linalg.matrix_norm(c, ord=1) * torch.linalg.matrix_norm(c, ord=torch.inf)).sqrt().item()
    largest = 1 / distortion  # λ m
    assert found <= holder * (1 + 1e-9) <= largest * (1 + 2e-9)


@pytest.mark.parametrize(("m", "d"), [(64, 32), (32, 64)])
@pytest.mark.parametrize("centred", [False, True], ids=["shifted", "centred"])
def test_spectral_norm_is_torch_s_also_of_centred_embeddings(m, d, centred):
    # Centred over the batch, as after the projector's last batch norm: ones are in the null space.
    online, target = 0.3 + random(m, d, seed=1), 0.3 + random(m, d, seed=1) + 0.3 * random(m, d, seed=2)
    if centred:
        online, target = online - online.mean(0), target - target.mean(0)
    expected = torch.linalg.matrix_norm(online @ target.T, ord=2).item()
    assert expected * 0.95 < spectral_norm(online, target) <= expected * (1 + 1e-12)
    assert spectral_norm(online, target, iterations=500) == pytest.approx(expected, rel=1e-4)
    assert spectral_norm(online.flip(0), target.flip(0), iterations=500) == pytest.approx(expected, rel=1e-4)


def test_spectral_norm_of_pairs_of_opposites_is_not_zero():
    half = random(8, 6)
    rows = torch.cat([half, -half])  # their sum is exactly zero
    assert spectral_norm(rows, rows) > 0.9 * torch.linalg.matrix_norm(rows @ rows.T, ord=2).item()


def test_embeddings_that_are_not_finite_give_figures_not_an_exception():
    for bad in (math.nan, math.inf):
        views = random(2, 6, 4)
        views[1, 3, 2] = bad
        found = measure(views, None)
        assert math.isnan(found["effective_rank"])
        assert math.isnan(found["coding_ratio"])
        assert found["effective_rank_limit"] == 4
        assert found.keys() == measure(random(2, 6, 4), None).keys()


@pytest.mark.parametrize(("m", "d"), [(16, 24), (24, 16)])
@pytest.mark.parametrize("order", [1, 2, 4])
def test_the_gap_is_the_loss_of_the_series_minus_the_exact_one(m, d, order):
    online, target = random(2, m, d, seed=1), random(2, m, d, seed=2)
    found = measure(online, target, distortion=0.1, order=order)["series_gap"]
    first, other = F.normalize(online[0], dim=1), F.normalize(target[1], dim=1)
    mu, lam = reference.constants(m, d, 0.1)
    series = reference.algorithm_1(first, other, mu, lam, order) / (lam * m * mu)
    assert found == pytest.approx((series - reference.exact_loss(first, other, 0.1)).item(), rel=1e-9)
    assert "series_gap" not in measure(online, target, distortion=0.1)


GOOD = {
    "loss": -0.6, "loss_bound": -0.97, "effective_rank": 120.0, "effective_rank_limit": 256.0, "similarity": 0.05,
    "agreement": 0.8, "coding_ratio": 0.55, "coding_ratio_if_collapsed": 0.02, "norm_c": 0.7,
}  # fmt: skip
SERIES, EXACT = {"distortion": 0.06, "order": 4}, {"distortion": 0.06}


def run(*changes) -> list[dict]:
    """Lines of metrics.jsonl, 50 steps apart, each with its changes over a healthy one; a line of k-NN between."""
    lines = []
    for i, change in enumerate(changes):
        lines += [{"step": 50 * (i + 1), **GOOD, **change}, {"step": 50 * (i + 1), "knn": 0.9}]
    return lines


def test_a_healthy_run_is_called_healthy_with_its_figures():
    verdict = judge(run({}, {}), EXACT)
    assert verdict.healthy
    assert str(verdict) == (
        "healthy: views agree (cosine 0.80), different images differ (0.05), effective rank 120 of 256, "
        "coding ratio 0.55 (collapse would be 0.02)."
    )


def test_a_collapsed_run_is_called_collapsed_since_the_step_where_it_began_to_stay_so():
    alike = {"similarity": 0.99, "effective_rank": 60.0}  # high cosines alone are enough
    verdict = judge(run({}, alike, {}, alike, alike), EXACT)  # step 100 recovered
    assert not verdict.healthy
    assert verdict.words == (
        "collapsed: all images look alike since step 200 (effective rank 60.0 of 256, cosine of different images 0.99)."
    )
    assert "lower the learning rate" in verdict.advice.lower()


def test_few_directions_are_a_collapse_too():
    verdict = judge(run({}, {"effective_rank": 5.0}), EXACT)
    assert not verdict.healthy
    assert verdict.words.startswith(
        "collapsed: embeddings use few directions since step 100 (effective rank 5.0 of 256"
    )


def test_order_1_that_collapsed_is_called_collapsed_although_it_lies_below_the_exact_bound():
    # All images alike: minus the mean cosine is -1, less than any exact form can be.
    alike = {"loss": -1.0, "loss_bound": -0.89, "similarity": 1.0, "effective_rank": 1.0}
    verdict = judge(run({}, alike), {"distortion": 0.06, "order": 1})
    assert not verdict.healthy
    assert verdict.words.startswith("collapsed: all images look alike since step 100")
    assert "Order 1 only asks views to agree" in verdict.advice


@pytest.mark.parametrize(
    ("change", "settings", "collapsed"),
    [
        ({"effective_rank": 30.0}, {**SERIES, "order": 1}, True),  # no spread is asked for: this is on its way down
        ({"effective_rank": 30.0}, SERIES, False),
        ({"effective_rank": 45.0}, {**SERIES, "order": 1}, False),
        ({"effective_rank": 20.0, "similarity": 0.6}, EXACT, True),
        ({"effective_rank": 20.0, "similarity": 0.3}, EXACT, False),
        ({"effective_rank": 60.0, "similarity": 0.6}, EXACT, False),
    ],
)
def test_few_directions_are_judged_with_what_else_is_known(change, settings, collapsed):
    assert judge(run({}, change), settings).words.startswith("collapsed") == collapsed


def test_a_series_below_the_exact_bound_is_called_truncation_error():
    verdict = judge(run({}, {"loss": -1.2, "norm_c": 3.3}, {"loss": -1.58, "norm_c": 5.1}), SERIES)
    assert not verdict.healthy
    assert verdict.words == (
        "diverged: the loss -1.58 is below -0.97, the least that an exact coding length allows, since step 100; "
        "‖C‖ is 5.1, and the series surely converges only below 1: what is being maximised is its truncation error."
    )
    assert "--method mec-joint" in verdict.advice


def test_a_series_at_the_bound_is_not_called_divergence():
    assert judge(run({"loss": -0.97}), SERIES).healthy


@pytest.mark.parametrize("figure", ["loss", "effective_rank"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_run_that_ends_in_nan_is_called_diverged(figure, value):
    verdict = judge(run({}, {"loss": math.nan, figure: value}), EXACT)
    assert not verdict.healthy
    assert verdict.words.startswith("diverged: the loss is ")
    assert verdict.words.endswith("at step 100.")
    assert "Start again with a lower learning rate" in verdict.advice


def test_a_low_rank_is_narrow_since_the_step_where_it_stayed_so():
    verdict = judge(run({"effective_rank": 20.0}, {}, {"effective_rank": 21.0}, {"effective_rank": 20.0}), EXACT)
    assert (verdict.word, verdict.step, verdict.healthy) == ("narrow", 150, False)
    assert "the effective rank is low, 20.0 of 256, since step 150" in verdict.words
    assert "--set settings.distortion=0.03 " in verdict.advice


def test_views_that_hardly_agree_are_hardly_trained():
    verdict = judge(run({}, {"agreement": 0.1}), EXACT)
    assert (verdict.word, verdict.step) == ("hardly trained", 100)
    assert "views hardly agree yet (cosine 0.10" in verdict.words


UNTRAINED = {"step": 1, "agreement": 0.5, "similarity": 0.0}


@pytest.mark.parametrize(("agreement", "word"), [(0.55, "hardly trained"), (0.7, "healthy")])
def test_agreement_counts_by_what_it_gained_over_the_untrained_network(agreement, word):
    verdict = judge([{**GOOD, **UNTRAINED}, *run(*[{"agreement": agreement, "similarity": 0.0}] * 4)], EXACT)
    assert verdict.word == word
    if word != "healthy":
        assert verdict.step == 1
        assert "by 0.55 more than different images do, before by 0.50" in verdict.words


@pytest.mark.parametrize("seed", range(8))
def test_a_loss_that_only_its_noise_moves_is_no_training_and_a_descent_is(seed):
    noise = np.random.default_rng(seed).normal(0, 0.01, 40)
    for slope, word in ((0.0, "hardly trained"), (-0.2, "healthy")):
        losses = -0.5 + slope * np.linspace(0, 1, 40) + noise
        agreeing = [{**GOOD, "step": 10 * i + 1, "loss": loss, "agreement": 0.97} for i, loss in enumerate(losses)]
        assert judge(agreeing, EXACT).word == word


def test_too_few_steps_are_told_whatever_they_gave():
    lines = [{**GOOD, **UNTRAINED, "agreement": 0.0}, {**GOOD, "step": 9}]
    verdict = judge(lines, EXACT)
    assert (verdict.word, verdict.step) == ("hardly trained", 1)
    assert verdict.evidence == "there were 9 steps only."


def done(method="mec-joint", base_lr=0.5, steps=1000, name="auto", **settings) -> RunSettings:
    recipe = replace(RECIPES["auto"], method=method, settings=settings)
    recipe = replace(recipe, optimizer=replace(recipe.optimizer, base_lr=base_lr))
    return RunSettings(name, recipe, "photos", "", 640, 0, steps, 10)


BAD = {
    "collapsed": {"similarity": 0.99},
    "diverged": {"loss": math.nan},
    "hardly trained": {"agreement": 0.1},
    "narrow": {"effective_rank": 20.0},
}


@pytest.mark.parametrize("word", BAD)
@pytest.mark.parametrize("rate", [1e-9, 0.5, 1e6])
@pytest.mark.parametrize("method", ["mec-joint", "mec", "byol"])
def test_advice_is_something_else_than_was_done_in_numbers_that_set_takes(word, rate, method):
    was = done(method, base_lr=rate)
    verdict = judge(run({}, BAD[word]), EXACT, was)
    assert (verdict.word, verdict.step) == (word, 100)
    assert not re.search(rf"--method {method}\b(?!-)", verdict.advice)
    assert "..." not in verdict.advice
    named = re.findall(r"--set (optimizer\.base_lr=\S*[\d]|settings\.distortion=\S*[\d])", verdict.advice)
    rates = [changed(was.recipe, [pair]).optimizer.base_lr for pair in named if "base_lr" in pair]
    if word in ("collapsed", "diverged"):
        assert len(rates) == 1
        assert all(0 < new < rate and new <= 0.5 for new in rates)
    if word == "hardly trained" and rate != 0.5:
        assert rates == [0.5]
    distortions = [changed(was.recipe, [pair]).settings["distortion"] for pair in named if "distortion" in pair]
    assert all(new < 0.06 for new in distortions)


def test_where_nothing_is_told_apart_after_many_steps_longer_training_is_no_advice():
    line = {"agreement": 0.1, "similarity": 0.08}
    assert judge(run({}, line), EXACT, done(steps=600)).advice.startswith(
        "Look at the images (copies of one, or empty?)"
    )
    assert judge(run({}, line), EXACT, done(steps=100)).advice.startswith("Train longer, --epochs 50.")
    assert judge(run({}, {"agreement": 0.15}), EXACT, done(steps=600)).advice.startswith("Train longer, --epochs 120.")


def test_a_collapse_before_the_first_update_is_not_the_rates_fault():
    line = {**GOOD, "similarity": 1.0, "effective_rank": 1.0}
    verdict = judge([{**line, "step": 1}, {**line, "step": 50}], EXACT, done())
    assert (verdict.word, verdict.step) == ("collapsed", 1)
    assert "Look at the images" in verdict.advice
    assert "base_lr" not in verdict.advice


def pictures(folder, kind: str):
    """32 images of one kind."""
    folder.mkdir()
    for i in range(32):
        image = noise_image(0) if kind == "copies" else Image.new("RGB", (8, 8))
        image.save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize("kind", ["copies", "empty"])
def test_images_that_are_all_the_same_are_not_healthy(tmp_path, kind, monkeypatch):
    out = tmp_path / "run"
    with contextlib.suppress(Diverged):  # what lies before it is what matters
        tiny_run(out, pictures(tmp_path / kind, kind), limit=None, batch_size=16, steps=24)
    verdict = json.loads((out / "health.json").read_text())
    assert verdict["word"] == {"copies": "hardly trained", "empty": "collapsed"}[kind]
    assert verdict["step"] == 1 or kind == "copies"
    assert verdict["healthy"] is False
    assert "images (copies of one, or empty?)" in verdict["advice"]


@pytest.mark.parametrize(("steps", "rate"), [(24, 1e-9), (24, 1e6), (9, 0.5)])
def test_rates_and_steps_that_train_nothing_are_told(tmp_path, steps, rate, capsys):
    out = tmp_path / "run"
    with contextlib.suppress(Diverged):
        tiny_run(out, steps=steps, set=(*TINY, f"optimizer.base_lr={rate!r}"))
    stored = json.loads((out / "health.json").read_text())
    assert stored["word"] == ("diverged" if rate == 1e6 else "hardly trained")
    assert health(out).record() == stored
    if steps == 24:  # the recipe's own rate is named
        assert "--set optimizer.base_lr=2" in stored["advice"]


def test_a_divergence_is_kept_and_goes_when_the_run_is_resumed(tmp_path, monkeypatch):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        at_step(patch, 5, lambda: patch.setattr(Trainer, "check", stopped))
        with pytest.raises(Diverged):
            tiny_run(out, save_minutes=0)
    stored = json.loads((out / "health.json").read_text())
    assert (stored["word"], stored["step"]) == ("diverged", 5)
    assert health(out).words == "diverged: the loss at step 5."
    tiny_run(out, resume=True)
    assert "diverged" not in (out / "metrics.jsonl").read_text()
    assert health(out).word == "hardly trained"


def stopped(*_):
    raise Diverged("stop", step=5)


def test_slow_data_get_a_word():
    assert "It waited for data 45% of the time" in str(judge(run({"data_wait": 0.45}), EXACT))


def test_no_figures_is_not_called_healthy():
    for lines in ([], [{"step": 1, "knn": 0.5}]):
        verdict = judge(lines, EXACT)
        assert not verdict.healthy
        assert verdict.words == "unknown: no health figure was recorded."


def test_the_bound_is_the_exact_form_s_and_other_objectives_have_none():
    expected = -16 * 0.06 * math.log(1 + 1 / (16 * 0.06))
    assert exact_loss_bound("joint_coding", {"distortion": 0.06}, 16, 64) == pytest.approx(expected)
    assert exact_loss_bound("maximum_entropy_coding", SERIES, 64, 16) == pytest.approx(expected)
    assert exact_loss_bound("maximum_entropy_coding", {**SERIES, "order": 1}, 64, 16) == -1
    assert exact_loss_bound("vicreg", {}, 64, 16) is None


def test_metrics_cut_off_by_a_crash_are_read_up_to_it(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": -0.5}\n{"step": 2, "loss": NaN}\n{"step": 3, "lo')
    first, second = read_metrics(tmp_path)
    assert first == {"step": 1, "loss": -0.5}
    assert math.isnan(second["loss"])


def test_a_folder_without_metrics_is_no_run(tmp_path):
    with pytest.raises(BadInput) as caught:
        read_metrics(tmp_path)
    assert str(caught.value) == f"{tmp_path}: no metrics.jsonl in it, so it is not the folder of a run."


def test_a_line_of_bars_shows_the_ends_and_survives_nan():
    assert sparkline([5, 5, 5]) == "▁▁▁"
    assert sparkline([0, math.nan, 7], width=2) == "▁█"
    assert sparkline([math.nan]) == ""
    assert len(sparkline(range(1000), width=40)) == 40


@pytest.mark.parametrize("steps", [(1, 10, 20), (1, 10, 20, 30)])
def test_a_run_of_few_lines_that_learns_is_judged_without_its_noise(steps):
    """`mec pretrain digits --steps 20` leaves three lines: fewer than there are quarters to compare."""
    figures = [(-0.5, 0.1, 0.05), (-0.6, 0.5, 0.0), (-0.65, 0.7, 0.0), (-0.7, 0.7, 0.0)]
    lines = [{"step": s, "loss": loss, "agreement": a, "similarity": r} for s, (loss, a, r) in zip(steps, figures)]
    assert hardly_trained(lines) is None
