"""A run's page: its share of the run's own time, and its size at 2,000 photographs.

    python benchmarks/page.py digits                     the share: a whole run of digits, some minutes on a CPU
    python benchmarks/page.py photos/ --epochs 5         the same of other images
    python benchmarks/page.py --size photos/             the size alone: two runs of a step, on 1,000 images each

The page is to take under 10 % of a run, and under 8 MB at 2,000 images. The share counts what is done for the page
alone: reading images in small, neighbours, groups, and writing; the map that embedding.png has, too, is told apart.
Leave the machine alone while the share is measured.
"""

import argparse
import contextlib
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import mec
from mec.runtime.machine import machine
from mec.training import report
from mec.training.shown import read_shown

PARTS = {  # functions of mec.training.report, by what they do
    "shown_images": "page", "write_report": "page", "views_of": "both", "map_points": "both",
    "embedding_map": "picture", "unlabelled_picture": "picture",
}  # fmt: skip


@contextlib.contextmanager
def timed() -> Iterator[dict[str, float]]:
    """Seconds by whom the parts of a run's end are for."""
    seconds, kept = dict.fromkeys(PARTS.values(), 0.0), {name: getattr(report, name) for name in PARTS}

    def measured(name: str):
        def call(*given, **more):
            began = time.perf_counter()
            try:
                return kept[name](*given, **more)
            finally:
                seconds[PARTS[name]] += time.perf_counter() - began

        return call

    for name in PARTS:
        setattr(report, name, measured(name))
    try:
        yield seconds
    finally:
        for name, function in kept.items():
            setattr(report, name, function)


def share(data: str, epochs: int | None, out: Path) -> dict:
    began = time.perf_counter()
    with timed() as seconds:
        run = mec.pretrain(data, epochs=epochs, out=out / "run")
    whole = time.perf_counter() - began
    page = (run / "report.html").stat().st_size
    return {"seconds": whole, **seconds, "page, % of the run": 100 * seconds["page"] / whole, "page, MB": page / 1e6}


def size(data: str, out: Path) -> dict:
    """The page of two runs with 1,000 of the images each."""
    report.PICTURED = 1_000
    runs = [
        mec.pretrain(data, steps=1, batch_size=16, seed=seed, out=out / f"run-{seed}", report=False, quiet=True)
        for seed in range(2)
    ]
    shown = [read_shown(run) for run in runs]
    page = mec.report(runs, out=out / "page.html")
    images, thumbnails = sum(len(s.names) for s in shown), [len(uri) for s in shown for uri in s.thumbnails]
    return {"images": images, "bytes a thumbnail": sum(thumbnails) / images, "page, MB": page.stat().st_size / 1e6}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--size", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = size(asked.data, Path(folder)) if asked.size else share(asked.data, asked.epochs, Path(folder))
    print(json.dumps({**machine("cpu"), **found}, indent=1))
