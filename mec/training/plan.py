"""From what was asked to what will be trained: recipe, method and single values, checked; and the `auto` recipe, from
the images and the machine to settings that train, with the reasons in words."""

import json
import math
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from mec.data.dataset import Data
from mec.errors import BadInput
from mec.networks.backbones import SMALL_STEM_BELOW, patch_of
from mec.objectives.methods import method_named
from mec.objectives.table import build, objective_of, setting_types
from mec.recipes import schedules
from mec.recipes.fields import fitted
from mec.recipes.recipe import IMAGENET_MEAN, IMAGENET_STD, Linear, Recipe, changed
from mec.recipes.table import AUTO, SMALL_VIT, recipe_named
from mec.runtime.machine import Machine, this_machine
from mec.training.options import Options
from mec.training.start import Start

# What belongs to a recipe's method, and not to its images and machine: it goes when another method takes its place.
OF_A_METHOD = (
    "projector_hidden", "projector_output", "prototypes", "predictor_bias", "views_together",
    "predictor_lr_constant", "clip", "freeze_prototypes_epochs",
)  # fmt: skip
SHORT = 30.0  # minutes; of a time budget up to it, smaller views buy steps that are worth more than their detail


def planned(
    name: str, images: Data | None, options: Options, device: str, start: Start | None = None
) -> tuple[Recipe, list[str]]:
    """The recipe of a new run as it was asked for, and why it is as it is where that was chosen."""
    recipe, why = options.recipe, list[str]()
    if not isinstance(recipe, Recipe):
        if name == "auto" and images is not None:
            backbone = start.info.backbone if start else options.backbone
            recipe, why = auto(images, this_machine(device), options.time_budget or options.minutes, backbone)
            others = ("recipe", "limit", "seed", "data_root", "labels")  # of what was asked for, these change no recipe
            given = {k: v for k, v in options.asked.items() if k not in others and v not in (None, [])}
            words = [f"--{k.replace('_', '-')} {' '.join(v) if isinstance(v, list) else v}" for k, v in given.items()]
            why += [f"changed as asked: {', '.join(words)}"] if words else []
        else:
            recipe = recipe_named(name)
    if start is not None:  # its backbone, which sees images normalised as it is used to
        views = tuple(replace(view, mean=start.info.mean, std=start.info.std) for view in recipe.views)
        recipe = replace(recipe, views=views, network=replace(recipe.network, backbone=start.info.backbone))
        if options.backbone not in (None, start.info.backbone):
            raise BadInput(f"--backbone is {options.backbone}, but --init {options.init} is {start.info.backbone}.")
    return adapted(recipe, options), why


def adapted(recipe: Recipe, options: Options) -> Recipe:
    """The recipe with what was asked for in its place: the method first, then single flags, then --set."""
    if options.method is not None:
        recipe = with_method(recipe, options.method)
    if options.batch_size is not None and recipe.micro_batch_size is not None:
        recipe = replace(recipe, micro_batch_size=max(1, min(recipe.micro_batch_size, options.batch_size)))
    flags = [f"{key}={json.dumps(value)}" for key, value in options.changes.items()]
    return changed(recipe, [*flags, *options.set])


