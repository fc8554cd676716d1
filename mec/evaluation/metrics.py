"""Metrics of scores against labels, in per cent: top-k, mean per class, 11-point mean average precision."""

from collections.abc import Callable

import numpy as np

from mec.errors import BadInput

Metric = Callable[[np.ndarray, np.ndarray], float]

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


def top_k(scores: np.ndarray, labels: np.ndarray, k: int = 1) -> float:
    """Share (%) of rows of scores [n, c] whose label [n] is among the k best; equal scores go to the lowest class."""
    check_scores(scores, labels, many=False)
    return 100 * float((np.argsort(-scores, axis=1, kind="stable")[:, :k] == labels[:, None]).any(1).mean())


def mean_per_class(scores: np.ndarray, labels: np.ndarray) -> float:
    """Unweighted mean (%), over the classes that labels [n] name, of the share of a class's rows that are right."""
    check_scores(scores, labels, many=False)
    right = scores.argmax(1) == labels
    return 100 * float(np.mean([right[labels == c].mean() for c in np.unique(labels)]))


def average_precision_11(scores: np.ndarray, labels: np.ndarray) -> float:
    """11-point average precision of one class, 0 to 1, of scores [n]; nan where no label is 1.

    Labels [n] are 1, present; -1, absent; 0, only difficult instances: such images are left out.

    Source: PASCAL VOC 2007; see `eleven_point_precision`. An operating point is a distinct score."""
    kept = labels != 0
    scores, positive = scores[kept], labels[kept] > 0
    if not positive.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # of the rows that share a score
    found = positive[order].cumsum()[last]
    return eleven_point_precision(found / positive.sum(), found / (last + 1))


def eleven_point_precision(recall: np.ndarray, precision: np.ndarray) -> float:
    """PASCAL VOC 2007's rule: the mean, over recalls 0, 0.1, ..., 1, of the best precision at that recall or a higher.

    0 where no operating point reaches a recall. Tenths are multiples of the float 0.1, as detectron2 and the codes of
    the literature have them: three lie a hair above, so that a recall of exactly 3/10, 6/10 or 7/10 misses its tenth.
    """
    return float(np.mean([precision[recall >= tenth * 0.1].max(initial=0.0) for tenth in range(11)]))


def mean_average_precision_11(scores: np.ndarray, labels: np.ndarray) -> float:
    """11-point average precision (%), the mean over classes: scores [n, c], labels [n, c] of 1, 0 (difficult) or -1.
    Classes without a positive image are left out; nan where no class has one."""
    check_scores(scores, labels, many=True)
    each = np.array([average_precision_11(scores[:, c], labels[:, c]) for c in range(scores.shape[1])])
    return 100 * float(each[~np.isnan(each)].mean()) if not np.isnan(each).all() else float("nan")


METRICS: dict[str, Metric] = {
    "top-1": top_k, "mean per class": mean_per_class, "11-point mAP": mean_average_precision_11,
}  # fmt: skip


def check_scores(scores: np.ndarray, labels: np.ndarray, *, many: bool) -> None:
    wanted = scores.shape if many else scores.shape[:1]
    if scores.ndim != 2 or labels.shape != wanted or not len(scores):
        fit = f"scores [n, c] and labels {'[n, c]' if many else '[n]'}, n > 0"
        raise BadInput(f"scores are {[*scores.shape]}, labels {[*labels.shape]}: {fit}.")
