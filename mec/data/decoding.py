"""Reading one image of any kind, finding images in folders, and why an image cannot be read."""

import contextlib
import functools
import importlib.util
import io
import logging
import os
import re
import stat
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

from mec.data.sounds import ARRAYS, READ_SOUNDS, SOUND_EXTRA, SOUNDS, array_image, is_sound, spectrogram
from mec.data.values import Scale, check_channels, is_deep, is_wide, tiff_channels, to_rgb, wide_values
from mec.errors import BadInput

# Of Pillow's decoders those that are tried, whatever a file is called: others start programs (EPS) or are rarely tried.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "TGA", "JPEG2000", "AVIF", "HEIF")
HEIF = frozenset({".heic", ".heif", ".hif"})  # read where the extra is installed
SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .bmp .gif .tif .tiff .ppm .pgm .pbm .pnm .tga .jp2 .avif".split()  # noqa: SIM905
) | (HEIF if importlib.util.find_spec("pillow_heif") else frozenset())
HEIF_EXTRA = "pip install 'mec-ssl[heif]'"
KINDS = {  # of what can be trained on, by suffix
    **dict.fromkeys(SUFFIXES, "images"), **dict.fromkeys(SOUNDS if READ_SOUNDS else (), "recordings"),
    **dict.fromkeys(ARRAYS, "arrays"),
}  # fmt: skip
MOST_PIXELS = 178_956_970  # Pillow's limit for decompression bombs
ORIENTATION = 0x0112  # EXIF's number for it
JPEG, PNG, NPY = b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"\x93NUMPY"  # their first bytes
NOTES = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")  # chunks of a PNG beside its pixels
ANY_SCALE = Scale(0, 1)  # where it is only asked whether an image can be read
T = TypeVar("T")


@dataclass(frozen=True)
class Skipped:
    """An image that could not be read."""

    path: str
    reason: str


def read_file(path: str | Path, start: int = 0, length: int = -1) -> bytes:
    """A file's bytes. Raises OSError: not there, or no regular file: a pipe would be waited for without end."""
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("not a regular file")
        file.seek(start)
        return file.read(length)


@functools.cache
def formats() -> tuple[str, ...]:
    """Those of `FORMATS` that can be read here."""
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def open_image(file: str | Path | bytes) -> Image.Image:
    """As it is stored, not decoded yet, by one of `FORMATS`: the only place where images are opened.
    Raises OSError, ValueError, SyntaxError: not an image of these, with the reason."""
    data = file if isinstance(file, bytes) else read_file(file)
    if not data:
        raise ValueError("empty file (0 bytes)")
    if is_sound(data):
        return spectrogram(data)
    if data.startswith(NPY):
        return array_image(data)
    try:
        image = Image.open(io.BytesIO(data), formats=formats())
    except Image.UnidentifiedImageError as error:
        reason = tiff_channels(data) or f"cannot identify image file: none of {', '.join(formats())}"
        raise ValueError(reason) from error
    check_channels(image)
    return image


def forgiving(use: Callable[[bytes], T], data: bytes) -> T:
    """What `use` makes of an image's bytes; where Pillow finds notes in a PNG too long, of the image without them."""
    try:
        return use(data)
    except ValueError:
        kept, at = [PNG], len(PNG)
        while data.startswith(PNG) and at < len(data):
            end = at + 12 + int.from_bytes(data[at : at + 4], "big")
            kept += [] if data[at + 4 : at + 8] in NOTES else [data[at:end]]
            at = end
        less = b"".join(kept)
        if less == PNG or len(less) == len(data):
            raise
        return use(less)


def orientation_of(image: Image.Image) -> int:
    """As EXIF counts, 1 to 8; 1 where it cannot be read."""
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception as error:
        if image.format == "PNG" and isinstance(error, ValueError):
            raise  # `forgiving` reads it without its notes
        return 1
    return found if found in range(1, 9) else 1


def read_image(file: str | Path | bytes) -> Image.Image:
    """Any image of `FORMATS`, upright, as 8-bit RGB; of an animation the first frame.
    Raises OSError, ValueError, SyntaxError: it cannot be read, with Pillow's reason or ours; of deep values, too."""
    data = file if isinstance(file, bytes) else read_file(file)
    with quiet():
        if is_deep(stored := forgiving(open_image, data)) or is_wide(stored):
            raise ValueError("values of more than 8 bits; detection and tracking read 8: convert all by one scale")
        return decode(data)


