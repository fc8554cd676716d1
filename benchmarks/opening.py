"""How long a folder takes to open, the first time and the second, each in a process of its own.

    python benchmarks/opening.py --images 1000000

Makes the images itself (JPEG, 100 px high, 2 kB each: a million need 4 GB for as long as this runs), a thousand to a
class folder. The disk is warm, since they have just been written.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from mec.runtime.machine import machine

OPEN = """
import sys, time
from mec import open_data
start = time.perf_counter()
data = open_data(sys.argv[1])
print(len(data.train), time.perf_counter() - start)
"""


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
    asked = parser.parse_args()
    print(machine("cpu"))
    with tempfile.TemporaryDirectory(dir=asked.where) as scratch:
        root, cache = Path(scratch) / "images", Path(scratch) / "cache"
        fill(root, asked.images)
        first = opened(root, cache)
        again = [opened(root, cache) for _ in range(asked.repeats)]
    print(f"{asked.images:,} images: first {first:.1f} s, listed and a sample of them checked")
    print(f"again {statistics.median(again):.1f} s ({min(again):.1f}-{max(again):.1f})")


if __name__ == "__main__":
    main()
