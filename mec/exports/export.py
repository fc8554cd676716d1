"""`mec export`: EXPORTS, what each tool gets. A new tool is a function here and its row; heavy imports wait inside."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mec.errors import BadInput, nearest
from mec.exports.options import Taken
from mec.runtime.flags import File, Name, takes
from mec.runtime.progress import say


def late(name: str) -> Callable[[Taken, Path], list[str]]:
    """A function of this room, whose file is loaded when it is called."""
    file, _, function = name.partition(".")
    return lambda taken, out: getattr(importlib.import_module(f"mec.exports.{file}"), function)(taken, out)


EXPORTS: dict[str, tuple[str, Callable[[Taken, Path], list[str]]]] = {  # suffix; writes the file, says what to do then
    "torchvision": (".pth", late("weights.export_torchvision")),
    "timm": (".safetensors", late("weights.export_timm")),
    "detectron2": (".pkl", late("detectron2.export_detectron2")),
    "onnx": (".onnx", late("onnx.export_encoder")),
    "torch": (".pt2", late("weights.export_program")),
    "hub": ("", late("hub.export_hub")),
}
if TYPE_CHECKING:
    Tool = str
else:
    Tool = Literal[tuple(EXPORTS)]


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write the weights for other tools; outputs are compared where the tool is at hand."""

    out: File = None
    """Default: RUN/encoder-torchvision.pth, RUN/encoder-timm.safetensors, RUN/encoder-detectron2.pkl,
    RUN/encoder-onnx.onnx, RUN/encoder-torch.pt2, the folder RUN/encoder-hub; classifier.onnx or detector.onnx beside
    a classifier or a detector."""
    pixels: bool = False
    """With --to onnx: the file takes pixels, uint8 [m, 3, h, w] of any size, and resizes, crops and normalises them."""
    push: Name = None
    """OWNER/NAME on the Hugging Face Hub, to which the folder of --to hub is uploaded. Default: nothing is sent."""


@takes(Export)
def export(run: str | Path, to: Tool, options: Export) -> Path:
    """Write the weights for timm (safetensors), torchvision (.pth), detectron2 (.pkl), as ONNX or a program of torch
    (.pt2), or as a folder for the Hugging Face Hub, with a card of what was measured; say how they load.

    The printed lines build the other tool's own model, which must give the same features on random images; for onnx
    onnxruntime does, and for detectron2 the file follows its names (compared with it once: docs/originals.md).

    Args:
        run: a run folder, or an encoder.safetensors; for onnx also the folder of a classifier that `mec predict` saved
            (images to probabilities and features), or a detector's, or its file.
        to: the names and layout to write: torchvision, timm, detectron2, onnx, torch or hub.
    {options}

    Raises:
        BadInput: the encoder is a module of the caller's own, or the tool has no such network."""
    from mec.answers.classifier import FILE
    from mec.evaluation.detection.options import DETECTOR
    from mec.networks.encoder_file import encoder_file, load_encoder, read_info

    if to not in EXPORTS:
        raise BadInput(f"--to is {to!r}. {nearest(to, EXPORTS)}")
    if options.push is not None and to != "hub":
        raise BadInput(f"--push is {options.push}: it uploads the folder that --to hub writes, and --to is {to}.")
    if options.pixels and to != "onnx":
        raise BadInput(f"--pixels is for --to onnx, and --to is {to}: other tools bring their own preprocessing.")
    detector = Path(run) if Path(run).name == DETECTOR else Path(run) / DETECTOR
    if to == "onnx" and detector.is_file():
        from mec.exports.onnx import export_detector

        out = Path(options.out) if options.out else detector.with_suffix(".onnx")
        say("\n".join(export_detector(detector, out)))
        return out
    file, info = encoder_file(run), read_info(run)
    if info.backbone == "custom":
        raise BadInput(f"{file}: a module of your own; save its state_dict as you like, there is no {to} name for it.")
    suffix, write = EXPORTS[to]
    named = file.parent / f"encoder-{to}{suffix}"
    if to == "onnx" and Path(run).is_dir() and (file.parent / FILE).is_file():
        write, named = late("onnx.export_classifier"), file.parent / "classifier.onnx"
    out = Path(options.out) if options.out else named
    if out.exists() and out.samefile(file):
        raise BadInput(f"--out is {out}: that is the encoder itself; choose another name.")
    encoder, _ = load_encoder(file)
    weights = {name: tensor.contiguous() for name, tensor in encoder.state_dict().items()}
    say("\n".join(write(Taken(file, info, encoder, weights, options.pixels), out)))
    if options.push is not None:
        from mec.exports.hub import push

        say(f"Pushed: {push(out, options.push)}")
    return out
