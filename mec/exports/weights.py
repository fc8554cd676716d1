"""The encoder's weights in the names and layout of other tools, compared numerically before it is called done."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
import torchvision
from torch import nn

from mec.errors import BadInput
from mec.exports.options import Taken
from mec.networks.backbones import POOLED, SMALL, timm_arguments, use_small_stem
from mec.networks.encoder_file import EncoderInfo
from mec.runtime.files import atomic, write_json

TOLERANCE = 1e-4  # of the largest feature
TORCHVISION = ("resnet10", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


def write_compared(
    taken: Taken, out: Path, lines_and_model: Callable[[EncoderInfo, Path], tuple[list[str], nn.Module]]
) -> list[str]:
    """Write the file; the model that its lines build has to give the encoder's features, or no file stays."""
    info = taken.info
    if lines_and_model is torchvision_lines and info.backbone not in TORCHVISION:
        small = " Its widths are not torchvision's;" if info.backbone in SMALL else ""
        raise BadInput(f"torchvision has no {info.backbone!r} (it has {', '.join(TORCHVISION)}).{small} use --to timm.")
    with atomic(out) as part:
        if lines_and_model is timm_lines:
            about = {"mec": json.dumps(asdict(info))}  # timm passes over it; `mec evaluate` reads the file by it
            safetensors.torch.save_file(taken.weights, part, metadata=about)
        else:
            torch.save(taken.weights, part)
    try:
        lines, other = lines_and_model(info, out)
        compare(taken.encoder, other, info)
    except BaseException:
        out.unlink()  # no file stays that gives other features
        raise
    lines += transform_lines(info)
    said = [f"{out}: features equal to those of {taken.file}. It loads with:\n", *(f"    {line}" for line in lines)]
    if lines_and_model is timm_lines:
        config = out.with_suffix(".json")
        write_json(config, timm_config(info))
        said += [
            f"\n{config}: how images are made, in timm's words: timm.data.create_transform(**timm.data."
            "resolve_data_config(json.load(open(FILE))['pretrained_cfg']))"
        ]
    return said


def resized_to(info: EncoderInfo) -> int | None:
    """The shorter side, px, before the central crop; None where an image is resized whole. As `image_transform`."""
    return None if info.image_size < 64 else round(info.image_size * 256 / 224)


def transform_lines(info: EncoderInfo) -> list[str]:
    """What makes the encoder's input of a picture, by torchvision's transforms alone."""
    side, shorter = info.image_size, resized_to(info)
    size = f"({side}, {side})" if shorter is None else f"{shorter}"
    mode = f"v2.InterpolationMode.{info.interpolation.upper()}"
    deep = info.value_range
    cropped = [] if shorter is None else [f"v2.CenterCrop({side}),"]
    return [
        "from PIL import Image, ImageOps",
        "from torchvision.transforms import v2",
        "transform = v2.Compose([",
        *(
            f"    {step}"
            for step in ("v2.ToImage(), v2.RGB(),", f"v2.Resize({size}, {mode}, antialias=True),", *cropped)
        ),
        f"    v2.ToDtype(torch.float32, scale=True), v2.Normalize({list(info.mean)}, {list(info.std)}),",
        "])",
        *([f"# 16-bit, float and signed pictures: {deep[0]:g} becomes 0 and {deep[1]:g} 255 first"] if deep else []),
        "# features = model.eval()(transform(ImageOps.exif_transpose(Image.open(PATH)))[None])",
    ]


def timm_config(info: EncoderInfo) -> dict[str, Any]:
    """What timm's data configuration has to know: its default would crop and normalise otherwise."""
    arguments = timm_arguments(info.backbone)
    side, shorter = info.image_size, resized_to(info)
    # timm resizes to floor(side / crop_pct): half a pixel more, so that rounding never takes one away.
    crop = {"crop_pct": 1.0, "crop_mode": "squash"} if shorter is None else {
        "crop_pct": side / (shorter + 0.5), "crop_mode": "center"
    }  # fmt: skip
    shown = {"interpolation": info.interpolation, "mean": info.mean, "std": info.std}
    about = {"input_size": (3, side, side), **crop, **shown}
    return {"architecture": arguments["model"], "num_features": info.feature_size, "pretrained_cfg": about}


def timm_lines(info: EncoderInfo, out: Path) -> tuple[list[str], nn.Module]:
    """The lines that load the file with timm alone, and the model that they build."""
    arguments = timm_arguments(info.backbone)
    model = arguments.pop("model")
    convolutional = False
    try:
        timm.create_model(model, num_classes=0, img_size=info.image_size)
        arguments |= {"img_size": info.image_size, **({"patch_size": 4} if info.small_stem else {})}
    except TypeError:  # it is not told the size
        convolutional = True
    extra = "".join(f", {name}={value!r}" for name, value in arguments.items())
    if not info.small_stem or not convolutional:
        line = f'model = timm.create_model("{model}", num_classes=0{extra}, checkpoint_path={str(out)!r})'
        other = timm.create_model(model, num_classes=0, **arguments, checkpoint_path=str(out))
        return ["import timm, torch", line], other
    other = timm.create_model(model, num_classes=0, **arguments)
    use_small_stem(other, pooled=info.backbone in POOLED)
    other.load_state_dict(safetensors.torch.load_file(out))
    return [
        "import timm, torch, safetensors.torch",
        f'model = timm.create_model("{model}", num_classes=0{extra})',
        *_stem_lines(other),
        f"model.load_state_dict(safetensors.torch.load_file({str(out)!r}))",
    ], other


def torchvision_lines(info: EncoderInfo, out: Path) -> tuple[list[str], nn.Module]:
    """The lines that load the file into torchvision's ResNet, and the model that they build."""
    if info.backbone == "resnet10":
        other: nn.Module = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1])
        made = "torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1])"
    else:
        other, made = torchvision.models.get_model(info.backbone), f"torchvision.models.{info.backbone}()"
    other.fc = nn.Identity()
    if info.small_stem:
        use_small_stem(other)
    other.load_state_dict(torch.load(out, weights_only=True))
    return [
        "import torch, torchvision",
        f"model = {made}",
        "model.fc = torch.nn.Identity()",
        *(_stem_lines(other) if info.small_stem else []),
        f"model.load_state_dict(torch.load({str(out)!r}, weights_only=True))",
    ], other


def _stem_lines(model: nn.Module) -> list[str]:
    """The change of a ResNet's stem for small images, as a user types it."""
    name, first = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    place = "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in name.split("."))
    made = f"torch.nn.Conv2d({first.in_channels}, {first.out_channels}, 3, 1, 1, bias={first.bias is not None})"
    pool_is_gone = isinstance(getattr(model, "maxpool", None), nn.Identity)
    return [f"model{place} = {made}", *["model.maxpool = torch.nn.Identity()"] * pool_is_gone]


@torch.no_grad()
def compare(ours: nn.Module, other: nn.Module, info: EncoderInfo) -> None:
    """Raise unless both give the same features for random images."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, info.image_size, info.image_size, generator=generator)
    expected, found = ours.eval()(images), other.eval()(images)
    error = (expected - found).abs().max() / expected.abs().max()
    if not error < TOLERANCE:
        raise RuntimeError(f"the exported {info.backbone} gives features that differ by {error:.1e} of the largest.")
