"""Colour and blur of a batch of images in [0, 1] as tensors, for GPUs, each image with parameters of its own.

`augment_cpu` does the same on a CPU, in one pass over each image.

The definitions are torchvision's for float images. Brightness, contrast and saturation are all x <- f x + (1 - f)
other, clamped, where other is 0, the image's mean luma, or the pixel's luma: each is a 3x3 matrix and an offset. They
cannot be merged into one, since the values are clamped in between. Hue is exact HSV, without the modulo.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

GREY = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


@dataclass(frozen=True)
class Jitter:
    """The colour operation on each of n images at each of four positions; 1, 0, 0, -1, 0 in rows without one."""

    factor: np.ndarray  # [n, 4] of the pixel itself
    luma: np.ndarray  # [n, 4] of the pixel's luma
    mean: np.ndarray  # [n, 4] of the image's mean luma
    hue_at: np.ndarray  # [n] the position before which the hue is turned; -1: nowhere
    turns: np.ndarray  # [n] of the hue, as shares of the colour circle

    @classmethod
    def of(cls, order: np.ndarray, values: np.ndarray, chosen: np.ndarray) -> "Jitter":
        """From the operation at each position [n, 4], each operation's factor or turn [n, 4], and the chosen rows."""
        by_position = np.take_along_axis(values, order, 1)
        linear = chosen[:, None] & (order != HUE)
        rest = 1 - by_position
        hue_at = np.where(chosen & (values[:, HUE] != 0), (order == HUE).argmax(1), -1)
        return cls(
            np.where(linear, by_position, 1).astype(np.float32),
            np.where(linear & (order == SATURATION), rest, 0).astype(np.float32),
            np.where(linear & (order == CONTRAST), rest, 0).astype(np.float32),
            hue_at,
            np.where(hue_at >= 0, values[:, HUE], 0),
        )

    def take(self, rows: np.ndarray | slice) -> "Jitter":
        return Jitter(*(getattr(self, f.name)[rows] for f in fields(self)))


def to_device(values: np.ndarray, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """The numbers as a tensor on the device, without waiting for the work that it is doing."""
    return torch.from_numpy(values).to(dtype=dtype).to(device, non_blocking=True)


def apply_jitter(x: Tensor, jitter: Jitter) -> Tensor:
    """Jitter images [n, 3, h, w] in place. Sort rows by `hue_at` first: a run of equal ones is one call."""
    by_position = jitter.factor, jitter.luma, jitter.mean
    factors, lumas, means = (to_device(v, x.device, x.dtype)[:, :, None, None, None] for v in by_position)
    weights = to_device(np.array(GREY), x.device, x.dtype)
    for position in range(4):
        for rows in runs(jitter.hue_at == position):
            turn_hue(x[rows], jitter.turns[rows], out=x[rows])
        factor, luma, mean = (v[:, position] for v in by_position)
        if (factor == 1).all():
            continue
        average = None
        if mean.any():
            average = (x.mean((2, 3)) @ weights).view(-1, 1, 1, 1) * means[:, position]
        other = average
        if luma.any():
            other = grey(x).mul_(lumas[:, position])
            if average is not None:
                other.add_(average)
        x.mul_(factors[:, position])
        if other is not None:
            x.add_(other)
        if (factor > 1).any():  # else a mean of values in [0, 1]
            x.clamp_(0, 1)
    return x


def runs(chosen: np.ndarray) -> list[slice]:
    """The slices of neighbouring rows that are chosen.

    >>> runs(np.array([True, True, False, True]))
    [slice(0, 2, None), slice(3, 4, None)]"""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], chosen, [False]]).astype(np.int8)))
    return [slice(a, b) for a, b in zip(edges[::2].tolist(), edges[1::2].tolist())]


def grey(x: Tensor) -> Tensor:
    """[n, 3, h, w] -> luma [n, 1, h, w]."""
    return (x[:, :1] * GREY[0]).add_(x[:, 1:2], alpha=GREY[1]).add_(x[:, 2:], alpha=GREY[2])


