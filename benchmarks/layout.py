"""Features of images laid out channels last, as evaluation lays them, against as they come; ratios in one run.

    python benchmarks/layout.py [--repeats 7]         one thread: about two minutes

Forward passes of networks at random weights in evaluation mode, in turns. The second line of each network is the
largest difference of a feature, relative to the largest feature.
"""

import argparse
from functools import partial

import torch
from reporting import in_turns

from mec.networks.backbones import build_encoder
from mec.runtime.machine import keep_freed, machine

CASES = [  # backbone, px, images
    ("resnet10-fast", 32, 256), ("resnet10-tiny", 64, 256), ("resnet18", 64, 64), ("resnet50", 224, 8),
    ("efficientnet_b0", 224, 8), ("vit_tiny_patch16_224", 224, 16),
]  # fmt: skip

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--repeats", type=int, default=7)
repeats = parser.parse_args().repeats
torch.set_num_threads(1)
keep_freed()
print(", ".join(f"{name} {value}" for name, value in machine("cpu").items()))
with torch.no_grad():
    for backbone, side, count in CASES:
        encoder = build_encoder(backbone, side).eval()
        images = torch.randn(count, 3, side, side)
        last = images.to(memory_format=torch.channels_last)
        sides = {"as they come": partial(encoder, images), "last": partial(encoder, last)}
        found = in_turns(sides, repeats, "cpu")
        one, two = found["as they come"], found["last"]
        words = ", ".join(
            f"{1000 * m / count:.2f} ({1000 * a / count:.2f}-{1000 * b / count:.2f})" for m, a, b in (one, two)
        )
        print(f"{backbone} at {side} px: {words} ms an image; as they come over last: {one[0] / two[0]:.2f}")
        before, after = encoder(images), encoder(last)
        print(f"  differ by {((before - after).abs().max() / before.abs().max()).item():.1e}", flush=True)
