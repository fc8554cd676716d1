"""Average precision of detections: VOC's by the rule of its year, COCO's through faster-coco-eval."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mec.errors import BadInput
from mec.evaluation.detection.annotations import Annotations
from mec.evaluation.metrics import eleven_point_precision
from mec.runtime.files import read_json

AP_THRESHOLDS = tuple(0.5 + 0.05 * k for k in range(10))  # of overlap
AS_WRITTEN = np.array([1.0, 1.0, 0.0, 0.0])  # VOC's files count pixels from 1 and include the last
MEDIUM = 32**2  # px: COCO's smallest medium object


@dataclass(frozen=True)
class Detections:
    """Of one photograph, in its own px: boxes [n, 4] x0, y0, x1, y1; labels 0 to K - 1; COCO run lengths of masks."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: Sequence[Mapping[str, Any]] | None = None


def voc_scores(
    annotations: Annotations, detections: Sequence[Detections], *, eleven_points: bool = True
) -> dict[str, float]:
    """AP (mean over overlaps 0.50 to 0.95), AP50 and AP75, %; each the mean over classes that have objects (detectron2
    counts the others as 0).

    A detection hits the object of its class that it overlaps most (widths inclusive), if by more than the threshold;
    further hits on an object are wrong. Difficult objects count for neither side. Detections become what VOC's result
    files hold: corners one px up and rounded to 0.1, scores rounded to 0.001.

    Args:
        detections: one for each photograph, in order.
        eleven_points: the rule of 2007; otherwise the area below the curve.

    Source: protocols of VOC 2007 and 2010; the ten thresholds as detectron2 takes them.

    Raises:
        BadInput: another number of detections, or no object to find.
    """
    if len(detections) != len(annotations):
        raise BadInput(f"detections of {len(detections)} photographs for {len(annotations)}: one for each, in order.")
    rule = eleven_point_precision if eleven_points else area_precision
    table = []  # [classes, thresholds]
    for label in range(len(annotations.classes)):
        positives = int((~annotations.ignored & (annotations.labels == label)).sum())
        if positives:
            overlap, row = best_objects(annotations, detections, label)
            table.append([rule(*voc_curve(overlap, row, annotations.ignored, positives, t)) for t in AP_THRESHOLDS])
    if not table:
        raise BadInput("no object to find: every one is difficult, or there is none.")
    each = 100 * np.array(table).mean(0)
    return {"AP": float(each.mean()), "AP50": float(each[0]), "AP75": float(each[5])}


def best_objects(
    annotations: Annotations, detections: Sequence[Detections], label: int
) -> tuple[np.ndarray, np.ndarray]:
    """Of each detection of a class, by falling score: overlap with the object it overlaps most, and the object's row.

    Equal scores stay in order of appearance. Overlap 0 and row -1 where the photograph has no object of the class.
    """
    scores, overlap, row = [], [], []
    for i, found in enumerate(detections):
        rows = annotations.rows(i)
        rows = rows[annotations.labels[rows] == label]
        truth = annotations.boxes[rows].astype(np.float64) + AS_WRITTEN  # as the file has them
        mine = found.labels == label
        for box, score in zip(found.boxes[mine], found.scores[mine]):
            overlaps = inclusive_overlaps(truth, np.round(box.astype(np.float64) + AS_WRITTEN, 1))
            best = int(overlaps.argmax()) if len(rows) else -1
            scores.append(round(float(score), 3))
            overlap.append(overlaps[best] if len(rows) else 0.0)
            row.append(rows[best] if len(rows) else -1)
    order = np.argsort(-np.array(scores), kind="stable")
    return np.array(overlap)[order], np.array(row, dtype=np.int64)[order]


