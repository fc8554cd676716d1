"""From what was asked to what will be trained: recipe, method and single values, checked."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mec.data.dataset import Data
from mec.errors import BadInput
from mec.objectives.methods import method_named
from mec.objectives.table import build, objective_of, setting_types
from mec.recipes import schedules
from mec.recipes.fields import fitted
from mec.recipes.recipe import Linear, Recipe, changed
from mec.recipes.table import recipe_named
from mec.runtime.machine import this_machine
from mec.training.auto import auto
from mec.training.options import Options
from mec.training.start import Start, starting

T = TypeVar("T")

# What belongs to a recipe's method, and not to its images and machine: it goes when another method takes its place.
OF_A_METHOD = (
    "projector_hidden", "projector_output", "prototypes", "predictor_bias", "views_together",
    "predictor_lr_constant", "clip", "freeze_prototypes_epochs",
)  # fmt: skip


def planned(
    name: str, images: Data | None, options: Options, device: str, start: Start | None = None
) -> tuple[Recipe, list[str]]:
    """The recipe of a new run as it was asked for, and why it is as it is where that was chosen."""
    recipe, why = options.recipe, list[str]()
    if not isinstance(recipe, Recipe):
        if name == "auto" and images is not None:
            recipe, why = auto(images, this_machine(device), options.time_budget or options.minutes)
            why += changed_as_asked(options)
        else:
            recipe = recipe_named(name)
    if start is not None:
        recipe = starting(recipe, start)
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


def changed_as_asked(options: Options) -> list[str]:
    """A line about what was changed of an automatic choice; none if nothing."""
    others = ("recipe", "limit", "seed", "data_root", "labels")  # of what was asked for, these change no recipe
    given = {k: v for k, v in options.asked.items() if k not in others and v not in (None, [])}
    words = [f"--{k.replace('_', '-')} {' '.join(v) if isinstance(v, list) else v}" for k, v in given.items()]
    return [f"changed as asked: {', '.join(words)}"] if words else []


def with_method(recipe: Recipe, name: str) -> Recipe:
    """The recipe trained by another method: its objective, settings, heads and target; the rest stays."""
    method = method_named(name)
    if name == recipe.method:
        return recipe
    network, optimizer = plain(recipe.network, OF_A_METHOD), plain(recipe.optimizer, OF_A_METHOD)
    predictor = predictor_widths(method.predictor, network.projector)
    network = replace(network, predictor=predictor, target=method.target, **method.network)
    return replace(recipe, method=name, settings={}, network=network, optimizer=optimizer)


def plain(part: T, names: Sequence[str]) -> T:
    """A part of a recipe with these fields, as far as it has them, at their defaults."""
    kind: Any = type(part)
    return replace(part, **{f.name: f.default for f in fields(kind) if f.name in names})  # type: ignore[type-var]


def predictor_widths(kind: str | None, projector: tuple[int, ...]) -> tuple[int, ...]:
    """Of a predictor that suits this projector: a bottleneck of a quarter, or the projector's own widths at its end."""
    if kind is None or not projector:
        return ()
    return (max(64, projector[-1] // 4), projector[-1]) if kind == "narrow" else (max(projector), projector[-1])


def build_objective(recipe: Recipe, embedding: int) -> tuple[Callable[..., Tensor], dict[str, Any]]:
    """The objective of the recipe's method for embeddings of this size, and the settings of its calls, checked.

    `scale` among them is for the loop: it multiplies the loss.
    """
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
