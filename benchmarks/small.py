"""What the studies on small data share: a network of seconds, the forms of the objective, runs that are made once."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import nn

from mec.data import Data
from mec.recipe import Linear, Network, Optimizer, Recipe, View
from mec.recipes import CIFAR_VIEW, RECIPES
from mec.studies import Outcome, in_words, outcome_of

EMBEDDING = 128
HEADS = {"predictor": (64, EMBEDDING), "target": "momentum", "target_momentum": 0.98}  # short runs: a quicker target

# The paper's form with the released schedule of λ (from an eighth, over the first tenth) and without; ours.
FORMS = {
    "order 4, λ warm-up": ("mec", {"order": 4}, True),
    "order 4": ("mec", {"order": 4}, True),
    "cross exact": ("mec-exact", {"order": None}, True),
    "joint, target": ("mec-joint", {}, True),
    "joint": ("mec-joint", {}, False),
}


class SmallNet(nn.Module):
    """Three convolutions, 64 features: a step of 64 digits takes a CPU some milliseconds."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after, stride in ((3, 16, 1), (16, 32, 2), (32, 64, 2)):
            layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


def recipe(
    method: str, settings: dict, asymmetric: bool, *, distortion: float, batch: int, lr: float, epochs: int,
    views: tuple[View, ...], warm_up: bool = False,
) -> Recipe:  # fmt: skip
    """lr is the rate as used; with warm_up ε_d² falls from eight times its value over the first tenth."""
    start = Linear(8 * distortion, distortion, epochs / 10) if warm_up else distortion
    return Recipe(
        source="benchmarks",
        method=method,
        settings={**settings, "distortion": start},
        views=views,
        network=Network(projector=(256, EMBEDDING), **(HEADS if asymmetric else {})),
        optimizer=Optimizer(base_lr=lr * 256 / batch),
        batch_size=batch,
        epochs=epochs,
        precision="fp32",
    )


def digits_views() -> tuple[View, ...]:
    """The digits recipe's, at the images' own 8 px."""
    return tuple(replace(view, size=8) for view in RECIPES["digits"].views)


def cifar_views() -> tuple[View, ...]:
    return (replace(CIFAR_VIEW, copies=2),)


def trained(name: str, chosen: Recipe, data: Data, out: Path, seed: int) -> Outcome:
    """The outcome of a run of SmallNet, from its folder if it was made before; a line is printed."""
    torch.manual_seed(seed)
    found = outcome_of(chosen, data, out / name.replace(" ", "-").replace(",", ""), seed=seed, encoder=SmallNet())
    print(in_words(name, found), flush=True)
    return found


def mean_spread(values: Iterable[float], digits: int = 1) -> str:
    """Mean and sample standard deviation of the finite ones."""
    kept = [v for v in values if v == v]
    if not kept:
        return "-"
    spread = f" ± {statistics.stdev(kept):.{digits}f}" if len(kept) > 1 else ""
    return f"{statistics.mean(kept):.{digits}f}{spread}"


def written(out: Path, name: str, rows: list[dict], outcomes: list[Outcome]) -> None:
    """All outcomes with what was varied, in one JSON file."""
    lines = [{**row, **asdict(found)} for row, found in zip(rows, outcomes)]
    (out / f"{name}.json").write_text(json.dumps(lines, indent=1) + "\n")


def out_folder(default: str, about: str | None) -> tuple[Path, argparse.Namespace]:
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(default), help="folder of the runs; those in it are kept")
    parser.add_argument("--cifar10", type=Path, help="folder with train/CLASS/ and test/CLASS/: its corner, too")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop starting runs after this time; resume later")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    return options.out, options
