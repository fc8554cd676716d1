"""A linear probe on features: logistic regression, its penalty chosen on a part of the training rows."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mec.evaluate.features import Features
from mec.results import Result

PENALTIES = (0.001, 0.01, 0.1, 1.0)  # scikit-learn's C


def linear(train: Features, test: Features, *, seed: int = 0, most: int = 10_000) -> list[Result]:
    """Top-1 (%) of logistic regression on standardised features without augmentation.

    C is the best of `PENALTIES` on a tenth of the training rows, held out; then refitted on all of them. At most
    `most` training rows are used, a seeded stratified draw.
    """
    x, y = train.x.numpy(), train.y.numpy()
    if len(y) > most:
        x, _, y, _ = train_test_split(x, y, train_size=most, stratify=y, random_state=seed)
    held_out = train_test_split(x, y, test_size=max(0.1, len(np.unique(y)) / len(y)), stratify=y, random_state=seed)
    x_fit, x_val, y_fit, y_val = held_out

    def probe(c: float):
        return make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=300, tol=1e-3))

    best = max(PENALTIES, key=lambda c: probe(c).fit(x_fit, y_fit).score(x_val, y_val))
    accuracy = probe(best).fit(x, y).score(test.x.numpy(), test.y.numpy())
    settings = {"preset": "logistic", "C": best, "train": len(y)}
    return [Result("linear", "top-1", 100 * float(accuracy), seed=seed, settings=settings)]
