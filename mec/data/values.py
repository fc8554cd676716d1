"""Values of pixels: deep images (16-bit, float, signed) to 8 bits by one scale for a whole set; channels that fit."""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin

PERCENTILES = (0.5, 99.5)  # of the values of a sample: they become 0 and 255
PIXELS = 16_384  # of an image that are looked at for them
STRIP = 1 << 20  # pixels that are converted at once: a large image's deep values are never copied whole
NO_DATA = (-9999.0, -99999.0, -32768.0, float(np.float32(-3.4028235e38)))  # what maps and radar say where nothing is
GDAL_NO_DATA, CHANNELS, BITS, EXTRA, SIGN = 42113, 277, 258, 338, 339  # tags of TIFF
TIFF = (b"II*\0", b"MM\0*")
MORE_CHANNELS = (
    "read are grey of any depth, and RGB of 8 or 16 bits. More channels can be trained on from Python: an encoder of "
    "your own and an iterable of views, as in examples/any_modality.py"
)


@dataclass(frozen=True)
class Scale:
    """Values from low to high become 0 to 255; those outside are cut, those that are not finite become 0."""

    low: float
    high: float

    def to_bytes(self, values: np.ndarray) -> np.ndarray:
        """[h, w, ...] of any numbers -> uint8 of that shape. Raises ValueError where none of them is finite."""
        if not any(np.isfinite(strip).any() for strip in strips(values)):
            raise ValueError("pixel values are not finite")

        def converted(strip: np.ndarray) -> np.ndarray:
            shifted = (strip.astype(np.float32) - np.float32(self.low)) * np.float32(255 / (self.high - self.low))
            return np.nan_to_num(shifted, nan=0, posinf=255, neginf=0).clip(0, 255).round().astype(np.uint8)

        return np.concatenate([converted(strip) for strip in strips(values)])

    def to_eight_bits(self, image: Any) -> Any:
        """A PIL image of deep values as 8-bit RGB, all else as it is: a step of an encoder's transform."""
        return to_rgb(image, self) if isinstance(image, Image.Image) and is_deep(image) else image

    def __str__(self) -> str:
        return f"values {self.low:.5g} to {self.high:.5g} become 0 to 255"


def strips(values: np.ndarray) -> Iterator[np.ndarray]:
    """The rows [h, w, ...] of an image, as many at a time as have about `STRIP` pixels."""
    rows = max(1, STRIP // max(1, values.shape[1]))
    return (values[start : start + rows] for start in range(0, len(values), rows))


def is_deep(image: Image.Image) -> bool:
    """Whether its values are more than 8 bits: 16-bit, 32-bit or float, always of one channel."""
    return image.mode.startswith("I") or image.mode == "F"


def is_wide(image: Image.Image) -> bool:
    """Whether its colours have 16 bits, of which Pillow keeps the upper 8; asked before its pixels are decoded."""
    return image.mode in ("RGB", "RGBA", "LA") and any("16" in str(tile[3]) for tile in getattr(image, "tile", ()))


def wide_values(image: Image.Image) -> np.ndarray | None:
    """uint16 [h, w, 3] or [h, w] of a PNG of 16-bit colours, not decoded yet, without its transparency; else None."""
    if image.format != "PNG" or not is_wide(image):
        return None
    import torch
    from torchvision.io import decode_png

    file = image.fp  # type: ignore[attr-defined]
    values = decode_png(torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)).permute(1, 2, 0).numpy()
    return values[..., :3] if values.shape[2] > 2 else values[..., 0]


def deep_values(image: Image.Image) -> np.ndarray:
    """[h, w] of a deep image. Pillow takes a TIFF's whole numbers of 32 bits without a sign for some with one."""
    unsigned = image.mode == "I" and image.format == "TIFF" and tuple(image.tag_v2.get(SIGN, (1,))) == (1,)  # type: ignore[attr-defined]
    return np.asarray(image).view(np.uint32) if unsigned else np.asarray(image)


def sampled_values(image: Image.Image) -> np.ndarray:
    """Up to `PIXELS` of a deep or wide image's values, spread evenly, without those that say that there is nothing."""
    wide = wide_values(image)
    values = (deep_values(image) if wide is None else wide).ravel()
    values = values[:: -(-len(values) // PIXELS)].astype(np.float64)
    empty = [*NO_DATA]
    with contextlib.suppress(AttributeError, KeyError, ValueError):  # not a TIFF, or without the tag
        empty.append(float(str(image.tag_v2[GDAL_NO_DATA]).strip("\0 ")))  # type: ignore[attr-defined]
    return values[np.isfinite(values) & ~np.isin(values, empty)]


def scale_of(samples: list[np.ndarray]) -> Scale | None:
    """The scale that fits the values of sampled images; None where there are none."""
    values = np.concatenate(samples) if samples else np.empty(0)
    if not len(values):
        return None
    low, high = np.percentile(values, PERCENTILES).tolist()
    return Scale(low, high if high > low else low + 1)


def to_rgb(image: Image.Image, scale: Scale | None = None) -> Image.Image:
    """8-bit RGB: grey is repeated, CMYK converted, transparency dropped, deep values scaled.

    Without a scale by the range that the image's own highest value suggests: 1, 255, 65535 or that value."""
    if image.mode == "RGB":
        return image
    if is_deep(image) and scale is not None:
        image = Image.fromarray(scale.to_bytes(deep_values(image)))
    elif is_deep(image):
        values = deep_values(image)
        if not all(np.isfinite(strip).all() for strip in strips(values)):
            raise ValueError("pixel values are not finite")
        peak = float(values.max(initial=0))
        divisor = 1 if image.mode == "F" and peak <= 1 else 255 if peak <= 255 else 65535 if peak <= 65535 else peak
        shares = (np.clip(strip.astype(np.float64) / divisor * 255, 0, 255) for strip in strips(values))
        image = Image.fromarray(np.concatenate([share.round().astype(np.uint8) for share in shares]))
    elif image.mode in ("P", "PA", "LA"):
        image = image.convert("RGBA")  # keeps the colours of palettes with transparency
    return image.convert("RGB")


def check_channels(image: Image.Image) -> None:
    """Raise ValueError where Pillow would drop channels: of a TIFF of red, green, blue and more, say infrared."""
    tags = getattr(image, "tag_v2", {})
    channels = tags.get(CHANNELS, 1)
    if channels > 3 and not (channels == 4 and (image.mode == "CMYK" or set(tags.get(EXTRA, ())) & {1, 2})):
        raise ValueError(f"{channels} channels: {MORE_CHANNELS}")


def tiff_channels(data: bytes) -> str | None:
    """Of a TIFF that Pillow does not read: what it holds, in words; None where that cannot be seen."""
    if data[:4] not in TIFF:
        return None
    tags = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
    try:
        file = io.BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
        channels, bits = int(tags.get(CHANNELS, 1)), max(tags.get(BITS, (1,)))
    except Exception:  # damaged: Pillow's readers raise almost anything
        return None
    return f"{channels} channels of {bits} bits: {MORE_CHANNELS}" if channels > 1 else None
