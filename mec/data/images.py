"""A set of images, read by index: pixels in memory, files, the caller's own, or (in `shards`) packed in tar files."""

from __future__ import annotations

import contextlib
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mec.data.decoding import Picture, Skipped, quiet, to_rgb
from mec.errors import BadInput

MOST_UNREADABLE = 0.2  # of a set's images; above it training does not start, or stops


class Images(ABC):
    """What every set of images answers, so that no caller asks for its kind."""

    pixels: Tensor | None  # uint8 [n, 3, h, w] of a set in memory; None: each image is decoded when it is read

    @abstractmethod
    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What messages call the image: its path, the tar and the name inside it, or its number."""
        return f"image {index}"

    @abstractmethod
    def open(self, index: int) -> Picture:
        """The image, not decoded yet; the caller holds `quiet`.
        Raises OSError, ValueError, SyntaxError: it cannot be read; the message says why."""

    @abstractmethod
    def take(self, indices: np.ndarray) -> Images:
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

    def __len__(self) -> int:
        return len(self.pixels)

    def open(self, index: int) -> Picture:
        return Picture(self.pixels[index].permute(1, 2, 0).numpy(), *self.pixels.shape[2:])

    def take(self, indices: np.ndarray) -> InMemory:
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
    pixels = None

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return self.paths[index]

    def open(self, index: int) -> Picture:
        return Picture.of(Path(self.paths[index]).read_bytes())

    def take(self, indices: np.ndarray) -> Files:
        return Files(tuple(self.paths[i] for i in indices))

    def content_hash(self) -> str | None:
        """Of each file's path, size and time of change."""
        state = hashlib.sha256()
        for path in self.paths:
            try:
                info = os.stat(path)
            except OSError:
                return None
            state.update(f"{path}\0{info.st_size}\0{info.st_mtime_ns}\n".encode())
        return state.hexdigest()


@dataclass(frozen=True)
class Opened(Images):
    """Images that the caller has opened, of any size."""

    images: tuple[Image.Image, ...]
    pixels = None

    def __len__(self) -> int:
        return len(self.images)

    def open(self, index: int) -> Picture:
        image = to_rgb(self.images[index])
        return Picture(np.asarray(image), image.height, image.width)

    def take(self, indices: np.ndarray) -> Opened:
        return Opened(tuple(self.images[i] for i in indices))

    def content_hash(self) -> None:
        """They may change."""


def too_many(skipped: Sequence[Skipped], looked_at: int, root: Path | str) -> str:
    """The message about a set of which more than `MOST_UNREADABLE` cannot be read."""
    first = "; ".join(f"{os.path.basename(s.path)}: {s.reason}" for s in skipped[:3])
    return (
        f"{root}: {len(skipped)} of {looked_at} images cannot be read, more than {MOST_UNREADABLE:.0%} ({first}). "
        "Mend or remove them; a wrong suffix or an interrupted copy is the usual cause."
    )


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
