"""What a frozen backbone gives: features [n, e] and labels [n], extracted once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mec.data import Data, Images, Split, Stored, stratified
from mec.errors import BadInput


@dataclass(frozen=True)
class Features:
    """x [n, e] float32 on the CPU; y [n] int64."""

    x: Tensor
    y: Tensor

    def __post_init__(self) -> None:
        if self.x.ndim != 2 or self.y.shape != self.x.shape[:1]:
            raise BadInput(f"x is {[*self.x.shape]}, y {[*self.y.shape]}: features [n, e] and one label a row.")

    def unit(self) -> Tensor:
        return nn.functional.normalize(self.x, dim=1)


@torch.no_grad()
def extract(
    encoder: nn.Module,
    split: Split,
    transform: Callable[[Any], Tensor],
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 256,
    workers: int = 0,
) -> Features:
    """Features of all images of a split, in order; the encoder runs in evaluation mode (its mode is put back)."""
    training = encoder.training
    encoder.eval()
    rows = [encoder(batch.to(device)).float().cpu() for batch in _batches(split.images, transform, batch_size, workers)]
    encoder.train(training)
    labels = split.labels if split.labels is not None else np.full(len(split), -1)
    return Features(torch.cat(rows), torch.from_numpy(np.asarray(labels, dtype=np.int64)))


def pixels(split: Split, side: int = 32) -> Features:
    """Raw pixels as features, the baseline of no learning: as stored, or resized to side x side where sizes differ."""
    images = split.images
    if isinstance(images, Stored):
        x = images.pixels
        if (x == x[:, :1]).all():  # grey, repeated
            x = x[:, :1]
    else:
        x = torch.stack(
            [torch.from_numpy(np.asarray(images.read(i).resize((side, side))).copy()) for i in range(len(images))]
        )
    labels = split.labels if split.labels is not None else np.full(len(split), -1)
    return Features(x.flatten(1).float() / 255, torch.from_numpy(np.asarray(labels, dtype=np.int64)))


def _batches(images: Images, transform: Callable[[Any], Tensor], batch_size: int, workers: int):
    if isinstance(images, Stored):
        for part in images.pixels.split(batch_size):
            yield transform(part)
        return
    yield from torch.utils.data.DataLoader(
        _Transformed(images, transform),
        batch_size=batch_size,
        num_workers=workers,
    )


class _Transformed(torch.utils.data.Dataset):
    def __init__(self, images: Images, transform: Callable[[Any], Tensor]):
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(self.images.read(index))


def measured_parts(images: Data, bank: int, test: int) -> tuple[Split, Split]:
    """Labelled training images and test images, at most so many (seeded, stratified)."""
    assert images.test is not None
    parts = []
    for split, most in ((images.train.labelled(), bank), (images.test.labelled(), test)):
        parts.append(split if len(split) <= most else split.take(stratified(split.labels, len(split), most, seed=0)))
    return parts[0], parts[1]
