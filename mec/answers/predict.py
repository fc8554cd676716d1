"""`mec select`: which images to label first; `mec predict`: then a class, a confidence and flags for each image."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mec.answers.choosing import choose
from mec.answers.classifier import Classifier, save_classifier
from mec.answers.classifying import UNLIKE, Fitted, calibration_error, calibration_interval, fit
from mec.answers.neighbours import others
from mec.answers.options import Predicting, Selecting
from mec.answers.pool import gather, reserved, write_csv
from mec.answers.tuning import tuned
from mec.errors import BadInput
from mec.evaluation.accuracy import accuracies
from mec.evaluation.results import Result
from mec.runtime.flags import takes
from mec.runtime.progress import say

HEADER = ("path", "label", "confidence", "second", "second_confidence", "third", "third_confidence", "given", "flags")


@takes(Selecting)
def select(run: Any, images: Any, options: Selecting) -> list[str]:
    """Write the images that are worth labelling first to a CSV path,label; returns their names.

    Args:
        run: a run folder, a file of weights or a name, as `mec evaluate` takes it.
        images: a folder, tars, a CSV or text of paths, a file, a list of paths or of PIL images.
    {options}

    Raises:
        BadInput: no image, more asked than are not labelled, labels that do not fit; OUT does not end with .csv.
        FileNotFoundError: no such run or folder."""
    out = Path(options.out)
    with reserved(out, ".csv"):
        pool = gather(run, images, options, options.labels)
        known = np.flatnonzero(pool.y >= 0)
        found = choose(pool.x, options.n, way=options.way, labelled=known, seed=options.seed)
        names = [pool.names[index] for index in found]
        write_csv(out, ["path", "label"], ([name, ""] for name in names))
    say(f"{out}: {len(names):,} of {len(pool):,} images, beside {len(known):,} labelled. Fill in its column label.")
    return names


@takes(Predicting)
def predict(run: Any, images: Any, options: Predicting) -> list[tuple[str, str, float]]:
    """Write the class of every image to a CSV, and the classifier to a folder; returns (name, label, confidence).

    Accuracy, balanced accuracy and calibration error come first: by cross-validation four times (tuned: once) among the
    labelled images, with 95 % intervals. Where these were chosen (`mec select`), others may be easier or harder.

    Args:
        run: a run folder, a file of weights or a name, as `mec evaluate` takes it; "pixels" has no encoder to save.
        images: a folder, tars, a CSV or text of paths, a file, or a list of paths, those labelled among them.
    {options}

    Raises:
        BadInput: fewer than four labels or two classes, labels that do not fit; OUT does not end with .csv.
        FileNotFoundError: no such run or folder."""
    out = Path(options.out)
    folder = Path(options.classifier or out.with_suffix(""))
    with reserved(out, ".csv"):
        if folder.exists() and not folder.is_dir():
            raise BadInput(f"--classifier is {folder}: a file lies there; it names a folder.")
        pool = gather(run, images, options, options.labels)
        if pool.subject.info.backbone in ("pixels", "custom"):
            words = "an encoder without a name cannot be saved with the classifier. Give a run or a file."
            raise BadInput(f"{run}: {words}")
        x, y = pool.unit().astype(np.float64), pool.y
        known = np.flatnonzero(y >= 0)
        if not len(known):
            raise BadInput(f"{options.labels}: none of {len(pool):,} images has a label in it.")
        fitted = fit(x[known], y[known], len(pool.classes), others=x[y < 0], unlabelled=options.unlabelled,
                     seed=options.seed)  # fmt: skip
        figures = quality(fitted, y[known])
        for result in figures:
            say(result.line())
        if options.finetune:
            pool, fitted = tuned(pool, options.seed)
            x, figures = pool.unit().astype(np.float64), quality(fitted, y[known])
            for result in figures:
                say(f"fine-tuned: {result.line().strip()}")
        classifier = Classifier(fitted, pool.classes, x[known], float(np.quantile(others(x[known], 1)[0], UNLIKE)))
        chance = fitted.probabilities(x)
        order = np.argsort(-chance, axis=1, kind="stable")[:, :3]
        flags = classifier.flags(x, chance.max(1))
        save_classifier(folder, classifier, pool.subject, {
            "run": str(run), "labels": len(known), "fine-tuned": options.finetune, "unlabelled used": fitted.spread,
            "C": fitted.strength, "cross-validation": [asdict(result) for result in figures],
        })  # fmt: skip
        names = np.array(pool.classes, object)
        rows = []
        for i, best in enumerate(order):
            row = [part for k in best for part in (names[k], f"{chance[i, k]:.4f}")]
            rows.append([pool.names[i], *row, *[""] * (6 - len(row)), names[y[i]] if y[i] >= 0 else "", flags[i]])
        write_csv(out, HEADER, rows)
    count = {word: sum(word in flag for flag in flags) for word in ("unlike", "unsure")}
    how = "and labels spread to images without one" if fitted.spread else "alone: spreading them was not better"
    how = "by a fine-tuned encoder" if options.finetune else how if options.unlabelled == "auto" else "as asked"
    say(f"Fitted on {len(known):,} labelled images, {how}.")
    say(f"{out}: {len(pool):,} images; unlike any labelled one {count['unlike']:,}, unsure {count['unsure']:,}, which "
        f"hold about two thirds of the errors. Classifier: {folder}")  # fmt: skip
    return [(row[0], row[1], float(row[2])) for row in rows]


def quality(fitted: Fitted, y: np.ndarray) -> list[Result]:
    """Top-1, balanced accuracy and calibration error of a fitted classifier's cross-validation, with intervals."""
    assert fitted.predicted is not None
    assert fitted.confidence is not None
    found = accuracies("predict", fitted.predicted, y, matrix=False, settings={"labels": len(y)})
    right = fitted.predicted == y
    error = calibration_error(fitted.confidence.ravel(), right.ravel())
    interval = calibration_interval(fitted.confidence, right)
    error_result = Result("predict", "calibration error", error, "points", n=len(right), images=len(y),
                          interval=interval, settings={"labels": len(y)})  # fmt: skip
    return [Result(**{**r.__dict__, "split": "labelled, cross-validated"}) for r in [*found, error_result]]
