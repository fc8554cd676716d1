"""A set of images: in memory, by path, or in tars; read by index, name and size."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mec.data.decoding import Decoded, Picture, Skipped, quiet, read_image, to_rgb
from mec.data.shards import Shards
from mec.errors import BadInput

MOST_UNREADABLE = 0.2  # of a folder's images; above it training does not start, or stops


@dataclass(frozen=True)
class Stored:
    """Images of one size, in memory."""

    pixels: Tensor  # uint8 [n, 3, h, w]

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels[index].permute(1, 2, 0).numpy())

    def take(self, indices: np.ndarray) -> Stored:
        return Stored(self.pixels[torch.from_numpy(indices)])


@dataclass(frozen=True)
class Files:
    """Images by path, decoded when asked for."""

    paths: tuple[str, ...]
    root: str

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return self.paths[index]

    def bytes(self, index: int) -> bytes:
        return Path(self.paths[index]).read_bytes()

    def open(self, index: int) -> Picture:
        return Picture.of(self.bytes(index))

    def read(self, index: int) -> Image.Image:
        return read_image(self.paths[index])

    def take(self, indices: np.ndarray) -> Files:
        return replace(self, paths=tuple(self.paths[i] for i in indices))


@dataclass(frozen=True)
class Wrapped:
    """A torchvision data set that gives (image, label)."""

    items: Any
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        return f"{type(self.items).__name__} {self.indices[index]}"

    def open(self, index: int) -> Decoded:
        return Decoded(np.asarray(self.read(index)))

    def read(self, index: int) -> Image.Image:
        return to_rgb(self.items[int(self.indices[index])][0])

    def take(self, indices: np.ndarray) -> Wrapped:
        return replace(self, indices=self.indices[indices])


Encoded = Files | Wrapped | Shards  # decoded when asked for


Images = Stored | Encoded


def too_many(skipped: Sequence[Skipped], looked_at: int, root: Path | str) -> str:
    first = "; ".join(f"{os.path.basename(s.path)}: {s.reason}" for s in skipped[:3])
    return (
        f"{root}: {len(skipped)} of {looked_at} images cannot be read, more than {MOST_UNREADABLE:.0%} ({first}). "
        "Mend or remove them; a wrong suffix or an interrupted copy is the usual cause."
    )


def sample_sizes(images: Images, count: int = 200) -> list[tuple[int, int]]:
    """(height, width) of images spread over the set, from their headers; of those that can be read."""
    if isinstance(images, Stored):
        return [(images.pixels.shape[2], images.pixels.shape[3])]
    sizes = []
    with quiet():
        for i in np.unique(np.linspace(0, len(images) - 1, min(count, len(images))).astype(int)):
            with contextlib.suppress(Exception):  # Pillow's decoders raise almost anything on broken files
                picture = images.open(int(i))
                sizes.append((picture.height, picture.width))
    if not sizes:
        raise BadInput(f"{images.name(0)}: none of {count} images looked at can be read.")
    return sizes


def middle(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The median height and the median width."""
    return int(np.median([h for h, _ in sizes])), int(np.median([w for _, w in sizes]))
