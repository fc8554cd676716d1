"""What to train on and what to measure on: splits, limits, fingerprints."""

from __future__ import annotations

import hashlib
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from PIL import Image

from mec.data.decoding import Skipped, quiet, reason
from mec.data.images import MOST_UNREADABLE, Images, InMemory, median_size, sample_sizes, too_many
from mec.errors import BadInput
from mec.runtime.machine import cores
from mec.views.views import uniforms

KEEP_BELOW = 64  # px; images of one size up to this live in memory
KEEP_BYTES = 2**30  # of pixels, a process: decoding more than 350,000 images of 32 px would hold up every start


@dataclass(frozen=True)
class Split:
    """Images, and their labels [n] where there are any (-1: this image has none)."""

    images: Images
    labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def y(self) -> np.ndarray:
        """The labels of a split that has some."""
        assert self.labels is not None
        return self.labels

    def take(self, indices: np.ndarray) -> Split:
        return Split(self.images.take(indices), None if self.labels is None else self.labels[indices])

    def labelled(self) -> Split:
        """The images that have a label."""
        if self.labels is None or (self.labels >= 0).all():
            return self
        return self.take(np.flatnonzero(self.labels >= 0))


@dataclass(frozen=True)
class Data:
    """What to train on, and, where labels exist, what to measure on."""

    name: str
    train: Split
    test: Split | None = None
    classes: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    fingerprint: str = ""
    typical_size: tuple[int, int] = (0, 0)  # height, width: medians
    suits: Literal["photographs", "digits"] = "photographs"  # the kind of views that make sense

    @property
    def can_be_measured(self) -> bool:
        """Whether there are labelled images to learn from and others to test on."""
        return self.test is not None and self.test.labels is not None and self.train.labels is not None


def limited(split: Split, limit: int | None, seed: int) -> Split:
    """At most `limit` of the images, drawn by `stratified`."""
    if limit is None or limit >= len(split):
        return split
    return split.take(stratified(split.labels, len(split), limit, seed))


def stratified(labels: np.ndarray | None, n: int, count: int, seed: int) -> np.ndarray:
    """`count` of n indices, sorted; every class in proportion where there are labels. A smaller draw is a subset."""
    chance = uniforms(seed, 0, np.arange(n), 0, 1)[:, 0]
    if labels is None:
        return np.sort(np.argsort(chance, kind="stable")[:count])
    position = np.empty(n)  # how far through its own class an image comes, in a random order
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        ranks = np.argsort(np.argsort(chance[members], kind="stable"))
        position[members] = (ranks + chance[members]) / len(members)
    return np.sort(np.argsort(position, kind="stable")[:count])


def in_memory_if_small(data: Data) -> Data:
    """The data with its typical size filled in; images of one small size are decoded now and stay in memory."""
    sizes = sample_sizes(data.train.images)
    both = {*sizes, *(sample_sizes(data.test.images) if data.test else ())}
    skipped = list(data.skipped)
    needed = (len(data.train) + len(data.test or ())) * 3 * math.prod(sizes[0])
    if len(both) == 1 and max(*both) <= KEEP_BELOW and needed <= KEEP_BYTES:
        train = decode_all(data.train, sizes[0], skipped)
        test = data.test and decode_all(data.test, sizes[0], skipped)
        data = replace(data, train=train, test=test, skipped=tuple(skipped))
    return replace(data, typical_size=median_size(sizes))


def decode_all(split: Split, size: tuple[int, int], skipped: list[Skipped]) -> Split:
    """Decode small images into memory. A stray image of another size is resized (bicubic), an unreadable one dropped.
    Raises BadInput: too many of them cannot be read."""
    images = split.images

    def pixels(index: int) -> np.ndarray | Skipped:
        try:
            found = images.open(index).pixels()
        except Exception as error:  # Pillow's decoders raise almost anything on broken files
            return Skipped(images.name(index), reason(error))
        if found.shape[:2] != size:
            found = np.asarray(Image.fromarray(found).resize(size[::-1], Image.Resampling.BICUBIC))
        return found

    with quiet(), ThreadPoolExecutor(max_workers=cores()) as pool:
        found = list(pool.map(pixels, range(len(split))))
    bad = [f for f in found if isinstance(f, Skipped)]
    read = {i: f for i, f in enumerate(found) if not isinstance(f, Skipped)}
    if len(bad) > MOST_UNREADABLE * len(found):
        raise BadInput(too_many(bad, len(found), images.name(0)))
    skipped += bad
    in_memory = InMemory(torch.from_numpy(np.stack([*read.values()])).permute(0, 3, 1, 2).contiguous())
    return Split(in_memory, None if split.labels is None else split.labels[[*read]])


def fingerprint(data: Data) -> str:
    """A hash that changes when the images in memory, their number or labels do."""
    state = hashlib.sha256(data.name.encode())
    for split in (data.train, data.test):
        if split is None:
            continue
        state.update(str(len(split)).encode())
        if split.images.pixels is not None:
            state.update(split.images.pixels.numpy().tobytes())
        if split.labels is not None:
            state.update(split.labels.tobytes())
    return state.hexdigest()[:16]
