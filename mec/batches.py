"""Batches of views by step: from images, as functions of the seed alone, or from the caller's own iterable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from mec.data import Batch, ViewBatches
from mec.errors import BadInput

__all__ = ["Batch", "IterableBatches", "ViewBatches"]


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
