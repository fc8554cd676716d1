"""CIFAR-10 from a cold start to a k-NN accuracy on the test images, without labels: seconds on one GPU.

    python benchmarks/race.py CIFAR10 --epochs 100 [--goal 90] [--minutes 8] [--out runs/race-100] [--set KEY=VALUE ...]

CIFAR10 is a folder with train/CLASS/ and test/CLASS/, or the name `cifar10` with --data-root. All training images
without labels, ResNet-18 with the stem for small images. k-NN with k 10 and 20: the training images are the bank, the
last epoch's encoder, no augmentation at test time. With --minutes it stops then; called again, it goes on, so that a
race may be run in pieces. On a CPU it runs too, at a size that suits (--limit, --backbone).
"""

import argparse
import json
import os
import signal
import threading
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

import mec
from mec.errors import TrainingStopped
from mec.runtime.files import write_text
from mec.runtime.machine import machine
from mec.training import health

# Weight decay, batch and grey of long runs by ../docs/log.md; the peak rate falls as runs grow.
COMMON = ["batch_size=512", "optimizer.weight_decay=5e-4", "views.grey=0.1", "network.backbone=resnet18"]
PRESETS = {
    100: [*COMMON, "optimizer.base_lr=1.0"],
    200: [*COMMON, "optimizer.base_lr=0.8"],
    300: [*COMMON, "optimizer.base_lr=0.6"],
    500: [*COMMON, "optimizer.base_lr=0.5"],
}
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # FLOP/s of dense bf16, by the makers' sheets


def flop_of_a_step(run: Path, batch: int) -> float:
    """Of forward and backward passes of two views through the encoder; heads and objective are not counted."""
    encoder, _ = mec.load_encoder(run)
    size = json.loads((run / "settings.json").read_text())["recipe"]["views"][0]["size"]
    counter = FlopCounterMode(display=False)
    with counter:
        encoder.train()(torch.zeros(2, 3, size, size)).sum().backward()
    return counter.get_total_flops() / 2 * 2 * batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--goal", type=float, default=90.0, help="k-NN accuracy, %%")
    parser.add_argument("--minutes", type=float, default=0.0, help="stop after so many; 0: never")
    parser.add_argument("--limit", type=int, default=None, help="training images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--data-root", default=None)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--set", nargs="*", default=[], help="further changes of the recipe")
    asked = parser.parse_args()
    out = asked.out or Path("runs") / f"race-{asked.epochs}"
    preset = PRESETS[min(PRESETS, key=lambda epochs: abs(epochs - asked.epochs))]
    clock = out / "race.json"
    spent = json.loads(clock.read_text())["seconds"] if clock.exists() else 0.0
    start = time.monotonic()
    data = mec.open_data(asked.data, limit=asked.limit, root=asked.data_root)
    if asked.minutes:
        alarm = threading.Timer(60 * asked.minutes, os.kill, (os.getpid(), signal.SIGTERM))
        alarm.daemon = True
        alarm.start()
    whole = False
    try:
        mec.pretrain(
            data, out=out, epochs=asked.epochs, seed=asked.seed, device=asked.device, resume=out.exists(),
            set=[*preset, *asked.set], evaluate=True,
        )  # fmt: skip
        whole = True
    except TrainingStopped as stopped:
        print(stopped)
    finally:
        spent += time.monotonic() - start
        if out.exists():
            write_text(clock, json.dumps({"seconds": spent, "epochs": asked.epochs, "finished": whole}))
    lines = health.read_metrics(out)
    figures = [line for line in lines if "images_per_second" in line]
    images = figures[-1]["images_per_second"] if figures else float("nan")
    settings = json.loads((out / "settings.json").read_text())
    device = "cuda" if torch.cuda.is_available() and asked.device != "cpu" else "cpu"
    print(machine(device))
    print(f"{spent:.0f} s so far, {lines[-1]['step']} of {settings['steps']} steps, {images:.0f} images a second")
    for line in lines:
        if "knn" in line:
            print(f"  epoch {line['epoch']:.1f}: k-NN {line['knn']:.1f} (a part of the images)")
    if device == "cuda":
        batch = settings["recipe"]["batch_size"]
        peak = next((v for k, v in PEAK.items() if k in torch.cuda.get_device_name()), None)
        if peak:
            print(f"share of the peak: {flop_of_a_step(out, batch) * images / batch / peak:.1%}")
    if whole:
        for k in (10, 20):
            (result,) = [r for r in mec.evaluate(out, "knn", data, k=k) if r.metric == "top-1"]
            print(f"k-NN, k {k}: {result.value:.2f} %, goal {asked.goal:g}: {'reached' * (result.value >= asked.goal)}")
        print(f"linear probe: {next(r.value for r in mec.evaluate(out, 'linear', data) if r.metric == 'top-1'):.2f} %")


if __name__ == "__main__":
    main()
