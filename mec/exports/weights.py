"""The encoder's weights in the names and layout of other tools, compared numerically before it is called done."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from mec.errors import BadInput
from mec.exports.options import Taken
from mec.networks.backbones import SMALL, created, timm_arguments
from mec.networks.encoder_file import EncoderInfo
from mec.runtime.files import atomic, write_json

WEIGHTS = "model.safetensors"  # in a folder that timm loads
TOLERANCE = 1e-4  # of the largest feature
TORCHVISION = ("resnet10", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


def export_timm(taken: Taken, out: Path) -> list[str]:
    """Safetensors, the lines that load them with timm alone, and how images are made in timm's words."""
    save_weights(taken, out)
    said = compared(taken, out, timm_lines(taken, out))
    config = out.with_suffix(".json")
    write_json(config, timm_config(taken.info))
    return [
        *said, f"\n{config}: how images are made, in timm's words: timm.data.create_transform(**timm.data."
        "resolve_data_config(json.load(open(FILE))['pretrained_cfg']))"
    ]  # fmt: skip


def export_torchvision(taken: Taken, out: Path) -> list[str]:
    """A state dict, and the lines that load it into torchvision's ResNet. Raises BadInput: it has no such network."""
    name = taken.info.backbone
    if name not in TORCHVISION:
        small = " Its widths are not torchvision's;" if name in SMALL else ""
        raise BadInput(f"torchvision has no {name!r} (it has {', '.join(TORCHVISION)}).{small} use --to timm.")
    with atomic(out) as part:
        torch.save(taken.weights, part)
    ten = "ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1])"
    return compared(taken, out, [
        "import torch, torchvision",
        f"model = torchvision.models.{ten if name == 'resnet10' else f'{name}()'}",
        "model.fc = torch.nn.Identity()",
        *(_stem_lines(taken.encoder) if taken.info.small_stem else []),
        f"model.load_state_dict(torch.load({str(out)!r}, weights_only=True))",
    ])  # fmt: skip


def export_program(taken: Taken, out: Path) -> list[str]:
    """What torch.export makes of the encoder, any number of images at once: it runs without the code of its network."""
    side = taken.info.image_size
    example, any_number = torch.randn(2, 3, side, side), torch.export.Dim("m", min=1)
    with torch.no_grad(), atomic(out) as part:
        program = torch.export.export(taken.encoder.eval(), (example,), dynamic_shapes=({0: any_number},))
        torch.export.save(program, part)
    said = compared(taken, out, ["import torch", f"model = torch.export.load({str(out)!r}).module()"])
    return [line.replace("model.eval()", "model") for line in said]  # a program has no modes


def save_weights(taken: Taken, out: Path) -> None:
    with atomic(out) as part:  # timm passes over the metadata; `mec evaluate` reads the file by it
        safetensors.torch.save_file(taken.weights, part, metadata={"mec": json.dumps(asdict(taken.info))})


def compared(taken: Taken, out: Path, lines: list[str]) -> list[str]:
    """What is said about a file that the lines load; the model that they build has to give the encoder's features."""
    lines, names, side = [*lines, *transform_lines(taken.info)], dict[str, Any](), taken.info.image_size
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    try:
        exec("\n".join(lines), names)
        with torch.no_grad():
            model = names["model"] if out.suffix == ".pt2" else names["model"].eval()
            expected, found = taken.encoder.eval()(images), model(images)
        error = (expected - found).abs().max() / expected.abs().max()
        if not error < TOLERANCE:
            words = f"the model that reads it gives features that differ by {error:.1e} of the largest."
            raise RuntimeError(f"{out}: {words}")
    except BaseException:
        (out / WEIGHTS if out.is_dir() else out).unlink()  # no file stays that gives other features
        raise
    return [f"{out}: features equal to those of {taken.file}. It loads with:\n", *(f"    {line}" for line in lines)]


def resized_to(info: EncoderInfo) -> int | None:
    """The shorter side, px, before the central crop; None where an image is resized whole. As `image_transform`."""
    return None if info.image_size < 64 else round(info.image_size * 256 / 224)


def transform_lines(info: EncoderInfo) -> list[str]:
    """What makes the encoder's input of a picture, by torchvision's transforms alone."""
    side, shorter = info.image_size, resized_to(info)
    size = f"({side}, {side})" if shorter is None else f"{shorter}"
    mode = f"v2.InterpolationMode.{info.interpolation.upper()}"
    deep = info.value_range
    return [
        "from PIL import Image, ImageOps",
        "from torchvision.transforms import v2",
        "transform = v2.Compose([",
        "    v2.ToImage(), v2.RGB(),",
        f"    v2.Resize({size}, {mode}, antialias=True),",
        *([] if shorter is None else [f"    v2.CenterCrop({side}),"]),
        f"    v2.ToDtype(torch.float32, scale=True), v2.Normalize({list(info.mean)}, {list(info.std)}),",
        "])",
        *([f"# 16-bit, float and signed pictures: {deep[0]:g} becomes 0 and {deep[1]:g} 255 first"] if deep else []),
        "# features = model.eval()(transform(ImageOps.exif_transpose(Image.open(PATH)))[None])",
    ]


def timm_config(info: EncoderInfo) -> dict[str, Any]:
    """What timm's data configuration has to know: its default would crop and normalise otherwise."""
    side, shorter = info.image_size, resized_to(info)
    # timm resizes to floor(side / crop_pct): half a pixel more, so that rounding never takes one away.
    crop = {"crop_pct": 1.0, "crop_mode": "squash"} if shorter is None else {
        "crop_pct": side / (shorter + 0.5), "crop_mode": "center"
    }  # fmt: skip
    shown = {"interpolation": info.interpolation, "mean": info.mean, "std": info.std}
    about = {"input_size": (3, side, side), **crop, **shown}
    name = timm_arguments(info.backbone)["model"]
    return {"architecture": name, "num_features": info.feature_size, "pretrained_cfg": about}


def timm_lines(taken: Taken, out: Path) -> list[str]:
    """The lines that load the file with timm alone."""
    arguments, info = timm_model(taken.info), taken.info
    call = f"model = timm.create_model({json.dumps(arguments.pop('model'))}, num_classes=0"
    call += "".join(f", {name}={value!r}" for name, value in arguments.items())
    if not info.small_stem or "img_size" in arguments:
        return ["import timm, torch", f"{call}, checkpoint_path={str(out)!r})"]
    loads = f"model.load_state_dict(safetensors.torch.load_file({str(out)!r}))"
    return ["import timm, torch, safetensors.torch", f"{call})", *_stem_lines(taken.encoder), loads]


def timm_model(info: EncoderInfo) -> dict[str, Any]:
    """What timm makes the network by, the stem for small images aside: its name under 'model', and keywords."""
    _, keywords = created(info.backbone, info.image_size, info.small_stem)
    return timm_arguments(info.backbone) | {word: x for word, x in keywords.items() if word != "dynamic_img_size"}


def _stem_lines(model: nn.Module) -> list[str]:
    """The change of a ResNet's stem for small images, as a user types it."""
    name, first = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    place = "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in name.split("."))
    made = f"torch.nn.Conv2d({first.in_channels}, {first.out_channels}, 3, 1, 1, bias={first.bias is not None})"
    pool_is_gone = isinstance(getattr(model, "maxpool", None), nn.Identity)
    return [f"model{place} = {made}", *["model.maxpool = torch.nn.Identity()"] * pool_is_gone]
