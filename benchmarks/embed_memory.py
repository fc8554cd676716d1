"""The most memory that `mec embed` takes, over the number of images: a process each, tars of 8 px images, 256 features.

python benchmarks/embed_memory.py --images 10000,100000
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mec.data.shards import ShardWriter, write_index
from mec.networks.backbones import build_encoder
from mec.networks.encoder_file import EncoderInfo, save_encoder

CHILD = """
import resource, sys, torch
torch.set_num_threads(1)
import mec
mec.embed(sys.argv[1], sys.argv[2], out=sys.argv[3], device="cpu")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""  # in KiB on Linux


def write_tars(folder: Path, count: int) -> Path:
    """So many images of 8 px, 64 different ones, in tars with an index."""
    folder.mkdir()
    encoded = []
    for seed in range(64):
        file = io.BytesIO()
        pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file, "PNG")
        encoded.append(file.getvalue())
    writer = ShardWriter(folder, "train", 1 << 28)
    for i in range(count):
        writer.add(encoded[i % 64], ".png", f"a/folder/image-{i:07}.png", -1)
    writer.close()
    write_index(folder, [writer], (), {})
    return folder


def write_run(folder: Path) -> Path:
    folder.mkdir()
    torch.manual_seed(0)
    info = EncoderInfo("resnet10-tiny", 256, 8, True, "bicubic", (0.5,) * 3, (0.25,) * 3)
    save_encoder(folder / "encoder.safetensors", build_encoder("resnet10-tiny", 8), info)
    return folder


def peak(folder: Path, count: int, suffix: str = ".npy") -> int:
    """Bytes at most in memory while so many images are embedded, in a process of its own."""
    run = folder / "run" if (folder / "run").exists() else write_run(folder / "run")
    out = folder / f"{count}{suffix}"
    command = [sys.executable, "-c", CHILD, run, write_tars(folder / str(count), count), out]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", default="10000,100000", help="numbers with commas between")
    parser.add_argument("--suffix", default=".npy", help=".npy, .npz, .parquet or .csv")
    arguments = parser.parse_args()
    for count in map(int, arguments.images.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            start = time.monotonic()
            most = peak(Path(folder), count, arguments.suffix)
            print(f"{count:,} images: {most / 1e6:,.0f} MB at most, {time.monotonic() - start:,.0f} s", flush=True)
