"""Images -> augmented views, a whole batch at a time, with the recipe's strengths and probabilities.

Every random number is a function of (seed, epoch, image index, view), never of worker, rank or call order, so that
ranks, workers and resuming cannot change a run. Colour operations follow torchvision's definitions on float images in
[0, 1]; resizing is antialiased, with the filters of Pillow and torchvision.
"""

import copy
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mec.recipes.recipe import View
from mec.views.augment_gpu import HUE, Jitter, apply_jitter, blur_taps, gaussian_blur, grey, to_device

# The columns of uniform numbers that each parameter of a view uses: (first column, how many).
COLUMNS = {
    "area": (0, 10), "ratio": (10, 10), "top": (20, 1), "left": (21, 1), "flip": (22, 1), "affine": (23, 5),
    "jitter": (28, 1), "factors": (29, 4), "order": (33, 4), "grey": (37, 1), "blur": (38, 1), "sigma": (39, 1),
    "solarize": (40, 1), "noise": (41, 0),  # and all columns after it
}  # fmt: skip
LATER = {"upend": 0, "turn": 1, "erase": 2, "erased": 3}  # beyond those of the noise; the last has four columns
FIRST_LATER = 1 << 40


def uniforms(
    seed: int, epoch: int, indices: np.ndarray, views: int | np.ndarray, count: int, first: int = 0
) -> np.ndarray:
    """[m, count] numbers in [0, 1), each a hash (splitmix64) of seed, epoch, image index, view number and column."""
    with np.errstate(over="ignore"):
        key = mixed(np.asarray([seed], dtype=np.uint64))
        for part in (epoch, indices, views):
            key = mixed(key + np.asarray(part, dtype=np.uint64))
        columns = np.arange(first + 1, first + count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        return (mixed(key[:, None] + columns[None]) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def mixed(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Draw:
    """The random numbers of one view of a batch, by name; or of several equal views, with each row's view number."""

    def __init__(
        self, view: View, number: int | np.ndarray, seed: int, epoch: int, indices: Sequence[int] | np.ndarray
    ):
        indices = np.asarray(indices)
        self.view, self.key = view, (seed, epoch, indices, np.broadcast_to(number, indices.shape))
        self.table = uniforms(*self.key, count=COLUMNS["noise"][0])

    def later(self, name: str, count: int = 1) -> np.ndarray:
        """[m, count] numbers of what views have had since: drawn when asked for."""
        return uniforms(*self.key, count=count, first=FIRST_LATER + LATER[name])

    def take(self, rows: np.ndarray) -> "Draw":
        """The numbers of some rows."""
        part = copy.copy(self)
        seed, epoch, indices, numbers = self.key
        part.key, part.table = (seed, epoch, indices[rows], numbers[rows]), self.table[rows]
        return part

    def __getitem__(self, name: str) -> np.ndarray:
        first, count = COLUMNS[name]
        return self.table[:, first] if count == 1 else self.table[:, first : first + count]

    def chosen(self, name: str) -> np.ndarray:
        """The rows that get the operation."""
        return np.flatnonzero(self.is_chosen(name))

    def is_chosen(self, name: str) -> np.ndarray:
        """[m] bool: whether a row gets the operation, by its probability."""
        share = getattr(self.view, name)
        if name in LATER:
            return self.later(name)[:, 0] < share if share else np.zeros(len(self.table), bool)
        return self[name] < share

    def jitter(self) -> Jitter:
        """Brightness, contrast, saturation and hue, in an order of its own for each image."""
        view = self.view
        strengths = np.array([view.brightness, view.contrast, view.saturation, view.hue])
        values = strengths * (2 * self["factors"] - 1)
        values[:, :HUE] = np.maximum(0, 1 + values[:, :HUE])
        return Jitter.of(self["order"].argsort(1), values, self["jitter"] < (view.jitter if strengths.any() else 0))

    def normals(self, shape: tuple[int, ...]) -> np.ndarray:
        """[m, *shape] standard normal numbers (by Box-Muller)."""
        count = math.prod(shape)
        u = uniforms(*self.key, count=2 * count, first=COLUMNS["noise"][0])
        radius = np.sqrt(-2 * np.log1p(-u[:, :count]))
        return (radius * np.cos(2 * np.pi * u[:, count:])).reshape(-1, *shape)


def crop_boxes(draw: Draw, heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """[m, 4] top, left, height, width: the first of ten random boxes that fits, else the largest central one.
    The distribution is that of torchvision's RandomResizedCrop."""
    (low, high), (narrow, wide) = draw.view.scale, draw.view.ratio
    area = (heights * widths)[:, None] * (low + (high - low) * draw["area"])
    ratio = np.exp(np.log(narrow) + (np.log(wide) - np.log(narrow)) * draw["ratio"])
    w, h = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (w > 0) & (h > 0) & (w <= widths[:, None]) & (h <= heights[:, None])
    first, rows = fits.argmax(1), np.arange(len(fits))
    found = fits[rows, first]
    shape = widths / heights
    fallback_w = np.where(shape > wide, np.rint(heights * wide), widths)
    fallback_h = np.where(shape < narrow, np.rint(widths / narrow), heights)
    w = np.where(found, w[rows, first], np.maximum(fallback_w, 1))
    h = np.where(found, h[rows, first], np.maximum(fallback_h, 1))
    top = np.where(found, np.floor(draw["top"] * (heights - h + 1)), (heights - h) // 2)
    left = np.where(found, np.floor(draw["left"] * (widths - w + 1)), (widths - w) // 2)
    return np.stack([top, left, h, w], 1).astype(np.int64)


def least_decoding(boxes: Sequence[np.ndarray], sizes: Sequence[int]) -> int:
    """The largest of 8, 4, 2, 1 by which an image may shrink and leave no crop (top, left, height, width) too small.

    >>> least_decoding([np.array([0, 0, 460, 500])], [224]), least_decoding([np.array([0, 0, 440, 500])], [224])
    (2, 1)"""
    room = min(min(int(box[2]), int(box[3])) / size for box, size in zip(boxes, sizes))
    return next((reduce for reduce in (8, 4, 2) if room >= reduce), 1)


def scaled_box(box: np.ndarray, shrunk: np.ndarray, shape: tuple[int, ...]) -> list[int]:
    """A crop (top, left, height, width) in an image that was decoded smaller, to the nearest pixel."""
    first = np.rint(box[:2] * shrunk)
    last = np.clip(np.rint((box[:2] + box[2:]) * shrunk), first + 1, shape[:2])
    return [*first.astype(int).tolist(), *(last - first).astype(int).tolist()]


def crop_picture(pixels: np.ndarray, box: Sequence[int], view: View, flipped: bool) -> np.ndarray:
    """One decoded image [h, w, 3] -> its crop, resized and flipped: uint8 [3, s, s].
    Uses torch's kernel for bytes, which is several times as fast as Pillow's and differs by one level at most."""
    top, left, height, width = box
    crop = torch.from_numpy(pixels[top : top + height, left : left + width]).permute(2, 0, 1)[None]
    crop = F.interpolate(crop, (view.size,) * 2, mode=view.interpolation, antialias=True, align_corners=False)
    out = crop[0].permute(1, 2, 0).numpy()
    return np.ascontiguousarray((out[:, ::-1] if flipped else out).transpose(2, 0, 1))


def crop_batch(images: Tensor, draw: Draw) -> Tensor:
    """Images of one size, uint8 [m, 3, h, w] -> their crops, resized and flipped: float [m, 3, s, s] in [0, 1]."""
    m, _, height, width = images.shape
    boxes = crop_boxes(draw, np.full(m, height), np.full(m, width))
    size, kind = draw.view.size, draw.view.interpolation
    x = images.float().mul_(1 / 255)
    top, left, high, wide = to_device(boxes, x.device, torch.float64).T
    flipped = to_device(draw.is_chosen("flip"), x.device)[:, None]
    # Positions in the image of the centres of the crop's pixels, [m, s] each way.
    centres = torch.arange(size, dtype=torch.float64, device=x.device) + 0.5
    down, across = (start[:, None] + centres * length[:, None] / size for start, length in ((top, high), (left, wide)))
    across = torch.where(flipped, across.flip(1), across)
    if kind == "bilinear" and size >= max(height, width):  # no crop is made smaller
        # Each pixel lies between two of the crop's each way, and never outside it.
        down = down.clamp((top + 0.5)[:, None], (top + high - 0.5)[:, None]) * (2 / height) - 1
        across = across.clamp((left + 0.5)[:, None], (left + wide - 0.5)[:, None]) * (2 / width) - 1
        grid = torch.stack([across[:, None].expand(-1, size, -1), down[:, :, None].expand(-1, -1, size)], 3)
        return F.grid_sample(x, grid.float(), align_corners=False)
    # Cropping and resizing is linear and separable: one [s, h] and one [w, s] matrix an image.
    rows = resampling(down, top, high, height, kind)
    columns = resampling(across, left, wide, width, kind)
    return (rows[:, None] @ x @ columns[:, None].mT).clamp_(0, 1)  # a bicubic filter overshoots


def resampling(centres: Tensor, start: Tensor, length: Tensor, size: int, kind: str) -> Tensor:
    """[m, s, size] weights of an image's pixels in those of its crop, antialiased.
    The crop is pixels start [m] to start + length [m] of `size`; its own pixels are centred at `centres` [m, s]."""
    step = (length / centres.shape[1]).clamp_min(1)[:, None, None]
    pixel = torch.arange(size, dtype=centres.dtype, device=centres.device) + 0.5
    distance = ((pixel - centres[:, :, None]).abs() / step).float()
    reach = 1 if kind == "bilinear" else 2
    if kind == "bilinear":
        weight = 1 - distance
    else:  # Keys' cubic with a = -0.5
        near = (1.5 * distance - 2.5) * distance * distance + 1
        far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
        weight = torch.where(distance < 1, near, far)
    outside = (pixel < start[:, None]) | (pixel > (start + length)[:, None])
    weight.masked_fill_((distance >= reach) | outside[:, None], 0)
    return weight / weight.sum(2, keepdim=True)


def augment(images: Tensor, draw: Draw) -> Tensor:
    """Crops [m, 3, s, s] (uint8, or float in [0, 1]) -> normalised views: turn, affine, colour, blur, solarize, noise,
    erase."""
    view = draw.view
    for name, moving in (("upend", lambda x: x.flip(2)), ("turn", lambda x: x.rot90(1, (2, 3)))):
        if (rows := draw.is_chosen(name)).any():
            images = torch.where(to_device(rows, images.device)[:, None, None, None], moving(images), images)
    moved = bool(view.rotate or view.shear or view.shift or view.zoom)
    if images.dtype == torch.uint8 and (moved or images.is_cuda):
        images = images.float().mul_(1 / 255)
    if moved:
        images = affine(images, draw)
    about = np.array(view.mean), 1 / np.array(view.std)
    mean, scale = (to_device(values, images.device, torch.float32).view(3, 1, 1) for values in about)
    out = colour_on_gpu(images, draw).sub_(mean).mul_(scale) if images.is_cuda else colour_on_cpu(images, draw)
    if view.noise:
        out.add_(to_device(draw.normals(tuple(out.shape[1:])), out.device, out.dtype) * scale, alpha=view.noise)
    return erase(out, draw) if view.erase else out


def erase(x: Tensor, draw: Draw) -> Tensor:
    """Normalised views [m, 3, s, s] with a rectangle of some at 0, the mean colour: of a share from 0.02 to 0.33, its
    height 0.3 to 3.3 times its width, anywhere inside (Zhong et al., AAAI 2020)."""
    share, ratio, top, left = draw.later("erased", 4).T
    area, shape = 0.02 + 0.31 * share, np.exp(np.log(0.3) + (np.log(3.3) - np.log(0.3)) * ratio)
    inside = draw.is_chosen("erase")[:, None, None]
    for length, first, last_axis in ((np.sqrt(area * shape), top, 2), (np.sqrt(area / shape), left, 1)):
        length = np.minimum(length, 1)
        start = (first * (1 - length))[:, None]
        at = (np.arange(x.shape[2]) + 0.5) / x.shape[2]
        inside = inside & np.expand_dims((at >= start) & (at < start + length[:, None]), last_axis)
    return x.masked_fill(to_device(inside, x.device)[:, None], 0)


def colour_on_cpu(images: Tensor, draw: Draw) -> Tensor:
    """Jitter, grey, blur, solarize and normalise [m, 3, s, s]."""
    from mec.views import augment_cpu  # compiles when it is first used

    view = draw.view
    low, high = view.blur_sigma
    taps, reach = blur_taps(low + (high - low) * draw["sigma"], high, *images.shape[2:])
    made = augment_cpu.colour(
        images.contiguous().numpy(), draw.jitter(), grey=draw.is_chosen("grey"), taps=taps,
        reach=np.where(draw.is_chosen("blur"), reach, 0), solarize=draw.is_chosen("solarize"), mean=view.mean,
        std=view.std, threads=torch.get_num_threads(),
    )  # fmt: skip
    return torch.from_numpy(made)


def colour_on_gpu(x: Tensor, draw: Draw) -> Tensor:
    """Jitter, grey, blur and solarize images [m, 3, s, s] in [0, 1], with tensors on their device."""
    jitter = draw.jitter()
    order = np.argsort(jitter.hue_at, kind="stable")  # images that turn their hue at the same position are neighbours
    x = x[to_device(order, x.device)]
    draw = draw.take(order)
    x = apply_jitter(x, jitter.take(order))
    low, high = draw.view.blur_sigma
    for name in ("grey", "blur", "solarize"):
        rows = draw.chosen(name)
        if not len(rows):
            continue
        on_device = to_device(rows, x.device)
        part = x[on_device]
        if name == "grey":
            part.copy_(grey(part).expand_as(part))
        elif name == "blur":
            part = gaussian_blur(part, low + (high - low) * draw["sigma"][rows], high)
        else:
            part.sub_(0.5).abs_().neg_().add_(0.5)  # values of 0.5 and above (128 and above of 0-255) inverted
        x[on_device] = part
    return x[to_device(order.argsort(), x.device)]


def affine(x: Tensor, draw: Draw) -> Tensor:
    """Rotate, shear, zoom and shift images [m, 3, s, s] about their centre; outside them it is black."""
    view = draw.view
    angle, shear, zoom, dx, dy = (2 * draw["affine"] - 1).T
    angle, shear = np.deg2rad(view.rotate) * angle, np.tan(np.deg2rad(view.shear) * shear)
    zoom, dx, dy = 1 + view.zoom * zoom, 2 * view.shift * dx, 2 * view.shift * dy
    cos, sin = np.cos(angle) / zoom, np.sin(angle) / zoom
    theta = np.stack([np.stack([cos, shear * cos - sin, dx], 1), np.stack([sin, shear * sin + cos, dy], 1)], 1)
    grid = F.affine_grid(to_device(theta, x.device, x.dtype), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def numbered(views: Sequence[View]) -> list[tuple[int, View]]:
    """Each view with its number; a view with several copies counts as that many views."""
    return list(enumerate(view for view in views for _ in range(view.copies)))
