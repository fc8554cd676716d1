"""What a frozen backbone gives: features [n, e] and labels [n], extracted once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mec.data import Data, Images, Split, Stored, stratified
from mec.errors import BadInput
from mec.evaluate.cache import cached, feature_key


@dataclass(frozen=True)
class Features:
    """x [n, e] float32 on the CPU, in memory or mapped from disk; y [n] int64."""

    x: Tensor
    y: Tensor

    def __post_init__(self) -> None:
        if self.x.ndim != 2 or self.y.shape != self.x.shape[:1]:
            raise BadInput(f"x is {[*self.x.shape]}, y {[*self.y.shape]}: features [n, e] and one label a row.")

    def unit(self) -> Tensor:
        return nn.functional.normalize(self.x, dim=1)


def extract(
    encoder: nn.Module,
    split: Split,
    transform: Callable[[Any], Tensor],
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 256,
    workers: int = 0,
    cache: Path | None = None,
) -> Features:
    """Features of all images of a split, in order; the encoder runs in evaluation mode (its mode is put back).

    Args:
        encoder: images [m, 3, s, s] -> features [m, e].
        split: images and labels.
        transform: PIL image or uint8 images [m, 3, h, w] -> the encoder's input.
        device: where the encoder is.
        batch_size: images at a time.
        workers: processes that decode files.
        cache: folder in which features are kept by what they were made of, and found again; None: only in memory.
    """

    @torch.no_grad()
    def batches(start: int) -> Iterator[Tensor]:
        rest = split.images if not start else split.images.take(np.arange(start, len(split)))
        for batch in _batches(rest, transform, batch_size, workers):
            yield encoder(batch.to(device)).float().cpu()

    training = encoder.training
    encoder.eval()
    try:
        key = None if cache is None else feature_key(encoder, split.images, transform, str(device))
        x = torch.cat(list(batches(0))) if cache is None or key is None else cached(cache, key, len(split), batches)
    finally:
        encoder.train(training)
    labels = split.labels if split.labels is not None else np.full(len(split), -1)
    return Features(x, torch.from_numpy(np.asarray(labels, dtype=np.int64)))


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
