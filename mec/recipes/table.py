"""RECIPES: the papers' settings and ours, with their source, as recipes.yaml has them."""

from dataclasses import replace
from pathlib import Path

from mec.errors import BadInput, nearest
from mec.recipes.fields import from_dict, from_yaml
from mec.recipes.recipe import Recipe

RECIPES = {
    name: from_dict(Recipe, values, name)
    for name, values in from_yaml(Path(__file__).with_name("recipes.yaml"))["recipes"].items()
}
AUTO, DIGITS, SMALL_VIT = RECIPES["auto"], RECIPES["digits"], RECIPES["small-vit"]
BYOL_VIEWS, RELEASED_VIEWS = RECIPES["imagenet-100ep"].views, RECIPES["imagenet-100ep-released"].views
CIFAR_VIEW, DIGITS_VIEW = replace(AUTO.views[0], copies=1), DIGITS.views[0]


def recipe_named(name: str) -> Recipe:
    if name not in RECIPES:
        raise BadInput(f"no recipe is called {name!r}. {nearest(name, RECIPES)}")
    return RECIPES[name]
