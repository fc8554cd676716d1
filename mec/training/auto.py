"""The `auto` recipe: from the images and the machine to settings that train, with the reasons in words."""

from __future__ import annotations

from dataclasses import replace

from mec.data.dataset import Data
from mec.networks.backbones import SMALL_STEM_BELOW
from mec.objectives.methods import method_named
from mec.recipes.recipe import IMAGENET_MEAN, IMAGENET_STD, Recipe
from mec.recipes.table import AUTO
from mec.runtime.machine import Machine

SHORT = 30.0  # minutes; of a time budget up to it, smaller views buy steps that are worth more than their detail


def auto(data: Data, machine: Machine, minutes: float | None = None) -> tuple[Recipe, list[str]]:
    """A recipe for these images on this machine, and a line of reason for each choice.

    minutes: the time budget, where there is one; without, a run is short on a CPU.
    """
    n, short = len(data.train), min(data.typical_size)
    gpu = machine.accelerator == "cuda"
    slow = not gpu and not machine.bf16  # a step of a CPU without bf16 units takes five times as long, docs/log.md
    why = []

    hurried = slow and (minutes is None or minutes <= SHORT)
    if short <= 40:
        size = 16 if short <= 20 else 24 if hurried and short > 24 else 32
    elif gpu:
        size = 64 if short <= 80 else 96 if short <= 120 else 160 if short <= 200 else 224
    else:
        size = 64
    why.append(
        f"image size {size} px: the images are typically {data.typical_size[1]} x {data.typical_size[0]}"
        + ("" if gpu or size < 64 else ", and larger views would take a CPU too long")
        + (", and smaller views buy steps in so short a run" if size == 24 else "")
    )

    if gpu:
        backbone = "resnet18" if size <= 64 or n < 50_000 else "resnet50"
    else:
        backbone = "resnet10-fast" if slow and size < SMALL_STEM_BELOW else "resnet10-tiny"
    where = "a GPU" if gpu else f"{machine.cores} CPU cores" + (" without bf16 units" if slow else "")
    why.append(f"backbone {backbone}: {n:,} images on {where}")

    batch = 128 if slow else 256  # the few steps that there is time for count more than the size of a batch
    while batch > 16 and n < 4 * batch:
        batch //= 2
    batch = min(batch, max(2, n))
    pixels = batch * 2 * size * size
    # Bytes a pixel that a forward pass keeps for the backward one, in bf16, by the usual stem; rough, from the widths.
    kept = {"resnet10-fast": 45, "resnet10-tiny": 130, "resnet18": 500, "resnet50": 1800}[backbone]
    kept *= (16 if size < SMALL_STEM_BELOW else 1) * (1 if gpu else 2)  # a small stem keeps maps of 16 times the area
    micro = batch
    while micro > 8 and pixels * micro / batch * kept / 2**30 > 0.6 * machine.memory_gib:
        micro //= 2
    why.append(
        f"batch {batch}: "
        + ("few images, many batches" if n < 8 * batch else "enough different images to spread out")
        + (f", in forward passes of {micro} rows to fit {machine.memory_gib:.0f} GiB" if micro < batch else "")
    )

    goal = 4_000_000 if gpu else 200_000 if size < 64 else 60_000  # images seen
    epochs = int(min(800, max(10 if gpu else 5, goal / n)))
    why.append(f"{epochs} epochs: {epochs * n:,} images seen; --epochs or --time-budget changes it")

    photographs = size >= 64
    view = replace(AUTO.views[0], size=size, mean=IMAGENET_MEAN, std=IMAGENET_STD, copies=2, interpolation="bilinear")
    if photographs:
        sigma = (0.1, 2.0 * size / 224)
        view = replace(view, interpolation="bicubic", saturation=0.2, blur=0.5, blur_sigma=sigma)
    recipe = replace(
        AUTO,
        views=(view,),
        network=replace(AUTO.network, backbone=backbone),
        # 1.5 at batch 128: two points of k-NN above 0.5 in short runs on CIFAR-10, docs/log.md. Not tried elsewhere.
        optimizer=replace(AUTO.optimizer, base_lr=3.0 if slow else AUTO.optimizer.base_lr),
        batch_size=batch,
        micro_batch_size=micro if micro < batch else None,
        epochs=epochs,
    )
    settings = {**method_named(recipe.method).settings, **recipe.settings}
    why.append(f"method {recipe.method}, distortion {settings['distortion']}: it never diverged in our trials")
    if data.train.images.pixels is not None:
        why.append("images are kept in memory")
    return recipe, why
