"""What to change after a verdict: something else than was done, with numbers that can be typed as they are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mec.recipes.recipe import Recipe
from mec.recipes.table import AUTO, RECIPES
from mec.training.run import RunSettings

FAR = 10  # times the recipe's own rate, or a part of it: the rate is named before anything else
ENOUGH_STEPS = 500  # that are advised at least to a run that hardly trained
LOOK = "Look at the images (copies of one, or empty?) and at the views (--set views.scale='[0.3,1]' makes milder ones)"


def own_rate(name: str) -> float:
    """The base rate that a recipe has by itself; for one without a name, that of `auto`."""
    return RECIPES.get(name, AUTO).optimizer.base_lr


def lower_rate(recipe: Recipe, name: str) -> str:
    """The flag with a base rate to try after one that was too high: a third of it, or the recipe's own if lower."""
    return f"--set optimizer.base_lr={min(recipe.optimizer.base_lr / 3, own_rate(name)):.2g}"


def after_divergence(recipe: Recipe, name: str, step: int) -> str:
    """What to do about a loss that is not finite, or a gradient, at a step (1, 2, ...)."""
    if step <= 1:
        return f"No update was made before it, so that the rate is not the cause. {LOOK}, and at --set and --encoder."
    other = "" if recipe.method == "mec-joint" else ", or with --method mec-joint, which needs no series"
    return f"Start again with a new --out and a lower learning rate, {lower_rate(recipe, name)}{other}."


def advice(word: str, run: RunSettings | None, settings: Mapping[str, Any], step: int, apart: float = 1.0) -> str:
    """What to change after a verdict that is not `healthy`.

    Args:
        word: of the verdict; `truncated` is a series that is below its exact form.
        run: what was done, if it is known.
        settings: of the objective, as run.
        step: where it began.
        apart: how much more views of an image agree than different images, at the end.
    """
    method, distortion = run.recipe.method if run else "", settings.get("distortion")
    number = distortion if isinstance(distortion, (int, float)) else None
    lower = lower_rate(run.recipe, run.recipe_name) if run else "--set optimizer.base_lr=..."
    joint = method != "mec-joint"
    if word == "diverged":
        again = f"Start again with a lower learning rate, {lower}."
        return after_divergence(run.recipe, run.recipe_name, step) if run else again
    if word == "truncated":
        larger = f", --set settings.distortion={2 * number:.2g}" if number else ", a larger --set settings.distortion"
        return f"Use --method mec-joint (no series){larger}, or a lower learning rate, {lower}."
    if word == "collapsed" and step <= 1 and run is not None:
        return f"It was so before the first update. {LOOK}."
    if word == "collapsed" and settings.get("order") == 1:
        predictor = "" if method == "mec" else "; or a predictor and a target network (--method mec)"
        return (
            "Order 1 only asks views to agree, which images that all look alike do best: use --set settings.order=4, "
            f"or --method mec-joint{predictor}."
        )
    if word == "collapsed":
        smaller = f", or ask for more directions, --set settings.distortion={number / 2:.2g}" if number else ""
        other = ", or use --method mec-joint, which resists collapse" if joint else smaller
        return f"Lower the learning rate, {lower}{other}."
    longer = f"--epochs {more_epochs(run)}" if run else "--epochs"
    if word == "narrow":
        wider = f"A smaller --set settings.distortion={number / 2:.2g}" if number else "--method mec-joint"
        return f"{wider} or longer training, {longer}, widens it."
    if run is not None and not 1 / FAR <= run.recipe.optimizer.base_lr / own_rate(run.recipe_name) <= FAR:
        own, now = own_rate(run.recipe_name), run.recipe.optimizer.base_lr
        return f"The learning rate is far from the recipe's own: --set optimizer.base_lr={own:g} (it was {now:g})."
    if apart < 0.05 and run is not None and run.steps >= ENOUGH_STEPS:
        return f"{LOOK}."
    return f"Train longer, {longer}. If that was long enough: {LOOK[0].lower()}{LOOK[1:]}."


def more_epochs(run: RunSettings) -> int:
    """Twice as many as were done, and enough for `ENOUGH_STEPS` steps."""
    return max(1, math.ceil(max(2 * run.steps, ENOUGH_STEPS) / run.steps_per_epoch))
