"""`mec bench data`: images a second of each stage from disk to views, alone and together, and which one limits."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from mec.bench.options import Loading
from mec.data.batches import ViewBatches, boxes_of, cut, decoded
from mec.data.dataset import Data, Split
from mec.data.decoding import quiet
from mec.data.images import Stored, Wrapped
from mec.data.opening import open_data
from mec.errors import BadInput
from mec.recipes.recipe import View
from mec.recipes.table import recipe_named
from mec.runtime.device import chosen_device, wait_for
from mec.runtime.files import write_json
from mec.runtime.flags import takes
from mec.runtime.machine import machine, this_machine
from mec.training.auto import auto
from mec.views.views import Draw, crop_stored_images, finish, numbered

BLOCK = 64  # images that a stage is timed on at once


TOGETHER = "together"


@dataclass(frozen=True)
class Stage:
    """Images a second of one stage, all of an image's views counted in; `seconds` an image."""

    name: str
    images_per_second: float
    seconds: float


@takes(Loading)
def bench_data(data: str | Data, options: Loading) -> list[Stage]:
    """Time the stages on so many images, print a table, and write data.json.

    Args:
        data: digits, a data set's name, a folder of images, what `mec pack` wrote, or what `open_data` gave.
    {options}

    Raises:
        BadInput: fewer than two images to time, or no such recipe.
    """
    images, recipe, workers, out = options.images, options.recipe, options.workers, Path(options.out)
    device = chosen_device(options.device)
    if not isinstance(data, Data):
        data = open_data(data, root=options.data_root)
    chosen = auto(data, this_machine(device))[0] if recipe == "auto" else recipe_named(recipe)
    views = numbered(chosen.views)
    count = min(images, len(data.train))
    if count < 2:
        raise BadInput(f"{data.name} has {count} training image: at least 2 are timed.")
    split = data.train.take(np.linspace(0, len(data.train) - 1, count).astype(int))
    alone = from_memory(split, views, device) if isinstance(split.images, Stored) else from_disk(split, views, device)
    together = [loaded(split, chosen.views, device, number) for number in numbers_of_workers(split, workers)]

    console = Console(markup=False)
    where = {**machine(device), "cores": os.cpu_count() or 1}
    console.print(", ".join(f"{k} {v}" for k, v in where.items()), highlight=False)
    sizes = ", ".join(str(view.size) for _, view in views)
    kind = "in memory" if isinstance(split.images, Stored) else "decoded as they are needed"
    table = Table(title=f"{data.name}: {count} images, {kind}; views of {sizes} px")
    for column in ("stage", "images/s", "ms an image"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage in [*alone, *together]:
        table.add_row(stage.name, f"{stage.images_per_second:,.0f}", f"{1000 * stage.seconds:.3f}")
    console.print(table)
    console.print(verdict(alone, together), highlight=False)
    out.mkdir(parents=True, exist_ok=True)
    found = {"machine": where, "data": data.name, "recipe": recipe, "stages": [asdict(s) for s in [*alone, *together]]}
    write_json(out / "data.json", found)
    console.print(f"Written: {out / 'data.json'}", highlight=False)
    return [*alone, *together]


def verdict(alone: list[Stage], together: list[Stage]) -> str:
    """Which stage limits, and the fastest way to load, in words."""
    slowest = max(alone, key=lambda s: s.seconds)
    share = slowest.seconds / sum(s.seconds for s in alone)
    best = max(together, key=lambda s: s.images_per_second)
    return (
        f"{slowest.name} limits: {share:.0%} of the work on an image. Fastest {best.name}: "
        f"{best.images_per_second:,.0f} images/s. A run waits for data where its steps could take more than that; "
        "its progress line says how much (data wait)."
    )


def numbers_of_workers(split: Split, workers: int | None) -> list[int]:
    if isinstance(split.images, Stored):
        return [0]
    return [workers] if workers is not None else sorted({0, 1, min(8, os.cpu_count() or 1)})


class Stopwatch:
    """Seconds by name, added up."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, name: str, device: str = "cpu") -> Iterator[None]:
        began = time.perf_counter()
        yield
        wait_for(device)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began

    def stages(self, images: int) -> list[Stage]:
        return [Stage(name, images / max(s, 1e-9), s / images) for name, s in self.seconds.items()]


def from_disk(split: Split, views: list[tuple[int, View]], device: str) -> list[Stage]:
    """read, decode, crop (a worker's work), move where there is a GPU, and augment (the run's own)."""
    images, watch = split.images, Stopwatch()
    assert not isinstance(images, Stored)
    with quiet():
        for warm in (True, False):
            watch = Stopwatch()
            for start in range(0, BLOCK if warm else len(split), BLOCK):
                indices = np.arange(start, min(start + BLOCK, len(split)))
                draws = [Draw(view, number, 0, 0, indices) for number, view in views]
                rows = [[draw.take(np.array([i])) for draw in draws] for i in range(len(indices))]
                flips = [[len(draw.chosen("flip")) > 0 for draw in row] for row in rows]
                with watch("read"):
                    pictures = [images.open(int(i)) for i in indices]
                boxes = [boxes_of(picture, row) for picture, row in zip(pictures, rows)]
                with watch("decode"):
                    pixels = [decoded(*each) for each in zip(pictures, boxes, rows)]
                with watch("crop, flip"):
                    crops = [cut(*each) for each in zip(pictures, pixels, boxes, rows, flips)]
                stacked = [torch.from_numpy(np.stack([c[v] for c in crops])) for v in range(len(views))]
                augment(stacked, draws, device, watch)
    found = watch.stages(len(split))
    return [s for s in found if s.name != "decode"] if isinstance(images, Wrapped) else found  # it reads them decoded


def from_memory(split: Split, views: list[tuple[int, View]], device: str) -> list[Stage]:
    """crop and augment, a block of images at a time."""
    assert isinstance(split.images, Stored)
    watch, pixels = Stopwatch(), split.images.pixels.to(device)
    for _ in range(2):  # the first round warms up
        watch = Stopwatch()
        for start in range(0, len(split), BLOCK):
            indices = np.arange(start, min(start + BLOCK, len(split)))
            draws = [Draw(view, number, 0, 0, indices) for number, view in views]
            block = pixels[start : start + BLOCK]
            with watch("crop, flip", device):
                crops = [crop_stored_images(block, draw) for draw in draws]
            augment(crops, draws, device, watch)
    return watch.stages(len(split))


def augment(crops: list[torch.Tensor], draws: list[Draw], device: str, watch: Stopwatch) -> None:
    if device != "cpu" and not crops[0].is_cuda:
        with watch("move", device):
            crops = [crop.to(device) for crop in crops]
    with watch("colour, blur", device):
        for crop, draw in zip(crops, draws):
            finish(crop, draw)


def loaded(split: Split, views: tuple[View, ...], device: str, workers: int) -> Stage:
    """All of it as a run does it, after the first batches, which start the workers."""
    batch = min(BLOCK, len(split) // 2)
    batches = ViewBatches(split, views, batch, seed=0, device=torch.device(device), workers=workers)
    ahead = 1 + 2 * workers  # batches that are being made when the first one comes: their time is not seen
    steps = ahead + max(len(split) // batch, 8 * workers, 4)
    source = batches.batches(0, steps, lambda n: slice(0, n))
    for _ in range(ahead):
        next(source)
    began = time.perf_counter()
    count = sum(1 for _ in source)
    wait_for(device)
    seconds = (time.perf_counter() - began) / max(1, count * batch)
    name = TOGETHER if isinstance(split.images, Stored) else f"{TOGETHER}, {workers} workers"
    return Stage(name, 1 / max(seconds, 1e-9), seconds)
