"""Backbones by name -> module, with a stem that suits small images."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mec.errors import BadInput, nearest

# ResNets of one block a stage, for CPUs and small data; weights keep torchvision's names.
SMALL: dict[str, dict[str, Any]] = {
    "resnet10-tiny": {"model": "resnet18", "layers": (1, 1, 1, 1), "channels": (32, 64, 128, 256)},
    "resnet10-half": {"model": "resnet18", "layers": (1, 1, 1, 1), "channels": (32, 64, 128, 512)},
    "resnet10-fast": {"model": "resnet18", "layers": (1, 1, 1, 1), "channels": (32, 64, 128, 256)},
    "resnet10": {"model": "resnet18", "layers": (1, 1, 1, 1)},
}
SMALL_STEM_BELOW = 64  # px
# Of the 3x3 convolution that small images get, where it is not 1: halving the side saves two thirds of a step on a CPU.
SMALL_STEM_STRIDE = {"resnet10-fast": 2}


def build_encoder(name: str, image_size: int, small_stem: bool | None = None) -> nn.Module:
    """A backbone that turns images [m, 3, h, w] into features [m, e]; e is its `num_features`.

    Args:
        name: any timm model name, or one of `SMALL`.
        image_size: side of the images it will see, px.
        small_stem: whether to replace the stem by a 3x3 convolution without max-pool, of stride 1 unless
            `SMALL_STEM_STRIDE` says otherwise; None decides by size.

    Raises:
        BadInput: no such backbone (with the nearest name), or one that cannot take this image size.
    """
    import timm

    small = image_size < SMALL_STEM_BELOW if small_stem is None else small_stem
    arguments = timm_arguments(name)
    model = arguments.pop("model")
    if not timm.is_model(model):
        raise BadInput(f"no backbone is called {name!r}. {nearest(name, [*SMALL, *timm.list_models()])[:200]}")
    # Vision transformers fix their grid when they are made; convolutional networks take any size and have no img_size.
    grid: dict[str, Any] = {"img_size": image_size, **({"patch_size": 4} if small else {})}
    for extra in (grid, {}):
        try:
            encoder = timm.create_model(model, pretrained=False, num_classes=0, **arguments, **extra)
        except TypeError:
            continue
        if small and not extra:
            use_small_stem(encoder, SMALL_STEM_STRIDE.get(name, 1))
        return encoder
    raise BadInput(f"backbone {name!r} cannot be made for images of {image_size} px.")


def timm_arguments(name: str) -> dict[str, Any]:
    """What `timm.create_model` is given for a backbone: its model name under 'model', and keywords."""
    return dict(SMALL.get(name, {"model": name}))


def use_small_stem(encoder: nn.Module, stride: int = 1) -> None:
    """First convolution 3x3, no max-pool, in place (the CIFAR stem of the paper's appendix B)."""
    name, first = next((n, m) for n, m in encoder.named_modules() if isinstance(m, nn.Conv2d))
    new = nn.Conv2d(first.in_channels, first.out_channels, 3, stride=stride, padding=1, bias=first.bias is not None)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    parent = encoder.get_submodule(name.rpartition(".")[0])
    setattr(parent, name.rpartition(".")[2], new)
    if hasattr(encoder, "maxpool"):
        encoder.maxpool = nn.Identity()


@torch.no_grad()
def feature_size(encoder: nn.Module, example: torch.Tensor) -> int:
    """e, from one forward pass of an example batch in evaluation mode (the mode is put back)."""
    training = encoder.training
    features = encoder.eval()(example)
    encoder.train(training)
    if not isinstance(features, torch.Tensor) or features.ndim != 2:
        shape = [*features.shape] if isinstance(features, torch.Tensor) else type(features).__name__
        raise BadInput(f"the encoder turned {[*example.shape]} into {shape}: it has to give features [m, e].")
    return features.shape[1]
