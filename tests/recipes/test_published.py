"""Recipes against what was published, read off a second time (tests/transcribed.py): every number of every recipe."""

import inspect
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
import transcribed
from helpers import differing
from torch import nn

from mec.networks.siamese import build_siamese
from mec.objectives.methods import METHODS
from mec.objectives.table import OBJECTIVES, setting_names
from mec.recipes.recipe import Recipe
from mec.recipes.table import RECIPES
from mec.training.plan import build_objective

RELATIVES = ("mmcr", "emp-ssl", "simdino", "corinfomax", "matrix-ssl", "frossl", "w-mse")  # recipes as far as stated
BASELINES = [name for name in METHODS if not name.startswith("mec") and name not in RELATIVES]
PUBLISHED = {name: recipe for name, recipe in RECIPES.items() if not recipe.method.startswith("mec")}
PRINTED = {**transcribed.RECIPES, **transcribed.OURS}


def settings_in_force(recipe: Recipe) -> dict[str, Any]:
    """Of the formula, over them those of the method, over them the recipe's; and `scale`."""
    made = OBJECTIVES[METHODS[recipe.method].objective]
    parts = [made.__init__, made.forward] if isinstance(made, type) else [made]
    known = {p.name: p.default for part in parts for p in inspect.signature(part).parameters.values()}
    own = {name: known[name] for name in setting_names(made)}
    return {"scale": 1.0, **own, **METHODS[recipe.method].settings, **asdict(recipe)["settings"]}


def in_force(recipe: Recipe) -> dict[str, Any]:
    """All that decides a run, without what its other values leave unused."""
    whole = {**asdict(recipe), "settings": settings_in_force(recipe)}
    if recipe.network.target != "momentum":
        del whole["network"]["target_momentum"], whole["network"]["target_momentum_end"]
    if recipe.optimizer.name != "lars":
        del whole["optimizer"]["trust"], whole["optimizer"]["trust_clip"]
    for name in ("source", "micro_batch_size", "precision"):
        del whole[name]
    return whole


def test_every_recipe_is_transcribed():
    assert set(PRINTED) == set(RECIPES)
    assert set(PUBLISHED) < set(transcribed.RECIPES)


@pytest.mark.parametrize("name", PRINTED)
def test_every_number_of_a_recipe_is_the_one_that_was_published(name):
    fields = ("method", "settings", "views", "network", "optimizer", "batch_size", "epochs", "expects")
    assert differing(in_force(RECIPES[name]), dict(zip(fields, PRINTED[name], strict=True))) == {}


@pytest.mark.parametrize("name", transcribed.RECIPES)
def test_a_published_recipe_runs_as_a_whole_and_in_any_precision(name):
    assert (RECIPES[name].micro_batch_size, RECIPES[name].precision) == (None, "auto")


def test_the_target_network_of_short_runs_follows_faster():
    """Of this project's recipes, for methods that have one: docs/log.md."""
    assert RECIPES["digits"].network.target_momentum == 0.99
    assert RECIPES["auto"].network.target_momentum == 0.97


def test_every_method_has_a_recipe_for_cifar_10_and_one_for_imagenet():
    for method in BASELINES:
        for data, backbone in (("cifar10", "resnet18"), ("imagenet", "resnet50")):
            recipe = PUBLISHED[f"{data}-{method}"]
            assert (recipe.method, recipe.network.backbone) == (method, backbone)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_recipe_has_the_network_that_its_method_asks_for_and_settings_that_are_taken(name):
    recipe = PUBLISHED[name]
    method = METHODS[recipe.method]
    assert (bool(recipe.network.predictor), recipe.network.target) == (bool(method.predictor), method.target)
    with torch.device("meta"):
        network = build_siamese(recipe.network, nn.Identity(), 512)
    assert network.embedding == (recipe.network.prototypes or recipe.network.projector[-1])
    build_objective(replace(recipe, batch_size=min(recipe.batch_size, 256)), 8)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_with_a_value_from_memory_expects_no_figure(name):
    if "memory" in PUBLISHED[name].source:
        assert PUBLISHED[name].expects == {}


def test_figures_of_table_7_are_expected_by_the_recipes_of_its_rows():
    """But not where settings are from memory."""
    epochs, accuracy = (line.split("\t")[1:] for line in transcribed.TABLE_7.splitlines()[1:])
    rows = {
        "imagenet-800ep-multicrop": 0, "imagenet-800ep-large-projector": 1, "imagenet-800ep": 2, "imagenet-byol": 3,
        "imagenet-simsiam-800ep": 4, "imagenet-barlow-twins": 5, "imagenet-vicreg": 6, "imagenet-dino-800ep": 7,
        "imagenet-unigrad-800ep": 8,
    }  # fmt: skip
    for name, row in rows.items():
        assert RECIPES[name].epochs == int(epochs[row])
        assert RECIPES[name].expects in ({}, {"linear top-1 (%)": float(accuracy[row])})
        assert bool(RECIPES[name].expects) == ("memory" not in RECIPES[name].source)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_scale_of_a_published_loss_is_its_own_and_not_that_of_short_runs_here(name):
    recipe = PUBLISHED[name]
    assert "scale" in recipe.settings or "scale" not in METHODS[recipe.method].settings
