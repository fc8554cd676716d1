"""`mec bench data`: images per second of each stage from disk to views, alone and together, and which one limits."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.table import Column, Table

from mec.bench.options import Loading
from mec.bench.turns import report
from mec.data.batches import ViewBatches, boxes_in, crop_all, decode_for
from mec.data.dataset import Data, Split
from mec.data.decoding import quiet
from mec.data.images import Images
from mec.data.opening import open_data
from mec.errors import BadInput
from mec.recipes.recipe import View
from mec.recipes.table import recipe_named
from mec.runtime.device import chosen_device, wait_for
from mec.runtime.flags import takes
from mec.runtime.machine import cores, machine, this_machine
from mec.runtime.progress import Console
from mec.training.auto import auto
from mec.views.views import Draw, augment, crop_batch, numbered

BLOCK = 64  # images that a stage is timed on at once
TOGETHER = "together"


@dataclass(frozen=True)
class Stage:
    """The speed of one stage, with the work for all views of an image; `seconds` are per image."""

    name: str
    images_per_second: float
    seconds: float


@takes(Loading)
def bench_data(data: str | Data, options: Loading) -> list[Stage]:
    """Time the stages on some training images, print a table, and write data.json.

    Args:
        data: digits, a data set's name, a folder of images, shards that `mec pack` wrote, or the result of `open_data`.
    {options}

    Raises BadInput: fewer than two images to time, or no such recipe.
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
    alone = time_alone(split.images, views, device)
    in_memory = split.images.pixels is not None
    counts = [0] if in_memory else [0, 1, min(8, cores())] if workers is None else [workers]
    together = [time_together(split, chosen.views, device, number) for number in sorted({*counts})]
    stages = [*alone, *together]

    sizes = ", ".join(str(view.size) for _, view in views)
    kind = "in memory" if in_memory else "decoded when needed"
    right = [Column(name, justify="right") for name in ("images/s", "ms an image")]
    table = Table("stage", *right, title=f"{data.name}: {count} images, {kind}; views of {sizes} px")
    for stage in stages:
        table.add_row(stage.name, f"{stage.images_per_second:,.0f}", f"{1000 * stage.seconds:.3f}")
    console = Console(markup=False, highlight=False)
    found = {"data": data.name, "recipe": recipe, "stages": [asdict(s) for s in stages]}
    where = {**machine(device), "cores": cores()}
    report(console, where, [table, verdict(alone, together)], found, out / "data.json")
    console.print(f"Written: {out / 'data.json'}", soft_wrap=True)
    return stages


def verdict(alone: list[Stage], together: list[Stage]) -> str:
    """A sentence about the stage that limits and the fastest way to load."""
    slowest = max(alone, key=lambda s: s.seconds)
    share = slowest.seconds / sum(s.seconds for s in alone)
    best = max(together, key=lambda s: s.images_per_second)
    return (
        f"{slowest.name} limits: {share:.0%} of the work on an image. Fastest {best.name}: "
        f"{best.images_per_second:,.0f} images/s. A run whose steps could use more than that waits for data; its "
        "progress line shows how long (data wait)."
    )


class Stopwatch:
    """Seconds by name, summed."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def __call__(self, name: str, device: str = "cpu") -> Iterator[None]:
        began = time.perf_counter()
        yield
        wait_for(device)
        self.seconds[name] += time.perf_counter() - began

    def stages(self, images: int) -> list[Stage]:
        return [Stage(name, images / max(s, 1e-9), s / images) for name, s in self.seconds.items()]


def time_alone(images: Images, views: list[tuple[int, View]], device: str) -> list[Stage]:
    """Each stage by itself, a block of images at a time: of workers (read, decode, crop), then of the run itself."""
    with quiet():
        for n in (min(BLOCK, len(images)), len(images)):  # the first round warms up
            watch = Stopwatch()
            for start in range(0, n, BLOCK):
                indices = np.arange(start, min(start + BLOCK, n))
                draws = [Draw(view, number, 0, 0, indices) for number, view in views]
                if images.pixels is None:
                    crops = time_workers(images, indices, draws, watch)
                else:
                    block = images.pixels[start : start + BLOCK].to(device)
                    with watch("crop, flip", device):
                        crops = [crop_batch(block, draw) for draw in draws]
                if device != "cpu" and not crops[0].is_cuda:
                    with watch("move", device):
                        crops = [crop.to(device) for crop in crops]
                with watch("colour, blur", device):
                    for crop, draw in zip(crops, draws):
                        augment(crop, draw)
    return watch.stages(len(images))


def time_workers(images: Images, indices: np.ndarray, draws: list[Draw], watch: Stopwatch) -> list[torch.Tensor]:
    """The crops of each view, uint8 [m, 3, s, s], made as the workers do."""
    rows = [[draw.take(np.array([i])) for draw in draws] for i in range(len(indices))]
    with watch("read"):
        pictures = [images.open(int(i)) for i in indices]
    boxes = [boxes_in(picture, row) for picture, row in zip(pictures, rows)]
    with watch("decode"):
        pixels = [decode_for(*each) for each in zip(pictures, boxes, rows)]
    with watch("crop, flip"):
        crops = [crop_all(*each) for each in zip(pictures, pixels, boxes, rows)]
    return [torch.from_numpy(np.stack(of_view)) for of_view in zip(*crops)]


def time_together(split: Split, views: tuple[View, ...], device: str, workers: int) -> Stage:
    """All stages as in a run, timed after the first batches, which start the workers."""
    batch = min(BLOCK, len(split) // 2)
    batches = ViewBatches(split, views, batch, seed=0, device=torch.device(device), workers=workers)
    ahead = 1 + 2 * workers  # batches already in the making when the first one comes: their time cannot be seen
    steps = ahead + max(len(split) // batch, 8 * workers, 4)
    source = batches.batches(0, steps, lambda n: slice(0, n))
    for _ in range(ahead):
        next(source)
    began = time.perf_counter()
    count = sum(1 for _ in source)
    wait_for(device)
    seconds = (time.perf_counter() - began) / max(1, count * batch)
    name = f"{TOGETHER}, {workers} workers" if split.images.pixels is None else TOGETHER
    return Stage(name, 1 / max(seconds, 1e-9), seconds)
