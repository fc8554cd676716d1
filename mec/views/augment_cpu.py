"""Colour, blur, solarize and normalise on a CPU: one compiled pass over each image, which stays in a core's cache.

The definitions are those of `augment_gpu`, which does the same with tensors; results agree within rounding. numba
compiles on the first call (some seconds) and caches the result: in __pycache__ beside this file, or in the user's cache
folder.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numba
import numpy as np
from numba import float32 as f32

from mec.views.augment_gpu import GREY, Jitter, full_at

THREADED_FROM = 1 << 21  # numbers in a batch: below it threads cost more than they save
R, G, B = (np.float32(v) for v in GREY)
ZERO, HALF, ONE, TWO, THREE, TINY = (np.float32(v) for v in (0, 0.5, 1, 2, 3, 1e-12))


def compiled(function: Callable[..., Any], **more: bool) -> Callable[..., Any]:
    """Compile with numba, without the interpreter's lock; cached on disk where a cache folder can be written."""
    jit = partial(numba.njit, nogil=True, fastmath=True, error_model="numpy", **more)
    try:
        return jit(cache=True)(function)
    except RuntimeError:  # neither beside this file nor in the user's cache folder
        return jit()(function)


# Inlined into `_colour_each`. Otherwise the process that compiles would call versions optimised otherwise than those
# that `_colour_each` has on disk for later processes, and its pixels would differ from theirs in the last bits.
inlined = partial(compiled, forceinline=True)


@inlined
def linear_(r, g, b, factor, of_luma, offset):
    """x <- factor x + of_luma luma(x) + offset, clamped to [0, 1]."""
    for i in range(len(r)):
        other = of_luma * (R * r[i] + G * g[i] + B * b[i]) + offset
        r[i] = min(max(factor * r[i] + other, ZERO), ONE)
        g[i] = min(max(factor * g[i] + other, ZERO), ONE)
        b[i] = min(max(factor * b[i] + other, ZERO), ONE)


@inlined
def hue_(r, g, b, centres):
    """`augment_gpu.turn_hue`, from the hues at which each channel is full."""
    of_red, of_green, of_blue = centres[0], centres[1], centres[2]
    for i in range(len(r)):
        low = min(r[i], min(g[i], b[i]))
        chroma = max(r[i], max(g[i], b[i])) - low
        hue = (g[i] + b[i] - r[i] - low) / (chroma + TINY) + ONE
        hue = -hue if g[i] < b[i] else hue
        low -= chroma
        r[i] = low + chroma * min(max(abs(abs(hue - of_red) - THREE), ONE), TWO)
        g[i] = low + chroma * min(max(abs(abs(hue - of_green) - THREE), ONE), TWO)
        b[i] = low + chroma * min(max(abs(abs(hue - of_blue) - THREE), ONE), TWO)


@inlined
def mean_luma(x):
    """Of an image [3, h, w]."""
    total = 0.0
    for y in range(x.shape[1]):
        r, g, b = x[0, y], x[1, y], x[2, y]
        of_row = ZERO
        for i in range(len(r)):
            of_row += R * r[i] + G * g[i] + B * b[i]
        total += of_row
    return f32(total / (x.shape[1] * x.shape[2]))


@inlined
def blur_(plane, taps, reach, line, half):
    """[h, w] by a symmetric kernel (its middle and one side, `reach` long), reflected at the borders."""
    height, width = plane.shape
    for y in range(height):
        row, out = plane[y], half[y]
        line[reach : reach + width] = row
        for i in range(1, reach + 1):
            line[reach - i] = row[i]
            line[reach + width - 1 + i] = row[width - 1 - i]
        for i in range(width):
            out[i] = taps[0] * row[i]
        for t in range(1, reach + 1):
            tap, left, right = taps[t], line[reach - t :], line[reach + t :]
            for i in range(width):
                out[i] += tap * (left[i] + right[i])
    for y in range(height):
        out, middle = plane[y], half[y]
        for i in range(width):
            out[i] = taps[0] * middle[i]
        for t in range(1, reach + 1):
            above = half[abs(y - t)]
            below = half[y + t if y + t < height else 2 * (height - 1) - y - t]
            tap = taps[t]
            for i in range(width):
                out[i] += tap * (above[i] + below[i])


@compiled
def _colour_each(images, out, unit, scale, offset, linear, centres, hue_at, grey, taps, reach, solarize):
    """`colour`, image by image.
    linear [n, 4, 3] holds at each position the factors of the pixel, of its luma and of the image's mean luma; centres
    [n, 3] the hues, in sixths of the circle, at which the channels are full after turning."""
    n, _, height, width = images.shape
    line = np.empty(width + 2 * taps.shape[1], np.float32)
    half = np.empty((height, width), np.float32)
    for k in range(n):
        x = out[k]
        for c in range(3):
            for y in range(height):
                source, row = images[k, c, y], x[c, y]
                for i in range(width):
                    row[i] = source[i] * unit
        flat = x.reshape(3, height * width)
        r, g, b = flat[0], flat[1], flat[2]
        for position in range(4):
            if hue_at[k] == position:
                hue_(r, g, b, centres[k])
            factor, of_luma, of_mean = linear[k, position]
            if factor != ONE:
                linear_(r, g, b, factor, of_luma, of_mean * mean_luma(x) if of_mean != ZERO else ZERO)
        if grey[k]:
            linear_(r, g, b, ZERO, ONE, ZERO)
        if reach[k] > 0:
            for c in range(3):
                blur_(x[c], taps[k], reach[k], line, half)
        for c in range(3):
            channel, times, plus = flat[c], scale[c], offset[c]
            if solarize[k]:
                for i in range(len(channel)):
                    channel[i] = (HALF - abs(channel[i] - HALF)) * times + plus
            else:
                for i in range(len(channel)):
                    channel[i] = channel[i] * times + plus


def colour(
    images: np.ndarray, jitter: Jitter, *, grey: np.ndarray, taps: np.ndarray, reach: np.ndarray, solarize: np.ndarray,
    mean: tuple[float, ...], std: tuple[float, ...], threads: int,
) -> np.ndarray:  # fmt: skip
    """Images [n, 3, h, w] (contiguous; uint8, or float32 in [0, 1]) -> others, float32, normalised by mean and std.
    After the jitter come grey ([n] bool), blur (taps [n, 1 + r]: its middle and one side; reach [n] px, 0 for none) and
    solarize ([n] bool). At most so many threads, where there is enough to do."""
    out = np.empty(images.shape, np.float32)
    unit = np.float32(1 / 255 if images.dtype == np.uint8 else 1)
    scale = (1 / np.asarray(std)).astype(np.float32)
    offset = (-np.asarray(mean) / std).astype(np.float32)
    by_image = (
        np.stack([jitter.factor, jitter.luma, jitter.mean], 2).astype(np.float32),
        full_at(jitter.turns).astype(np.float32), jitter.hue_at.astype(np.int64), grey.astype(np.bool_),
        taps.astype(np.float32), reach.astype(np.int64), solarize.astype(np.bool_),
    )  # fmt: skip

    def part(rows: np.ndarray) -> None:
        of = slice(rows[0], rows[-1] + 1)
        _colour_each(images[of], out[of], unit, scale, offset, *(values[of] for values in by_image))

    parts = np.array_split(np.arange(len(images)), min(threads, len(images), 1 + images.size // THREADED_FROM))
    if len(parts) == 1:
        part(parts[0])
    else:
        with ThreadPoolExecutor(len(parts)) as pool:
            list(pool.map(part, parts))
    return out
