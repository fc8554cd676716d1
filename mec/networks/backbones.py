"""Backbones by name -> module, with a stem that suits small images."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from mec.errors import BadInput, nearest
from mec.runtime.files import first_line

# With one block a stage, blocks whose last batch norm starts at zero leave little to start from: ten points of k-NN in
# a short run (docs/log.md). Deeper networks start as the recipe says.
ONE_BLOCK = {"model": "resnet18", "layers": (1, 1, 1, 1), "zero_init_last": False}

# ResNets for CPUs and small data; weights keep torchvision's names.
SMALL: dict[str, dict[str, Any]] = {
    "resnet10-tiny": {**ONE_BLOCK, "channels": (32, 64, 128, 256)},
    "resnet10-half": {**ONE_BLOCK, "channels": (32, 64, 128, 512)},
    "resnet10-fast": {**ONE_BLOCK, "channels": (32, 64, 128, 256)},
    "resnet10": ONE_BLOCK,
}

SMALL_STEM_BELOW = 64  # px
POOLED = {"resnet10-fast"}  # keep the max-pool on small images too: it saves two thirds of a step on a CPU


def build_encoder(name: str, image_size: int, small_stem: bool | None = None, *, zero_init: bool = True) -> nn.Module:
    """A backbone that turns images [m, 3, h, w] into features [m, e]; e is its `num_features`.

    Args:
        name: any timm model name, or one of `SMALL`.
        image_size: side of the images it will see, px.
        small_stem: whether to replace the stem by a 3x3 convolution of stride 1, without max-pool unless `POOLED`
            has the name; None decides by size.
        zero_init: whether the last batch norm of a ResNet's blocks starts at zero, as timm's do, or at one.

    Raises BadInput: no such backbone (with the nearest name), or one that cannot take this image size."""
    small = image_size < SMALL_STEM_BELOW if small_stem is None else small_stem
    encoder, _ = created(name, image_size, small)
    for block in [] if zero_init else encoder.modules():
        if hasattr(block, "zero_init_last"):  # timm's blocks: their last batch norm at one, torch's own start
            nn.init.ones_(block.get_submodule("bn3" if hasattr(block, "bn3") else "bn2").get_parameter("weight"))
    return encoder


def created(name: str, image_size: int, small_stem: bool) -> tuple[nn.Module, dict[str, Any]]:
    """A backbone as timm makes it, and the keywords beside those of `timm_arguments` that say for which images.
    Without any of them a small stem is that of `use_small_stem`. Raises BadInput: as `build_encoder`."""
    import timm

    arguments = timm_arguments(name)
    model = arguments.pop("model")
    if not timm.is_model(model):
        raise BadInput(f"no backbone is called {name!r}. {nearest(name, [*SMALL, *timm.list_models()])[:200]}")
    # Vision transformers fix their grid when they are made; convolutional networks take any size and have no img_size.
    size = {"img_size": image_size}
    grid: dict[str, Any] = {**size, **({"patch_size": 4} if small_stem else {})}
    tried = [{**grid, "dynamic_img_size": True}, grid, {}, *[size] * small_stem]  # dynamic: for crops of several sizes
    reason = "its code has no place for it"
    for extra in tried:
        try:
            encoder = timm.create_model(model, pretrained=False, num_classes=0, **arguments, **extra)
        except TypeError:
            continue
        except (AssertionError, ValueError, RuntimeError, ArithmeticError, LookupError) as error:
            raise BadInput(
                f"backbone {name!r} takes no images of {image_size} px: {first_line(error)[:200]}."
            ) from error
        if small_stem and not extra:
            use_small_stem(encoder, pooled=name in POOLED)
            try:  # of stems with several branches one alone was changed; others need to know the size
                feature_size(encoder, torch.zeros(1, 3, image_size, image_size))
            except BadInput as error:
                reason = str(error)
                continue
        return encoder, extra
    raise BadInput(f"backbone {name!r} cannot be made for images of {image_size} px: {reason}")


def patch_of(name: str) -> int | None:
    """Side of a backbone's patches, px, by its name; None where it has none.

    >>> patch_of("vit_small_patch14_dinov2"), patch_of("resnet50")
    (14, None)"""
    found = re.search(r"patch(\d+)", name)
    return int(found[1]) if found else None


def freeze_patches(encoder: nn.Module, name: str) -> None:
    """The patch projection is trained no more, in place. Raises BadInput: the backbone has none."""
    projection = getattr(getattr(encoder, "patch_embed", None), "proj", None)
    if not isinstance(projection, nn.Module):
        words = "it has no patch projection that could stand still: --set network.freeze_patches=false."
        raise BadInput(f"network.freeze_patches is true, and the backbone {name}: {words}")
    projection.requires_grad_(False)


def recompute(encoder: nn.Module, name: str) -> None:
    """Its blocks keep their inputs alone for the backward pass, in place. Raises BadInput: it has no way to do so."""
    try:
        encoder.set_grad_checkpointing(True)  # type: ignore[operator]
    except (AttributeError, AssertionError) as error:  # of a module of the caller's own; of some of timm's
        words = "has no set_grad_checkpointing(enable): leave it out, or take a ResNet or vision transformer of timm's"
        raise BadInput(f"--checkpoint-activations: {name} {words}.") from error


def timm_arguments(name: str) -> dict[str, Any]:
    """What `timm.create_model` is given for a backbone: its model name under 'model', and keywords."""
    return dict(SMALL.get(name, {"model": name}))


def use_small_stem(encoder: nn.Module, *, pooled: bool = False) -> None:
    """First convolution 3x3 of stride 1, no max-pool, in place (the CIFAR stem of the paper's appendix B)."""
    name, first = next((n, m) for n, m in encoder.named_modules() if isinstance(m, nn.Conv2d))
    new = nn.Conv2d(first.in_channels, first.out_channels, 3, padding=1, bias=first.bias is not None)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    setattr(encoder.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], new)
    if hasattr(encoder, "maxpool") and not pooled:
        encoder.maxpool = nn.Identity()


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """In evaluation mode; afterwards every part of it is in the mode that it was in."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


@torch.no_grad()
def feature_size(encoder: nn.Module, example: torch.Tensor) -> int:
    """e, from one forward pass of an example batch in evaluation mode (the mode is put back)."""
    try:
        with evaluating(encoder):
            features = encoder(example)
    except BadInput:
        raise
    except Exception as error:  # of shapes, channels, precision: whatever the module does not take
        hint = f"{first_line(error)[:200]}. Another size (--set views.size=N) or another backbone may fit."
        raise BadInput(f"the encoder does not take {[*example.shape]}, {example.dtype}: {hint}") from error
    if not isinstance(features, torch.Tensor) or features.ndim != 2:
        shape = [*features.shape] if isinstance(features, torch.Tensor) else type(features).__name__
        raise BadInput(f"the encoder turned {[*example.shape]} into {shape}: it has to give features [m, e].")
    return features.shape[1]
