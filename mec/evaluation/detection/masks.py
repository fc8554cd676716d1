"""Masks of objects: polygons drawn on a region's grid, masks pasted into photographs, COCO's run lengths of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mec.evaluation.detection.metrics import coco_package


def mask_targets(targets, proposals: list[Tensor], matched: list[Tensor], labels: list[Tensor], side: int) -> Tensor:
    """[foreground, side, side]: each foreground region's object, its polygons drawn on the region's own grid."""
    drawn = []
    for target, boxes, objects, classes in zip(targets, proposals, matched, labels):
        foreground = classes > 0
        for box, which in zip(boxes[foreground].double().cpu().numpy(), objects[foreground].tolist()):
            drawn.append(draw_polygons(target["polygons"][which], box, side))
    return torch.from_numpy(np.stack(drawn)) if drawn else torch.zeros(0, side, side)


def draw_polygons(polygons: Sequence[np.ndarray], box: np.ndarray, side: int) -> np.ndarray:
    """[side, side] of 0 and 1: flat polygons x, y, x, y, ... of image px, seen through a box (COCO's own drawing)."""
    corner, size = box[:2], np.maximum(box[2:] - box[:2], 0.1)
    scaled = [((p.reshape(-1, 2) - corner) * (side / size)).ravel() for p in polygons]
    api = coco_package().mask
    return api.decode(api.merge(api.frPyObjects(scaled, side, side)))


@torch.no_grad()
def paste_masks(masks: Tensor, boxes: Tensor, height: int, width: int) -> np.ndarray:
    """uint8 [n, height, width]: masks [n, s, s] of probabilities, bilinear over their boxes, pixel centres at halves.
    Only pixels of the box are looked at: outside it the interpolation with zeros stays below a half."""
    pasted = np.zeros((len(masks), height, width), dtype=np.uint8)
    for out, mask, (x0, y0, x1, y1) in zip(pasted, masks.cpu(), boxes.cpu().tolist()):
        left, top = max(int(x0), 0), max(int(y0), 0)
        right, bottom = min(int(x1) + 1, width), min(int(y1) + 1, height)
        if left >= right or top >= bottom or x1 <= x0 or y1 <= y0:
            continue
        x = (torch.arange(left, right, dtype=mask.dtype) + 0.5 - x0) / (x1 - x0) * 2 - 1
        y = (torch.arange(top, bottom, dtype=mask.dtype) + 0.5 - y0) / (y1 - y0) * 2 - 1
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), 2)
        values = F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0]
        out[top:bottom, left:right] = (values >= 0.5).numpy()
    return pasted


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """COCO's code of a mask [h, w], as text."""
    code = coco_package().mask.encode(np.asfortranarray(mask))
    counts = code["counts"]
    return {"size": [int(v) for v in code["size"]], "counts": counts.decode() if isinstance(counts, bytes) else counts}


def decoded(code: Any) -> np.ndarray:
    """[h, w] bool of a mask's run lengths."""
    return coco_package().mask.decode(dict(code)).astype(bool)
