"""Backbones of every family of timm: trained, embedded, exported and loaded with timm alone, with equal features."""

from __future__ import annotations

import contextlib
import io

import pytest
import safetensors.torch
import timm
import torch
from helpers import tiny_run
from torch.testing import assert_close

import mec
from mec.errors import BadInput
from mec.exports.weights import timm_model
from mec.networks.backbones import build_encoder
from mec.networks.encoder_file import load_encoder, read_info

SMALL = ["views.size=32", "network.projector=[16,8]"]
STEM_OF_THE_FAMILY = [  # its code knows nothing of the size, or the size alone: a stem for small images, or its own
    "resnet10t", "regnetx_002", "densenet121", "mobilenetv3_small_050", "efficientnet_lite0", "convnext_atto",
    "convnextv2_atto", "edgenext_xx_small", "mobilevit_xxs", "ghostnet_050", "lcnet_035", "repvgg_a0", "dla34",
    "levit_128s", "gmlp_ti16_224", "gcresnet33ts", "lambda_resnet26t",
]  # fmt: skip
PATCHES = [
    "vit_tiny_patch16_224", "deit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256",
    "cait_xxs24_224", "pit_ti_224", "eva02_tiny_patch14_224", "xcit_nano_12_p16_224",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", [*STEM_OF_THE_FAMILY, *PATCHES])
def test_a_backbone_goes_through_training_embedding_export_and_a_strict_load(name, tmp_path):
    run = tiny_run(tmp_path / "run", backbone=name, set=SMALL, batch_size=8, limit=16, epochs=1)
    images = mec.open_data("digits", limit=8).train
    found = mec.features(run, images).x
    info = read_info(run)
    with contextlib.redirect_stdout(io.StringIO()):
        file = mec.export(run, "timm")  # runs the lines that it prints, in a namespace of their own
    encoder, transform = load_encoder(run)
    built = build_encoder(name, 32, info.small_stem)
    built.load_state_dict(safetensors.torch.load_file(file), strict=True)
    keywords = timm_model(info)
    if "img_size" in keywords:
        built = timm.create_model(keywords.pop("model"), num_classes=0, checkpoint_path=str(file), **keywords)
    inputs = torch.stack([transform(pixels) for pixels in images.images.pixels])
    with torch.no_grad():
        scale = found.abs().max()
        assert_close(built.eval()(inputs) / scale, found / scale, rtol=0, atol=1e-4)
        assert_close(encoder(inputs) / scale, found / scale, rtol=0, atol=1e-4)


def test_a_stem_of_several_branches_keeps_its_own_for_small_images_or_says_why_not():
    assert build_encoder("repvgg_a0", 32)(torch.zeros(2, 3, 32, 32)).shape == (2, 1280)
    with pytest.raises(BadInput, match=r"'fastvit_t8' cannot be made for images of 32 px: .*[Aa]nother size"):
        build_encoder("fastvit_t8", 32)
