"""What the studies on small data share: a network of milliseconds, the forms of the objective, results that are kept.

The loop is `mec/training/trainer.py`'s in its bare steps; views are made once for all runs of a seed and batch.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import statistics
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from mec.data.batches import ViewBatches
from mec.data.dataset import Data, Split
from mec.data.images import InMemory
from mec.evaluation.features import Features
from mec.evaluation.probing.knn import knn
from mec.networks.siamese import build_siamese
from mec.objectives.coding import distortion_for
from mec.objectives.methods import method_named
from mec.recipes import schedules
from mec.recipes.recipe import Linear, Network, Optimizer, Recipe, View
from mec.recipes.table import CIFAR_VIEW, RECIPES
from mec.training import health
from mec.training.optimizers import build_optimizer
from mec.training.plan import build_objective
from mec.training.trainer import RUNAWAY

EMBEDDING = 128
HEADS = {"predictor": (64, EMBEDDING), "target": "momentum", "target_momentum": 0.95}  # short runs: a quicker target

# The paper's form with the released schedule of λ (from an eighth, over the first tenth) and without; ours.
FORMS = {
    "order 4, λ warm-up": ("mec", {"order": 4}, True),
    "order 4": ("mec", {"order": 4}, True),
    "cross exact": ("mec-exact", {"order": None}, True),
    "joint, target": ("mec-joint", {}, True),
    "joint": ("mec-joint", {}, False),
}


@dataclass(frozen=True)
class Outcome:
    """What came of one run. Figures are NaN where it ended before they could be measured."""

    diverged: str  # "few directions", "below the bound", "not finite"; "" where it is none
    knn: float  # top-1 (%) of held-out images by 20 neighbours
    rank: float  # RankMe of the held-out images' embeddings
    loss: float
    loss_bound: float
    norm_c: float
    steps: int
    health: str  # the first word of the verdict of `mec health` on the last batch
    seconds: float


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
    """The digits recipe's at the images' own 8 px, without blur."""
    return tuple(replace(view, size=8, blur=0.0) for view in RECIPES["digits"].views)


def cifar_views() -> tuple[View, ...]:
    return (replace(CIFAR_VIEW, size=16, copies=2),)


def encoder(pixels: int) -> nn.Module:
    """Two layers on the pixels, 64 features."""
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in ((3 * pixels, 256), (256, 64)):
        layers += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class Study:
    """Runs on one data set; each result is a line of a file, and is not made again."""

    def __init__(self, data: Data, views: tuple[View, ...], file: Path, until: float = math.inf):
        assert data.test is not None
        self.data, self.views, self.file, self.until = data, views, file, until
        self.batches_of = functools.lru_cache(maxsize=1)(self.make_batches)  # cells of one batch size and seed follow
        self.bank, self.test = (self.inputs(split) for split in (data.train, data.test))
        lines = file.read_text().splitlines() if file.exists() else []
        self.kept = {
            json.dumps(line["cell"], sort_keys=True): Outcome(**line["outcome"]) for line in map(json.loads, lines)
        }

    def outcome(self, cell: dict, chosen: Recipe) -> Outcome | None:
        """Of a cell, trained now or earlier; None when time is over."""
        key = json.dumps(cell, sort_keys=True)
        if key not in self.kept:
            if time.monotonic() > self.until:
                return None
            self.kept[key] = found = self.train(chosen, cell["seed"])
            with open(self.file, "a") as out:
                out.write(json.dumps({"cell": cell, "outcome": asdict(found)}) + "\n")
            print(cell, found, flush=True)
        return self.kept[key]

    def make_batches(self, batch: int, epochs: int, seed: int) -> list[list[Tensor]]:
        source = ViewBatches(self.data.train, self.views, batch, seed=seed, device=torch.device("cpu"), workers=0)
        steps = epochs * source.steps_per_epoch
        return [b.views for b in source.batches(0, steps, lambda n: slice(0, n))]

    def inputs(self, split: Split) -> tuple[Tensor, Tensor]:
        """Images as the encoder sees them without augmentation, and labels."""
        view = self.views[0]
        assert isinstance(split.images, InMemory)
        assert split.labels is not None
        x = nn.functional.interpolate(split.images.pixels.float() / 255, size=view.size, mode="area")
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (view.mean, view.std))
        return (x - mean) / std, torch.from_numpy(split.labels)

    def train(self, chosen: Recipe, seed: int) -> Outcome:
        began = time.monotonic()
        batches = self.batches_of(chosen.batch_size, chosen.epochs, seed)
        each = len(batches) // chosen.epochs
        torch.manual_seed(seed)
        network = build_siamese(chosen.network, encoder(batches[0][0].shape[2] ** 2), 64)
        optimizer = build_optimizer(chosen.optimizer, network.parameters())
        objective, settings = build_objective(chosen, EMBEDDING)
        settings = {k: v for k, v in settings.items() if k != "scale"}  # 1 for all of these
        name = method_named(chosen.method).objective
        stopped, line = False, {}
        for step, views in enumerate(batches):
            now = {k: schedules.setting(v, step / each) for k, v in settings.items()}
            for group in optimizer.param_groups:
                group["lr"] = schedules.learning_rate(chosen.optimizer, chosen.batch_size, step, len(batches), each)
            online, target = network(views)
            loss = objective(online, target, **now)
            bound = health.exact_loss_bound(name, now, *online.shape[1:])
            line = {"step": step + 1, "loss": float(loss.detach()), "loss_bound": bound}
            if not math.isfinite(line["loss"]) or line["loss"] < RUNAWAY * bound:  # as the trainer stops
                stopped = True
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            momentum = schedules.cosine(chosen.network.target_momentum, 1.0, step / len(batches))
            network.update_target(momentum)
        distortion = distortion_for(now["distortion"], *online.shape[1:])
        line |= health.measure(online.detach(), target, distortion)
        return self.measured(network, line, {**settings, "method": chosen.method}, stopped, time.monotonic() - began)

    @torch.no_grad()
    def measured(self, network, line: dict, settings: dict, stopped: bool, seconds: float) -> Outcome:
        network.eval()
        bank, test = (Features(network.encoder(x), y) for x, y in (self.bank, self.test))
        finite = bool(bank.x.isfinite().all() and test.x.isfinite().all())
        accuracy = knn(bank, test)[0].value if finite else math.nan
        embeddings = nn.functional.normalize(network.projector(test.x), dim=1)
        rank = health.effective_rank(embeddings) if bool(embeddings.isfinite().all()) else math.nan
        why = ""
        if rank < health.COLLAPSED_SHARE * min(embeddings.shape):
            why = "few directions"
        elif line["loss"] < line["loss_bound"] * (1 + 1e-3):
            why = "below the bound"
        elif stopped or not math.isfinite(rank):
            why = "not finite"
        verdict = health.judge([line], settings).words.split(":")[0]
        figures = line["loss"], line["loss_bound"], line["norm_c"], line["step"]
        return Outcome(why, accuracy, rank, *figures, verdict, seconds)


def mean_spread(values: Iterable[float], digits: int = 1) -> str:
    """Mean and sample standard deviation of the finite ones."""
    kept = [v for v in values if math.isfinite(v)]
    if not kept:
        return "-"
    spread = f" ± {statistics.stdev(kept):.{digits}f}" if len(kept) > 1 else ""
    return f"{statistics.mean(kept):.{digits}f}{spread}"


def options(about: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/studies"), help="folder; what is in it is kept")
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no run after this time; resume later")
    parser.add_argument("--cifar10", type=Path, help="folder with train/CLASS/ and test/CLASS/: its corner, too")
    found = parser.parse_args()
    found.out.mkdir(parents=True, exist_ok=True)
    found.until = time.monotonic() + 60 * found.minutes
    return found
