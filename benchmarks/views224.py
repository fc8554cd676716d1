"""Goal for photographs: two 224-px views in a third of the CPU time of the released recipe; exits with 1 if missed.

    python benchmarks/views224.py --data FOLDER      one thread; about two minutes

FOLDER holds ImageNet-size JPEGs. The other side is the released code's pair of views as torchvision runs it on Pillow
images, an image at a time; ours is what a worker and the run's own process do together. They take turns by blocks.
"""

import argparse
import io
import random
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torchvision import transforms

from mec.data.batches import Crops
from mec.data.opening import open_data
from mec.errors import BadInput
from mec.recipes.table import RELEASED_VIEWS
from mec.runtime.machine import keep_freed, machine
from mec.views.views import Draw, augment, numbered


class Blur:
    """Pillow's, with a sigma drawn from a range (SimCLR's, as MoCo's code applies it)."""

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))


def solarized(image: Image.Image) -> Image.Image:
    return ImageOps.solarize(image)


def released(blur: float, solarize: float) -> transforms.Compose:
    """One view by the published settings: bilinear crops of 0.2 to 1, jitter 0.4 0.4 0.2 0.1."""
    return transforms.Compose([
        transforms.RandomResizedCrop(224, scale=(0.2, 1.0)),
        transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
        transforms.RandomGrayscale(p=0.2),
        transforms.RandomApply([Blur()], p=blur),
        transforms.RandomApply([transforms.Lambda(solarized)], p=solarize),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ])  # fmt: skip


PAIR = (released(1.0, 0.0), released(0.1, 0.2))


def theirs(images, indices, epoch: int) -> list[torch.Tensor]:
    made: list[list[torch.Tensor]] = [[], []]
    for index in indices:
        with Image.open(io.BytesIO(images[index])) as file:
            image = file.convert("RGB")
        for view, transform in zip(made, PAIR):
            view.append(transform(image))
    return [torch.stack(view) for view in made]


class Ours:
    def __init__(self, images):
        self.views = numbered(RELEASED_VIEWS)
        self.crops = Crops(images, self.views, seed=0)

    def __call__(self, indices, epoch: int) -> list[torch.Tensor]:
        _, crops, _, skipped = self.crops[epoch, np.asarray(indices)]
        assert not skipped
        return [augment(c, Draw(view, n, 0, epoch, indices)) for c, (n, view) in zip(crops, self.views)]


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--data", required=True, help="a folder of photographs")
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--block", type=int, default=50, help="images a turn")
arguments = parser.parse_args()
torch.set_num_threads(1)
keep_freed()  # as a run on a CPU does; both sides gain
random.seed(0)
torch.manual_seed(0)
try:
    split = open_data(arguments.data).train
except BadInput as error:
    sys.exit(f"{error}\nGive a folder of JPEGs: --data FOLDER.")
encoded = [Path(path).read_bytes() for path in split.images.paths]
ours = Ours(split.images)
sides = {"torchvision/PIL": lambda i, e: theirs(encoded, i, e), "ours": ours}
blocks = [list(range(s, min(s + arguments.block, len(split)))) for s in range(0, len(split), arguments.block)]
times: dict[str, list[float]] = {name: [] for name in sides}
for make in sides.values():
    make(blocks[0][:8], 0)
for epoch in range(arguments.rounds):
    spent = dict.fromkeys(sides, 0.0)
    for block in blocks:
        for name, make in sides.items():
            began = time.process_time()
            make(block, epoch)
            spent[name] += time.process_time() - began
    for name, seconds in spent.items():
        times[name].append(1000 * seconds / len(split))

print(", ".join(f"{k} {v}" for k, v in machine("cpu").items()), f"; {len(split)} images, {arguments.rounds} rounds")
for name, values in times.items():
    print(f"{name:16} {statistics.median(values):6.2f} ms of CPU an image ({min(values):.2f}-{max(values):.2f})")
ratios = [a / b for a, b in zip(*times.values())]
ratio = statistics.median(ratios)
print(f"ratio {ratio:.2f} ({min(ratios):.2f}-{max(ratios):.2f})  goal >= 3  {'reached' if ratio >= 3 else 'missed'}")
sys.exit(ratio < 3)
