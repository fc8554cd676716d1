"""Accuracy on held-out images, as results: top-1 with its interval, balanced over classes, the confusion matrix."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from mec.evaluation.results import Confusion, Result

Z = 1.959963984540054  # of the normal distribution: 95 % lie between -Z and Z
TOP_5_CLASSES = 10  # least classes for which top-5 says something: of fewer, chance alone finds more than half
FEW_CLASSES = 100  # most classes for which a confusion matrix is kept
DRAWS = 2000  # of the interval of balanced accuracy


def wilson(share: float, n: int) -> tuple[float, float]:
    """The 95 % interval (%) of a share (%) of n independent images.

    Source: Wilson, 1927, without correction for continuity.

    >>> [round(bound, 2) for bound in wilson(50.0, 10)]
    [23.66, 76.34]"""
    p, least = share / 100, Z * Z / n
    middle = (p + least / 2) / (1 + least)
    half = Z * math.sqrt(p * (1 - p) / n + least / (4 * n)) / (1 + least)
    return max(0.0, 100 * (middle - half)), min(100.0, 100 * (middle + half))


def balanced_interval(right: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """The 95 % interval (%) of the mean over classes of right [c] of counts [c] images.
    Quantiles of seeded draws from each class's posterior under Jeffreys' prior: a class of one image that is right is
    not taken for one that always is."""
    drawn = np.random.default_rng(0).beta(right + 0.5, counts - right + 0.5, size=(DRAWS, len(counts))).mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    value = float(np.mean(right / counts))
    return 100 * min(low, value), 100 * max(high, value)


def accuracies(
    protocol: str, predicted: np.ndarray, labels: np.ndarray, *, top_5: float | None = None, matrix: bool = True,
    seed: int = 0, settings: Mapping[str, Any],
) -> list[Result]:  # fmt: skip
    """Top-1, top-5 where it says something, and balanced accuracy (%), with 95 % intervals.

    Args:
        predicted: [n] classes, or [draws, n] of as many classifiers: the figures are then means over draws, with their
            standard deviation; the intervals are those of n images.
        labels: [n].
        top_5: % of images whose label is among the best five; None where it was not measured.
        matrix: whether top-1 carries its confusion matrix, for few classes and a single draw."""
    draws, n = np.atleast_2d(predicted), len(labels)
    right = draws == labels
    classes, rows, counts = np.unique(labels, return_inverse=True, return_counts=True)
    each = np.stack([np.bincount(rows, weights=row, minlength=len(classes)) for row in right])  # [draws, c]
    top_1, balanced = 100 * right.mean(1), 100 * (each / counts).mean(1)
    about: dict[str, Any] = {"seed": seed, "n": len(draws), "settings": settings, "images": n}
    value = float(np.mean(top_1))
    confusion = None
    if matrix and len(draws) == 1 and 1 < int(max(draws.max(), labels.max())) + 1 <= FEW_CLASSES:
        confusion = Confusion.of(draws[0], labels)
    found = [
        Result(protocol, "top-1", value, spread=spread(top_1), interval=wilson(value, n), confusion=confusion,
               largest_class=100 * float(counts.max()) / n, **about)
    ]  # fmt: skip
    if top_5 is not None and len(classes) >= TOP_5_CLASSES:
        found.append(Result(protocol, "top-5", top_5, interval=wilson(top_5, n), **about))
    interval = balanced_interval(each.mean(0), counts)
    found.append(Result(protocol, "balanced accuracy", float(np.mean(balanced)), spread=spread(balanced),
                        interval=interval, **about))  # fmt: skip
    return found


def spread(values: np.ndarray) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
