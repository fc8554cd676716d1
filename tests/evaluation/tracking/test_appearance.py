"""Feature maps have one cell for 8 px, whatever the encoder."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from mec.errors import BadInput
from mec.evaluation.subject import resolve
from mec.evaluation.tracking import winograd
from mec.evaluation.tracking.appearance import Reduced, appearances, feature_maps, open_appearance
from mec.evaluation.tracking.winograd import Winograd
from mec.networks.backbones import build_encoder


def frames(count: int, height: int = 40, width: int = 56) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def thin(name: str) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, layers=(1, 1, 1, 1), channels=(16, 32, 64, 128))


def torchvision_resnet() -> nn.Module:
    torch.manual_seed(0)
    return ResNet(BasicBlock, [1, 1, 1, 1])


ENCODERS = {
    "pixels": lambda: "pixels",
    "torchvision": lambda: torchvision_resnet(),
    "bottleneck": lambda: thin("resnet26"),
    "average pools and a deep stem": lambda: thin("resnet26d"),
    "small stem": lambda: build_encoder("resnet10-tiny", 32),
    "small stem with a max-pool": lambda: build_encoder("resnet10-fast", 32),
    "patches of 16 px": lambda: build_encoder("vit_tiny_patch16_224", 224),
    "patches of 4 px": lambda: build_encoder("vit_tiny_patch16_224", 32),
}


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("stage", [3, 4])
def test_a_cell_spans_8_px(kind, stage):
    appearance = open_appearance(ENCODERS[kind](), stage)
    for height, width in ((16, 24), (17, 15)):
        image = appearance.normalised(frames(1, height, width))
        found = appearance.maps(image)
        assert (len(found), *found.shape[2:]) == (1, -(-height // 8), -(-width // 8))
    # What changes in a cell's pixels changes that cell most, or at least its neighbour.
    grey = torch.zeros(1, 3, 80, 80)
    changed = grey.clone()
    changed[..., 32:40, 48:56] = 1
    difference = (appearance.maps(changed) - appearance.maps(grey)).square().sum(1)[0]
    row, column = divmod(int(difference.argmax()), 10)
    assert max(abs(row - 4), abs(column - 6)) <= (0 if kind == "pixels" or kind.startswith("patches") else 1)


@pytest.mark.parametrize("stage", [3, 4])
def test_maps_are_those_of_torchvisions_layers_with_stride_1(stage):
    from torchvision.models.feature_extraction import create_feature_extractor

    torch.manual_seed(0)
    model = ResNet(Bottleneck, [1, 1, 1, 1]).eval()
    appearance = open_appearance(model, stage)
    for part in (model.layer3[0], model.layer4[0]):
        part.conv2.stride = part.downsample[0].stride = (1, 1)
    x = frames(2, 24, 32).float() / 255
    x = (x - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.no_grad():
        expected = create_feature_extractor(model, [f"layer{stage}"])(x)[f"layer{stage}"]
    torch.testing.assert_close(appearance.maps(appearance.normalised(frames(2, 24, 32))), expected)
    assert appearance.maps(torch.zeros(1, 3, 64, 64)).shape[1] == {3: 1024, 4: 2048}[stage]


def test_a_small_stem_sees_frames_reduced_by_4_and_one_with_a_max_pool_by_2():
    for name, factor in (("resnet10-tiny", 4), ("resnet10-fast", 2), ("random:resnet10-tiny", 1)):
        encoder = name if ":" in name else build_encoder(name, 32)
        network = open_appearance(encoder).network
        assert isinstance(network, Reduced)
        assert network.factor == factor
    appearance = open_appearance(build_encoder("resnet10-tiny", 32))
    x = torch.randn(1, 3, 40, 56)
    reduced = x.reshape(1, 3, 10, 4, 14, 4).mean((3, 5))
    torch.testing.assert_close(appearance.maps(x), appearance.network.body(reduced))


def test_the_module_given_is_left_as_it_was():
    module = build_encoder("resnet10-tiny", 32).train()
    open_appearance(module)
    assert module.training
    assert module.layer4[0].conv1.stride == (2, 2)
    assert all(p.requires_grad for p in module.parameters())


def test_pixels_are_the_colours_of_a_cell():
    appearance = open_appearance("pixels")
    x = torch.randn(1, 3, 16, 24)
    assert torch.equal(appearance.maps(x)[0, :, 1, 2], x[0, :, 8:16, 16:24].flatten())


def test_a_run_brings_its_own_normalisation_and_a_name_from_its_method(finished):
    appearance = open_appearance(finished)
    grey = torch.full((1, 3, 8, 8), 51, dtype=torch.uint8)
    expected = (0.2 - np.array(appearance.mean)) / np.array(appearance.std)
    np.testing.assert_allclose(appearance.normalised(grey)[0, :, 0, 0].numpy(), expected, rtol=1e-5)


def test_batches_keep_the_order_of_frames_of_several_sizes():
    appearance = open_appearance(build_encoder("resnet10-tiny", 32))
    several = [*frames(3), *frames(2, 24, 24), *frames(2)]
    found = list(feature_maps(appearance, iter(several), batch_size=2))
    for one, frame in zip(found, several, strict=True):
        torch.testing.assert_close(one, appearance.maps(appearance.normalised(frame[None]))[0])


def test_cached_maps_are_found_again_and_only_for_the_same_encoder_and_frame(tmp_path, monkeypatch):
    first, again = (open_appearance("random:resnet10-tiny") for _ in "ab")
    other = open_appearance(build_encoder("resnet10-tiny", 224))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert open_appearance("random:resnet10-tiny", 4).fingerprint != first.fingerprint
    video = list(frames(3))
    expected = list(feature_maps(first, video, cache=tmp_path))
    runs = []
    monkeypatch.setattr(again.network.body, "forward", lambda x: runs.append(len(x)) or first.network.body(x))
    # One frame in the middle is new: only that one goes through the encoder, and the order stays.
    changed = [video[0], 255 - video[1], video[2]]
    found = list(feature_maps(again, changed, cache=tmp_path))
    assert runs == [1]
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[2], expected[2])
    torch.testing.assert_close(found[1], first.maps(first.normalised(changed[1][None]))[0])
    different = list(feature_maps(other, video, cache=tmp_path))
    assert not torch.allclose(different[0], expected[0])


def test_what_is_no_encoder_is_refused_with_what_fits(tmp_path):
    with pytest.raises(BadInput, match="stage is 2: 3 or 4"):
        open_appearance("pixels", 2)
    with pytest.raises(FileNotFoundError):
        open_appearance(tmp_path / "nothing")
    with pytest.raises(BadInput, match="is a Linear: tracking takes stages 3 and 4 of a ResNet"):
        open_appearance(nn.Linear(3, 3))


def test_pixels_have_one_stage_and_networks_two():
    assert [a.stage for a in appearances(resolve("pixels"))] == [0]
    subject = resolve("random:resnet10-tiny")
    assert [a.stage for a in appearances(subject)] == [3, 4]
    assert [a.stage for a in appearances(subject, "4")] == [4]


@pytest.mark.parametrize("name", ["resnet18", "resnet26", "resnet26d"])
def test_norms_become_part_of_the_convolutions_and_maps_stay(name):
    encoder = thin(name).eval()
    generator = torch.Generator().manual_seed(1)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics and weights of a trained one
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.uniform_(0.5, 1.5, generator=generator)
    appearance = open_appearance(encoder, 3)
    left = [m for m in appearance.network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(left) == (name == "resnet26d")  # behind its deep stem, which is no convolution
    for module in (encoder.layer3, encoder.layer4):
        for part in module.modules():
            if isinstance(part, nn.Conv2d):
                part.stride = (1, 1)
        for block in module:
            if block.downsample is not None and isinstance(block.downsample[0], nn.AvgPool2d):
                block.downsample[0] = nn.Identity()
    images = appearance.normalised(frames(2, 64, 80))
    with torch.no_grad():
        expected = encoder.forward_intermediates(images, indices=[3], intermediates_only=True)[0]
    found = appearance.maps(images)
    assert found.is_contiguous()
    assert (found - expected).abs().max() < 5e-6 * expected.abs().max()


def test_convolutions_of_3_by_3_go_by_tiles_and_others_are_torchs(monkeypatch):
    asked = []
    real = winograd.sum_tiles
    monkeypatch.setattr(winograd, "sum_tiles", lambda *given: asked.append(0) or real(*given))
    kinds = [{}, {"stride": 2}, {"dilation": 2}, {"groups": 2}, {"padding": 0}, {"padding": "same"}]
    kinds += [{"kernel_size": 5}, {"kernel_size": 1}, {"padding_mode": "reflect"}, {"bias": False}]
    for kind in kinds:
        torch.manual_seed(0)
        plain = nn.Conv2d(4, 6, **({"kernel_size": 3, "padding": 1} | kind))
        quick = nn.Conv2d(4, 6, **({"kernel_size": 3, "padding": 1} | kind))
        quick.load_state_dict(plain.state_dict())
        quick.__class__ = Winograd
        quick.to(memory_format=torch.channels_last)
        before, images = len(asked), torch.randn(1, 4, 37, 50).to(memory_format=torch.channels_last)
        with torch.no_grad():
            found, expected = quick(images), plain.double()(images.double())
        assert (found - expected).abs().max() < 5e-5 * expected.abs().max()
        assert len(asked) - before == (kind in ({}, {"bias": False})), kind


@pytest.mark.parametrize("sides", [(1, 1), (5, 8), (6, 12), (7, 13), (65, 3)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@torch.no_grad()
def test_tiles_cover_maps_of_any_size_and_every_image(sides, layout):
    torch.manual_seed(0)
    plain, images = nn.Conv2d(19, 37, 3, padding=1), torch.randn(3, 19, *sides).to(memory_format=layout)
    quick = Winograd(19, 37, 3, padding=1)
    quick.load_state_dict(plain.state_dict())
    found, expected = quick(images), plain.double()(images.double())
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 5e-5 * expected.abs().max()
    assert quick(images.double().float()).equal(found)
    assert not quick.to(torch.float64)(images.double()).sub(expected).any()  # torch's own, exactly


def test_images_go_through_the_network_one_by_one_on_a_cpu():
    appearance = open_appearance(thin("resnet18"), 3)
    images = appearance.normalised(frames(3, 64, 80))
    assert torch.equal(appearance.maps(images), torch.cat([appearance.maps(one) for one in images.split(1)]))


def test_maps_do_not_depend_on_how_a_measurement_before_laid_out_the_weights():
    encoder, images = build_encoder("resnet10-tiny", 64), torch.randn(1, 3, 128, 160)
    before = open_appearance(encoder, 4).maps(images)
    assert torch.equal(open_appearance(encoder.to(memory_format=torch.channels_last), 4).maps(images), before)
