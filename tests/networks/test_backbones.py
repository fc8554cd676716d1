"""Judges: torchvision's own ResNets, by names and by outputs, and timm's models as they come."""

import pytest
import timm
import torch
import torchvision
from helpers import tiny_run
from torch import nn
from torch.testing import assert_close

from mec.errors import BadInput
from mec.networks.backbones import SMALL, build_encoder, evaluating, feature_size
from mec.networks.encoder_file import load_encoder


def images(size, count=2):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def torchvision_resnet18(size: int) -> nn.Module:
    """The CIFAR variant of appendix B below 64 px; without classifier."""
    model = torchvision.models.resnet18()
    model.fc = nn.Identity()
    if size < 64:
        model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False), nn.Identity()
    return model


@pytest.mark.parametrize("size", [32, 64, 96])
def test_resnet18_is_torchvision_s_by_names_shapes_and_outputs(size):
    encoder, judge = build_encoder("resnet18", size), torchvision_resnet18(size)
    state = judge.state_dict()
    assert {k: v.shape for k, v in encoder.state_dict().items()} == {k: v.shape for k, v in state.items()}
    encoder.load_state_dict(state)  # strict
    with torch.no_grad():
        assert_close(encoder.eval()(images(size)), judge.eval()(images(size)), rtol=1e-4, atol=1e-5)


def test_resnet50_has_torchvision_s_names_and_shapes_without_the_classifier():
    with torch.device("meta"):
        expected = torchvision.models.resnet50().state_dict()
        found = build_encoder("resnet50", 224).state_dict()
    assert {k: v.shape for k, v in found.items()} == {
        k: v.shape for k, v in expected.items() if not k.startswith("fc.")
    }


@pytest.mark.parametrize(
    ("size", "small_stem", "kernel", "stride", "side"),
    [(32, None, 3, 1, 4), (63, None, 3, 1, 8), (64, None, 7, 2, 2), (32, False, 7, 2, 1), (64, True, 3, 1, 8)],
)
def test_images_under_64_px_get_a_stem_that_does_not_shrink_them(size, small_stem, kernel, stride, side):
    encoder = build_encoder("resnet10-tiny", size, small_stem).eval()
    assert encoder.conv1.kernel_size == (kernel, kernel)
    assert encoder.conv1.stride == (stride, stride)
    assert isinstance(encoder.maxpool, nn.Identity) == (kernel == 3)
    assert encoder.forward_features(images(size)).shape[2:] == (side, side)


def test_the_fast_backbone_halves_small_images_by_the_max_pool():
    encoder = build_encoder("resnet10-fast", 32).eval()
    assert (encoder.conv1.kernel_size, encoder.conv1.stride) == ((3, 3), (1, 1))
    assert isinstance(encoder.maxpool, nn.MaxPool2d)
    assert encoder.forward_features(images(32)).shape[1:] == (256, 2, 2)
    assert build_encoder("resnet10-fast", 64).conv1.kernel_size == (7, 7)  # larger ones have the usual stem


@pytest.mark.parametrize(
    ("name", "size", "features"),
    [
        ("resnet10-tiny", 16, 256),
        ("resnet10-half", 32, 512),
        ("resnet10", 32, 512),
        ("resnet18", 32, 512),
        ("vit_tiny_patch16_224", 32, 192),
        ("convnext_atto", 32, 320),
        ("mobilenetv3_small_050", 32, 1024),
    ],
)
def test_backbones_give_features_of_the_size_they_state(name, size, features):
    encoder = build_encoder(name, size)
    assert encoder.num_features == features or name.startswith("mobilenet")  # its head has a layer of its own
    assert feature_size(encoder, images(size)) == features
    assert encoder(images(size)).shape == (2, features)


def test_a_vision_transformer_sees_a_small_image_as_8_by_8_patches():
    encoder = build_encoder("vit_tiny_patch16_224", 32)
    assert encoder.patch_embed.num_patches == 64
    assert build_encoder("vit_tiny_patch16_224", 96).patch_embed.num_patches == 36  # its own 16-px patches


