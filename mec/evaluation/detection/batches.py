"""Photographs -> batches of inputs and targets for a detector; test images."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mec.data.loading import prepared
from mec.errors import BadInput
from mec.evaluation.detection.annotations import Annotations, read_image_at

Example = tuple[Tensor, dict[str, Any], int]  # an image uint8 [3, h, w], its target, the seed of what is sampled of it


def grouped_batches(wide: np.ndarray, batch_size: int, seed: int) -> Iterator[np.ndarray]:
    """Endless batches of photographs that are all wider than high ([n] bool), or all not; from seeded permutations."""
    waiting: dict[bool, list[int]] = {True: [], False: []}
    for epoch in itertools.count():
        for index in np.random.default_rng((seed, epoch)).permutation(len(wide)):
            group = waiting[bool(wide[index])]
            group.append(int(index))
            if len(group) == batch_size:
                yield np.array(group)
                group.clear()


def resized(width: int, height: int, shorter: int, most: int) -> tuple[int, int]:
    """Width and height with the shorter side as asked, unless the longer would pass `most`.

    >>> resized(500, 375, 480, 1333), resized(500, 100, 480, 1333), resized(558, 333, 800, 1333)
    ((640, 480), (1333, 267), (1333, 795))"""
    scale = shorter / min(width, height)
    wide, high = (width * scale, float(shorter)) if height <= width else (float(shorter), height * scale)
    if max(wide, high) > most:  # a second factor, as detectron2 has it: one factor rounds half pixels otherwise
        scale = most / max(wide, high)
        wide, high = wide * scale, high * scale
    return int(wide + 0.5), int(high + 0.5)


@dataclass(frozen=True)
class Sizes:
    """Shorter sides that training draws from, that of testing, and the longest side; px."""

    train: tuple[int, ...]
    test: int
    most: int = 1333


class TrainingBatches(torch.utils.data.Dataset):
    """(iteration, first position, photographs) -> an example of each; what is drawn is by seed, iteration, position."""

    def __init__(self, annotations: Annotations, sizes: Sizes, seed: int, flip: float = 0.5):
        self.annotations, self.sizes, self.seed, self.flip = annotations, sizes, seed, flip

    def __getitem__(self, asked: tuple[int, int, np.ndarray]) -> list[Example]:
        iteration, first, chosen = asked
        out = []
        for position, index in enumerate(chosen.tolist(), first):
            draw = np.random.default_rng((self.seed, iteration, position))
            shorter, mirrored = int(draw.choice(self.sizes.train)), bool(draw.random() < self.flip)
            image, target = example(self.annotations, index, shorter, self.sizes.most, mirrored)
            out.append((image, target, int(draw.integers(2**62))))
        return out


def example(
    annotations: Annotations, index: int, shorter: int, most: int, mirrored: bool
) -> tuple[Tensor, dict[str, Any]]:
    """One photograph resized and perhaps mirrored, with the objects to train on in its px.
    Objects that are not `trainable` are left out."""
    image = read_image_at(annotations, index)
    before = image.size
    image = image.resize(resized(*before, shorter, most), Image.Resampling.BILINEAR)
    scale = np.array([image.width / before[0], image.height / before[1]], dtype=np.float32)
    rows = annotations.rows(index)
    rows = rows[annotations.trainable(rows, annotations.sizes[index])]
    boxes = annotations.boxes[rows] * np.tile(scale, 2)
    boxes = np.clip(boxes, 0, np.tile(np.array(image.size, dtype=np.float32), 2))
    shapes: list[list[np.ndarray]] | None = None
    if annotations.points is not None:
        shapes = [[p * np.resize(scale, len(p)) for p in annotations.polygons(row)] for row in rows]
    pixels = np.asarray(image)
    if mirrored:
        pixels = pixels[:, ::-1]
        boxes = np.stack([image.width - boxes[:, 2], boxes[:, 1], image.width - boxes[:, 0], boxes[:, 3]], 1)
        for p in itertools.chain.from_iterable(shapes or []):
            p[::2] = image.width - p[::2]
    target: dict[str, Any] = {} if shapes is None else {"polygons": shapes}
    target |= {"boxes": torch.from_numpy(boxes), "labels": torch.from_numpy(annotations.labels[rows])}
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))), target


def loader(dataset: torch.utils.data.Dataset, rows: Iterable[Any], workers: int) -> Iterator[Any]:
    """The dataset's items at these rows, in order and as they are, prepared by so many processes."""
    return prepared(dataset, workers, as_they_are, batch_size=None, sampler=rows)


def as_they_are(batch: Any) -> Any:
    """A collate function that does not collate."""
    return batch


def training_loader(
    dataset: TrainingBatches, batch_size: int, start: int, stop: int, share: slice, workers: int
) -> Iterator[list[Example]]:
    """This rank's part of the batches of iterations start to stop - 1; the order does not depend on start or ranks."""
    usable = dataset.annotations.with_objects()
    if not len(usable):
        raise BadInput("none of the training photographs has an object to train on.")
    wide = dataset.annotations.sizes[usable, 0] > dataset.annotations.sizes[usable, 1]
    order = itertools.islice(grouped_batches(wide, batch_size, dataset.seed), start, stop)
    asked = ((iteration, share.start, usable[chosen[share]]) for iteration, chosen in enumerate(order, start))
    return loader(dataset, asked, workers)


class TestImages(torch.utils.data.Dataset):
    """Photograph i -> its image uint8 [3, h, w] at the test size."""

    __test__ = False  # not pytest's

    def __init__(self, annotations: Annotations, sizes: Sizes):
        self.annotations, self.sizes = annotations, sizes

    def __getitem__(self, index: int) -> Tensor:
        image = read_image_at(self.annotations, index)
        image = image.resize(resized(*image.size, self.sizes.test, self.sizes.most), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())
