"""Recipes of other methods: judged by the tables of their papers and repositories, read off here once more."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from mec.objectives import METHODS
from mec.plan import build_objective
from mec.published import PUBLISHED
from mec.recipes import RECIPES
from mec.siamese import build_siamese

SIBLINGS = [name for name in METHODS if not name.startswith("mec")]


def test_every_method_has_a_recipe_for_cifar_10_and_one_for_imagenet():
    for method in SIBLINGS:
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


# As used, that is base rate x batch / 256; decay; own settings.
CIFAR = {
    "simsiam": (0.5, 1e-5, {}),
    "byol": (1.0, 1e-5, {"scale": 4}),
    "simclr": (0.4, 1e-4, {"temperature": 0.2}),
    "moco-v2": (0.3, 1e-4, {"temperature": 0.2, "queue": 32768}),
    "moco-v3": (0.3, 1e-6, {"temperature": 0.2, "scale": 4 * 0.2}),
    "barlow-twins": (0.3, 1e-4, {"off_diagonal": 0.0051, "scale": 0.1}),
    "vicreg": (0.3, 1e-4, {"invariance": 25, "variance": 2 * 25, "covariance": 1, "scale": 1}),
    "swav": (0.6, 1e-6, {"prototypes": 3000, "queue": 3840}),
    "dino": (0.3, 1e-6, {"temperature": 0.1, "target_temperature": 0.07}),
}
IMAGENET = {  # batch, rate as used, decay, warm-up, own settings
    "simsiam": (512, 0.1, 1e-4, 0, {}),
    "byol": (4096, 3.2, 1.5e-6, 10, {"scale": 4}),
    "simclr": (4096, 4.8, 1e-4, 10, {"temperature": 0.1, "scale": 2}),
    "moco-v2": (256, 0.03, 1e-4, 0, {"temperature": 0.2, "queue": 65536}),
    "moco-v3": (4096, 4.8, 1e-6, 10, {"temperature": 1.0, "scale": 4}),
    "barlow-twins": (2048, 1.6, 1e-6, 10, {"off_diagonal": 0.0051, "scale": 1}),
    "vicreg": (2048, 1.6, 1e-6, 10, {"scale": 1}),
    "swav": (4096, 4.8, 1e-6, 10, {"prototypes": 3000}),
    "dino": (512, 0.06, 1e-4, 10, {"target_temperature": 0.04}),
    "unigrad": (1024, 0.2, 1e-4, 5, {"weight": 100, "correlation_momentum": 0.99, "scale": 1}),
}


@pytest.mark.parametrize("method", CIFAR)
def test_cifar_10_settings_are_solo_learn_s(method):
    recipe, (lr, decay, settings) = PUBLISHED[f"cifar10-{method}"], CIFAR[method]
    assert (recipe.batch_size, recipe.epochs, recipe.optimizer.warmup_epochs) == (256, 1000, 10)
    assert (recipe.optimizer.base_lr, recipe.optimizer.weight_decay) == (lr, decay)
    assert recipe.optimizer.name == ("sgd" if method in ("simsiam", "moco-v2") else "lars")
    if recipe.optimizer.name == "lars":
        assert (recipe.optimizer.trust, recipe.optimizer.trust_clip, recipe.optimizer.decay_1d) == (0.02, True, False)
    assert settings.items() <= recipe.settings.items()
    assert {view.size for view in recipe.views} == {32}


@pytest.mark.parametrize("method", IMAGENET)
def test_imagenet_settings_are_those_of_the_official_repositories(method):
    recipe, (batch, lr, decay, warmup, settings) = PUBLISHED[f"imagenet-{method}"], IMAGENET[method]
    optimizer = recipe.optimizer
    assert recipe.batch_size == batch
    assert optimizer.base_lr * batch / 256 == pytest.approx(lr)
    assert (optimizer.weight_decay, optimizer.warmup_epochs, optimizer.momentum) == (decay, warmup, 0.9)
    assert settings.items() <= recipe.settings.items()


def test_table_7_s_rows_are_recipes():
    expected = {
        "imagenet-800ep-multicrop": (800, 75.5),
        "imagenet-800ep-large-projector": (800, 75.1),
        "imagenet-800ep": (800, 74.5),
        "imagenet-simsiam-800ep": (800, 71.3),
        "imagenet-barlow-twins": (1000, 73.2),
        "imagenet-vicreg": (1000, 73.2),
    }
    for name, row in expected.items():
        assert (RECIPES[name].epochs, RECIPES[name].expects["linear top-1 (%)"]) == row
    for name, epochs in {"imagenet-byol": 1000, "imagenet-dino-800ep": 800, "imagenet-unigrad-800ep": 800}.items():
        assert (RECIPES[name].epochs, RECIPES[name].expects) == (epochs, {})  # settings from memory: no figure
    crops = [(v.size, v.scale, v.copies) for v in RECIPES["imagenet-800ep-multicrop"].views]
    assert crops == [(224, (0.14, 1.0), 1), (224, (0.14, 1.0), 1), (96, (0.05, 0.14), 6)]
    large = RECIPES["imagenet-800ep-large-projector"].network
    assert (large.projector, large.predictor[-1]) == ((8192, 8192, 8192), 8192)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_scale_of_a_published_loss_is_its_own_and_not_that_of_short_runs_here(name):
    recipe = PUBLISHED[name]
    assert "scale" in recipe.settings or "scale" not in METHODS[recipe.method].settings
