"""Speech: pretrain an encoder of recordings, not images, and see what a handful of labels is worth.

The data are JapaneseVowels, which sktime ships: nine speakers say two vowels, 7 to 29 frames of 12 cepstral
coefficients. A view is a part of a recording at another speed, with noise, without some coefficients. One minute.
"""

import numpy as np
import torch
from measured import few_labels, show, standardised
from sktime.datasets import load_japanese_vowels
from torch import Tensor, nn
from torch.nn import functional as F


def recordings(split: str) -> tuple[Tensor, Tensor]:
    """Recordings [n, 12, 24], brought to one length, and their speakers [n]."""
    x, y = load_japanese_vowels(split=split, return_type="nested_univ")
    rows = [torch.from_numpy(np.stack(row)).float()[None] for row in x.to_numpy()]
    rows = [F.interpolate(row, 24, mode="linear", align_corners=True) for row in rows]
    return torch.cat(rows), torch.from_numpy(y.astype(int))


def view(x: Tensor) -> Tensor:
    """A half or more of each recording [m, 12, 24], stretched, scaled, with noise, a fifth of the coefficients 0."""
    share, crop = 0.5 + 0.5 * torch.rand(len(x)), torch.zeros(len(x), 2, 3)
    crop[:, 0, 0], crop[:, 0, 2] = share, (1 - share) * (2 * torch.rand(len(x)) - 1)
    where = F.affine_grid(crop, [len(x), 12, 1, 24], align_corners=False)
    part = F.grid_sample(x[:, :, None], where, padding_mode="border", align_corners=False)[:, :, 0]
    louder, noise = 1 + 0.2 * torch.randn(len(x), 1, 1), 0.2 * torch.randn(x.shape)
    return (part * louder + noise) * (torch.rand(len(x), 12, 1) > 0.2)


def encoder() -> nn.Module:
    """Convolutions over time, averages over each quarter of it, 128 features."""
    first = [nn.Conv1d(12, 64, 3, padding=1), nn.BatchNorm1d(64), nn.ReLU()]
    second = [nn.Conv1d(64, 64, 3, padding=1), nn.BatchNorm1d(64), nn.ReLU()]
    pool = [nn.AdaptiveAvgPool1d(4), nn.Flatten(), nn.Linear(256, 128), nn.BatchNorm1d(128, affine=False)]
    return nn.Sequential(*first, *second, *pool)


def main(epochs: int = 180, seeds: int = 3) -> dict[str, list[float]]:
    train, test = standardised(recordings("train"), recordings("test"))
    settings = ["network.projector=[128,16]", "settings.distortion=1", "optimizer.base_lr=1"]
    return few_labels(train, test, encoder, view, settings, batch_size=90, epochs=epochs, seeds=seeds)


if __name__ == "__main__":
    show("JapaneseVowels, nine speakers: accuracy, %", main())
