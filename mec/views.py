"""Images -> augmented views, a whole batch at a time; the numbers come from the recipe.

Every random number is a function of (seed, epoch, image index, view), never of worker, rank or call order, so that
ranks, workers and resuming cannot change a run. Colour operations follow torchvision's definitions on float images in
[0, 1]; resizing is antialiased, by the filters of Pillow and torchvision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from mec.recipe import View

# Where each parameter of a view finds its uniform numbers: (first column, how many).
COLUMNS = {
    "area": (0, 10),
    "ratio": (10, 10),
    "top": (20, 1),
    "left": (21, 1),
    "flip": (22, 1),
    "affine": (23, 5),
    "jitter": (28, 1),
    "factors": (29, 4),
    "order": (33, 4),
    "grey": (37, 1),
    "blur": (38, 1),
    "sigma": (39, 1),
    "solarize": (40, 1),
    "noise": (41, 0),  # and all that follow
}
GREY = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def uniforms(seed: int, epoch: int, indices: np.ndarray, view: int, count: int, first: int = 0) -> np.ndarray:
    """[m, count] numbers in [0, 1), each a hash (splitmix64) of seed, epoch, image index, view and column."""
    with np.errstate(over="ignore"):
        key = _mixed(np.asarray([seed], dtype=np.uint64))
        for part in (np.uint64(epoch), np.asarray(indices, dtype=np.uint64), np.uint64(view)):
            key = _mixed(key + part)
        columns = np.arange(first + 1, first + count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        return (_mixed(key[:, None] + columns[None]) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mixed(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Draw:
    """The random numbers of one view of a batch, by name."""

    def __init__(self, view: View, number: int, seed: int, epoch: int, indices: Sequence[int] | np.ndarray):
        self.view, self.key = view, (seed, epoch, np.asarray(indices), number)
        self.table = uniforms(*self.key, count=COLUMNS["noise"][0])

    def __getitem__(self, name: str) -> np.ndarray:
        first, count = COLUMNS[name]
        return self.table[:, first] if count == 1 else self.table[:, first : first + count]

    def chosen(self, name: str) -> np.ndarray:
        """Rows that get an operation that has a probability."""
        return np.flatnonzero(self[name] < getattr(self.view, name))

    def normals(self, shape: tuple[int, ...]) -> np.ndarray:
        """[m, *shape] standard normal numbers (Box-Muller)."""
        count = math.prod(shape)
        u = uniforms(*self.key, count=2 * count, first=COLUMNS["noise"][0])
        radius = np.sqrt(-2 * np.log1p(-u[:, :count]))
        return (radius * np.cos(2 * np.pi * u[:, count:])).reshape(-1, *shape)


def crop_boxes(draw: Draw, heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """[m, 4] top, left, height, width: the first of ten random boxes that fits, else the largest central one.

    The distribution is that of torchvision's RandomResizedCrop.
    """
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


def crop_file_image(image: Image.Image, draw: Draw) -> Tensor:
    """One decoded image -> its crop, resized and flipped: uint8 [3, s, s]. `draw` has one row."""
    (top, left, height, width) = crop_boxes(draw, np.asarray([image.height]), np.asarray([image.width]))[0].tolist()
    resample = Image.Resampling.BICUBIC if draw.view.interpolation == "bicubic" else Image.Resampling.BILINEAR
    crop = image.crop((left, top, left + width, top + height)).resize((draw.view.size,) * 2, resample)
    pixels = np.asarray(crop)
    if len(draw.chosen("flip")):
        pixels = pixels[:, ::-1]
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def crop_stored_images(images: Tensor, draw: Draw) -> Tensor:
    """uint8 images [m, 3, h, w] -> their crops, resized and flipped: float [m, 3, s, s] in [0, 1].

    A crop and resize is linear and separable: one [s, h] and one [w, s] matrix an image.
    """
    m, _, height, width = images.shape
    boxes = crop_boxes(draw, np.full(m, height), np.full(m, width))
    flip = np.zeros(m, bool)
    flip[draw.chosen("flip")] = True
    size, kind = draw.view.size, draw.view.interpolation
    rows = resampling(boxes[:, 0], boxes[:, 2], height, size, kind)
    columns = resampling(boxes[:, 1], boxes[:, 3], width, size, kind)
    columns[flip] = columns[flip, ::-1]
    down, across = (torch.from_numpy(x).to(images.device, torch.float32) for x in (rows, columns))
    out = down[:, None] @ (images.float() / 255) @ across[:, None].mT
    return out.clamp_(0, 1)  # a bicubic filter overshoots


def resampling(start: np.ndarray, length: np.ndarray, size_in: int, size_out: int, kind: str) -> np.ndarray:
    """[m, out, in] weights that turn pixels start to start + length into size_out pixels, antialiased."""
    step = (length / size_out)[:, None, None]
    centre = start[:, None, None] + (np.arange(size_out)[None, :, None] + 0.5) * step
    pixel = np.arange(size_in)[None, None, :] + 0.5
    distance = np.abs(pixel - centre) / np.maximum(step, 1)
    if kind == "bilinear":
        weight = np.maximum(1 - distance, 0)
    else:  # Keys' cubic with a = -0.5
        near = (1.5 * distance - 2.5) * distance**2 + 1
        far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
        weight = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    inside = (pixel > start[:, None, None]) & (pixel < (start + length)[:, None, None])
    weight = weight * inside
    return weight / weight.sum(2, keepdims=True)


def finish(images: Tensor, draw: Draw) -> Tensor:
    """Crops [m, 3, s, s] (uint8, or float in [0, 1]) -> normalised views: affine, colour, blur, solarise, noise."""
    x = images.float() / 255 if images.dtype == torch.uint8 else images
    view = draw.view
    if view.rotate or view.shear or view.shift or view.zoom:
        x = affine(x, draw)
    jittered = draw.chosen("jitter")
    if len(jittered) and (view.brightness or view.contrast or view.saturation or view.hue):
        x = colour_jitter(x, jittered, draw)
    if len(rows := draw.chosen("grey")):
        x[rows] = grey(x[rows]).expand(-1, 3, -1, -1)
    if len(rows := draw.chosen("blur")):
        low, high = view.blur_sigma
        x[rows] = gaussian_blur(x[rows], low + (high - low) * draw["sigma"][rows], high)
    if len(rows := draw.chosen("solarize")):
        chosen = x[rows]
        x[rows] = torch.where(chosen >= 0.5, 1 - chosen, chosen)  # 128 and above of 0-255
    if view.noise:
        x = x + view.noise * torch.from_numpy(draw.normals(tuple(x.shape[1:]))).to(x)
    mean, std = (torch.tensor(v, dtype=x.dtype, device=x.device).view(3, 1, 1) for v in (view.mean, view.std))
    return (x - mean) / std


def affine(x: Tensor, draw: Draw) -> Tensor:
    """Rotation, shear, zoom and shift about the centre; black comes in from outside."""
    view = draw.view
    angle, shear, zoom, dx, dy = (2 * draw["affine"] - 1).T
    angle, shear = np.deg2rad(view.rotate) * angle, np.tan(np.deg2rad(view.shear) * shear)
    zoom, dx, dy = 1 + view.zoom * zoom, 2 * view.shift * dx, 2 * view.shift * dy
    cos, sin = np.cos(angle) / zoom, np.sin(angle) / zoom
    theta = np.stack([np.stack([cos, shear * cos - sin, dx], 1), np.stack([sin, shear * sin + cos, dy], 1)], 1)
    grid = F.affine_grid(torch.from_numpy(theta).to(x), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def colour_jitter(x: Tensor, rows: np.ndarray, draw: Draw) -> Tensor:
    """Brightness, contrast, saturation and hue on the given rows, each row in an order of its own."""
    view = draw.view
    strengths = (view.brightness, view.contrast, view.saturation, view.hue)
    order = draw["order"].argsort(1)
    x = x.clone()
    for position in range(4):
        for operation, strength in enumerate(strengths):
            chosen = rows[order[rows, position] == operation]
            if not strength or not len(chosen):
                continue
            spread = strength * (2 * draw["factors"][chosen, operation] - 1)
            factor = spread if operation == HUE else np.maximum(0, 1 + spread)
            x[chosen] = adjust(x[chosen], operation, torch.from_numpy(factor).to(x).view(-1, 1, 1, 1))
    return x


def adjust(x: Tensor, operation: int, factor: Tensor) -> Tensor:
    """One colour operation on images [m, 3, h, w] in [0, 1], factor [m, 1, 1, 1]; torchvision's definitions."""
    if operation == HUE:
        return turn_hue(x, factor)
    if operation == BRIGHTNESS:
        other = torch.zeros((), dtype=x.dtype, device=x.device)
    elif operation == CONTRAST:
        other = grey(x).mean((1, 2, 3), keepdim=True)
    else:
        other = grey(x)
    return (factor * x + (1 - factor) * other).clamp_(0, 1)