def decode(data: bytes, reduce: int = 1, scale: Scale | None = None) -> Image.Image:
    """`read_image` for threads: the caller holds `quiet`, since Python's warning filters are shared by all threads.

    A JPEG is decoded at 1 / reduce of its size (1, 2, 4, 8), several times as fast; other formats at full size."""

    def decoded(data: bytes) -> Image.Image:
        with open_image(data) as stored:
            image: Image.Image = stored
            check_size(image.height, image.width)
            if scale is not None and (values := wide_values(image)) is not None:
                return Image.fromarray(scale.to_bytes(values)).convert("RGB")
            if reduce > 1:
                image.draft(None, (-(-image.width // reduce), -(-image.height // reduce)))
            image.load()
            with contextlib.suppress(Exception):  # damaged notes are no reason to leave out an image
                deep: Any = is_deep(image)  # a copy of it would not know the sign of its values
                image = ImageOps.exif_transpose(image, in_place=deep) or image
            return to_rgb(image, scale)

    return forgiving(decoded, data)


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
    scale: Scale | None = None  # of deep values

    @classmethod
    def of(cls, data: bytes, scale: Scale | None = None) -> "Picture":
        """From the bytes of a file."""
        return forgiving(lambda data: cls._of(data, scale), data)

    @classmethod
    def _of(cls, data: bytes, scale: Scale | None) -> "Picture":
        orientation, fast = 1, False
        if data[:2] == JPEG:
            with contextlib.suppress(ValueError):  # damaged: Pillow has the last word
                height, width, space, _ = simplejpeg.decode_jpeg_header(data)
                fast = space in ("YCbCr", "Gray", "RGB")
        if not fast or b"Exif\0\0" in data or b"tiff:Orientation" in data:
            with open_image(data) as image:
                orientation = orientation_of(image)
                height, width = (height, width) if fast else (image.height, image.width)
        check_size(height, width)
        turned = orientation in (5, 6, 7, 8)
        if turned and data[:2] != JPEG:  # some of Pillow's readers have turned the size already, by version
            height, width = decode(data).size
        return cls(data, width if turned else height, height if turned else width, orientation, fast, scale)

    def pixels(self, reduce: int = 1) -> np.ndarray:
        """uint8 [h, w, 3]; a JPEG at 1 / reduce of its size (1, 2, 4, 8), rounded up, other images at full size."""
        if isinstance(self.data, np.ndarray):
            return self.data
        if self.fast:
            least = -(-min(self.height, self.width) // reduce) if reduce > 1 else 0  # 0: full size
            with contextlib.suppress(ValueError):  # damaged: Pillow has the last word
                found = simplejpeg.decode_jpeg(self.data, "RGB", min_height=least, min_width=least)
                return upright(found, self.orientation)
        return np.asarray(decode(self.data, reduce, self.scale))

    def image(self) -> Image.Image:
        """At full size, decoded by Pillow: what evaluation reads. `pixels` may differ from it by one level of 255."""
        return Image.fromarray(self.data) if isinstance(self.data, np.ndarray) else decode(self.data, 1, self.scale)


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
    """Silence Pillow's warnings and log (palettes, EXIF, bands): `decode` itself refuses what cannot be used."""
    log, silent = logging.getLogger("PIL"), logging.NullHandler()
    log.addHandler(silent)  # without any handler Python prints a line for each file
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.removeHandler(silent)


def why_unreadable(path: str) -> str | None:
    """The reason in a few words, or None if the image can be read in full. The caller holds `quiet`."""
    try:
        decode(read_file(path), scale=ANY_SCALE)
    except Exception as error:  # Pillow's decoders raise almost anything on broken files
        return reason(error, path)
    return None


def reason(error: Exception, path: str = "") -> str:
    """An error's message about an image in a few words, the same for a path as for bytes in memory."""
    words = re.sub(r"<_io\.BytesIO object at \w+>", "'file'", str(error))
    return ((words.replace(path, "file") if path else words).strip() or type(error).__name__)[:300]


def kinds_of(names: Iterable[str]) -> Counter[str]:
    """How many of the files are of each kind that can be trained on.

    >>> kinds_of(["a/1.wav", "b.jpg", "c.PNG", "notes.txt"])
    Counter({'images': 2, 'recordings': 1})"""
    found = Counter[str]()
    for suffix, count in Counter(name[name.rfind(".") :] for name in names).items():
        found.update({KINDS[suffix.lower()]: count} if suffix.lower() in KINDS else {})
    return found


def one_kind(names: Iterable[str], where: object) -> Any:
    """Of files that are trained on together: "images", "recordings" or "arrays". Raises BadInput: of several kinds."""
    kinds = kinds_of(names)
    if len(kinds) > 1:
        words = " and ".join(f"{count:,} {kind[: len(kind) - (count == 1)]}" for kind, count in kinds.most_common())
        raise BadInput(f"{where} holds {words}: an encoder learns from one kind. Give a folder or a list of one.")
    return next(iter(kinds), "images")


def nothing_in(root: Path) -> str:
    """The message about a folder without an image."""
    names = {name for _, _, files in os.walk(root) for name in files if name[0] != "."}
    others = sorted({os.path.splitext(name)[1].lower() or name for name in names})
    inside = f"It holds files of other kinds: {', '.join(others[:8])}." if others else "It is empty."
    inside += f" Recordings: {SOUND_EXTRA} reads them." * bool(SOUNDS & {*others} - {*KINDS})
    return f"{root}: no image found. {inside} Looked for {', '.join(sorted(KINDS))}, in any depth."
