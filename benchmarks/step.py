"""Goal for a step of training on a CPU: `mec-joint` against lightly's BYOL and SimCLR steps; exits with 1 if missed.

    python benchmarks/step.py [--variants]      two cores: about two minutes

ResNet-18 with the stem for small images, the same batch of two 32-px views. A step is forward, loss, backward,
optimizer, and the target network where there is one. lightly's modules and loss in a loop as its examples write it;
ours is the loop's own code. Each side has a process of its own, set up as its users would have it, and they take
turns by steps.
--variants also times ours without each of the things that are meant to make it faster.
"""

import argparse
import copy
import multiprocessing
import statistics
import sys
import time

import torch
from torch import nn

GOALS = {"lightly BYOL": 1.4, "lightly SimCLR": 1.1}
VARIANTS = ("ours, channels first", "ours, memory given back")


def views(batch: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, 3, 32, 32, generator=generator) for _ in range(2)]


def backbone() -> nn.Module:
    from mec.networks.backbones import build_encoder

    return build_encoder("resnet18", 32)


def lightly_simclr(batch: int):
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead

    encoder, head, criterion = backbone(), SimCLRProjectionHead(512, 512, 128), NTXentLoss()
    optimizer = torch.optim.SGD([*encoder.parameters(), *head.parameters()], lr=0.06)
    x0, x1 = views(batch)

    def step():
        loss = criterion(head(encoder(x0)), head(encoder(x1)))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def lightly_byol(batch: int):
    from lightly.loss import NegativeCosineSimilarity
    from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
    from lightly.models.utils import deactivate_requires_grad, update_momentum

    encoder, projector, predictor = backbone(), BYOLProjectionHead(512, 1024, 256), BYOLPredictionHead(256, 1024, 256)
    slow_encoder, slow_projector = copy.deepcopy(encoder), copy.deepcopy(projector)
    deactivate_requires_grad(slow_encoder)
    deactivate_requires_grad(slow_projector)
    criterion = NegativeCosineSimilarity()
    parameters = [p for module in (encoder, projector, predictor) for p in module.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.06)
    x0, x1 = views(batch)

    def step():
        update_momentum(encoder, slow_encoder, m=0.996)
        update_momentum(projector, slow_projector, m=0.996)
        p0, p1 = (predictor(projector(encoder(x))) for x in (x0, x1))
        z0, z1 = (slow_projector(slow_encoder(x)).detach() for x in (x0, x1))
        loss = 0.5 * (criterion(p0, z1) + criterion(p1, z0))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def ours(batch: int, variant: str = ""):
    from dataclasses import replace

    from mec.data.batches import Batch
    from mec.networks.siamese import build_siamese
    from mec.recipes.table import AUTO
    from mec.runtime.device import start_fabric
    from mec.runtime.distributed import current
    from mec.runtime.machine import keep_freed
    from mec.training.optimizers import build_optimizer
    from mec.training.plan import build_objective
    from mec.training.trainer import Trainer

    if variant != "ours, memory given back":
        keep_freed()
    recipe = replace(AUTO, batch_size=batch, precision="fp32")
    network = build_siamese(recipe.network, backbone(), 512)
    objective, settings = build_objective(recipe, network.embedding)
    optimizer = build_optimizer(recipe.optimizer, list(network.parameters()))
    trainer = Trainer(start_fabric("cpu"), current(), recipe, network, objective, settings, optimizer, None, 0)
    if variant != "ours, channels first":
        network.to(memory_format=torch.channels_last)
    given = Batch(views(batch), None)

    def step():
        trainer.loss_and_gradient(given, 0, settings)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad(set_to_none=True)
        network.update_target(0.996)

    return step


def side(pipe, name: str, batch: int) -> None:
    torch.manual_seed(0)
    made = {"lightly SimCLR": lightly_simclr, "lightly BYOL": lightly_byol}
    step = made[name](batch) if name in made else ours(batch, name)
    step()
    step()
    pipe.send("ready")
    while pipe.recv():
        began = time.perf_counter()
        step()
        pipe.send(time.perf_counter() - began)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--variants", action="store_true")
    arguments = parser.parse_args()
    names = ["ours", *GOALS, *(VARIANTS if arguments.variants else ())]
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for name in names:
        pipes[name], theirs = context.Pipe()
        processes.append(context.Process(target=side, args=(theirs, name, arguments.batch), daemon=True))
        processes[-1].start()
        theirs.close()  # so that a side that ends in an error is heard of
        pipes[name].recv()
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(arguments.rounds):
        for name in names:
            pipes[name].send(True)
            times[name].append(pipes[name].recv())
    for process, pipe in zip(processes, pipes.values()):
        pipe.send(False)
        process.join()

    from mec.runtime.machine import machine

    print(", ".join(f"{k} {v}" for k, v in machine("cpu").items()), f"; batch {arguments.batch}")
    missed = False
    for name, values in times.items():
        ratios = [other / own for other, own in zip(values, times["ours"])]
        ratio, goal = statistics.median(ratios), GOALS.get(name)
        verdict = "" if goal is None else f"  goal >= {goal}  {'reached' if ratio >= goal else 'missed'}"
        low, middle, high = (1000 * f(values) for f in (min, statistics.median, max))
        print(
            f"{name:26} {middle:7.0f} ms a step ({low:.0f}-{high:.0f})  "
            f"{ratio:.2f} of ours ({min(ratios):.2f}-{max(ratios):.2f}){verdict}"
        )
        missed |= goal is not None and ratio < goal
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
