"""The linear probe, restated with scikit-learn alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from mec.errors import BadInput
from mec.evaluation.features import Features
from mec.evaluation.probing.linear import linear


@pytest.fixture(scope="module")
def digits() -> tuple[Features, Features]:
    x, y = load_digits(return_X_y=True)
    x = np.hstack([x, np.random.default_rng(0).normal(size=(len(x), 40))])  # so that the penalty matters
    x, y = torch.from_numpy(x).float(), torch.from_numpy(y)
    return Features(x[:600], y[:600]), Features(x[600:1100], y[600:1100])


def standardised(x: np.ndarray, by: np.ndarray) -> np.ndarray:
    spread = by.std(0)
    return (x - by.mean(0)) / np.where(spread == 0, 1, spread)


def restated(train: Features, test: Features, seed: int) -> tuple[float, float]:
    """C that is best on a held-out tenth, and test accuracy of all rows with it."""
    x, y = train.x.numpy().astype(np.float64), train.y.numpy()
    fit, held, y_fit, y_held = train_test_split(x, y, test_size=0.1, stratify=y, random_state=seed)

    def probe(c, x, y):
        return LogisticRegression(C=c, max_iter=300, tol=1e-3).fit(standardised(x, x), y)

    scores = {c: probe(c, fit, y_fit).score(standardised(held, fit), y_held) for c in (0.001, 0.01, 0.1, 1.0)}
    best = max(scores, key=scores.get)
    return best, 100 * probe(best, x, y).score(standardised(test.x.numpy(), x), test.y.numpy())


@pytest.mark.parametrize("seed", [0, 1])
def test_accuracy_and_penalty_are_those_of_a_restatement(digits, seed):
    best, accuracy = restated(*digits, seed)
    result, _ = linear(*digits, seed=seed)
    assert result.settings["C"] == best
    assert result.value == pytest.approx(accuracy, abs=0.5)
    assert (result.protocol, result.metric, result.seed) == ("linear-fast", "top-1", seed)
    assert result.settings["train"] == 600


def test_scale_and_offset_of_features_do_not_count(digits):
    train, test = digits
    scale = torch.logspace(-2, 2, train.x.shape[1])
    moved = (Features(part.x * scale + 3, part.y) for part in (train, test))
    assert linear(*moved)[0].value == pytest.approx(linear(train, test)[0].value, abs=0.5)


def test_only_so_many_training_rows_are_used_in_proportion(digits):
    result, _ = linear(*digits, most=200)
    assert result.settings["train"] == 200
    assert 70 < result.value < linear(*digits)[0].value + 2


def test_classes_with_a_single_image_are_measured_all_the_same():
    generator = torch.Generator().manual_seed(0)
    y = torch.tensor([0] * 20 + [1] * 20 + [2])
    x = torch.nn.functional.one_hot(y, 5).float() * 4 + torch.randn(41, 5, generator=generator)
    result, _ = linear(Features(x, y), Features(x, y))
    assert result.value > 90


def test_a_single_class_is_refused():
    train = Features(torch.randn(20, 4), torch.zeros(20, dtype=torch.long))
    with pytest.raises(BadInput, match="one class"):
        linear(train, train)
