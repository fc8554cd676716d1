"""Vision transformers train by their recipes: the patch projection stands still, views fit the patches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import tiny_run, weights

from mec.data.opening import open_data
from mec.errors import BadInput
from mec.evaluation.features import extract
from mec.evaluation.probing.fewshot import fewshot
from mec.networks.backbones import build_encoder
from mec.networks.encoder_file import load_encoder
from mec.recipes.table import DIGITS, RECIPES
from mec.runtime.files import read_json
from mec.training import health

# timm's smallest: 6 blocks of width 64; at 8 px four patches of 4 px.
SMALLEST = "test_vit"
SIZE = ["views.size=8", "network.projector=[32,16]"]
FREE = "network.freeze_patches=false"


def drawn(seed: int = 0) -> torch.Tensor:
    """The patch projection that a run of this seed starts from."""
    torch.manual_seed(seed)
    return build_encoder(SMALLEST, 8).patch_embed.proj.weight.detach()


def test_the_patch_projection_stands_still_and_all_else_is_trained(tmp_path):
    out = tiny_run(tmp_path / "run", recipe="small-vit", backbone=SMALLEST, set=SIZE)
    found = weights(out)
    assert torch.equal(found["patch_embed.proj.weight"], drawn())
    torch.manual_seed(0)
    before = dict(build_encoder(SMALLEST, 8).named_parameters())
    still = {name for name, value in before.items() if torch.equal(value, found[name])}
    assert still == {"patch_embed.proj.weight", "patch_embed.proj.bias"}
    free = weights(tiny_run(tmp_path / "free", recipe="small-vit", backbone=SMALLEST, set=[*SIZE, FREE]))
    assert not torch.equal(free["patch_embed.proj.weight"], drawn())


def test_a_target_network_s_projection_is_the_same(tmp_path):
    out = tiny_run(
        tmp_path / "run", recipe="small-vit", backbone=SMALLEST, method="dino", set=[*SIZE, "network.prototypes=32"]
    )
    assert torch.equal(weights(out)["patch_embed.proj.weight"], drawn())  # of what is kept, the target's


def test_a_network_without_patches_is_told_what_to_change(tmp_path):
    with pytest.raises(BadInput, match=r"backbone resnet10-tiny: it has no patch projection .*--set network\.freeze"):
        tiny_run(tmp_path / "run", recipe="small-vit", backbone="resnet10-tiny", set=SIZE)
    assert (tiny_run(tmp_path / "run", recipe="small-vit", backbone="resnet10-tiny", set=[*SIZE, FREE])).exists()


def test_auto_trains_a_transformer_by_adamw(tmp_path):
    out = tiny_run(tmp_path / "run", recipe="auto", backbone="vit_tiny_patch16_224", steps=1, batch_size=8, set=SIZE)
    assert read_json(out / "settings.json")["recipe"]["optimizer"]["name"] == "adamw"


def test_a_recipe_learns_in_a_short_run(tmp_path):
    """By few labels of digits far above chance (10 %) and above what was drawn, and called healthy."""
    own = RECIPES["small-vit"]
    optimizer = replace(own.optimizer, base_lr=8e-3)  # 0.002 at a batch of 64, as the recipe has at its own
    network = replace(own.network, backbone=SMALLEST, projector=(128, 64))
    views = tuple(replace(view, size=8) for view in DIGITS.views)
    recipe = replace(DIGITS, views=views, network=network, optimizer=optimizer)
    out = tiny_run(tmp_path / "run", recipe=recipe, limit=None, batch_size=64, epochs=None, steps=120, set=())
    trained, untrained = five_labels(out), five_labels(out, drawn_only=True)
    assert trained > untrained + 5
    assert trained > 50
    assert health.health(out).word == "healthy"


def five_labels(run: Path, *, drawn_only: bool = False) -> float:
    """Top-1 (%) by five labels a class."""
    encoder, transform = load_encoder(run)
    if drawn_only:
        torch.manual_seed(0)
        encoder = build_encoder(SMALLEST, 8).eval()
    data = open_data("digits")
    train, test = (extract(encoder, part, transform) for part in (data.train, data.test))
    return fewshot(train, test, labels_per_class=[5])[0].value
