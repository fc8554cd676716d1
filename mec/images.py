"""Reading one image of any kind, finding images in folders, and why an image cannot be read."""

from __future__ import annotations

import contextlib
import math
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .bmp .gif .tif .tiff .ppm .pgm .pbm .pnm .tga .jp2 .avif".split()  # noqa: SIM905
)
MOST_PIXELS = 178_956_970  # Pillow's limit for decompression bombs


@dataclass(frozen=True)
class Skipped:
    """An image that could not be read."""

    path: str
    reason: str


def read_image(path: str | Path, at_least: int | None = None) -> Image.Image:
    """Any image Pillow opens, upright, as 8-bit RGB; of an animation the first frame.

    Args:
        path: the file.
        at_least: px; a JPEG may be decoded at a half, a quarter or an eighth of its size, which is several times
            faster, as long as its shorter side keeps this many pixels. None: at its own size.

    Raises:
        OSError, ValueError, SyntaxError: it cannot be read, with Pillow's reason or ours.
    """
    with quiet():
        return decode(path, at_least)


def decode(path: str | Path, at_least: int | None = None) -> Image.Image:
    """`read_image` for threads, whose caller is `quiet`: filters of warnings belong to all threads at once."""
    with Image.open(path) as image:
        if image.width * image.height > MOST_PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels, above the limit of {MOST_PIXELS}")
        if at_least is not None:
            share = at_least / min(image.size)
            image.draft(None, (math.ceil(image.width * share), math.ceil(image.height * share)))
        image.load()
        return to_rgb(ImageOps.exif_transpose(image))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without Pillow's warnings (palettes, EXIF oddities, large images): what cannot be used is judged in `decode`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB: grey is repeated, CMYK converted, transparency dropped, 16-bit and float values scaled."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        if not np.isfinite(values).all():
            raise ValueError("pixel values are not finite")
        peak = values.max(initial=0)
        scale = 1 if image.mode == "F" and peak <= 1 else 255 if peak <= 255 else 65535 if peak <= 65535 else peak
        image = Image.fromarray(np.clip(values / scale * 255, 0, 255).round().astype(np.uint8))
    elif image.mode in ("P", "PA", "LA"):
        image = image.convert("RGBA")  # keeps the colours of palettes with transparency
    return image.convert("RGB")


def why_unreadable(path: str) -> str | None:
    """The reason in a few words, or None if the image can be read in full."""
    try:
        if os.path.getsize(path) == 0:
            return "empty file (0 bytes)"
        decode(path)
    except Exception as error:  # Pillow's decoders raise almost anything on broken files
        text = str(error).replace(path, "file").strip() or type(error).__name__
        return text[:200]
    return None


def list_images(root: Path) -> list[str]:
    """Paths with an image's suffix, in any depth, sorted; hidden files and folders are left out."""
    found = []
    for folder, subfolders, files in os.walk(root, followlinks=True):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        found += [
            os.path.join(folder, name)
            for name in files
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES
        ]
    return sorted(found)


def nothing_in(root: Path) -> str:
    others = sorted({os.path.splitext(name)[1].lower() or name for _, _, files in os.walk(root) for name in files})
    inside = f"It holds files of other kinds: {', '.join(others[:8])}." if others else "It is empty."
    return f"{root}: no image found. {inside} Looked for {', '.join(sorted(SUFFIXES))}, in any depth."
