"""Few labels: logistic regression on a handful of labelled images per class, over seeded draws."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from mec.errors import BadInput
from mec.evaluation.accuracy import accuracies
from mec.evaluation.features import Features
from mec.evaluation.results import Result


def fewshot(
    train: Features, test: Features, *, labels_per_class: Sequence[int] = (1, 5), draws: int = 20, seed: int = 0
) -> list[Result]:
    """Top-1 (%) with so many labels per class: mean and standard deviation over seeded draws.

    Balanced accuracy beside it. A draw that takes every image is one draw: others would be the same.
    L2-normalised features, scikit-learn's LogisticRegression(C=10).

    Raises BadInput: one class only, one with fewer images than labels are asked for, or features that are not finite.
    """
    if draws < 1:
        raise BadInput(f"--draws is {draws}: at least 1.")
    train.check_finite(test)
    x_test, y = test.unit().numpy(), train.y.numpy()
    classes, counts = np.unique(y, return_counts=True)
    if len(classes) < 2:
        raise BadInput(f"all {len(y)} training images are of one class ({classes[0]}): a probe needs at least two.")
    results = []
    for count in labels_per_class:
        if count < 1 or count > counts.min():
            few = f"from 1 to {counts.min()}, the images of the smallest class ({classes[counts.argmin()]})"
            raise BadInput(f"--labels-per-class {count}: {few}.")
        predicted = []
        number = 1 if (counts == count).all() else draws
        for draw in range(number):
            generator = np.random.default_rng([seed, draw, count])
            chosen = np.concatenate([generator.choice(np.flatnonzero(y == c), count, replace=False) for c in classes])
            labelled = Features(train.x[chosen], train.y[chosen])  # the bank may be mapped from disk, and large
            model = LogisticRegression(C=10, max_iter=1000).fit(labelled.unit().numpy(), labelled.y.numpy())
            predicted.append(model.predict(x_test))
        how: dict[str, Any] = {"seed": seed, "settings": {"labels_per_class": count, "draws": number, "C": 10}}
        results += accuracies("fewshot", np.stack(predicted), test.y.numpy(), matrix=False, **how)
    return results
