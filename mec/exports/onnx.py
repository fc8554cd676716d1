"""Encoders and detectors as ONNX, run once by onnxruntime: outputs have to be equal before it is called done."""

import importlib.util
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mec.errors import BadInput
from mec.evaluation.detection.saved import load_detector
from mec.exports.options import Taken
from mec.runtime.files import atomic

OPSET = 17
TOLERANCE = 1e-3  # of the largest value: boxes in px, scores, features


def export_encoder(taken: Taken, out: Path) -> list[str]:
    """Images [m, 3, s, s], normalised, to features [m, e]; any m."""
    side = taken.info.image_size
    images = [torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(n)) for n in (2, 3)]
    write_onnx(taken.encoder.eval(), images, "images", ["features"], {"images": {0: "m"}, "features": {0: "m"}}, out)
    return [f"{out}: images [m, 3, {side}, {side}], normalised as the encoder's transform does, to features"]


class OneImage(nn.Module):
    """uint8 [3, h, w], resized for the detector, to boxes, scores, labels and (of Mask R-CNN) masks [n, 14, 14]."""

    def __init__(self, detector: nn.Module):
        super().__init__()
        self.detector = detector

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.detector([image])[0].values())


def export_detector(run: str | Path, out: Path) -> list[str]:
    """An image of any size to what is found in it; resizing it is left to the caller."""
    detector, info = load_detector(run)
    sizes = ((info.test, info.test + 64), (info.test + 32, info.test))
    images = [(torch.rand(3, *size, generator=torch.Generator().manual_seed(0)) * 255).byte() for size in sizes]
    names = ["boxes", "scores", "labels", *(["masks"] if info.masks else [])]
    axes = {"image": {1: "h", 2: "w"}, **{name: {0: "n"} for name in names}}
    write_onnx(OneImage(detector).eval(), images, "image", names, axes, out)
    pasted = " (probabilities inside the boxes: mec.evaluation.detection.masks pastes them)" if info.masks else ""
    return [
        f"{out}: image uint8 [3, h, w] (RGB, the shorter side {info.test} px, the longer at most {info.most}) to "
        f"{', '.join(names)}{pasted}; boxes x0, y0, x1, y1 in its px, labels from 0: {', '.join(info.classes)}"
    ]


def write_onnx(
    module: nn.Module, examples: Sequence[Tensor], given: str, outputs: list[str], axes: dict, out: Path
) -> None:
    """Traced on the first example, compared on both, of two sizes; no file stays where outputs differ."""
    if absent := [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]:
        raise BadInput(f"--to onnx needs {' and '.join(absent)}: pip install 'mec-ssl[onnx]'.")
    import onnxruntime

    with atomic(out) as part, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of what a trace may miss: it is compared below
        names: dict[str, Any] = {"input_names": [given], "output_names": outputs, "dynamic_axes": axes}
        torch.onnx.export(module, (examples[0],), str(part), opset_version=OPSET, dynamo=False, **names)
        session = onnxruntime.InferenceSession(part.read_bytes())
        for example in examples:
            found = session.run(None, {given: example.numpy()})
            expected = module(example)
            for one, other in zip(found, [expected] if isinstance(expected, Tensor) else expected):
                most = TOLERANCE * max(1.0, float(other.abs().max()) if other.numel() else 0.0)
                if one.shape != tuple(other.shape) or not np.allclose(one, other.numpy(), rtol=0, atol=most):
                    raise BadInput(f"{out}: onnxruntime gives other values than torch, for {[*example.shape]}.")
