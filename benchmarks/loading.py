"""Images per second of each stage from disk to views, alone and together, and which one limits.

    python benchmarks/loading.py photos/ [--images 256] [--workers 8] [--recipe auto]

DATA is what `mec pretrain` takes: digits, a folder, shards that `mec pack` wrote. FOLDER gets data.json.
"""

import argparse
import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from reporting import report
from rich.table import Column, Table

from mec.data.batches import ViewBatches, crop_all
from mec.data.dataset import Split
from mec.data.decoding import quiet
from mec.data.images import Images
from mec.data.opening import open_data
from mec.errors import BadInput
from mec.recipes.recipe import View
from mec.recipes.table import recipe_named
from mec.runtime.device import chosen_device, wait_for
from mec.runtime.machine import cores, machine, this_machine
from mec.training.plan import auto
from mec.views.views import Draw, augment, crop_batch, crop_boxes, least_decoding, numbered

BLOCK = 64  # images that a stage is timed on at once
TOGETHER = "together"


@dataclass(frozen=True)
class Stage:
    """The speed of one stage, with the work for all views of an image; `seconds` are per image."""

    name: str
    images_per_second: float
    seconds: float


@contextlib.contextmanager
def timed(seconds: Counter[str], name: str, device: str = "cpu") -> Iterator[None]:
    """Adds the seconds of a stage to those before."""
    began = time.perf_counter()
    yield
    wait_for(device)
    seconds[name] += time.perf_counter() - began  # type: ignore[assignment]


def time_alone(images: Images, views: list[tuple[int, View]], device: str) -> list[Stage]:
    """Each stage by itself, a block of images at a time: of workers (read, decode, crop), then of the run itself."""
    with quiet():
        for n in (min(BLOCK, len(images)), len(images)):  # the first round warms up
            seconds: Counter[str] = Counter()
            for start in range(0, n, BLOCK):
                indices = np.arange(start, min(start + BLOCK, n))
                draws = [Draw(view, number, 0, 0, indices) for number, view in views]
                if images.pixels is None:
                    crops = time_workers(images, indices, draws, seconds)
                else:
                    block = images.pixels[start : start + BLOCK].to(device)
                    with timed(seconds, "crop, flip", device):
                        crops = [crop_batch(block, draw) for draw in draws]
                if device != "cpu" and not crops[0].is_cuda:
                    with timed(seconds, "move", device):
                        crops = [crop.to(device) for crop in crops]
                with timed(seconds, "colour, blur", device):
                    for crop, draw in zip(crops, draws):
                        augment(crop, draw)
    return [Stage(name, len(images) / max(s, 1e-9), s / len(images)) for name, s in seconds.items()]


def time_workers(images: Images, indices: np.ndarray, draws: list[Draw], seconds: Counter[str]) -> list[torch.Tensor]:
    """The crops of each view, uint8 [m, 3, s, s], made as the workers do."""
    rows = [[draw.take(np.array([i])) for draw in draws] for i in range(len(indices))]
    with timed(seconds, "read"):
        pictures = [images.open(int(i)) for i in indices]
    sizes = [(np.array([picture.height]), np.array([picture.width])) for picture in pictures]
    boxes = [[crop_boxes(draw, *size)[0] for draw in row] for row, size in zip(rows, sizes)]
    with timed(seconds, "decode"):
        pixels = [
            picture.pixels(least_decoding(box, [draw.view.size for draw in row]))
            for picture, box, row in zip(pictures, boxes, rows)
        ]
    with timed(seconds, "crop, flip"):
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


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--recipe", default="auto", help="whose views to make")
    parser.add_argument("--images", type=int, default=256, help="how many to time")
    parser.add_argument(
        "--workers", type=int, help="processes that decode; none given: none, one, and one a core, each timed"
    )
    parser.add_argument("--data-root", type=Path, help="where a torchvision data set's or imagenet's files are")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    asked = parser.parse_args(words)
    device, workers = chosen_device(asked.device), asked.workers
    data = open_data(asked.data, root=asked.data_root)
    chosen = auto(data, this_machine(device))[0] if asked.recipe == "auto" else recipe_named(asked.recipe)
    views = numbered(chosen.views)
    count = min(asked.images, len(data.train))
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
    shown = Table(
        "stage",
        *[Column(name, justify="right") for name in ("images/s", "ms an image")],
        title=f"{data.name}: {count} images, {kind}; views of {sizes} px",
    )
    for stage in stages:
        shown.add_row(stage.name, f"{stage.images_per_second:,.0f}", f"{1000 * stage.seconds:.3f}")
    slowest, best = max(alone, key=lambda s: s.seconds), max(together, key=lambda s: s.images_per_second)
    verdict = (
        f"{slowest.name} limits: {slowest.seconds / sum(s.seconds for s in alone):.0%} of the work on an image. "
        f"Fastest {best.name}: {best.images_per_second:,.0f} images/s. A run whose steps could use more waits for "
        "data; its progress line shows how long (data wait)."
    )
    found = {"data": data.name, "recipe": asked.recipe, "stages": [asdict(s) for s in stages]}
    report({**machine(device), "cores": cores()}, [shown, verdict], found, asked.out / "data.json")


if __name__ == "__main__":
    main()
