"""The fast linear probe, on features: logistic regression, its penalty chosen on a part of the training rows.

Without augmentation it is another protocol than the published probe (`probe.py`), and its results say so: linear-fast.
"""

import math
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mec.errors import BadInput
from mec.evaluation.accuracy import accuracies
from mec.evaluation.features import Features
from mec.evaluation.results import Result

SKLEARN_CS = (0.001, 0.01, 0.1, 1.0)  # scikit-learn's C


def linear(
    train: Features, test: Features, *, seed: int = 0, most: int = 10_000, validation: Features | None = None
) -> list[Result]:
    """Top-1 and balanced accuracy (%) of logistic regression on standardised features without augmentation.

    C is the best of `SKLEARN_CS` on `validation`, or on a tenth of the training rows, held out; then refitted on all of
    them. At most `most` training rows are used, a seeded stratified draw.

    Raises BadInput: one class only, or features that are not finite."""
    train.check_finite(test)
    x, y = train.x.numpy(), train.y.numpy()
    if len(np.unique(y)) < 2:
        raise BadInput(f"all {len(y)} training images are of one class ({y[0]}): a probe needs at least two.")
    if len(y) > most:
        kept, _ = divided(y, len(y) - most, seed)
        x, y = x[kept], y[kept]
    fit, held_out = divided(y, math.ceil(max(0.1 * len(y), len(np.unique(y)))), seed)
    learnt, judge = (x[fit], y[fit]), (x[held_out], y[held_out])
    if validation is not None:
        learnt, judge = (x, y), (validation.x.numpy(), validation.y.numpy())

    def probe(c: float):
        return make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=300, tol=1e-3))

    best = 1.0  # where every class has a single image, and nothing can be held out
    with warnings.catch_warnings():
        # A weak penalty may not converge in 300 iterations: it is judged as it then is, and chosen or not.
        warnings.simplefilter("ignore", ConvergenceWarning)
        if len(judge[1]):
            best = max(SKLEARN_CS, key=lambda c: probe(c).fit(*learnt).score(*judge))
        predicted = probe(best).fit(x, y).predict(test.x.numpy())
    settings = {"preset": "fast", "C": best, "train": len(y)}
    settings |= {"C_chosen_on": "validation"} if validation is not None else {}
    return accuracies("linear-fast", predicted, test.y.numpy(), seed=seed, settings=settings)


def divided(y: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows in two parts, `count` in the second, every class in proportion; a class of one row is in the first."""
    classes, counts = np.unique(y, return_counts=True)
    alone = np.isin(y, classes[counts == 1])
    rows, several = np.flatnonzero(~alone), int((counts > 1).sum())
    if not several:
        return np.arange(len(y)), rows
    count = min(max(count, several), len(rows) - several)  # at least one of each on both sides
    first, second = train_test_split(rows, test_size=count, stratify=y[rows], random_state=seed)
    return np.concatenate([first, np.flatnonzero(alone)]), second
