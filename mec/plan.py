"""From what was asked to what will be trained: recipe, method and single values, checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mec import schedules
from mec.auto import auto, this_machine
from mec.data import Data
from mec.errors import BadInput
from mec.objectives import OBJECTIVES, method_named, setting_names
from mec.recipe import Recipe, changed
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
    """The recipe trained by another method: its objective, settings, predictor and target; the rest stays."""
    method = method_named(name)
    if name == recipe.method:
        return recipe
    network = recipe.network
    embedding = network.projector[-1] if network.projector else 0
    predictor = network.predictor or (max(64, embedding // 4), embedding)
    network = replace(network, predictor=predictor if method.predictor else (), target=method.target)
    return replace(recipe, method=name, settings={}, network=network)


def build_objective(recipe: Recipe) -> tuple[Callable[..., Tensor], dict[str, Any]]:
    """The objective of the recipe's method and its settings, checked against those that it takes."""
    method = method_named(recipe.method)
    objective = OBJECTIVES[method.objective]
    settings = {**method.settings, **recipe.settings}
    known = setting_names(objective)
    for name in settings:
        if name not in known:
            raise BadInput(f"method {recipe.method} has no setting {name!r}. It takes: {', '.join(sorted(known))}.")
    # A small trial: a value that does not fit is told now, not after the images were read.
    trial = torch.eye(4).repeat(2, 1, 1)
    now = {name: schedules.setting(value, 0.0) for name, value in settings.items()}
    objective(trial, None if recipe.network.target is None else trial, **now)
    return objective, settings
