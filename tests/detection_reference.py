"""A C4 detector's arithmetic restated plainly in float64, from the specification: without torchvision, box by box."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Box = list[float]


def anchors(rows: int, columns: int, sizes=(32, 64, 128, 256, 512)) -> list[Box]:
    """Ratio by ratio, size by size, at each cell; height / width is the ratio, area the square of the size."""
    out = []
    for i in range(rows):
        for j in range(columns):
            for ratio in (0.5, 1.0, 2.0):
                for size in sizes:
                    width = math.sqrt(size * size / ratio)
                    height = width * ratio
                    out.append([16 * j - width / 2, 16 * i - height / 2, 16 * j + width / 2, 16 * i + height / 2])
    return out


def overlap(a: Box, b: Box) -> float:
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    return w * h / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h)


def deltas(box: Box, wanted: Box, weights=(1, 1, 1, 1)) -> list[float]:
    w, h = box[2] - box[0], box[3] - box[1]
    return [
        weights[0] * ((wanted[0] + wanted[2]) / 2 - (box[0] + box[2]) / 2) / w,
        weights[1] * ((wanted[1] + wanted[3]) / 2 - (box[1] + box[3]) / 2) / h,
        weights[2] * math.log((wanted[2] - wanted[0]) / w),
        weights[3] * math.log((wanted[3] - wanted[1]) / h),
    ]


def moved(box: Box, by: list[float], weights=(1, 1, 1, 1)) -> Box:
    w, h = box[2] - box[0], box[3] - box[1]
    x = by[0] / weights[0] * w + (box[0] + box[2]) / 2
    y = by[1] / weights[1] * h + (box[1] + box[3]) / 2
    w *= math.exp(min(by[2] / weights[2], math.log(1000 / 16)))
    h *= math.exp(min(by[3] / weights[3], math.log(1000 / 16)))
    return [x - w / 2, y - h / 2, x + w / 2, y + h / 2]


def clipped(box: Box, width: float, height: float) -> Box:
    return [min(max(box[k], 0.0), (width, height)[k % 2]) for k in range(4)]


def suppressed(boxes: list[Box], scores: list[float], threshold: float) -> list[int]:
    """Which stay, by falling score."""
    kept: list[int] = []
    for n in sorted(range(len(boxes)), key=lambda n: -scores[n]):
        if all(overlap(boxes[n], boxes[m]) <= threshold for m in kept):
            kept.append(n)
    return kept


def anchor_labels(all_anchors: list[Box], truth: list[Box]) -> list[int]:
    """Which object an anchor stands for; -1 none, -2 undecided."""
    table = [[overlap(a, t) for t in truth] for a in all_anchors]
    best_of_truth = [max(row[k] for row in table) for k in range(len(truth))]
    out = []
    for row in table:
        best = max(range(len(truth)), key=lambda k: row[k])
        wins = any(row[k] == best_of_truth[k] for k in range(len(truth)))
        out.append(best if row[best] >= 0.7 or wins else -1 if row[best] < 0.3 else -2)
    return out


def rpn_losses(logits: Tensor, found: Tensor, all_anchors: list[Box], truths: list[list[Box]]) -> tuple[Tensor, Tensor]:
    """Where no more than 256 anchors are decided, and at most 128 stand for an object: all of them count.

    Args:
        logits: [images, anchors]. found: [images, anchors, 4].
    """
    scores = boxes = torch.zeros((), dtype=torch.float64)
    for image, truth in enumerate(truths):
        labels = anchor_labels(all_anchors, truth)
        assert sum(label != -2 for label in labels) <= 256
        assert 0 < sum(label >= 0 for label in labels) <= 128
        for n, label in enumerate(labels):
            if label == -2:
                continue
            x = logits[image, n]
            scores = scores + (F.softplus(-x) if label >= 0 else F.softplus(x))
            if label >= 0:
                wanted = torch.tensor(deltas(all_anchors[n], truth[label]), dtype=torch.float64)
                boxes = boxes + (found[image, n] - wanted).abs().sum()
    return scores / (256 * len(truths)), boxes / (256 * len(truths))


def proposals(scores: Tensor, found: Tensor, all_anchors: list[Box], width: float, height: float) -> list[Box]:
    """Of one image, with fewer boxes than any limit."""
    boxes = [clipped(moved(a, d.tolist()), width, height) for a, d in zip(all_anchors, found)]
    live = [n for n, b in enumerate(boxes) if b[2] - b[0] >= 1e-3 and b[3] - b[1] >= 1e-3]
    kept = suppressed([boxes[n] for n in live], [float(scores[n]) for n in live], 0.7)
    return [boxes[live[n]] for n in kept]


def pooled(features: np.ndarray, box: Box, side: int = 14, stride: int = 16) -> np.ndarray:
    """[c, side, side] of features [c, h, w]: means of bilinear samples of bins, cell centres at halves."""
    channels, high, wide = features.shape
    x0, y0, x1, y1 = (v / stride - 0.5 for v in box)
    bin_w, bin_h = (x1 - x0) / side, (y1 - y0) / side
    across, down = max(1, math.ceil(bin_w)), max(1, math.ceil(bin_h))
    out = np.zeros((channels, side, side))
    for i in range(side):
        for j in range(side):
            for a in range(down):
                for b in range(across):
                    y = y0 + i * bin_h + (a + 0.5) * bin_h / down
                    x = x0 + j * bin_w + (b + 0.5) * bin_w / across
                    if y < -1 or y > high or x < -1 or x > wide:
                        continue
                    y, x = max(y, 0.0), max(x, 0.0)
                    top, left = min(int(y), high - 1), min(int(x), wide - 1)
                    bottom, right = min(top + 1, high - 1), min(left + 1, wide - 1)
                    y, x = (y if bottom > top else top), (x if right > left else left)
                    v, u = y - top, x - left
                    out[:, i, j] += (1 - v) * ((1 - u) * features[:, top, left] + u * features[:, top, right]) + v * (
                        (1 - u) * features[:, bottom, left] + u * features[:, bottom, right]
                    )
    return out / (across * down)


def head_losses(
    logits: Tensor, found: Tensor, boxes: list[Box], objects: list[int], truth: list[Box], classes: list[int]
) -> tuple[Tensor, Tensor]:
    """Args: logits [n, K + 1] and found [n, K + 1, 4] of sampled boxes; objects: row of truth, -1 the background."""
    loss = moves = torch.zeros((), dtype=torch.float64)
    for n, which in enumerate(objects):
        label = 0 if which < 0 else classes[which] + 1
        loss = loss + torch.logsumexp(logits[n], 0) - logits[n, label]
        if which >= 0:
            wanted = torch.tensor(deltas(boxes[n], truth[which], (10, 10, 5, 5)), dtype=torch.float64)
            moves = moves + (found[n, label] - wanted).abs().sum()
    return loss / len(boxes), moves / len(boxes)


def pasted(mask: np.ndarray, box: Box, height: int, width: int) -> np.ndarray:
    """Pixel by pixel: the mask, zero outside, seen at the pixel's centre; at least a half is inside."""
    side = len(mask)
    out = np.zeros((height, width), dtype=np.uint8)
    padded = np.pad(mask.astype(np.float64), 1)
    for row in range(height):
        for column in range(width):
            x = (column + 0.5 - box[0]) / (box[2] - box[0]) * side - 0.5
            y = (row + 0.5 - box[1]) / (box[3] - box[1]) * side - 0.5
            if not (-1 < x < side and -1 < y < side):
                continue
            left, top = math.floor(x), math.floor(y)
            u, v = x - left, y - top
            corner = padded[top + 1 : top + 3, left + 1 : left + 3]
            value = (1 - v) * ((1 - u) * corner[0, 0] + u * corner[0, 1])
            value += v * ((1 - u) * corner[1, 0] + u * corner[1, 1])
            out[row, column] = value >= 0.5
    return out
