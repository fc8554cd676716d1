"""Time series: pretrain encoders of outlines and of motions, and see what a handful of labels is worth.

Two sets that sktime ships. OSULeaf: outlines of leaves of six species, the distance from the middle, once around; 200
to train on. BasicMotions: six sensors at the wrist of someone who walks, runs, stands or plays badminton; 40. A view
starts anywhere, at another speed, mirrored, scaled, with noise, without some sensors. Two minutes for both.
"""

from functools import partial

import numpy as np
import torch
from measured import few_labels, show, standardised
from sktime.datasets import load_basic_motions, load_osuleaf
from torch import Tensor, nn
from torch.nn import functional as F

LENGTH = 128
LOAD = {"OSULeaf": load_osuleaf, "BasicMotions": load_basic_motions}


def series(name: str, split: str) -> tuple[Tensor, Tensor]:
    """Series [n, channels, LENGTH] and the numbers [n] of their classes."""
    x, y = LOAD[name](split=split, return_type="numpy3D")
    rows = F.interpolate(torch.from_numpy(x).float(), LENGTH, mode="linear")
    return rows, torch.from_numpy(np.unique(y, return_inverse=True)[1])


def view(x: Tensor) -> Tensor:
    """Each series [m, channels, LENGTH] from a random place on and around its end, 0.8 to 1.25 times as fast."""
    speed, start = 0.8 + 0.45 * torch.rand(len(x), 1), torch.rand(len(x), 1) * LENGTH
    place = (start + speed * torch.arange(LENGTH)).long() % LENGTH
    place = torch.where(torch.rand(len(x), 1) < 0.5, place, place.flip(1))
    part = x.gather(2, place[:, None].expand(x.shape))
    louder, noise = 1 + 0.1 * torch.randn(len(x), 1, 1), 0.1 * torch.randn(x.shape)
    silent = (torch.rand(*x.shape[:2], 1) < 0.2) & (x.shape[1] > 1)
    return (part * louder + noise).masked_fill(silent, 0)


def encoder(channels: int) -> nn.Module:
    """Three convolutions around the end, their average over time, 128 features."""
    layers: list[nn.Module] = []
    for inputs in (channels, 64, 64):
        layers += [nn.Conv1d(inputs, 64, 7, 2, 3, padding_mode="circular"), nn.BatchNorm1d(64), nn.ReLU()]
    pool = [nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(64, 128), nn.BatchNorm1d(128, affine=False)]
    return nn.Sequential(*layers, *pool)


def main(name: str, epochs: int = 120, seeds: int = 3) -> dict[str, list[float]]:
    train, test = standardised(series(name, "train"), series(name, "test"))
    settings = ["network.projector=[128,64]", "settings.distortion=0.3", "optimizer.base_lr=1"]
    build, batch = partial(encoder, train[0].shape[1]), min(100, len(train[0]))
    return few_labels(train, test, build, view, settings, batch_size=batch, epochs=epochs, seeds=seeds)


if __name__ == "__main__":
    for name in LOAD:
        show(f"{name}: accuracy, %", main(name))
