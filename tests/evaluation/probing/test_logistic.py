"""Logistic regression over the 45 penalties, judged by scikit-learn on the same features."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from mec.errors import BadInput
from mec.evaluation.probing import logistic
from mec.evaluation.probing.logistic import PENALTIES, logistic_path, loss_and_slope, prepare


def features(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """float32 features and labels, of kinds that solvers find hard in different ways."""
    if kind == "digits":  # columns of different scales, some constant; separable
        x, y = load_digits(return_X_y=True)
        x, y = x[:400], y[:400]
    elif kind == "noisy":  # not separable
        x, y = make_classification(500, 30, n_informative=10, n_classes=5, flip_y=0.2, random_state=0)
    elif kind == "wide":  # more features than rows, far from the origin
        random = np.random.default_rng(0)
        y = np.arange(60) % 3
        x = np.maximum(random.normal(size=(60, 100)) + random.normal(size=(3, 100))[y], 0) + 5
    else:  # two classes: one curve
        x, y = make_classification(400, 20, n_informative=5, flip_y=0.1, random_state=1)
    return x.astype(np.float32), y


def scikit_learns_path(x: np.ndarray, y: np.ndarray, penalties) -> list[LogisticRegression]:
    model, found = LogisticRegression(tol=1e-6, max_iter=5000, warm_start=True), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for penalty in penalties:
            model.C = 1 / penalty
            model.fit(x.astype(np.float64), y)
            found.append((model.coef_.copy(), model.intercept_.copy()))
    return found


def restated(weight: np.ndarray, bias: np.ndarray, x: np.ndarray, y: np.ndarray, penalty: float) -> float:
    """Sum of the cross-entropies + penalty / 2 |w|², said anew in numpy; weight [c, e], one row for two classes."""
    logits = x.astype(np.float64) @ weight.T + bias
    if weight.shape[0] == 1:
        losses = np.logaddexp(0, -logits[:, 0] * (2 * y - 1))
    else:
        # relative to the right class, so that small losses keep their digits
        losses = np.log1p(np.exp(np.where(np.eye(len(weight))[y] > 0, -np.inf,
                                          logits - logits[np.arange(len(y)), y][:, None])).sum(1))  # fmt: skip
    return losses.sum() + penalty / 2 * (weight**2).sum()


@pytest.mark.parametrize("kind", ["digits", "noisy", "wide", "two"])
def test_the_objective_is_at_most_a_thousandth_above_scikit_learns_at_every_penalty(kind):
    x, y = features(kind)
    penalties = PENALTIES[::6]
    ours = logistic_path(prepare(x, y, int(y.max()) + 1), penalties)
    for model, (weight, bias) in zip(ours, scikit_learns_path(x, y, penalties)):
        w, b = (model.weight.T, model.bias) if len(weight) > 1 else (model.weight.T[1:], model.bias[1:])
        found, judged = restated(w, b, x, y, model.penalty), restated(weight, bias, x, y, model.penalty)
        assert found <= judged * (1 + 1e-3), f"penalty {model.penalty:g}: {found} against {judged}"
        assert model.objective == pytest.approx(found, rel=1e-3)


def test_there_are_45_penalties_from_strong_to_weak_equally_far_apart():
    assert len(PENALTIES) == 45
    assert (PENALTIES[0], PENALTIES[-1]) == (1e5, 1e-6)
    assert np.allclose(np.diff(np.log10(PENALTIES)), -11 / 44)


def test_the_penalty_is_against_the_sum_over_rows_not_their_mean():
    """Each row twice is half the penalty."""
    x, y = features("noisy")
    (once,) = logistic_path(prepare(x, y, 5), [30.0])
    (twice,) = logistic_path(prepare(np.vstack([x, x]), np.concatenate([y, y]), 5), [60.0])
    near = 2e-3 * np.abs(once.weight).max()
    assert np.allclose(once.weight, twice.weight, atol=near)
    (other,) = logistic_path(prepare(np.vstack([x, x]), np.concatenate([y, y]), 5), [30.0])
    assert not np.allclose(once.weight, other.weight, atol=4 * near)


def test_the_bias_is_free():
    """Under a penalty that leaves no weight, scores are the classes' frequencies."""
    x, y = features("noisy")
    (model,) = logistic_path(prepare(x, y, 5), [1e9])
    shares = np.exp(model.bias) / np.exp(model.bias).sum()
    assert np.abs(model.weight).max() < 1e-4
    assert np.allclose(shares, np.bincount(y) / len(y), atol=1e-3)


