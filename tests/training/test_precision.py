"""bf16 where the processor has units for it, and not where torch's gradients of it are wrong."""

import pytest
import safetensors.torch
import torch
from helpers import tiny_run
from torch import nn

from mec.networks.backbones import build_encoder
from mec.runtime.machine import has_bf16_units
from mec.training.trainer import has_small_maps


@pytest.mark.parametrize(
    ("capabilities", "units"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, True),  # AMD since Zen 4
        ({"avx512_bf16": True, "amx_bf16": True}, True),  # Intel since Sapphire Rapids
        ({"avx2": True, "avx512_f": True}, False),
        ({}, False),
    ],
)
def test_units_of_vectors_are_enough_for_bf16(capabilities, units, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert has_bf16_units("cpu") is units


class OfViews(nn.Sequential):
    def forward(self, views):
        return [super(OfViews, self).forward(view) for view in views]


@pytest.mark.parametrize(("name", "side", "small"), [("resnet10-fast", 8, True), ("resnet10-fast", 16, False)])
def test_maps_smaller_than_a_stride_are_found_in_networks(name, side, small):
    network = OfViews(build_encoder(name, side))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert has_small_maps(network, [torch.randn(4, 3, side, side)]) is small
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_maps_smaller_than_a_stride_are_found_in_any_number_of_dimensions():
    sounds = OfViews(nn.Conv1d(1, 4, 3, stride=4, padding=1), nn.Conv1d(4, 4, 3, stride=4, padding=1))
    assert has_small_maps(sounds, [torch.randn(2, 1, 16), torch.randn(2, 1, 12)])
    assert not has_small_maps(sounds, [torch.randn(2, 1, 16)])


def test_a_run_asked_for_bf16_has_full_precision_where_maps_are_smaller_than_a_stride(tmp_path):
    settings = ["views.size=8", "network.projector=[32,16]"]
    found = [
        safetensors.torch.load_file(
            tiny_run(tmp_path / name, set=[*settings, f"precision={name}", "network.backbone=resnet10-fast"])
            / "encoder.safetensors"
        )
        for name in ("bf16", "fp32")
    ]
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])
