"""How long a whole training step takes, method by method: forward, objective, backward, optimizer, target network.

    python benchmarks/methods.py --batch-size 16             each method with the heads that it was published with
    python benchmarks/methods.py --recipes cifar10 --batch-size 128 --methods mec-joint,byol,simclr

Two views of random pixels, ResNet-50 at 224 px (or CIFAR-10's recipes); all methods in one run, in turns; ratios are
to the first. FOLDER gets step.json. The paper says that MEC takes 42 hours where BYOL takes 45 and Barlow Twins 48
(1 : 1.07 : 1.14).
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from reporting import in_turns, report
from rich.table import Column, Table

from mec.data.batches import Batch, IterableBatches
from mec.networks.backbones import build_encoder, feature_size
from mec.networks.siamese import build_siamese
from mec.objectives.methods import method_named
from mec.recipes.recipe import Recipe
from mec.recipes.table import RECIPES
from mec.runtime.device import start_fabric
from mec.runtime.distributed import ALONE
from mec.runtime.machine import machine
from mec.training.optimizers import build_optimizer
from mec.training.plan import build_objective, with_method
from mec.training.trainer import Trainer, parameters_of

OWN = {"imagenet": "imagenet-100ep", "cifar10": "cifar10-paper-asymmetric"}  # MEC's recipe; others: DATA-METHOD


@dataclass(frozen=True)
class StepTiming:
    """Seconds a step; `ratio` is the median over that of the first method, in the same run."""

    method: str
    median: float
    low: float
    high: float
    ratio: float


def published_recipe(method: str, data: str) -> Recipe:
    """The method as it was published for these data: its heads, objective and optimizer."""
    method_named(method)
    return RECIPES.get(f"{data}-{method}") or with_method(RECIPES[OWN[data]], method)


def step_of(
    method: str, data: str, *, batch_size: int, image_size: int | None, backbone: str | None, fabric: Any
) -> Callable[[], None]:
    """A function that trains one step on two views of random pixels, always the same."""
    recipe = published_recipe(method, data)
    size = image_size or max(view.size for view in recipe.views)
    network = replace(recipe.network, backbone=backbone or recipe.network.backbone)
    recipe = replace(recipe, batch_size=batch_size, micro_batch_size=None, network=network)
    torch.manual_seed(0)
    views = list(torch.randn(2, batch_size, 3, size, size).to(fabric.device))
    encoder = build_encoder(network.backbone, size, network.small_stem, zero_init=network.zero_init)
    siamese = build_siamese(network, encoder, feature_size(encoder, torch.zeros(2, 3, size, size)))
    objective, settings = build_objective(recipe, siamese.embedding)
    optimizer = build_optimizer(recipe.optimizer, [*siamese.parameters(), *parameters_of(objective)])
    siamese.to(memory_format=torch.channels_last)
    source = IterableBatches([views], fabric.device)
    trainer = Trainer(fabric, ALONE, recipe, siamese, objective, settings, optimizer, source, seed=0)
    labels = torch.zeros(batch_size, dtype=torch.long, device=fabric.device)
    settings = {k: getattr(v, "end", v) for k, v in settings.items()}
    trainer.set_lr(1e-4)

    def step() -> None:
        trainer.loss_and_gradient(Batch(views, labels), 0, settings)
        trainer.limit_gradients(10**9)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad(set_to_none=True)
        trainer.network.update_target(0.996)

    return step


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="mec,mec-joint,byol,barlow-twins", help="names with commas")
    parser.add_argument("--recipes", choices=[*OWN], default="imagenet", help="whose heads, backbone and view size")
    parser.add_argument("--batch-size", type=int, default=32, help="images")
    parser.add_argument("--image-size", type=int, help="px, in place of the recipe's")
    parser.add_argument("--backbone", help="in place of the recipe's")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    asked = parser.parse_args(words)
    fabric = start_fabric(asked.device)
    about = {name: getattr(asked, name) for name in ("batch_size", "image_size", "backbone")}
    steps = {name: step_of(name, asked.recipes, fabric=fabric, **about) for name in asked.methods.split(",")}
    found = in_turns(steps, asked.repeats, fabric.device.type)
    first = next(iter(found.values()))[0]
    timings = [StepTiming(name, *seconds, ratio=seconds[0] / first) for name, seconds in found.items()]
    title = f"{asked.recipes}: a training step, batch {asked.batch_size}, median of {asked.repeats} (range)"
    shown = Table(
        "method", *[Column(name, justify="right") for name in ("s a step", f"over {timings[0].method}")], title=title
    )
    for t in timings:
        shown.add_row(t.method, f"{t.median:.3f} ({t.low:.3f}-{t.high:.3f})", f"{t.ratio:.2f}")
    written = {"data": asked.recipes, **about, "timings": [asdict(t) for t in timings]}
    report(machine(fabric.device.type), [shown], written, asked.out / "step.json")


if __name__ == "__main__":
    main()
