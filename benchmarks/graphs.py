"""What CUDA graphs save: whole training steps on small images, views made, launch after launch and by graphs.

    python benchmarks/graphs.py [--batch-size 256] [--methods mec-joint,mec]      a GPU: under a minute

ResNet-18 with the stem for small images, two views of 32 px of images kept on the GPU, bf16: the loop's own code. The
two sides take turns in rounds of so many steps.
"""

import argparse
import statistics
import sys
import time

import torch

from mec.data.opening import open_data
from mec.recipes.table import AUTO
from mec.runtime.device import start_fabric, wait_for
from mec.runtime.distributed import ALONE
from mec.runtime.machine import machine
from mec.training.options import Options
from mec.training.plan import adapted
from mec.training.pretrain import make_trainer

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--methods", default="mec-joint,mec", metavar="NAMES", help="with commas (default: %(default)s)")
parser.add_argument("--batch-size", type=int, default=256, help="images a step (default: %(default)s)")
parser.add_argument("--steps", type=int, default=40, help="a round (default: %(default)s)")
parser.add_argument("--repeats", type=int, default=5, help="rounds of each side (default: %(default)s)")
parser.add_argument("--backbone", default="resnet18", help="(default: %(default)s)")
options = parser.parse_args()
if not torch.cuda.is_available():
    sys.exit("CUDA graphs need a GPU: torch sees no CUDA device here.")

fabric = start_fabric("cuda")
images = open_data("digits")  # their pixels do not matter to a clock
print(", ".join(f"{k} {v}" for k, v in machine("cuda").items()))


def sides(method):
    for name, graphs in (("launches", False), ("graphs", True)):
        asked = Options(
            method=method, batch_size=options.batch_size, backbone=options.backbone, set=["views.size=32"]
        )  # fmt: skip
        trainer, _ = make_trainer("digits", images, adapted(AUTO, asked), "auto", asked, fabric, ALONE)
        trainer.graphs = graphs
        yield name, trainer


def seconds_a_step(trainer, steps):
    wait_for(fabric.device.type)
    began = time.perf_counter()
    for step, batch in enumerate(trainer.batches.batches(0, steps, ALONE.share)):
        trainer.loss_and_gradient(batch, step, trainer.at(step, 1000)["settings"])
        trainer.optimizer.step()
        trainer.optimizer.zero_grad(set_to_none=True)
        trainer.network.update_target(0.99)
    wait_for(fabric.device.type)
    return (time.perf_counter() - began) / steps


for method in options.methods.split(","):
    trainers = dict(sides(method))
    seconds = {name: [] for name in trainers}
    for round_ in range(options.repeats + 1):
        for name, trainer in trainers.items():
            trainer.set_lr(0.0)
            found = seconds_a_step(trainer, options.steps)
            if round_:  # the first warms up
                seconds[name].append(found)
    assert trainers["graphs"].graphs, "the network could not be captured"
    for name, values in seconds.items():
        median, pace = statistics.median(values), options.batch_size / statistics.median(values)
        print(f"{method}, {name:9} {1e3 * median:6.2f} ms a step ({1e3 * min(values):.2f}-{1e3 * max(values):.2f}), "
              f"{pace:,.0f} images a second")  # fmt: skip
    ratios = [a / b for a, b in zip(seconds["launches"], seconds["graphs"])]
    print(f"{method}: graphs are {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f}-{max(ratios):.2f}), "
          f"n {len(ratios)}")  # fmt: skip