def turn_hue(x: Tensor, turns: np.ndarray, out: Tensor | None = None) -> Tensor:
    """Turn the hue of images [n, 3, h, w] by shares [n] of the colour circle; exactly what HSV and back gives.

    Let h be the hue in sixths of the circle, from -3 to 3, and low and chroma as in HSV. Then |h| is
    1 + (green + blue - red - low) / chroma, and its sign that of green - blue. Back, a channel is
    low + chroma · clamp(y - 1, 0, 1), with y = |3 - |h - c|| and c the hue (0, 2, -2) at which the channel is full. It
    holds without a modulo as long as |h - c| <= 7: whole thirds of a turn only swap the c, and what is left moves them
    by at most 1."""
    centres = to_device(full_at(turns).T, x.device, x.dtype)[:, :, None, None]
    out = torch.empty_like(x) if out is None else out
    red, green, blue = x.unbind(1)
    low, chroma, hue, y = x.new_empty(4, *red.shape)
    torch.minimum(red, green, out=low)
    torch.minimum(low, blue, out=low)
    torch.maximum(red, green, out=chroma)
    torch.maximum(chroma, blue, out=chroma).sub_(low)
    torch.add(green, blue, out=hue).sub_(red).sub_(low)
    hue.div_(torch.add(chroma, 1e-12, out=y)).add_(1)  # without chroma the hue does not matter
    hue.copysign_(torch.sub(green, blue, out=y))
    low.sub_(chroma)
    for channel, centre in enumerate(centres):
        torch.sub(hue, centre, out=y).abs_().sub_(3).abs_().clamp_(1, 2)
        torch.addcmul(low, chroma, y, out=out[:, channel])
    return out


def full_at(turns: np.ndarray) -> np.ndarray:
    """[n, 3] the hue, in sixths of the circle, that makes each channel full after [n] turns: `turn_hue`'s c."""
    thirds = np.rint(3 * np.asarray(turns, dtype=np.float64))
    rest = 6 * np.asarray(turns) - 2 * thirds
    return np.stack([(2 * ((channel - thirds) % 3) + 2) % 6 - 2 - rest for channel in range(3)], 1)


def blur_taps(sigma: np.ndarray, largest: float, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The middle and one side [n, 1 + r] of Gaussian kernels with sigmas [n] in px, and the reach [n] of each in px.
    Kernels reach to 4 sigma (6e-5 of the weight lies beyond), but no further than 3 times the largest sigma that may be
    drawn, which is the size of the reference's kernel."""
    reaches = np.minimum(np.ceil(4 * sigma), min(math.ceil(3 * largest), height - 1, width - 1))[:, None]
    offsets = np.arange(int(reaches.max(initial=0)) + 1)
    kernel = np.exp(-0.5 * (offsets / sigma[:, None]) ** 2) * (offsets <= reaches)
    kernel /= 2 * kernel.sum(1, keepdims=True) - kernel[:, :1]
    return kernel, reaches[:, 0].astype(np.int64)


def gaussian_blur(x: Tensor, sigma: np.ndarray, largest: float) -> Tensor:
    """Gaussian blur of images [n, c, h, w], each with its own sigma [n] in px; see `blur_taps`."""
    height, width = x.shape[2:]
    kernel, reaches = blur_taps(sigma, largest, height, width)
    reach = int(reaches.max(initial=0))
    if reach < 1:
        return x
    taps = to_device(kernel.T, x.device, x.dtype)[:, :, None, None, None].unbind()
    for axis, pad in ((3, [reach, reach, 0, 0]), (2, [0, 0, reach, reach])):
        x = weighted(F.pad(x, pad, mode="reflect"), axis, taps)
    return x


def weighted(padded: Tensor, axis: int, taps: Sequence[Tensor]) -> Tensor:
    """Weighted sums along an axis by a symmetric kernel; `taps` are its middle and one side."""
    reach = len(taps) - 1
    length = padded.shape[axis] - 2 * reach
    out = padded.narrow(axis, reach, length) * taps[0]
    for i in range(1, reach + 1):
        pair = padded.narrow(axis, reach - i, length) + padded.narrow(axis, reach + i, length)
        out.addcmul_(pair, taps[i])
    return out