def test_small_backbones_are_resnets_of_one_block_a_stage_with_torchvision_s_names():
    with torch.device("meta"):
        known = torchvision.models.resnet50().state_dict().keys()  # it has every name, downsample in layer1 too
    for name in SMALL:
        names = build_encoder(name, 32).state_dict().keys()
        assert names <= known
        assert not any(".1.conv" in key for key in names)  # no second block


def test_last_batch_norm_of_each_residual_block_starts_at_zero():
    # As the released code; torchvision leaves them at one.
    encoder = build_encoder("resnet18", 32)
    assert all(block.bn2.weight.abs().max() == 0 for block in encoder.modules() if hasattr(block, "bn2"))


@pytest.mark.parametrize("name", SMALL)
def test_with_one_block_a_stage_they_start_at_one(name):
    encoder = build_encoder(name, 32)
    assert all((block.bn2.weight == 1).all() for block in encoder.modules() if hasattr(block, "bn2"))


def test_starting_weights_of_the_small_stem_follow_he():
    torch.manual_seed(0)
    weight = build_encoder("resnet18", 32).conv1.weight
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)  # fan-out


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("resnet81", "no backbone is called 'resnet81'. Did you mean 'resnet18'?"),
        ("resnet10-tinny", "no backbone is called 'resnet10-tinny'. Did you mean 'resnet10-tiny'?"),
    ],
)
def test_an_unknown_backbone_is_refused_with_the_nearest_name(name, text):
    assert not timm.is_model(name)
    with pytest.raises(BadInput) as caught:
        build_encoder(name, 32)
    assert str(caught.value) == text


def test_measuring_the_feature_size_leaves_the_encoder_as_it_was():
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(48, 6), nn.BatchNorm1d(6))
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    assert feature_size(encoder, images(4, count=1)) == 6  # one image: train mode would refuse it
    assert encoder.training
    assert feature_size(encoder.eval(), images(4)) == 6
    assert not encoder.training
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_an_encoder_that_gives_maps_instead_of_features_is_refused():
    with pytest.raises(BadInput) as caught:
        feature_size(nn.Conv2d(3, 4, 3, padding=1), images(4))
    assert str(caught.value) == "the encoder turned [2, 3, 4, 4] into [2, 4, 4, 4]: it has to give features [m, e]."


def test_a_vision_transformer_takes_crops_of_several_sizes():
    encoder = build_encoder("vit_tiny_patch16_224", 64)
    assert encoder(torch.randn(2, 3, 64, 64)).shape == encoder(torch.randn(2, 3, 32, 32)).shape == (2, 192)


def test_parts_that_were_frozen_in_evaluation_mode_stay_there():
    encoder = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout())
    encoder[0].eval()
    with evaluating(encoder):
        assert not encoder[1].training
    assert [part.training for part in encoder] == [False, True]


@pytest.mark.parametrize(("name", "size"), [("vit_tiny_patch16_224", 100), ("maxvit_nano_rw_256", 100)])
def test_a_size_that_a_backbone_does_not_take_is_a_sentence(name, size):
    with pytest.raises(BadInput, match=rf"takes no images of {size} px|does not take \[2, 3, {size}, {size}\]"):
        feature_size(build_encoder(name, size), torch.zeros(2, 3, size, size))


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten()), r"does not take \[2, 3, 8, 8\]"),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 4, dtype=torch.float64)), "does not take"),
        (nn.Flatten(), "has no parameters"),
    ],
)
def test_a_module_that_takes_no_such_images_is_told_before_a_step(module, words, tmp_path):
    with pytest.raises(BadInput, match=words):
        tiny_run(tmp_path / "run", encoder=module)


def test_a_layer_that_is_used_twice_is_saved_and_loaded(tmp_path):
    layer = nn.Linear(192, 192)
    twice = nn.Sequential(nn.Flatten(), layer, nn.ReLU(), layer)
    run = tiny_run(tmp_path / "run", encoder=twice, epochs=1)
    other = nn.Linear(192, 192)
    load_encoder(run, nn.Sequential(nn.Flatten(), other, nn.ReLU(), other))
    assert torch.equal(other.weight, layer.weight)
