"""Features averaged over several crops of each image, as EMP-SSL is measured; results have a name of their own."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from mec.evaluation.subject import Subject
from mec.networks.encoder_file import image_transform

STEP = (0.7548776662466927, 0.5698402909980532)  # R2, the plane's golden ratio: points that never crowd


@dataclass(frozen=True)
class FixedCrops:
    """An image -> the encoder's inputs [n, 3, s, s] of n square crops; a batch [m, ...] -> [m, n, 3, s, s].

    They lie at the same n places in every image, each `area` of it or, in long ones, as much as a square can cover.
    Every other one is mirrored."""

    transform: Callable[[Any], Tensor]  # a PIL image or uint8 [m, 3, h, w] -> an input
    n: int
    area: float

    def __call__(self, image: Any) -> Tensor:
        batch = isinstance(image, Tensor)
        width, height = image.shape[:-3:-1] if batch else image.size
        side = max(1, min(round((self.area * width * height) ** 0.5), width, height))
        found = []
        for number in range(self.n):
            left, top = (round(((number + 0.5) * s % 1) * (most - side)) for s, most in zip(STEP, (width, height)))
            if batch:
                part = self.transform(image[..., top : top + side, left : left + side])
            else:
                part = self.transform(image.crop((left, top, left + side, top + side)))
            found.append(part.flip(-1) if number % 2 else part)
        return torch.stack(found, -4)


class Averaged(nn.Module):
    """Crops [m, n, 3, s, s] -> the mean of their features [m, e]."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    def forward(self, crops: Tensor) -> Tensor:
        return torch.stack([self.encoder(part) for part in crops.unbind(1)]).mean(0)


def in_crops(subject: Subject, n: int, area: float) -> Subject:
    """The subject, its features averaged over n crops. Without a transform of its own, crops are resized whole."""
    transform = subject.own_transform or image_transform(subject.info, resize=1.0)
    rows = max(1, subject.rows // n)
    return replace(subject, encoder=Averaged(subject.encoder), own_transform=FixedCrops(transform, n, area), rows=rows)
