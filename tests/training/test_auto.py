"""The recipe that is chosen from images and machine fits both, and says why."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mec.data.dataset import Data, Split
from mec.data.images import Files, InMemory
from mec.runtime.machine import Machine
from mec.training.plan import auto

CPU, GPU = Machine("cpu", 24, 2), Machine("cuda", 80, 16)


def images(n, height, width):
    return Data("mine", Split(Files(tuple(map(str, range(n))))), typical_size=(height, width))


@pytest.mark.parametrize("machine", [CPU, GPU])
@pytest.mark.parametrize("n", [4, 40, 300, 5000, 2_000_000])
@pytest.mark.parametrize("side", [8, 32, 64, 300, 4000])
def test_every_choice_trains_and_has_a_reason(machine, n, side):
    recipe, why = auto(images(n, side, side), machine)
    assert 2 <= recipe.batch_size <= n
    assert recipe.batch_size & (recipe.batch_size - 1) == 0
    assert recipe.epochs >= 5
    text = " ".join(why)
    for word in (f"{recipe.views[0].size} px", recipe.network.backbone, f"batch {recipe.batch_size}", recipe.method):
        assert word in text


def test_small_images_keep_their_size_and_photographs_are_reduced_on_a_cpu():
    assert auto(images(1000, 32, 32), CPU, 60)[0].views[0].size == 32
    assert auto(images(1000, 600, 800), CPU)[0].views[0].size == 64
    assert auto(images(1000, 600, 800), GPU)[0].views[0].size == 224


@pytest.mark.parametrize(
    ("machine", "minutes", "side", "size"),
    [(CPU, None, 32, 24), (CPU, 30, 32, 24), (CPU, 31, 32, 32), (CPU, 5, 24, 32), (GPU, 5, 32, 32), (CPU, 5, 16, 16)],
)
def test_a_short_run_on_a_cpu_has_smaller_views_and_says_why(machine, minutes, side, size):
    recipe, why = auto(images(10_000, side, side), machine, minutes)
    assert recipe.views[0].size == size
    assert ("buy steps" in why[0]) == (size == 24)


def test_a_cpu_gets_small_batches_a_higher_rate_and_a_cheap_backbone():
    both = [auto(images(10_000, 32, 32), machine)[0] for machine in (CPU, GPU)]
    assert [r.batch_size for r in both] == [128, 256]
    assert [r.optimizer.base_lr * r.batch_size / 256 for r in both] == [1.5, 0.5]
    assert [r.network.backbone for r in both] == ["resnet10-fast", "resnet18"]
    assert [r.optimizer.name for r in both] == ["muon", "sgd"]
    assert auto(images(10_000, 600, 800), CPU)[0].optimizer.name == "muon"


def test_a_small_accelerator_gets_micro_batches_and_the_same_batch():
    large, _ = auto(images(200_000, 600, 800), GPU)
    small, why = auto(images(200_000, 600, 800), replace(GPU, memory_gib=8))
    assert large.micro_batch_size is None
    assert small.batch_size == large.batch_size
    assert small.micro_batch_size is not None
    assert f"{small.micro_batch_size} rows to fit 8 GiB" in " ".join(why)


def test_photographs_are_blurred_and_small_images_are_not():
    assert auto(images(1000, 600, 800), GPU)[0].views[0].blur > 0
    assert auto(images(1000, 32, 32), GPU)[0].views[0].blur == 0


@pytest.mark.parametrize(
    ("side", "machine", "size"), [(100, CPU, 70), (100, GPU, 98), (150, GPU, 154), (300, GPU, 224)]
)
def test_views_have_a_size_that_the_patches_of_the_backbone_divide(side, machine, size):
    recipe, why = auto(images(1000, side, side), machine, None, "vit_small_patch14_dinov2")
    assert recipe.views[0].size == size
    assert f"image size {size} px" in why[0]
    assert "patches of 14 px divide it" in why[0]
    assert recipe.optimizer.name == "adamw"
    assert auto(images(1000, side, side), machine, None, "resnet18")[0] == auto(images(1000, side, side), machine)[0]


def test_images_in_memory_are_said_to_be_there():
    stored = Data("mine", Split(InMemory(torch.zeros(100, 3, 32, 32, dtype=torch.uint8)), np.zeros(100)))
    assert "kept in memory" in " ".join(auto(replace(stored, typical_size=(32, 32)), CPU)[1])


@pytest.mark.parametrize(
    ("machine", "minutes", "side", "least"),
    [(CPU, None, 300, 0.5), (CPU, 30, 300, 0.5), (CPU, 31, 300, 0.2), (GPU, 5, 300, 0.2), (CPU, 5, 32, 0.2)],
)
def test_a_short_run_on_photographs_sees_half_of_an_image_or_more_and_says_why(machine, minutes, side, least):
    recipe, why = auto(images(3_000, side, side), machine, minutes)
    assert recipe.views[0].scale == (least, 1.0)
    assert any("crops of half an image" in line for line in why) == (least == 0.5)


@pytest.mark.parametrize(("kind", "size"), [("recordings", 32), ("arrays", 64)])
def test_what_is_no_photograph_is_neither_mirrored_nor_coloured(kind, size):
    recipe, why = auto(replace(images(3_000, 64, 64), suits=kind), CPU)
    view = recipe.views[0]
    assert view.size == size
    assert (view.flip, view.hue, view.saturation, view.grey, view.blur) == (0, 0, 0, 0, 0)
    assert view.erase > 0
    assert any(kind in line for line in why)
