"""Recipes of other methods: judged by the tables of their papers and repositories, read off here once more."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from mec.networks.siamese import build_siamese
from mec.objectives.methods import METHODS
from mec.recipes.published import PUBLISHED
from mec.recipes.table import RECIPES
from mec.training.plan import build_objective

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
    "barlow-twins": (2048, 1.6, 1e-6, 10, {"off_diagonal": 0.0051, "scale": 1 / 16}),  # a mean over 16 GPUs
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


# Projector, what its hidden layers have, its last layer; predictor; target momentum at the start and at the end.
PLAIN, NONE = "linear-bias", (0.996, 1.0)
NETWORKS = {
    "cifar10-simsiam": ((2048,) * 3, "bn-relu", "bn", (512, 2048), (0.99, 1)),
    "cifar10-byol": ((4096, 256), "bn-relu", "linear", (4096, 256), (0.99, 1)),
    "cifar10-simclr": ((2048, 256), "relu", PLAIN, (), (0.99, 1)),
    "cifar10-moco-v2": ((2048, 256), "relu", PLAIN, (), (0.99, 0.999)),
    "cifar10-moco-v3": ((4096, 256), "bn-relu", "bn", (4096, 256), (0.99, 1)),
    "cifar10-barlow-twins": ((2048,) * 3, "bn-relu", "linear", (), (0.99, 1)),
    "cifar10-vicreg": ((2048,) * 3, "bn-relu", "linear", (), (0.99, 1)),
    "cifar10-swav": ((2048, 128), "bn-relu", PLAIN, (), (0.99, 1)),
    "cifar10-swav-multicrop": ((2048, 128), "bn-relu", PLAIN, (), (0.99, 1)),
    "cifar10-dino": ((2048, 2048, 256), "gelu", PLAIN, (), (0.9995, 1)),
    "imagenet-simsiam": ((2048,) * 3, "bn-relu", "bn", (512, 2048), NONE),
    "imagenet-byol": ((4096, 256), "bn-relu", "linear", (4096, 256), (0.996, 1)),
    "imagenet-byol-300ep": ((4096, 256), "bn-relu", "linear", (4096, 256), (0.99, 1)),
    "imagenet-byol-100ep": ((4096, 256), "bn-relu", "linear", (4096, 256), (0.99, 1)),
    "imagenet-simclr": ((2048, 2048, 128), "bn-relu", "bn-affine", (), NONE),
    "imagenet-moco-v2": ((2048, 128), "relu", PLAIN, (), (0.999, 0.999)),
    "imagenet-moco-v3": ((4096, 256), "bn-relu", "bn", (4096, 256), (0.99, 1)),
    "imagenet-moco-v3-1000ep": ((4096, 256), "bn-relu", "bn", (4096, 256), (0.996, 1)),
    "imagenet-barlow-twins": ((8192,) * 3, "bn-relu", "linear", (), NONE),
    "imagenet-vicreg": ((8192,) * 3, "bn-relu", "linear", (), NONE),
    "imagenet-swav": ((2048, 128), "bn-relu", PLAIN, (), NONE),
    "imagenet-dino": ((2048, 2048, 256), "gelu", PLAIN, (), (0.996, 1)),
    "imagenet-unigrad": ((2048,) * 3, "bn-relu", PLAIN, (), (0.996, 1)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_those_of_the_sources(name):
    network = PUBLISHED[name].network
    heads = (network.projector, network.projector_hidden, network.projector_output, network.predictor)
    assert (*heads, (network.target_momentum, network.target_momentum_end)) == NETWORKS[name]


def test_blocks_start_at_zero_in_the_sources_that_say_so_and_at_one_in_the_others():
    zero = {"simsiam", "byol", "simclr", "moco-v3", "barlow-twins", "vicreg", "unigrad"}  # ImageNet
    for name, recipe in PUBLISHED.items():
        if recipe.method != "supervised":
            assert recipe.network.zero_init == (name.startswith("imagenet") and recipe.method in zero), name


def test_views_share_their_batch_statistics_where_the_source_concatenates_them():
    together = {name for name, recipe in PUBLISHED.items() if recipe.network.views_together}
    assert together == {
        "imagenet-simclr", "imagenet-swav", "imagenet-swav-bs256", "imagenet-dino", "imagenet-dino-800ep",
    }  # fmt: skip


# Smallest area of a crop, interpolation; jitter (brightness, contrast, saturation, hue); blur, solarise of both views.
B, L = "bicubic", "bilinear"
ASYM, SAME = ((1.0, 0.0), (0.1, 0.2)), ((0.5, 0.0), (0.5, 0.0))
PAIRS = {
    "cifar10-simsiam": (0.08, B, (0.4, 0.4, 0.4, 0.1), SAME),
    "cifar10-byol": (0.08, B, (0.4, 0.4, 0.2, 0.1), ((0.0, 0.0), (0.0, 0.2))),
    "cifar10-simclr": (0.08, B, (0.8, 0.8, 0.8, 0.2), SAME),
    "cifar10-moco-v2": (0.08, B, (0.4, 0.4, 0.4, 0.1), SAME),
    "cifar10-moco-v3": (0.08, B, (0.4, 0.4, 0.2, 0.1), ((0.0, 0.0), (0.0, 0.2))),
    "cifar10-barlow-twins": (0.08, B, (0.4, 0.4, 0.2, 0.1), ((0.0, 0.0), (0.0, 0.2))),
    "cifar10-vicreg": (0.2, B, (0.4, 0.4, 0.2, 0.1), ((0.0, 0.1), (0.0, 0.1))),
    "cifar10-swav": (0.08, B, (0.8, 0.8, 0.8, 0.2), SAME),
    "cifar10-swav-multicrop": (0.2, B, (0.6, 0.6, 0.6, 0.2), ((0.0, 0.0), (0.0, 0.2))),
    "cifar10-dino": (0.08, B, (0.4, 0.4, 0.2, 0.1), ((0.0, 0.0), (0.0, 0.2))),
    "imagenet-simsiam": (0.2, L, (0.4, 0.4, 0.4, 0.1), SAME),
    "imagenet-byol": (0.08, B, (0.4, 0.4, 0.2, 0.1), ASYM),
    "imagenet-simclr": (0.08, B, (0.8, 0.8, 0.8, 0.2), SAME),
    "imagenet-moco-v2": (0.2, L, (0.4, 0.4, 0.4, 0.1), SAME),
    "imagenet-moco-v3": (0.2, L, (0.4, 0.4, 0.2, 0.1), ASYM),
    "imagenet-barlow-twins": (0.08, B, (0.4, 0.4, 0.2, 0.1), ASYM),
    "imagenet-vicreg": (0.08, B, (0.4, 0.4, 0.2, 0.1), ASYM),
    "imagenet-swav": (0.14, L, (0.8, 0.8, 0.8, 0.2), SAME),
    "imagenet-dino": (0.14, B, (0.4, 0.4, 0.2, 0.1), ASYM),
    "imagenet-unigrad": (0.2, L, (0.4, 0.4, 0.4, 0.1), SAME),
}


@pytest.mark.parametrize("name", PAIRS)
def test_the_pair_of_global_views_is_the_source_s(name):
    pair = [view for view in PUBLISHED[name].views for _ in range(view.copies)][:2]
    area, interpolation, jitter, rest = PAIRS[name]
    for view, (blur, solarize) in zip(pair, rest, strict=True):
        assert (view.scale, view.interpolation) == ((area, 1.0), interpolation)
        assert (view.brightness, view.contrast, view.saturation, view.hue) == jitter
        assert (view.jitter, view.grey, view.flip) == (0.8, 0.2, 0.5)
        assert (view.blur, view.solarize) == (blur, solarize)


def test_small_crops_are_the_sources():
    crops = {
        "cifar10-swav-multicrop": (18, (0.08, 0.5), 6, 0.1, 0.1),
        "imagenet-swav": (96, (0.05, 0.14), 6, 0.5, 0.0),
        "imagenet-dino": (96, (0.05, 0.14), 8, 0.5, 0.0),
    }
    for name, expected in crops.items():
        last = PUBLISHED[name].views[-1]
        assert (last.size, last.scale, last.copies, last.blur, last.solarize) == expected


def test_optimizers_have_their_sources_peculiarities():
    optimizers = {name: recipe.optimizer for name, recipe in PUBLISHED.items()}
    held = {name for name, optimizer in optimizers.items() if optimizer.predictor_lr_constant}
    assert held == {"cifar10-simsiam", "imagenet-simsiam", "imagenet-simsiam-800ep"}
    barlow = optimizers["imagenet-barlow-twins"]
    assert (barlow.name, barlow.base_lr_1d, barlow.end_lr) == ("lars", 0.0048, pytest.approx(barlow.base_lr / 1000))
    swav = optimizers["imagenet-swav"]
    assert (swav.name, swav.decay_1d, 16 * swav.end_lr, 16 * swav.warmup_lr) == ("lars", True, 0.0048, 0.3)
    assert swav.freeze_prototypes_epochs == 1
    dino = optimizers["imagenet-dino"]
    assert (dino.name, dino.clip, dino.decay_1d, dino.freeze_prototypes_epochs) == ("sgd", 3.0, False, 1)
    for method in ("byol", "simclr", "moco-v3", "barlow-twins", "vicreg"):
        lars = optimizers[f"imagenet-{method}"]
        assert (lars.name, lars.trust, lars.trust_clip, lars.decay_1d) == ("lars", 0.001, False, False)
    for method in ("simsiam", "moco-v2", "unigrad"):
        assert (optimizers[f"imagenet-{method}"].name, optimizers[f"imagenet-{method}"].decay_1d) == ("sgd", True)


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
