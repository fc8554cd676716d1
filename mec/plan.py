"""From what was asked to what will be trained: recipe, method and single values, checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mec import schedules
from mec.auto import auto, this_machine
from mec.data import Data
from mec.errors import BadInput
from mec.objectives import OBJECTIVES, build, method_named, setting_names
from mec.recipe import Network, Recipe, changed
from mec.recipes import recipe_named


def resolve(
    recipe: str | Recipe, images: Data | None, encoder: nn.Module | None, fabric: Any
) -> tuple[Recipe, list[str]]:
    """The recipe to start from, and why it is as it is."""
    if isinstance(recipe, Recipe):
        return recipe, []
    if recipe != "auto":
        return recipe_named(recipe), []
    if images is None:
        if encoder is None:
            raise BadInput("views that are not images need encoder=..., a module that turns them into features [m, e].")
        return recipe_named("auto"), []
    return auto(images, this_machine(fabric.device.type))


def adapted(
    recipe: Recipe,
    method: str | None,
    epochs: int | None,
    batch_size: int | None,
    backbone: str | None,
    settings: Sequence[str],
) -> Recipe:
    """The recipe with what the command line asked for in its place."""
    if method is not None:
        recipe = with_method(recipe, method)
    if backbone is not None:
        recipe = replace(recipe, network=replace(recipe.network, backbone=backbone))
    if batch_size is not None:
        micro = recipe.micro_batch_size
        recipe = replace(recipe, batch_size=batch_size, micro_batch_size=micro and min(micro, batch_size))
    if epochs is not None:
        recipe = replace(recipe, epochs=epochs)
    return changed(recipe, list(settings))


def with_method(recipe: Recipe, name: str) -> Recipe:
    """The recipe trained by another method: its objective, settings, heads and target; the rest stays."""
    method = method_named(name)
    if name == recipe.method:
        return recipe
    network = replace(recipe.network, **heads_of(recipe.method, plain=True))
    predictor = predictor_widths(method.predictor, network.projector)
    network = replace(network, predictor=predictor, target=method.target, **heads_of(name))
    return replace(recipe, method=name, settings={}, network=network)


def predictor_widths(kind: str | None, projector: tuple[int, ...]) -> tuple[int, ...]:
    """Of a predictor that suits this projector: a bottleneck of a quarter, or the projector's own widths at its end."""
    if kind is None or not projector:
        return ()
    return (max(64, projector[-1] // 4), projector[-1]) if kind == "narrow" else (max(projector), projector[-1])


def heads_of(method: str, *, plain: bool = False) -> dict[str, Any]:
    """The fields of a network that a method sets; `plain`: as they are where no method sets them."""
    fields = method_named(method).network
    return {k: getattr(Network(), k) for k in fields} if plain else dict(fields)


def build_objective(recipe: Recipe, embedding: int) -> tuple[Callable[..., Tensor], dict[str, Any]]:
    """The objective of the recipe's method for embeddings of this size, and the settings of its calls, checked.

    `scale` among them is for the loop: it multiplies the loss.
    """
    method = method_named(recipe.method)
    settings = {"scale": 1.0, **method.settings, **recipe.settings}
    scale = settings.pop("scale")
    known = setting_names(OBJECTIVES[method.objective])
    for name in settings:
        if name not in known:
            takes = ", ".join(sorted(known | {"scale"}))
            raise BadInput(f"method {recipe.method} has no setting {name!r}. It takes: {takes}.")
    if not isinstance(scale, (int, float)) or not scale > 0:
        raise BadInput(f"settings.scale is {scale!r}: a number above 0, by which the loss is multiplied.")
    # A small trial: a value that does not fit is told now, not after the images were read.
    with torch.random.fork_rng(devices=[]):
        trial, call = build(method.objective, 4, settings)
        memory = isinstance(trial, nn.Module)
        rows = torch.randn(2, recipe.batch_size, 4) if memory else torch.eye(4).repeat(2, 1, 1)
        labels = torch.zeros(rows.shape[1], dtype=torch.long) if method.labels else None
        for epoch in (0.0, math.inf):  # as settings are at first and at last
            now = {name: schedules.setting(value, epoch) for name, value in call.items()}
            trial(rows, None if recipe.network.target is None else rows, labels=labels, **now)
    objective, call = build(method.objective, embedding, settings)
    return objective, {**call, "scale": float(scale)}
