"""How long a folder takes to open, the first time and the second, each in a process of its own; or a packed index.

    python benchmarks/opening.py --images 1000000
    python benchmarks/opening.py --packed 100000000

Makes the images itself (JPEG, 100 px high, 2 kB each: a million need 4 GB for as long as this runs), a thousand to a
class folder. The disk is warm, since they have just been written.

--packed makes an index of made-up entries, 50,000 a shard and all of them one image (100 million: 3.9 GB of disk), and
prints seconds and memory to open it, to the first batch of indices of an epoch, and to read a name.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from mec.data.shards import FORMAT, INDEX, TABLE
from mec.runtime.files import write_json
from mec.runtime.machine import machine

OPEN = """
import sys, time
from mec import open_data
start = time.perf_counter()
data = open_data(sys.argv[1])
print(len(data.train), time.perf_counter() - start)
"""


PACKED = """
import re, sys, time
import numpy as np, torch
from mec import open_data
from mec.data.batches import ViewBatches
from mec.recipes.recipe import View
most = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 2**20
imported = most()
times = [time.perf_counter()]
data = open_data(sys.argv[1]); times.append(time.perf_counter())
opened = most()
made = ViewBatches(data.train, (View(),), 256, seed=0, device=torch.device("cpu"), workers=0)
epoch, indices = made.indices(0); times.append(time.perf_counter())
name = data.train.images.name(int(indices[0])); times.append(time.perf_counter())
labels = data.train.labels
print(f"{len(data.train):,} images, {'no ' * (labels is None)}labels")
open_, batch, read = np.diff(times)
print(f"opened in {open_:.1f} s; first batch {batch:.2f} s after it; a name {read:.1f} s ({name.rpartition('/')[2]})")
print(f"memory at most: imports {imported:.2f} GiB, open {opened:.2f} GiB, at the end {most():.2f} GiB")
"""


def made_up(folder: Path, images: int, labelled: bool) -> None:
    """An index as `mec pack` writes it; the images of a shard are one and the same, a thousand times and more."""
    each, photograph = 50_000, photographs(1)[0]
    folder.mkdir()
    numbers = np.arange(images, dtype=np.int64)
    shards = []
    for i, start in enumerate(range(0, images, each)):
        name, count = f"train-{i:06}.tar", min(each, images - start)
        (folder / name).write_bytes(bytes(512) + photograph + bytes(1024))
        size = (folder / name).stat().st_size
        shards.append({"name": name, "part": "train", "images": count, "bytes": size, "sha256": f"{i:064}"})
    names = "\0".join(f"{i:09}.jpg" for i in range(images)).encode()
    label = numbers % 1000 if labelled else np.full(images, -1)
    with open(folder / TABLE, "wb") as file:
        np.savez(
            file, names=np.frombuffer(names, np.uint8), shard=(numbers // each).astype(np.int32),
            offset=np.full(images, 512), length=np.full(images, len(photograph), np.int32),
            crc=np.full(images, zlib.crc32(photograph)), label=label.astype(np.int32),
        )  # fmt: skip
    classes = [str(i) for i in range(1000)] if labelled else []
    write_json(folder / INDEX, {"format": FORMAT, "classes": classes, "shards": shards})


def packed(root: Path, images: int) -> None:
    for labelled in (False, True):
        folder = root / f"packed-{labelled}"
        made_up(folder, images, labelled)
        done = subprocess.run([sys.executable, "-c", PACKED, str(folder)], check=True, capture_output=True, text=True)
        print(done.stdout, end="", flush=True)
        shutil.rmtree(folder)


def photographs(count: int = 50) -> list[bytes]:
    rng = np.random.default_rng(0)
    found = []
    for i in range(count):
        file = io.BytesIO()
        colours = Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8))
        colours.resize((120 + i % 7, 100), Image.Resampling.BICUBIC).save(file, "JPEG", quality=70)
        found.append(file.getvalue())
    return found


def fill(root: Path, images: int) -> None:
    contents = photographs()
    for i in tqdm(range(images), desc="writing images", unit_scale=True):
        folder = root / "train" / f"n{i // 1000:05}"
        if i % 1000 == 0:
            folder.mkdir(parents=True)
        (folder / f"{i % 1000:06}.jpg").write_bytes(contents[i * 7 % len(contents)])


def opened(root: Path, cache: Path) -> float:
    """Seconds that `open_data` takes in a fresh process."""
    process = [sys.executable, "-c", OPEN, str(root)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    found = subprocess.run(process, env=environment, check=True, capture_output=True, text=True)
    return float(found.stdout.split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5, help="of the second time")
    parser.add_argument("--where", type=Path, help="a disk with room; default: the system's temporary folder")
    parser.add_argument("--packed", type=int, metavar="N", help="an index of so many images, in place of a folder")
    asked = parser.parse_args()
    print(machine("cpu"))
    if asked.packed:
        with tempfile.TemporaryDirectory(dir=asked.where) as scratch:
            packed(Path(scratch), asked.packed)
        return
    with tempfile.TemporaryDirectory(dir=asked.where) as scratch:
        root, cache = Path(scratch) / "images", Path(scratch) / "cache"
        fill(root, asked.images)
        first = opened(root, cache)
        again = [opened(root, cache) for _ in range(asked.repeats)]
    print(f"{asked.images:,} images: first {first:.1f} s, listed and a sample of them checked")
    print(f"again {statistics.median(again):.1f} s ({min(again):.1f}-{max(again):.1f})")


if __name__ == "__main__":
    main()
