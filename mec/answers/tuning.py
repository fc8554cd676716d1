"""`mec predict --finetune`: the encoder is trained on the labels too, and judged by images it was not given."""

from dataclasses import replace

import numpy as np

from mec.answers.choosing import unit
from mec.answers.classifying import STRENGTHS, Fitted, folds, linear, with_calibration
from mec.answers.pool import Pool
from mec.data.dataset import Split
from mec.evaluation.classifier import Training, suited
from mec.evaluation.features import extract
from mec.evaluation.finetuning.finetune import finetuned
from mec.evaluation.subject import Subject

FEW = Training("ours, for tens to hundreds of labels", 0.01, scaled=False, batch_size=64, steps=200, nesterov=True,
               schedule="cosine by step", crop=(0.35, 1.0), interpolation="bicubic")  # fmt: skip


def tuned(pool: Pool, seed: int) -> tuple[Pool, Fitted]:
    """The pool as a copy of its encoder sees it that was fine-tuned on all labelled images, and a classifier of that.

    What is told of it is cross-validation's, once: for each fold another copy is fine-tuned on the other folds, from
    the given weights on. Raises TrainingStopped: the loss is not finite."""
    known = np.flatnonzero(pool.y >= 0)
    labelled, y, fold = pool.source.split.take(known), pool.y[known], folds(pool.y[known], seed)
    recipe, logits = suited(FEW, pool.source.data), np.empty((1, len(y), len(pool.classes)))

    def copy(rows: np.ndarray) -> Subject:
        encoder, _ = finetuned(pool.subject, labelled.take(rows), len(pool.classes), recipe, seed=seed)
        return replace(pool.subject, encoder=encoder, info=replace(pool.subject.info, probe=()))

    for number in np.unique(fold):
        rest, out = np.flatnonzero(fold != number), fold == number
        x = unit(seen(copy(rest), labelled)).astype(np.float64)
        model = linear(x[rest], y[rest], len(pool.classes), STRENGTHS[0])
        logits[0, out] = x[out] @ model.weight + model.bias
    final = copy(np.arange(len(y)))
    pool = replace(pool, subject=final, x=seen(final, pool.source.split))
    model = linear(pool.unit().astype(np.float64)[known], y, len(pool.classes), STRENGTHS[0])
    return pool, with_calibration(replace(model, strength=STRENGTHS[0]), logits, y, seed)


def seen(subject: Subject, split: Split) -> np.ndarray:
    """Features [n, e] of the images, which are read anew and not kept."""
    where = {"device": subject.device, "batch_size": subject.rows, "workers": subject.workers}
    return extract(subject.encoder, split, subject.transform, **where, whole=True).x.numpy()  # type: ignore[arg-type]
