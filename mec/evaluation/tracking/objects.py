"""Detections of a frame -> boxes and local features for association: the box, mask and pose front-ends.

Each takes the frame's feature map [c, h, w], one cell for every 8 px, and gives `Objects`. Poses are drawn as masks.
Source: the front-ends of UniTrack; where it fills in random vectors, zeros are used here, which match nothing.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mec.evaluation.tracking.appearance import CELL
from mec.evaluation.tracking.association import Objects
from mec.evaluation.tracking.kalman import Floats

Mask = NDArray[np.bool_]
Joints = Mapping[int, tuple[float, float]]  # id -> (x, y) px; an absent joint has no entry
LETTERBOX = (608, 1088)  # px, height and width of what the encoder sees of a MOT frame
LETTERBOX_GREY = 128
ROWS, COLUMNS = 4, 10  # of a box, in the source's order although people are tall
MOST_CELLS = 200  # of a mask
SAME_BOX = 0.7  # of two masks in a frame: the later is left out
TORSO = (2, 3, 9, 12, 8)
LIMBS = (
    (9, 10), (10, 11), (8, 7), (7, 6), (9, 12), (8, 12), (12, 14), (9, 3), (3, 4), (4, 5), (8, 2), (2, 1), (1, 0),
)  # fmt: skip
JOINTS = 15  # ids 0 to 14
UNSEEN = (-100.0, -100.0, -90.0, -90.0)  # box of a pose without joints: beside the image


def letterboxed(frame: NDArray[np.uint8]) -> tuple[Tensor, float, tuple[int, int]]:
    """A frame [h, w, 3] inside 608 x 1088 px of grey: uint8 [3, 608, 1088], its scale, and where it begins (x, y)."""
    import cv2

    h, w = frame.shape[:2]
    scale = min(LETTERBOX[0] / h, LETTERBOX[1] / w)
    height, width = round(h * scale), round(w * scale)
    top, left = (LETTERBOX[0] - height) // 2, (LETTERBOX[1] - width) // 2
    whole = np.full((*LETTERBOX, 3), LETTERBOX_GREY, np.uint8)
    whole[top : top + height, left : left + width] = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(whole).permute(2, 0, 1), scale, (left, top)


def unitracks_padding(size: tuple[int, int], scale: float) -> tuple[tuple[float, tuple[float, float]], Floats]:
    """The scale, where UniTrack believes that a frame of `size` (h, w) px begins in the letterbox, and the px by which
    its boxes have moved once they are mapped back, both (x, y).

    Its padding is rounded for the pixels alone; another one, of the side before rounding, is taken off."""
    sides = [(whole, scale * side) for whole, side in zip(LETTERBOX[::-1], size[::-1])]
    x, y = ((whole - round(side)) / 2 for whole, side in sides)
    return (scale, (x, y)), np.array([(side - round(side)) / 2 / scale for _, side in sides])


def box_objects(features: Tensor, boxes: Floats, scores: Floats, scale: float, corner: tuple[float, float]) -> Objects:
    """Boxes (x1, y1, x2, y2) in pixels of the original frame, [n, 4]; 40 vectors each, by RoIAlign on the map."""
    from torchvision.ops import roi_align

    placed = torch.from_numpy(boxes * scale + np.array([*corner, *corner])).to(features)
    cells = roi_align(features[None], [placed], (ROWS, COLUMNS), spatial_scale=1 / CELL, aligned=False)
    return Objects(boxes, list(cells.flatten(2).transpose(1, 2)), scores)


def mask_objects(features: Tensor, masks: Sequence[Mask], most_cells: int = MOST_CELLS) -> tuple[Objects, list[int]]:
    """Masks [H, W] of a frame; boxes in cells. With them the masks that are kept, by index.
    A mask without a cell is left out, and one whose box is another's (overlap above 0.7 with one listed earlier)."""
    from torchvision.ops import box_iou

    grids = [on_cells(mask, features.shape[1:]) for mask in masks]
    seen = [i for i, grid in enumerate(grids) if grid.any()]
    boxes = np.array([box_of_cells(grids[i]) for i in seen]).reshape(-1, 4)
    same = box_iou(torch.from_numpy(boxes), torch.from_numpy(boxes)).numpy() > SAME_BOX
    kept: list[int] = []
    for row in range(len(seen)):
        if not same[row, kept].any():
            kept.append(row)
    chosen = [seen[row] for row in kept]
    cells = [cells_under(features, grids[i], most_cells) for i in chosen]
    return Objects(boxes[kept], cells, np.ones(len(kept))), chosen


