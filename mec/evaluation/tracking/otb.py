"""OTB-2015: its files in and out, success and precision of boxes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mec.errors import BadInput, nearest
from mec.runtime.files import missing

THRESHOLDS = np.linspace(0, 1, 21)  # of overlap


NEAR = 20  # px


@dataclass(frozen=True)
class BoxVideo:
    """Frames with one object's box in each: x, y, w, h in px, the top left pixel is (1, 1)."""

    name: str
    frames: tuple[Path, ...]
    first: np.ndarray  # [4], where the tracker starts
    boxes: np.ndarray  # [n, 4], the truth


def read_otb(root: Path, names: tuple[str, ...] = ()) -> list[BoxVideo]:
    """The sequences that ROOT/OTB2015.json lists (only those named, if any are), with the frames it lists.

    Raises:
        FileNotFoundError: no such file.
        BadInput: unreadable, an unknown name, missing frames, other counts of boxes than of frames, or an empty box
            to start from.
    """
    path = root / "OTB2015.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file. sot needs OTB-2015's layout: OTB2015.json, and SEQUENCE/img/0001.jpg and so on."
        )
    try:
        listed = dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise BadInput(f"{path}: not a JSON object of sequences ({error}).") from error
    for name in names:
        if name not in listed:
            raise BadInput(f"{path} has no sequence {name!r}. {nearest(name, listed)[:200]}")
    return [_sequence(root, path, name, listed[name]) for name in names or listed]


def _sequence(root: Path, path: Path, name: str, entry: dict) -> BoxVideo:
    try:
        frames = tuple(root / str(frame) for frame in entry["img_names"])
        boxes = np.array(entry["gt_rect"], dtype=np.float64)
        first = np.array(entry["init_rect"], dtype=np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(
            f"{path}: {name} needs img_names, gt_rect and init_rect, lists of numbers ({error!r})."
        ) from error
    if not frames or boxes.shape != (len(frames), 4):
        raise BadInput(f"{path}: {name} has {len(frames)} frames and boxes {[*boxes.shape]}: four numbers a frame.")
    if first.shape != (4,) or not np.isfinite(first).all() or (first[2:] <= 0).any():
        raise BadInput(f"{path}: {name} starts from the box {first.tolist()}: x, y, w, h with w and h above 0.")
    missing(frames, f"sequence {name}")
    return BoxVideo(name, frames, first, boxes)


def write_boxes(path: Path, boxes: np.ndarray) -> None:
    """A result file: x,y,w,h a line and a frame, the first included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(",".join(f"{value:.4f}" for value in box) + "\n" for box in boxes))


def overlaps(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes [n, 4]; -1 where a number of the true box is not above 0, as OTB has it."""
    low = np.maximum(found[:, :2], truth[:, :2])
    high = np.minimum(found[:, :2] + found[:, 2:], truth[:, :2] + truth[:, 2:])
    both = np.clip(high - low, 0, None).prod(1)
    union = found[:, 2:].prod(1) + truth[:, 2:].prod(1) - both
    share = np.divide(both, union, out=np.zeros(len(both)), where=union > 0)
    return np.where((truth > 0).all(1), share, -1)


def success_auc(found: np.ndarray, truth: np.ndarray) -> float:
    """Mean over 21 thresholds of the share of frames that overlap by more: at most 20 / 21, since none is above 1."""
    return float((overlaps(found, truth)[:, None] > THRESHOLDS).mean())


def precision(found: np.ndarray, truth: np.ndarray, near: float = NEAR) -> float:
    """Share of frames whose centre is at most so many px off; a true centre that is not above 0 counts as met (OTB)."""
    one, other = (boxes[:, :2] + (boxes[:, 2:] - 1) / 2 for boxes in (found, truth))
    distance = np.where((other > 0).all(1), np.linalg.norm(one - other, axis=1), -1)
    return float((distance <= near).mean())