def voc_curve(
    overlap: np.ndarray, row: np.ndarray, difficult: np.ndarray, positives: int, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision after each detection of a class."""
    near = overlap > threshold
    ignored = near & difficult[row]
    hit = np.zeros(len(row), dtype=bool)
    candidates = np.flatnonzero(near & ~ignored)
    _, first = np.unique(row[candidates], return_index=True)  # an object is hit once, by the best score
    hit[candidates[first]] = True
    right, wrong = hit.cumsum(), (~hit & ~ignored).cumsum()
    return right / positives, right / np.maximum(right + wrong, 1)


def inclusive_overlaps(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """[n] intersection over union of boxes [n, 4] with one box [4], the last pixel belonging to a box."""
    sides = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2]) + 1
    both = np.maximum(sides, 0).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2] + 1).prod(1)
    return both / (areas + (box[2:] - box[:2] + 1).prod() - both)


def area_precision(recall: np.ndarray, precision: np.ndarray) -> float:
    """Area below precision over recall, precision first made falling.

    >>> area_precision(np.array([0.5, 0.5]), np.array([1.0, 0.5]))
    0.5
    """
    edges = np.concatenate([[0.0], recall, [1.0]])
    falling = np.maximum.accumulate(np.concatenate([precision, [0.0]])[::-1])[::-1]
    return float((np.diff(edges) * falling).sum())


def coco_scores(annotations: Annotations, detections: Sequence[Detections], kind: str) -> dict[str, float]:
    """AP, AP50, AP75 and AP50 on medium and large objects, %, of "bbox" or "segm"; 100 detections an image.

    Raises:
        BadInput: another number of detections, or the package is missing.
    """
    if len(detections) != len(annotations):
        raise BadInput(f"detections of {len(detections)} photographs for {len(annotations)}: one for each, in order.")
    package = coco_package()
    rows: list[dict[str, Any]] = []
    for image, found in enumerate(detections, start=1):
        for n, (box, score, label) in enumerate(zip(found.boxes, found.scores, found.labels)):
            x0, y0, x1, y1 = (float(v) for v in box)
            row: dict[str, Any] = {"image_id": image, "category_id": int(label) + 1, "score": float(score)}
            if kind == "bbox":
                row["bbox"] = [x0, y0, x1 - x0, y1 - y0]
            elif found.masks is not None:  # alone: areas of masks decide over sizes, not those of boxes
                row["segmentation"] = found.masks[n]
            rows.append(row)
    names = ("AP", "AP50", "AP75", "AP50 medium and large")
    if not rows:
        return dict.fromkeys(names, 0.0)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = package.COCO(coco_truth(annotations))
        judge = package.COCOeval_faster(truth, truth.loadRes(rows), kind)
        judge.params.imgIds = [*range(1, len(annotations) + 1)]
        judge.params.maxDets = [1, 10, 100]
        judge.params.areaRng = [[0, 1e10], [MEDIUM, 1e10]]
        judge.params.areaRngLbl = ["all", "medium and large"]
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"][..., -1]  # [thresholds, recalls, classes, sizes]
    chosen = (precision[..., 0], precision[0, ..., 0], precision[5, ..., 0], precision[0, ..., 1])
    known = (part[part > -1] for part in chosen)
    return {name: 100 * float(part.mean()) if len(part) else 0.0 for name, part in zip(names, known)}


def coco_truth(annotations: Annotations) -> dict[str, Any]:
    """The objects as COCO's file has them, numbered from 1: an id of 0, which data of one's own have, is never met."""
    stored, rows = read_json(Path(annotations.source), dict)["annotations"], []
    assert annotations.order is not None
    for image in range(len(annotations)):
        for row in annotations.rows(image):
            found = stored[annotations.order[row]]
            about = {"id": int(row) + 1, "image_id": image + 1, "category_id": int(annotations.labels[row]) + 1}
            area = found.get("area") or found["bbox"][2] * found["bbox"][3]
            rows.append({**found, **about, "area": area, "iscrowd": int(annotations.ignored[row])})
    sizes = enumerate(annotations.sizes.tolist(), start=1)
    return {
        "images": [{"id": number, "width": wide, "height": high} for number, (wide, high) in sizes],
        "categories": [{"id": n, "name": name} for n, name in enumerate(annotations.classes, start=1)],
        "annotations": rows,
    }


def coco_package() -> Any:
    try:
        import faster_coco_eval
    except ImportError as error:
        raise BadInput(f"{error}. COCO's measure and masks need: pip install 'mec-ssl[detection]'") from error
    return faster_coco_eval
