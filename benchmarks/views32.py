"""Goal for small images: two 32-px views in a tenth of the CPU time of torchvision on Pillow; exits with 1 if missed.

    python benchmarks/views32.py      one thread; half a minute

The usual CIFAR views without blur (crops of 0.2 to 1, flip, jitter 0.4 0.4 0.4 0.1, grey), of 2,048 images in memory: a
sample at a time by torchvision, in batches of 256 by ours.
"""

import argparse
import statistics
import sys
import time
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision import transforms

from mec.recipes.table import CIFAR_VIEW
from mec.runtime.machine import keep_freed, machine
from mec.views.views import Draw, augment, crop_batch, numbered

VIEWS = (replace(CIFAR_VIEW, copies=2),)
PER_SAMPLE = transforms.Compose([
    transforms.RandomResizedCrop(32, scale=(0.2, 1.0)),
    transforms.RandomHorizontalFlip(),
    transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
    transforms.RandomGrayscale(p=0.2),
    transforms.ToTensor(),
    transforms.Normalize(CIFAR_VIEW.mean, CIFAR_VIEW.std),
])  # fmt: skip


def pieces(count: int) -> torch.Tensor:
    """uint8 [count, 3, 32, 32] of real photographs."""
    whole = torch.stack([torch.from_numpy(p.copy()).permute(2, 0, 1) for p in load_sample_images().images])
    places = np.random.default_rng(0).integers(0, [2, 427 - 32, 640 - 32], (count, 3))
    return torch.stack([whole[i, :, y : y + 32, x : x + 32] for i, y, x in places])


def theirs(pixels: np.ndarray, epoch: int) -> None:
    for start in range(0, len(pixels), 256):
        batch = pixels[start : start + 256]
        for _ in range(2):
            torch.stack([PER_SAMPLE(Image.fromarray(image)) for image in batch])


def ours(pixels: torch.Tensor, epoch: int) -> None:
    for indices in np.array_split(np.random.default_rng(epoch).permutation(len(pixels)), len(pixels) // 256):
        batch = pixels[torch.from_numpy(indices)]
        for number, view in numbered(VIEWS):
            draw = Draw(view, number, 0, epoch, indices)
            augment(crop_batch(batch, draw), draw)


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--rounds", type=int, default=7)
parser.add_argument("--images", type=int, default=2048)
arguments = parser.parse_args()
torch.set_num_threads(1)
keep_freed()  # as a run on a CPU does; both sides gain
stored = pieces(arguments.images)
channels_last = stored.permute(0, 2, 3, 1).numpy().copy()
sides = {"torchvision/PIL": lambda e: theirs(channels_last, e), "ours": lambda e: ours(stored, e)}
times: dict[str, list[float]] = {name: [] for name in sides}
for epoch in range(arguments.rounds + 1):
    for name, make in sides.items():
        began = time.process_time()
        make(epoch)
        if epoch:  # the first round warms up
            times[name].append(1e6 * (time.process_time() - began) / len(stored))

print(", ".join(f"{k} {v}" for k, v in machine("cpu").items()), f"; {len(stored)} images, {arguments.rounds} rounds")
for name, values in times.items():
    print(f"{name:16} {statistics.median(values):6.1f} us of CPU an image ({min(values):.1f}-{max(values):.1f})")
ratios = [a / b for a, b in zip(*times.values())]
ratio = statistics.median(ratios)
print(f"ratio {ratio:.1f} ({min(ratios):.1f}-{max(ratios):.1f})  goal >= 10  {'reached' if ratio >= 10 else 'missed'}")
sys.exit(ratio < 10)
