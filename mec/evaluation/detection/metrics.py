"""Average precision of detections: VOC's by the rule of its year, COCO's through faster-coco-eval."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.ops import box_iou

from mec.errors import BadInput, needs
from mec.evaluation.detection.annotations import Annotations
from mec.evaluation.metrics import eleven_point_precision
from mec.runtime.files import read_json

AP_THRESHOLDS = tuple(0.5 + 0.05 * k for k in range(10))  # of overlap
AS_WRITTEN = np.array([1.0, 1.0, 0.0, 0.0])  # VOC's files count pixels from 1
LAST_PIXEL = np.array([0.0, 0.0, 1.0, 1.0])  # and include the last
MEDIUM = 32**2  # px: COCO's smallest medium object
Scores = dict[str, float]
Pair = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Detections:
    """Of one photograph, in its own px: boxes [n, 4] x0, y0, x1, y1; labels 0 to K - 1; COCO run lengths of masks."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: Sequence[Mapping[str, Any]] | None = None


def voc_scores(annotations: Annotations, detections: Sequence[Detections], *, eleven_points: bool = True) -> Scores:
    """AP (mean over overlaps 0.50 to 0.95), AP50 and AP75, %; each the mean over classes that have objects (detectron2
    counts the others as 0).

    A detection hits the object of its class that it overlaps most (widths inclusive), if by more than the threshold;
    further hits on an object are wrong. Difficult objects count for neither side. Detections become what VOC's result
    files hold: corners one px up and rounded to 0.1, scores rounded to 0.001.

    Args:
        detections: one for each photograph, in order.
        eleven_points: the rule of 2007; otherwise the area below the curve.

    Source: protocols of VOC 2007 and 2010; the ten thresholds as detectron2 takes them.
    Raises BadInput: another number of detections, or no object to find."""
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


def best_objects(annotations: Annotations, detections: Sequence[Detections], label: int) -> Pair:
    """Of each detection of a class, by falling score: overlap with the object it overlaps most, and the object's row.
    Equal scores stay in order of appearance. Overlap 0 and row -1 where the photograph has no object of the class."""
    scores: list[float] = []
    overlap: list[float] = []
    row: list[int] = []
    for i, found in enumerate(detections):
        rows = annotations.rows(i)
        rows = rows[annotations.labels[rows] == label]
        mine = found.labels == label
        truth, boxes = annotations.boxes[rows] + AS_WRITTEN, np.round(found.boxes[mine] + AS_WRITTEN, 1)
        each = box_iou(torch.from_numpy(boxes + LAST_PIXEL), torch.from_numpy(truth + LAST_PIXEL)).numpy()
        scores += [round(score, 3) for score in found.scores[mine].tolist()]
        overlap += each.max(1, initial=0).tolist()
        row += rows[each.argmax(1)].tolist() if len(rows) else [-1] * len(each)
    order = np.argsort(-np.array(scores), kind="stable")
    return np.array(overlap)[order], np.array(row, dtype=np.int64)[order]


def voc_curve(overlap: np.ndarray, row: np.ndarray, difficult: np.ndarray, positives: int, threshold: float) -> Pair:
    """Recall and precision after each detection of a class."""
    near = overlap > threshold
    ignored = near & difficult[row]
    hit = np.zeros(len(row), dtype=bool)
    candidates = np.flatnonzero(near & ~ignored)
    _, first = np.unique(row[candidates], return_index=True)  # an object is hit once, by the best score
    hit[candidates[first]] = True
    right, wrong = hit.cumsum(), (~hit & ~ignored).cumsum()
    return right / positives, right / np.maximum(right + wrong, 1)


def area_precision(recall: np.ndarray, precision: np.ndarray) -> float:
    """Area below precision over recall, precision first made falling.

    >>> area_precision(np.array([0.5, 0.5]), np.array([1.0, 0.5]))
    0.5"""
    edges = np.concatenate([[0.0], recall, [1.0]])
    falling = np.maximum.accumulate(np.concatenate([precision, [0.0]])[::-1])[::-1]
    return float((np.diff(edges) * falling).sum())


def coco_scores(annotations: Annotations, detections: Sequence[Detections], kind: str) -> Scores:
    """AP, AP50, AP75 and AP50 on medium and large objects, %, of "bbox" or "segm"; 100 detections an image.
    Raises BadInput: another number of detections, or the package is missing."""
    if len(detections) != len(annotations):
        raise BadInput(f"detections of {len(detections)} photographs for {len(annotations)}: one for each, in order.")
    package = coco_package()
    rows = coco_rows(detections)
    for row in rows if kind == "segm" else ():  # areas of masks decide over sizes, not those of boxes
        del row["bbox"], row["area"]
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
    return as_coco(annotations, rows)


def coco_rows(detections: Sequence[Detections]) -> list[dict[str, Any]]:
    """Detections as COCO's annotations, numbered from 1."""
    rows: list[dict[str, Any]] = []
    for image, each in enumerate(detections, start=1):
        columns = (v.tolist() for v in (each.boxes, each.scores, each.labels))
        for (x0, y0, x1, y1), score, label, mask in zip(*columns, each.masks or repeat(None)):
            about = {"id": len(rows) + 1, "image_id": image, "category_id": label + 1, "score": score, "iscrowd": 0}
            box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)}
            rows.append(about | box | ({"segmentation": mask} if mask else {}))
    return rows


def as_coco(annotations: Annotations, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """COCO's file of photographs and classes, numbered from 1, with these annotations."""
    about = enumerate(zip(annotations.ids, annotations.sizes.tolist()), start=1)
    images = [{"id": i, "file_name": name, "width": w, "height": h} for i, (name, (w, h)) in about]
    categories = [{"id": i, "name": name} for i, name in enumerate(annotations.classes, start=1)]
    return {"images": images, "categories": categories, "annotations": rows}


def coco_package() -> Any:
    return needs("COCO's measure of boxes and masks", "detection", "faster_coco_eval")
