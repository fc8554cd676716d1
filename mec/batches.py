"""Batches of views by step: from images, as functions of the seed alone, or from the caller's own iterable."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mec.data import Files, Images, Split, Stored
from mec.errors import BadInput
from mec.images import Skipped
from mec.recipe import View
from mec.signals import leave_signals_to_the_run
from mec.views import Draw, crop_file_image, crop_stored_images, finish, numbered


@dataclass(frozen=True)
class Batch:
    """Views [m, 3, s, s] of this rank's images, their labels, and what could not be read while making them."""

    views: list[Tensor]
    labels: Tensor | None
    skipped: tuple[Skipped, ...] = ()


class ViewBatches:
    """Batches of a run by step: `batches(start)` yields steps start, start + 1, ... as functions of the seed alone."""

    def __init__(
        self,
        split: Split,
        views: Sequence[View],
        batch_size: int,
        *,
        seed: int,
        device: torch.device,
        workers: int | None,
        keep_last: bool = False,
    ):
        if len(split) < batch_size and not keep_last:
            raise BadInput(
                f"{len(split)} readable images, batch_size {batch_size}: a batch takes that many different ones. "
                f"Use --batch-size {max(2, 2 ** int(np.log2(max(2, len(split)))))} or fewer."
            )
        self.split, self.batch_size, self.seed, self.device = split, batch_size, seed, device
        self.views = numbered(views)
        self.workers = min(8, os.cpu_count() or 1) if workers is None else workers
        # The last incomplete batch is dropped in pretraining, where a loss depends on its number of images.
        self.steps_per_epoch, left = divmod(len(split), batch_size)
        if (keep_last and left > 1) or not self.steps_per_epoch:  # batch norm has no variance of a single image
            self.steps_per_epoch += 1
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))  # of the epoch asked for last

    def indices(self, step: int) -> tuple[int, np.ndarray]:
        """Epoch of a step, and the images of its global batch."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            order = np.random.Generator(np.random.Philox(key=[self.seed, epoch])).permutation(len(self.split))
            self._order = (epoch, order)
        return epoch, self._order[1][position * self.batch_size : (position + 1) * self.batch_size]

    def batches(self, start: int, stop: int, share: Callable[[int], slice]) -> Iterator[Batch]:
        """Steps start to stop - 1; `share` says which rows of a global batch are this rank's."""
        rows = share(self.batch_size)
        if isinstance(self.split.images, Stored):
            pixels = self.split.images.pixels
            for step in range(start, stop):
                epoch, indices = self.indices(step)
                indices = indices[rows]
                images = pixels[torch.from_numpy(indices)].to(self.device, non_blocking=True)
                made = []
                for number, view in self.views:
                    draw = Draw(view, number, self.seed, epoch, indices)
                    made.append(finish(crop_stored_images(images, draw), draw))
                yield Batch(made, self._labels(indices))
            return
        plan = _Plan(self, range(start, stop), rows)
        loader = torch.utils.data.DataLoader(
            _Crops(self.split.images, self.views, self.seed),
            batch_sampler=plan,
            num_workers=self.workers,
            collate_fn=_collate,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=leave_signals_to_the_run,
        )
        for step, (crops, skipped) in zip(range(start, stop), loader):
            epoch, indices = plan.of(step)
            made = []
            for (number, view), crop in zip(self.views, crops):
                draw = Draw(view, number, self.seed, epoch, indices)
                made.append(finish(crop.to(self.device, non_blocking=True), draw))
            yield Batch(made, self._labels(indices), skipped)

    def _labels(self, indices: np.ndarray) -> Tensor | None:
        return None if self.split.labels is None else torch.from_numpy(self.split.labels[indices]).to(self.device)


class _Plan(torch.utils.data.Sampler):
    """What each batch is made of, for workers: a list of (epoch, image index), made when it is asked for."""

    def __init__(self, batches: ViewBatches, steps: range, rows: slice):
        self.of_batch, self.steps, self.rows = batches.indices, steps, rows

    def of(self, step: int) -> tuple[int, np.ndarray]:
        epoch, indices = self.of_batch(step)
        return epoch, indices[self.rows]

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self):
        for epoch, indices in map(self.of, self.steps):
            yield [(epoch, int(i)) for i in indices]


class _Crops(torch.utils.data.Dataset):
    """One image -> the crops of all its views (uint8), decoded once. Runs in the workers."""

    def __init__(self, images: Images, views: list[tuple[int, View]], seed: int):
        self.images, self.views, self.seed = images, views, seed
        # The smallest and narrowest crop of an image of this shorter side still has a view's number of pixels.
        sides = (v.size / math.sqrt(v.scale[0] * min(v.ratio[0], 1 / v.ratio[1])) for _, v in views)
        self.at_least = math.ceil(max(sides))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> tuple[list[Tensor], tuple[Skipped, ...]]:
        epoch, index = key
        image, skipped = self._read(index)
        crops = [crop_file_image(image, Draw(view, n, self.seed, epoch, [index])) for n, view in self.views]
        return crops, skipped

    def _read(self, index: int) -> tuple[Image.Image, tuple[Skipped, ...]]:
        """The image, or the next one that can be read: the same on every machine and after resuming."""
        skipped: list[Skipped] = []
        for other in range(index, index + len(self.images)):
            try:
                return self.images.read(other % len(self.images), self.at_least), tuple(skipped)
            except Exception as error:  # Pillow's decoders raise almost anything on broken files
                paths = self.images.paths if isinstance(self.images, Files) else None
                skipped.append(Skipped(paths[other % len(paths)] if paths else str(other), str(error)[:200]))
                if len(skipped) > 100:
                    break
        raise BadInput(f"100 images in a row cannot be read, from {skipped[0].path}: {skipped[0].reason}")


def _collate(items: list[tuple[list[Tensor], tuple[Skipped, ...]]]) -> tuple[list[Tensor], tuple[Skipped, ...]]:
    crops = [torch.stack([views[v] for views, _ in items]) for v in range(len(items[0][0]))]
    return crops, tuple(s for _, skipped in items for s in skipped)


class IterableBatches:
    """Views that come from the caller's own iterable, batch by batch, for any modality."""

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
        for item in self.source:
            if len(item) < 2 or len({len(view) for view in item}) != 1:
                shapes = [[*view.shape] if isinstance(view, Tensor) else type(view).__name__ for view in item]
                raise BadInput(f"a batch of views is {shapes}: it is at least two tensors [m, ...] with equal m.")
            yield item

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