def on_cells(mask: Mask, size: Sequence[int]) -> Mask:
    """The mask at the top left pixel of each cell, [h, w]."""
    rows, columns = (np.arange(n) * full // n for n, full in zip(size, mask.shape))
    return mask[np.ix_(rows, columns)]


def box_of_cells(grid: Mask) -> tuple[float, float, float, float]:
    """Centre of its cells, and to each side twice their mean distance from it (at least two), in cells."""
    rows, columns = np.nonzero(grid)
    y, x = rows.mean(), columns.mean()
    up, across = (2 * max(np.abs(v - v.mean()).mean(), 1.0) for v in (rows, columns))
    return x - across, y - up, x + across, y + up


def cells_under(features: Tensor, grid: Mask, most: int = MOST_CELLS) -> Tensor:
    """The vectors [cells, c] of a map under a mask; a larger mask is first reduced to about `most` cells.
    Reduced like the map times the mask by bilinear interpolation (a side is scaled by sqrt(most / area)), at the cells
    that the mask, reduced to the nearest, covers."""
    inside = torch.from_numpy(grid).to(features.device)
    area = int(grid.sum())
    if area <= most:
        return features[:, inside].T
    scale = (most / area) ** 0.5
    covered = []  # source index of each reduced row and column
    for side in grid.shape:
        reduced = torch.arange(int(side * scale), dtype=torch.float32, device=features.device)
        covered.append((reduced / scale).floor().long().clamp(max=side - 1))
    rows, columns = inside[covered[0]][:, covered[1]].nonzero(as_tuple=True)
    if not len(rows):  # a mask thinner than the reduced grid
        return features[:, inside].T
    (y0, y1, fy), (x0, x1, fx) = map(_between, (rows, columns), (scale, scale), grid.shape)
    masked = inside.to(features)

    def at(y: Tensor, x: Tensor) -> Tensor:
        return features[:, y, x] * masked[y, x]

    upper = at(y0, x0) * (1 - fx) + at(y0, x1) * fx
    lower = at(y1, x0) * (1 - fx) + at(y1, x1) * fx
    return (upper * (1 - fy) + lower * fy).T


def _between(index: Tensor, scale: float, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of reduced cells: the two source cells around their centres, and the share of the second."""
    place = ((index + 0.5) / scale - 0.5).clamp(min=0)
    low = place.floor().long().clamp(max=side - 1)
    return low, (low + 1).clamp(max=side - 1), place - low


def pose_objects(features: Tensor, poses: Sequence[Joints], size: tuple[int, int], most_cells: int) -> Objects:
    """Poses in a frame of `size` (height, width) px; boxes in pixels. Nothing is left out.
    A pose that covers no cell has one zero vector; one without joints also a box beside the image."""
    sets = []
    for joints in poses:
        grid = on_cells(pose_mask(joints, size), features.shape[1:])
        sets.append(cells_under(features, grid, most_cells) if grid.any() else features.new_zeros(1, len(features)))
    boxes = np.array([pose_box(joints) for joints in poses], dtype=float).reshape(-1, 4)
    return Objects(boxes, sets, np.ones(len(poses)))


def pose_box(joints: Joints) -> tuple[float, float, float, float]:
    """Around all joints at whole pixels; a side without extent gets 10 px."""
    if not joints:
        return UNSEEN
    points = _whole(joints)
    (x1, y1), (x2, y2) = points.min(0), points.max(0)
    return float(x1), float(y1), float(x2 if x2 > x1 else x1 + 10), float(y2 if y2 > y1 else y1 + 10)


def pose_mask(joints: Joints, size: tuple[int, int]) -> Mask:
    """The person drawn into [height, width]: torso filled, limbs as thick lines. The nose (13) is not drawn."""
    import cv2

    canvas = np.zeros(size, np.uint8)
    if not joints:
        return canvas.astype(bool)
    limit = 1 << 14  # drawing takes 16-bit places; what is farther out is outside all the same
    at = dict(zip(sorted(joints), np.clip(_whole(joints), -limit, limit).tolist()))
    x1, y1, x2, y2 = pose_box(joints)
    thickness = max(int(max(x2 - x1, y2 - y1) / 20), 8)
    torso = [at[joint] for joint in TORSO if joint in at]
    if len(torso) >= 3:
        cv2.fillConvexPoly(canvas, np.array(torso, np.int32), 1)
    for a, b in LIMBS:
        if a in at and b in at:
            cv2.line(canvas, at[a], at[b], 1, thickness=min(thickness, 32767))
    return canvas.astype(bool)


def _whole(joints: Joints) -> NDArray[np.int64]:
    """[n, 2] joints by id, cut to whole pixels."""
    return np.array([joints[joint] for joint in sorted(joints)], dtype=float).astype(np.int64).reshape(-1, 2)
