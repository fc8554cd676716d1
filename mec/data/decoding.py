"""Reading one image of any kind, finding images in folders, and why an image cannot be read."""

from __future__ import annotations

import contextlib
import io
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .bmp .gif .tif .tiff .ppm .pgm .pbm .pnm .tga .jp2 .avif".split()  # noqa: SIM905
)
MOST_PIXELS = 178_956_970  # Pillow's limit for decompression bombs
ORIENTATION = 0x0112  # EXIF's number for it
JPEG = b"\xff\xd8"  # its first bytes


@dataclass(frozen=True)
class Skipped:
    """An image that could not be read."""

    path: str
    reason: str


def read_image(path: str | Path) -> Image.Image:
    """Any image Pillow opens, upright, as 8-bit RGB; of an animation the first frame.
    Raises OSError, ValueError, SyntaxError: it cannot be read, with Pillow's reason or ours."""
    with quiet():
        return decode(path)


def decode(file: str | Path | BinaryIO, reduce: int = 1) -> Image.Image:
    """`read_image` for threads: the caller holds `quiet`, since Python's warning filters are shared by all threads.

    A JPEG is decoded at 1 / reduce of its size (1, 2, 4, 8), several times as fast; other formats at full size.
    """
    with Image.open(file) as image:
        check_size(image.height, image.width)
        if reduce > 1:
            image.draft(None, (-(-image.width // reduce), -(-image.height // reduce)))
        image.load()
        return to_rgb(ImageOps.exif_transpose(image))


def check_size(height: int, width: int) -> None:
    if width * height > MOST_PIXELS:
        raise ValueError(f"{width} x {height} pixels, above the limit of {MOST_PIXELS}")


@dataclass(frozen=True)
class Picture:
    """One image, whose size is known before its pixels are decoded. The caller holds `quiet`.

    `of`, `pixels` and `image` raise OSError, ValueError or SyntaxError: not an image, or too large, says the message.
    """

    data: bytes | np.ndarray  # encoded; or its pixels, uint8 [h, w, 3]
    height: int  # of the upright image, as is the width
    width: int
    orientation: int = 1  # as EXIF counts, 1 to 8
    fast: bool = False  # a JPEG that libjpeg-turbo decodes straight into an array

    @classmethod
    def of(cls, data: bytes) -> Picture:
        """From the bytes of a file."""
        if not data:
            raise ValueError("empty file (0 bytes)")
        orientation = 1
        if data[:2] != JPEG or b"Exif\0\0" in data or b"tiff:Orientation" in data:
            with Image.open(io.BytesIO(data)) as image:
                height, width = image.height, image.width
                orientation = image.getexif().get(ORIENTATION, 1)
        fast = False
        if data[:2] == JPEG:
            with contextlib.suppress(ValueError):  # damaged: Pillow has the last word
                height, width, space, _ = simplejpeg.decode_jpeg_header(data)
                fast = space in ("YCbCr", "Gray", "RGB")
            if not fast:
                with Image.open(io.BytesIO(data)) as image:
                    height, width = image.height, image.width
        check_size(height, width)
        turned = orientation in (5, 6, 7, 8)
        if turned and data[:2] != JPEG:  # some of Pillow's readers have turned the size already, by version
            height, width = decode(io.BytesIO(data)).size
        return cls(data, width if turned else height, height if turned else width, orientation, fast)

    def pixels(self, reduce: int = 1) -> np.ndarray:
        """uint8 [h, w, 3]; a JPEG at 1 / reduce of its size (1, 2, 4, 8), rounded up, other images at full size."""
        if isinstance(self.data, np.ndarray):
            return self.data
        if self.fast:
            least = -(-min(self.height, self.width) // reduce) if reduce > 1 else 0  # 0: full size
            with contextlib.suppress(ValueError):  # damaged: Pillow has the last word
                found = simplejpeg.decode_jpeg(self.data, "RGB", min_height=least, min_width=least)
                return upright(found, self.orientation)
        return np.asarray(decode(io.BytesIO(self.data), reduce))

    def image(self) -> Image.Image:
        """At full size, decoded by Pillow: what evaluation reads. `pixels` may differ from it by one level of 255."""
        return Image.fromarray(self.data) if isinstance(self.data, np.ndarray) else decode(io.BytesIO(self.data))


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """[h, w, 3] turned the way it is to be seen, from the EXIF orientation that it is stored in."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence Pillow's warnings (palettes, EXIF, large images): `decode` itself refuses what cannot be used."""
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
    """The reason in a few words, or None if the image can be read in full. The caller holds `quiet`."""
    try:
        if os.path.getsize(path) == 0:
            return "empty file (0 bytes)"
        decode(path)
    except Exception as error:  # Pillow's decoders raise almost anything on broken files
        return reason(error, path)
    return None


def reason(error: Exception, path: str = "") -> str:
    """An error's message about an image in a few words, the same for a path as for bytes in memory."""
    words = re.sub(r"<_io\.BytesIO object at \w+>", "'file'", str(error))
    return ((words.replace(path, "file") if path else words).strip() or type(error).__name__)[:200]


def nothing_in(root: Path) -> str:
    """The message about a folder without an image."""
    names = {name for _, _, files in os.walk(root) for name in files if name[0] != "."}
    others = sorted({os.path.splitext(name)[1].lower() or name for name in names})
    inside = f"It holds files of other kinds: {', '.join(others[:8])}." if others else "It is empty."
    return f"{root}: no image found. {inside} Looked for {', '.join(sorted(SUFFIXES))}, in any depth."
