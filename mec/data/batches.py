"""Batches of views by step: from images, as functions of the seed alone, or from the caller's own iterable."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mec.data.dataset import Split
from mec.data.decoding import Picture, Skipped, quiet, reason
from mec.data.images import Images
from mec.data.loading import prepared
from mec.data.mapped import LARGE, Shuffled
from mec.errors import BadInput, TrainingStopped
from mec.recipes.recipe import View
from mec.runtime.machine import cores
from mec.views.augment_gpu import to_device
from mec.views.views import Draw, augment, crop_batch, crop_boxes, crop_picture, least_decoding, numbered, scaled_box

MOST_OF_GPU = 0.1  # of its memory, for the images of small data
IN_A_ROW = 100  # unreadable images after which it is the disk rather than the images
Key = tuple[int, np.ndarray]  # of a batch: epoch, indices [m]


@dataclass(frozen=True)
class Batch:
    """Views [m, 3, s, s] of this rank's images, their labels [m], and the images that could not be read for it."""

    views: list[Tensor]
    labels: Tensor | None
    skipped: tuple[Skipped, ...] = ()


class ViewBatches:
    """Batches of a run by step: `batches(start)` yields steps start, start + 1, ... as functions of the seed alone."""

    def __init__(
        self, split: Split, views: Sequence[View], batch_size: int, *, seed: int, device: torch.device,
        workers: int | None, keep_last: bool = False,
    ):  # fmt: skip
        if min(len(split), batch_size) < 2 and not keep_last:
            raise BadInput(f"{len(split)} readable images, batch_size {batch_size}: both are at least 2.")
        if len(split) < batch_size and not keep_last:
            raise BadInput(
                f"{len(split)} readable images, batch_size {batch_size}: a batch takes that many different ones. "
                f"Use --batch-size {max(2, 2 ** int(np.log2(max(2, len(split)))))} or fewer."
            )
        if workers is not None and workers < 0:
            raise BadInput(f"--workers is {workers}: 0 (the run itself decodes) or more.")
        self.split, self.batch_size, self.seed, self.device = split, batch_size, seed, device
        self.views = numbered(views)
        self.in_memory = split.images.pixels is not None
        self.workers = 0 if self.in_memory else min(8, cores()) if workers is None else workers
        # The last incomplete batch is dropped in pretraining, where a loss depends on its number of images.
        self.steps_per_epoch, left = divmod(len(split), batch_size)
        if (keep_last and left > 1) or not self.steps_per_epoch:  # batch norm has no variance of a single image
            self.steps_per_epoch += 1
        self._order: tuple[int, Any] = (-1, ())  # the last epoch asked for, and its order

    def indices(self, step: int) -> tuple[int, np.ndarray]:
        """Epoch of a step, and the images of its global batch."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            n = len(self.split)
            drawn = np.random.Generator(np.random.Philox(key=[self.seed, epoch])) if n < LARGE else None
            self._order = (epoch, drawn.permutation(n) if drawn else Shuffled(n, self.seed, epoch))
        return epoch, self._order[1][position * self.batch_size : (position + 1) * self.batch_size]

    def batches(self, start: int, stop: int, share: Callable[[int], slice | np.ndarray]) -> Iterator[Batch]:
        """Steps start to stop - 1; `share` says which rows of a global batch of so many are this rank's.
        Raises TrainingStopped: `IN_A_ROW` images in a row cannot be read."""
        keys = ((epoch, indices[share(len(indices))]) for epoch, indices in map(self.indices, range(start, stop)))
        if self.split.images.pixels is not None:
            return self._from_memory(self.on_device(self.split.images.pixels), keys)
        return self._decoded(keys)

    def _from_memory(self, pixels: Tensor, keys: Iterator[Key]) -> Iterator[Batch]:
        for epoch, indices in keys:
            images = pixels[to_device(indices, pixels.device)].to(self.device, non_blocking=True)
            made: list[Tensor] = []
            for view, run in itertools.groupby(self.views, key=lambda pair: pair[1]):
                numbers = [number for number, _ in run]  # views alike are made at once: a GPU waits for launches
                draw = Draw(view, np.repeat(numbers, len(indices)), self.seed, epoch, np.tile(indices, len(numbers)))
                made += augment(crop_batch(images.repeat(len(numbers), 1, 1, 1), draw), draw).chunk(len(numbers))
            yield Batch(made, self._labels(indices))

    def _decoded(self, keys: Iterator[Key]) -> Iterator[Batch]:
        loader = prepared(
            Crops(self.split.images, self.views, self.seed),
            self.workers,
            batch_size=None,  # an item is a batch
            sampler=keys,
            # A worker keeps its next batch ready, or two: 600 MiB each where 4096 images are one.
            prefetch_factor=None if not self.workers else 1 if self.batch_size > 1024 else 2,
            pin_memory=self.device.type == "cuda",
        )
        for (epoch, indices), crops, shown, skipped in loader:
            indices, shown = np.asarray(indices), np.asarray(shown)  # of one row, a tensor would be taken as a number
            if not crops:
                lost = skipped[-min(IN_A_ROW, len(skipped)) :]
                raise TrainingStopped(
                    f"{len(lost)} images in a row cannot be read, from {lost[0].path}: {lost[0].reason}. Is the disk "
                    "still there? What is saved stays; go on with the same command (mec pretrain: with --resume)."
                )
            made = [
                augment(crop.to(self.device, non_blocking=True), Draw(view, number, self.seed, epoch, indices))
                for (number, view), crop in zip(self.views, crops)
            ]
            yield Batch(made, self._labels(shown), tuple(skipped))

    def on_device(self, pixels: Tensor) -> Tensor:
        """The pixels of all images: on the GPU where they take a small part of its memory, else where they are."""
        on_gpu = self.device.type == "cuda"
        room = torch.cuda.get_device_properties(self.device).total_memory if on_gpu else 0
        return pixels.to(self.device) if pixels.nbytes < MOST_OF_GPU * room else pixels

    def _labels(self, indices: np.ndarray) -> Tensor | None:
        labels = self.split.labels
        return None if labels is None else to_device(labels[indices].astype(np.int64), self.device)


class Crops(torch.utils.data.Dataset):
    """Epoch and indices [m] of a batch -> the crops of all its views, uint8 [m, 3, s, s] each. Runs in the workers.

    With them come the key itself, the indices of the images shown (for an unreadable one the next), and those skipped.
    Without crops where `IN_A_ROW` cannot be read: an error raised in a worker would come with its traceback."""

    def __init__(self, images: Images, views: list[tuple[int, View]], seed: int):
        self.images, self.views, self.seed = images, views, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Key) -> tuple[Key, list[Tensor], np.ndarray, tuple[Skipped, ...]]:
        epoch, indices = key
        draws = [Draw(view, number, self.seed, epoch, indices) for number, view in self.views]
        crops = [torch.empty(len(indices), 3, view.size, view.size, dtype=torch.uint8) for _, view in self.views]
        skipped: list[Skipped] = []
        shown = indices.copy()
        with quiet():
            for row, index in enumerate(indices.tolist()):
                # Of the image, or of the next one that can be read: the same on every machine and after resuming.
                for other in range(index, index + min(IN_A_ROW, len(self.images))):
                    shown[row] = other % len(self.images)
                    try:
                        made = crops_of(self.images.open(shown[row]), [draw.take(np.array([row])) for draw in draws])
                        break
                    except Exception as error:  # Pillow's decoders raise almost anything on broken files
                        skipped.append(Skipped(self.images.name(shown[row]), reason(error)))
                else:
                    return key, [], shown, tuple(skipped)
                for of_view, crop in zip(crops, made):
                    of_view[row] = torch.from_numpy(crop)
        return key, crops, shown, tuple(skipped)


def crops_of(picture: Picture, draws: Sequence[Draw]) -> list[np.ndarray]:
    """The crops of one image, uint8 [3, s, s], one for each draw of one row; decoded once, no larger than needed."""
    boxes = [crop_boxes(draw, np.array([picture.height]), np.array([picture.width]))[0] for draw in draws]
    return crop_all(picture, picture.pixels(least_decoding(boxes, [draw.view.size for draw in draws])), boxes, draws)


def crop_all(
    picture: Picture, pixels: np.ndarray, boxes: Sequence[np.ndarray], draws: Sequence[Draw]
) -> list[np.ndarray]:
    """The crops, from the image as it was decoded."""
    shrunk = np.array(pixels.shape[:2]) / (picture.height, picture.width)
    inside = (scaled_box(box, shrunk, pixels.shape) for box in boxes)
    return [crop_picture(pixels, box, draw.view, bool(draw.is_chosen("flip")[0])) for box, draw in zip(inside, draws)]


class IterableBatches:
    """Views that come from the caller's own iterable, batch by batch, for any modality."""

    in_memory = False

    def __init__(self, source: Any, device: torch.device):
        self.source, self.device = source, device
        self.steps_per_epoch = len(source)
        if not self.steps_per_epoch:
            raise BadInput("the iterable of views is empty: its length is 0.")

    def first(self) -> Tensor:
        """A few rows of one view, to learn the encoder's feature size from."""
        return next(iter(self._epoch(0)))[0][:2].to(self.device)

    def _epoch(self, epoch: int) -> Iterator[Sequence[Tensor]]:
        if hasattr(self.source, "set_epoch"):
            self.source.set_epoch(epoch)
        try:
            for item in self.source:
                if len(item) < 2 or len({len(view) for view in item}) != 1:
                    shapes = [[*view.shape] if isinstance(view, Tensor) else type(view).__name__ for view in item]
                    raise BadInput(f"a batch of views is {shapes}: it is at least two tensors [m, ...] with equal m.")
                yield item
        except OSError as error:  # not ours: a run takes an OSError for its own folder's
            raise TrainingStopped(
                f"the iterable of views failed in epoch {epoch}: {type(error).__name__}: {error}. What is saved stays."
            ) from error

    def batches(self, start: int, stop: int, share: Callable[[int], slice]) -> Iterator[Batch]:
        step = start - start % self.steps_per_epoch
        while step < stop:
            epoch = step // self.steps_per_epoch
            for item in self._epoch(epoch):
                if start <= step < stop:
                    rows = share(len(item[0]))
                    yield Batch([view[rows].to(self.device) for view in item], None)
                step += 1
            if step != (epoch + 1) * self.steps_per_epoch:
                raise BadInput(
                    f"the iterable of views has length {self.steps_per_epoch} but gave "
                    f"{step - epoch * self.steps_per_epoch} batches in epoch {epoch}."
                )