def test_loss_and_slope_are_those_of_torch_and_keep_the_digits_of_tiny_losses():
    random = torch.Generator().manual_seed(0)
    logits = 40 * torch.randn(50, 6, generator=random, dtype=torch.float64)
    target = torch.randint(0, 6, (50,), generator=random)
    logits.requires_grad_(True)
    expected = torch.nn.functional.cross_entropy(logits, target, reduction="sum")
    (slope,) = torch.autograd.grad(expected, logits)
    found, found_slope = loss_and_slope(logits.detach(), target)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    assert torch.allclose(found_slope, slope, atol=1e-12)
    tiny, _ = loss_and_slope(torch.tensor([[30.0, 0.0, 1.0]]), torch.tensor([0]))
    assert tiny.item() == pytest.approx(np.exp(-30) + np.exp(-29), rel=1e-5)


def test_labels_apart_are_as_many_regressions_without_what_is_left_out():
    x, _ = features("noisy")
    labels = np.stack([np.sign(x[:, 0] + x[:, c] + 0.3) for c in (1, 2, 3)] + [np.full(len(x), -1)], axis=1).astype(int)
    labels[::7, 0] = 0
    for penalty, model in zip((10.0, 0.1), logistic_path(prepare(x, labels, 4), (10.0, 0.1))):
        for c in range(3):
            kept = labels[:, c] != 0
            y = (labels[kept, c] > 0).astype(int)
            ((weight, bias),) = scikit_learns_path(x[kept], y, [penalty])
            ours = restated(model.weight.T[c : c + 1], model.bias[c : c + 1], x[kept], y, penalty)
            assert ours <= restated(weight, bias, x[kept], y, penalty) * (1 + 1e-3)
        assert np.all(model.weight[:, 3] == 0)  # nothing to learn from


def test_classes_that_no_row_has_are_never_predicted():
    x, y = features("noisy")
    kept = (y != 1) & (y != 3)
    (model,) = logistic_path(prepare(x[kept], y[kept], 6), [1.0])
    assert set(model.scores(x).argmax(1)) == {0, 2, 4}
    two = y < 2
    (model,) = logistic_path(prepare(x[two], y[two] * 4, 6), [1.0])
    assert set(model.scores(x).argmax(1)) == {0, 4}


def test_a_warm_start_takes_fewer_steps_than_a_cold_one():
    x, y = features("noisy")
    problem = prepare(x, y, 5)
    penalties = PENALTIES[8:36:4]
    warm = sum(model.steps for model in logistic_path(problem, penalties))
    cold = sum(next(logistic_path(problem, [penalty])).steps for penalty in penalties)
    assert warm < cold


def test_a_model_starts_the_fit_on_other_rows_where_it_stands():
    x, y = features("digits")
    (model,) = logistic_path(prepare(x[:400], y[:400], 10), [1.0])
    problem = prepare(x, y, 10)
    at = logistic.coefficients_of(model, problem)
    again = logistic.model(problem, 1.0, at, 0.0, 0)
    assert np.allclose(again.scores(x), model.scores(x), atol=1e-3)


def test_bad_features_and_labels_are_named():
    x, y = features("noisy")
    with pytest.raises(BadInput, match=r"features are \[500, 30\], labels \[3\]"):
        prepare(x, y[:3], 5)
    with pytest.raises(BadInput, match="all 500 labels are alike"):
        prepare(x, np.zeros(len(x), dtype=int), 5)
    x[3, 4] = np.nan
    with pytest.raises(BadInput, match="not finite"):
        prepare(x, y, 5)