def grey(x: Tensor) -> Tensor:
    """[m, 3, h, w] -> luma [m, 1, h, w]."""
    return GREY[0] * x[:, :1] + GREY[1] * x[:, 1:2] + GREY[2] * x[:, 2:]


def turn_hue(x: Tensor, turns: Tensor) -> Tensor:
    """Hue moved by a share of the colour circle, exactly: to HSV and back."""
    red, green, blue = x.unbind(1)
    value, top = x.max(1)
    chroma = value - x.amin(1)
    safe = torch.where(chroma == 0, 1, chroma)
    sixths = torch.where(
        top == 0, (green - blue) / safe, torch.where(top == 1, 2 + (blue - red) / safe, 4 + (red - green) / safe)
    )
    # Back: a channel is value - chroma · clamp(min(k, 4 - k), 0, 1) with k its distance round the hexagon.
    k = (sixths[:, None] + 6 * turns + x.new_tensor([5.0, 3.0, 1.0]).view(1, 3, 1, 1)) % 6
    return value[:, None] - chroma[:, None] * torch.minimum(k, 4 - k).clamp(0, 1)


def gaussian_blur(x: Tensor, sigma: np.ndarray, largest: float) -> Tensor:
    """Gaussian blur with a sigma (px) of its own for each image; kernels reach to 3 sigma of the largest."""
    m, channels, height, width = x.shape
    reach = min(math.ceil(3 * largest), height - 1, width - 1)
    if reach < 1:
        return x
    offsets = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-0.5 * (offsets / torch.from_numpy(sigma).to(x)[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)[:, None]
    flat = F.pad(x.reshape(1, m * channels, height, width), [reach] * 4, mode="reflect")
    flat = F.conv2d(flat, kernel[:, :, None, :], groups=m * channels)
    return F.conv2d(flat, kernel[:, :, :, None], groups=m * channels).view(m, channels, height, width)


def numbered(views: Sequence[View]) -> list[tuple[int, View]]:
    """Each view with its number; a view with copies counts as many."""
    return list(enumerate(view for view in views for _ in range(view.copies)))
