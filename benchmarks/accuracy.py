"""Does the fused data path harm accuracy? k-NN on CIFAR-10 with views by torchvision, a sample at a time, and by ours.

    python benchmarks/accuracy.py CIFAR10 [--epochs 4] [--seeds 3]     two cores: about 3 minutes a run, two runs a seed

CIFAR10 is a folder with train/CLASS/ and test/CLASS/. 10,000 images, mec-joint, resnet10-fast, batch 128;
everything but the views is the same. May be stopped: a run that was begun goes on, and finished ones are not repeated.
Exits with 1 where ours is worse by more than twice the standard error of the difference.
"""

import argparse
import json
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torchvision.transforms import InterpolationMode, v2

import mec
from mec.data.opening import open_data
from mec.evaluation.features import extract
from mec.evaluation.probing.knn import knn
from mec.networks.backbones import build_encoder
from mec.networks.encoder_file import load_encoder
from mec.recipes.recipe import Network, Optimizer
from mec.recipes.table import AUTO, CIFAR_VIEW
from mec.runtime.machine import keep_freed

BATCH = 128
RECIPE = replace(
    AUTO,
    network=Network("resnet10-fast", projector=(2048, 512)),
    optimizer=Optimizer(base_lr=1.0, warmup_epochs=1),
    batch_size=BATCH,
    precision="fp32",
)


class PerSample:
    """Batches of two views by torchvision's transforms on each image, from its own random numbers."""

    def __init__(self, pixels: torch.Tensor, seed: int):
        self.pixels, self.seed, self.epoch = pixels, seed, 0
        view = CIFAR_VIEW
        jitter = v2.ColorJitter(view.brightness, view.contrast, view.saturation, view.hue)
        self.transform = v2.Compose([
            v2.ToDtype(torch.float32, scale=True),
            v2.RandomResizedCrop(view.size, view.scale, view.ratio, InterpolationMode.BILINEAR, antialias=True),
            v2.RandomHorizontalFlip(view.flip),
            v2.RandomApply([jitter], view.jitter),
            v2.RandomGrayscale(view.grey),
            v2.Normalize(list(view.mean), list(view.std)),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.pixels) // BATCH

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self):
        torch.manual_seed(1000 * self.seed + self.epoch)
        order = torch.randperm(len(self.pixels))
        for step in range(len(self)):
            with torch.random.fork_rng():  # the loop seeds the same generator for each step
                torch.manual_seed(hash((self.seed, self.epoch, step)) % 2**63)
                images = self.pixels[order[step * BATCH : (step + 1) * BATCH]]
                yield [torch.stack([self.transform(image) for image in images]) for _ in range(2)]


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (CIFAR_VIEW.mean, CIFAR_VIEW.std))
    return (pixels.float() / 255 - mean) / std


def accuracy(data, path: str, seed: int, epochs: int, out: Path) -> float:
    """k-NN (%) on the test images after a run with this data path."""
    torch.manual_seed(seed)
    encoder = build_encoder("resnet10-fast", 32)
    given = data if path == "ours" else PerSample(data.train.images.pixels, seed)
    mec.pretrain(
        given, recipe=RECIPE, encoder=encoder, out=out, epochs=epochs, seed=seed,
        device="cpu", evaluate=False, resume=out.exists(), save_minutes=1,
    )  # fmt: skip
    encoder, _ = load_encoder(out, build_encoder("resnet10-fast", 32))
    train, test = (extract(encoder, split, normalised) for split in (data.train, data.test))
    return knn(train, test)[0].value


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/accuracy"))
    arguments = parser.parse_args()
    keep_freed()
    data = open_data(arguments.data, limit=10_000)
    arguments.out.mkdir(parents=True, exist_ok=True)
    log = arguments.out / "results.jsonl"
    found = {(r["path"], r["seed"]): r["knn"] for r in map(json.loads, log.open())} if log.exists() else {}
    for seed in range(arguments.seeds):
        for path in ("torchvision", "ours"):
            if (path, seed) not in found:
                run = arguments.out / f"{path}-{seed}"
                found[path, seed] = accuracy(data, path, seed, arguments.epochs, run)
                with log.open("a") as file:
                    file.write(json.dumps({"path": path, "seed": seed, "knn": found[path, seed]}) + "\n")
            print(f"seed {seed}, {path}: k-NN {found[path, seed]:.1f} %", flush=True)
    differences = [found["ours", s] - found["torchvision", s] for s in range(arguments.seeds)]
    for path in ("torchvision", "ours"):
        values = [found[path, s] for s in range(arguments.seeds)]
        print(f"{path:12} {statistics.mean(values):.2f} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.2f}")
    error = np.std(differences, ddof=1) / len(differences) ** 0.5 if len(differences) > 1 else np.inf
    difference = statistics.mean(differences)
    print(f"ours minus torchvision {difference:+.2f}, standard error {error:.2f}")
    return int(difference < -2 * error)


if __name__ == "__main__":
    sys.exit(main())