def with_method(recipe: Recipe, name: str) -> Recipe:
    """The recipe trained by another method: its objective, settings, heads and target; the rest stays."""
    method = method_named(name)
    if name == recipe.method:
        return recipe
    parts: list[Any] = [recipe.network, recipe.optimizer]
    network, optimizer = (  # what belongs to the method before goes
        replace(part, **{f.name: f.default for f in fields(part) if f.name in OF_A_METHOD}) for part in parts
    )
    projector, predictor = network.projector, tuple[int, ...]()
    if method.predictor is not None and projector:  # a bottleneck of a quarter, or the projector's widths at its end
        first = max(64, projector[-1] // 4) if method.predictor == "narrow" else max(projector)
        predictor = first, projector[-1]
    network = replace(network, predictor=predictor, target=method.target, **method.network)
    return replace(recipe, method=name, settings={}, network=network, optimizer=optimizer)


def build_objective(recipe: Recipe, embedding: int) -> tuple[Callable[..., Tensor], dict[str, Any]]:
    """The objective of the recipe's method for embeddings of this size, and the settings of its calls, checked.
    `scale` among them is for the loop: it multiplies the loss."""
    method = method_named(recipe.method)
    settings = {"scale": 1.0, **method.settings, **recipe.settings}
    scale = settings.pop("scale")
    known = setting_types(objective_of(method.objective))
    for name, value in settings.items():
        if name not in known:
            takes = ", ".join(sorted([*known, "scale"]))
            raise BadInput(f"method {recipe.method} has no setting {name!r}. It takes: {takes}.")
        for each in (value.start, value.end) if isinstance(value, Linear) else (value,):
            fitted(each, known[name], f"settings.{name}")
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not scale > 0:
        raise BadInput(f"settings.scale is {scale!r}: a number above 0, by which the loss is multiplied.")
    # A small trial: a value that does not fit is told now, not after the images were read.
    with torch.random.fork_rng(devices=[]):
        trial, call = build(method.objective, 4, settings)
        memory = isinstance(trial, nn.Module)
        rows = torch.randn(2, recipe.batch_size, 4) if memory else torch.eye(4).repeat(2, 2, 1)
        labels = torch.zeros(rows.shape[1], dtype=torch.long) if method.labels else None
        for epoch in (0.0, math.inf):  # as settings are at first and at last
            now = {name: schedules.setting(value, epoch) for name, value in call.items()}
            trial(rows, None if recipe.network.target is None else rows, labels=labels, **now)
    objective, call = build(method.objective, embedding, settings)
    return objective, {**call, "scale": float(scale)}


def auto(
    data: Data, machine: Machine, minutes: float | None = None, asked: str | None = None
) -> tuple[Recipe, list[str]]:
    """A recipe for these images on this machine, and a line of reason for each choice.
    minutes: the time budget, where there is one; without, a run is short on a CPU.
    asked: the backbone that will take the place of the chosen one; views fit its patches, a transformer has AdamW."""
    n, short = len(data.train), min(data.typical_size)
    gpu = machine.accelerator == "cuda"
    why = []

    hurried = not gpu and (minutes is None or minutes <= SHORT)
    if short <= 40 or (data.suits == "recordings" and not gpu):
        size = 16 if short <= 20 else 24 if hurried and 24 < short <= 40 else 32
    elif gpu:
        size = 64 if short <= 80 else 96 if short <= 120 else 160 if short <= 200 else 224
    else:
        size = 64
    patch = patch_of(asked or "")
    if patch and size >= SMALL_STEM_BELOW:  # below, patches have 4 px
        size = max(1, round(size / patch)) * patch
    why.append(
        f"image size {size} px: the images are typically {data.typical_size[1]} x {data.typical_size[0]}"
        + ("" if gpu or size < 64 else ", and larger views would take a CPU too long")
        + (", and smaller views buy steps in so short a run" if size == 24 else "")
        + (f"; patches of {patch} px divide it" if patch and size >= SMALL_STEM_BELOW else "")
    )

    if gpu:
        backbone = "resnet18" if size <= 64 or n < 50_000 else "resnet50"
    else:
        backbone = "resnet10-fast" if size < SMALL_STEM_BELOW else "resnet10-tiny"
    where = "a GPU" if gpu else f"{machine.cores} CPU cores"
    why.append(f"backbone {backbone}: {n:,} images on {where}")

    batch = 256 if gpu else 128  # the few steps that there is time for count more than the size of a batch
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

    view = AUTO.views[0]
    if data.suits in ("recordings", "arrays"):
        view = replace(view, flip=0.0, scale=(0.4, 1.0), saturation=0.0, hue=0.0, grey=0.0, noise=0.05, erase=0.5)
        what = {
            "recordings": "recordings seen as log-mel spectrograms of 64 x 64",
            "arrays": "arrays seen as grey images",
        }
        why.append(f"{what[data.suits]}: neither mirrored nor coloured; louder, softer, noisy, with a part left out")
    view = replace(view, size=size, mean=IMAGENET_MEAN, std=IMAGENET_STD, copies=2, interpolation="bilinear")
    if size >= 64 and data.suits == "images":  # photographs
        sigma = (0.1, 2.0 * size / 224)
        view = replace(view, interpolation="bicubic", saturation=0.2, blur=0.5, blur_sigma=sigma)
        if hurried:  # 10 points of a linear probe on clothing, docs/log.md
            view = replace(view, scale=(0.5, 1.0))
            why.append("crops of half an image or more: in so short a run smaller ones teach less than they cost")
    # 1.5 at batch 128: two points of k-NN above 0.5 in short runs on CIFAR-10; Muon as many again, docs/log.md.
    optimizer = AUTO.optimizer if gpu else replace(AUTO.optimizer, base_lr=3.0, name="muon")
    why += ["kernels turn by orthogonal steps (Muon): more in as many steps"] * (not gpu and not patch)
    recipe = replace(
        AUTO, views=(view,), network=replace(AUTO.network, backbone=backbone), batch_size=batch, epochs=epochs,
        micro_batch_size=micro if micro < batch else None, optimizer=SMALL_VIT.optimizer if patch else optimizer,
    )  # fmt: skip
    why += ["AdamW with clipping: transformers train badly by SGD"] if patch else []
    settings = {**method_named(recipe.method).settings, **recipe.settings}
    why.append(f"method {recipe.method}, distortion {settings['distortion']}: it never diverged in our trials")
    if data.train.images.pixels is not None:
        why.append("images are kept in memory")
    return recipe, why
