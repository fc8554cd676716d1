"""A set of images, read by index: pixels in memory, files, the caller's own, or (in `shards`) packed in tar files."""

import contextlib
import hashlib
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mec.data.contents import contents_hash
from mec.data.decoding import Picture, Skipped, open_image, quiet, read_file
from mec.data.mapped import LARGE, Shuffled
from mec.data.values import MORE_CHANNELS, Scale, is_deep, is_wide, sampled_values, scale_of, to_rgb
from mec.errors import BadInput

CANDIDATES = 20_000  # images of a set among which deep values are looked for:
LOOKED_AT, DEEP = 256, 64  # so many of each suffix are looked at, and so many deep ones are read
MOST_UNREADABLE = 0.2  # of a set's images; above it training does not start, or stops


class Images(ABC):
    """What every set of images answers, so that no caller asks for its kind."""

    pixels: Tensor | None  # uint8 [n, 3, h, w] of a set in memory; None: each image is decoded when it is read
    scale: Scale | None  # of deep values (16-bit, float, signed), the same for the whole set; None: each by its own

    @abstractmethod
    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What messages call the image: its path, the tar and the name inside it, or its number."""
        return f"image {index}"

    @abstractmethod
    def open(self, index: int) -> Picture:
        """The image, not decoded yet; the caller holds `quiet`.
        Raises OSError, ValueError, SyntaxError: it cannot be read; the message says why."""

    def stored(self, index: int) -> Image.Image:
        """The image as it is stored, with all its bits, not decoded yet, unless in memory. Raises as `open`."""
        return open_image(bytes(self.open(index).data))

    def scaled(self, scale: Scale | None) -> "Images":
        """The images with a scale for deep values, unless they are in memory."""
        return self if self.pixels is not None else replace(self, scale=scale)  # type: ignore[type-var]

    @abstractmethod
    def take(self, indices: np.ndarray) -> "Images":
        """The images at these indices [m], in this order."""

    @abstractmethod
    def content_hash(self) -> str | None:
        """A hash that changes when the images do; None where they cannot be looked at."""

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) in px, without decoding. Raises as `open`."""
        picture = self.open(index)
        return picture.height, picture.width

    def read(self, index: int) -> Image.Image:
        """Upright, as 8-bit RGB, decoded by Pillow. Raises as `open`."""
        with quiet():
            return self.open(index).image()


@dataclass(frozen=True)
class InMemory(Images):
    """Images of one size, as pixels."""

    pixels: Tensor  # uint8 [n, 3, h, w]
    scale = None

    def __len__(self) -> int:
        return len(self.pixels)

    def open(self, index: int) -> Picture:
        return Picture(self.pixels[index].permute(1, 2, 0).numpy(), *self.pixels.shape[2:])

    def take(self, indices: np.ndarray) -> "InMemory":
        return InMemory(self.pixels[torch.from_numpy(indices)])

    def content_hash(self) -> str:
        """Of the pixels."""
        state = hashlib.sha256(f"{[*self.pixels.shape]}".encode())
        state.update(self.pixels.contiguous().numpy().tobytes())
        return state.hexdigest()


@dataclass(frozen=True)
class Files(Images):
    """Images by path."""

    paths: tuple[str, ...]
    scale: Scale | None = None
    pixels = None

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return self.paths[index]

    def open(self, index: int) -> Picture:
        return Picture.of(read_file(self.paths[index]), self.scale)

    def take(self, indices: np.ndarray) -> "Files":
        return replace(self, paths=tuple(self.paths[i] for i in indices))

    def content_hash(self) -> str | None:
        """Of each file's path, size and time of change, and of the contents as far as `contents_hash` looks."""
        state = hashlib.sha256(f"{self.scale}\n".encode())
        sizes = []
        for path in self.paths:
            try:
                info = os.stat(path)
            except OSError:
                return None
            sizes.append(info.st_size)
            state.update(f"{path}\0{info.st_size}\0{info.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
        state.update(contents_hash(self.paths, sizes).encode())
        return state.hexdigest()


@dataclass(frozen=True)
class Opened(Images):
    """Images that the caller has opened, of any size."""

    images: tuple[Image.Image, ...]
    scale: Scale | None = None
    pixels = None

    def __len__(self) -> int:
        return len(self.images)

    def open(self, index: int) -> Picture:
        image = to_rgb(self.images[index], self.scale)
        return Picture(np.asarray(image), image.height, image.width)

    def stored(self, index: int) -> Image.Image:
        return self.images[index]

    def take(self, indices: np.ndarray) -> "Opened":
        return replace(self, images=tuple(self.images[i] for i in indices))

    def content_hash(self) -> None:
        """They may change."""


def too_many(skipped: Sequence[Skipped], looked_at: int, root: object) -> str:
    """The message about a set of which more than `MOST_UNREADABLE` cannot be read."""
    different = list({s.reason: s for s in reversed(skipped)}.values())[::-1]  # a reason once
    first = "; ".join(f"{os.path.basename(s.path)}: {s.reason}" for s in different[:3])
    guess = " Mend or remove them; a wrong suffix or an interrupted copy is the usual cause."
    return (
        f"{root}: {len(skipped)} of {looked_at} images cannot be read, more than {MOST_UNREADABLE:.0%} ({first})."
        + guess * (MORE_CHANNELS not in first)
    )


def common_scale(images: Images) -> tuple[Scale | None, Counter[str]]:
    """The scale that fits the deep values of a sample of images, drawn with a fixed seed; None where none is deep.
    And of how many of the sample what is not read, in words."""
    cut, looked_at, samples = Counter[str](), Counter[str](), list[np.ndarray]()
    if images.pixels is not None:
        return None, cut
    n = len(images)
    order = Shuffled(n, 0, 0) if n >= LARGE else np.random.Generator(np.random.Philox(key=0)).permutation(n)
    with quiet():
        for i in order[:CANDIDATES].tolist():
            suffix = os.path.splitext(images.name(i))[1].lower()
            if len(samples) == DEEP or looked_at[suffix] == LOOKED_AT:
                continue
            looked_at[suffix] += 1
            with contextlib.suppress(Exception):  # Pillow's decoders raise almost anything on broken files
                image = images.stored(i)
                if is_deep(image) or (is_wide(image) and image.format == "PNG"):
                    samples.append(sampled_values(image))
                if is_wide(image) and image.format != "PNG":
                    cut["have colours of 16 bits in a format other than PNG: the upper 8 bits are read"] += 1
                if image.format == "TIFF" and getattr(image, "n_frames", 1) > 1:
                    cut["have several pages: the first is read"] += 1
    return scale_of(samples), cut


def sample_sizes(images: Images, count: int = 200) -> list[tuple[int, int]]:
    """(height, width) of up to `count` images spread over the set; unreadable ones are passed over.
    Raises BadInput: none of them can be read."""
    sizes = []
    with quiet():
        for i in np.unique(np.linspace(0, len(images) - 1, min(count, len(images))).astype(int)):
            with contextlib.suppress(Exception):  # Pillow's decoders raise almost anything on broken files
                sizes.append(images.size(int(i)))
    if not sizes:
        raise BadInput(f"{images.name(0)}: none of {count} images looked at can be read.")
    return sizes


def median_size(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The median height and the median width."""
    return int(np.median([h for h, _ in sizes])), int(np.median([w for _, w in sizes]))
