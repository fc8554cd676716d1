"""Encoders, classifiers and detectors as ONNX; onnxruntime has to give equal outputs before one is called done."""

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mec.answers.classifier import Classifier, load_classifier
from mec.errors import BadInput, needs
from mec.evaluation.detection.saved import load_detector
from mec.exports.options import Taken
from mec.networks.encoder_file import EncoderInfo
from mec.runtime.files import atomic

OPSET = 17
RESIZED = 256 / 224  # of the side: the shorter one before its crop, from 64 px on
TOLERANCE = 1e-3  # of the largest value: boxes in px, scores, features


def export_encoder(taken: Taken, out: Path) -> list[str]:
    """Images [m, 3, s, s], normalised, to features [m, e]; any m."""
    return write_for_images(taken, taken.encoder, ["features"], {}, out)


class Classified(nn.Module):
    """Images [m, 3, s, s], normalised, to probabilities [m, c] as `Classifier.probabilities` gives, and features."""

    def __init__(self, encoder: nn.Module, classifier: Classifier):
        super().__init__()
        self.encoder, self.fitted = encoder, classifier.fitted
        given = self.fitted.weight, self.fitted.bias
        self.weight, self.bias = (nn.Buffer(torch.from_numpy(x).float()) for x in given)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.encoder(images)
        logits = nn.functional.normalize(x) @ self.weight + self.bias
        sure = (logits / self.fitted.temperature).softmax(1)
        return (1 - self.fitted.doubt) * sure + self.fitted.doubt / len(self.bias), x


def export_classifier(taken: Taken, out: Path) -> list[str]:
    """The folder that `mec predict` wrote: its encoder and classifier in one; names of classes lie in the file, too."""
    classifier = load_classifier(taken.file.parent)
    about = {"classes": json.dumps(classifier.classes)}
    names = f"columns of probabilities: {', '.join(classifier.classes)} (also as JSON in the file's metadata, classes)"
    whole = Classified(taken.encoder, classifier)
    return [*write_for_images(taken, whole, ["probabilities", "features"], about, out), names]


def write_for_images(
    taken: Taken, module: nn.Module, outputs: list[str], about: Mapping[str, str], out: Path
) -> list[str]:
    side, axes = taken.info.image_size, {name: {0: "m"} for name in ("images", *outputs)}
    images = [torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(n)) for n in (2, 3)]
    means = f"images [m, 3, {side}, {side}], normalised as the encoder's transform does"
    if taken.pixels:
        module, means = FromPixels(module, taken.info), "images uint8 [m, 3, h, w] (RGB, of one size, any)"
        images = [(255 * torch.cat([x, x.flip(2)], n).repeat(1, 1, 2, 1)).byte() for x, n in zip(images, (2, 3))]
        axes["images"] |= {2: "h", 3: "w"}
    write_onnx(module.eval(), images, "images", outputs, axes, out, about)
    return [f"{out}: {means}, to {' and '.join(outputs)}"]


class FromPixels(nn.Module):
    """uint8 [m, 3, h, w], as `image_transform` has them: the shorter side resized, a central crop, normalised.
    ONNX of torch has no resizing that averages: here it is two products with matrices, columns first, as in Pillow."""

    def __init__(self, module: nn.Module, info: EncoderInfo):
        super().__init__()
        self.module, self.info = module, info
        self.mean, self.std = (nn.Buffer(torch.tensor(moments).view(3, 1, 1)) for moments in (info.mean, info.std))

    def forward(self, images: Tensor) -> Any:
        size, side = torch._shape_as_tensor(images)[2:].float(), self.info.image_size
        target = torch.floor(round(side * RESIZED) * size / size.min()) if side >= 64 else torch.full((2,), float(side))
        rows, columns = (self.weights(*lengths) for lengths in zip(size, target))
        x = (images.float() @ columns.T).round().clamp(0, 255)
        x = (rows @ x).round().clamp(0, 255)
        return self.module((x / 255 - self.mean) / self.std)

    def weights(self, length: Tensor, target: Tensor) -> Tensor:
        """[s, length]: what each pixel of a row counts in each of its central s of `target` pixels."""
        share = length / target
        centre = (torch.arange(self.info.image_size) + ((target - self.info.image_size) / 2).round() + 0.5) * share
        places = torch.arange(length) + 0.5  # type: ignore[call-overload]  # a number of the graph, not of Python
        x = ((places - centre[:, None]) / share.clamp(min=1)).abs()
        if self.info.interpolation == "bilinear":
            found = (1 - x).clamp(min=0)
        else:  # bicubic, a = -1/2
            near, far = (1.5 * x - 2.5) * x**2 + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
            found = torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
        return found / found.sum(1, keepdim=True)


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
    module: nn.Module, examples: Sequence[Tensor], given: str, outputs: list[str], axes: dict, out: Path,
    about: Mapping[str, str] = MappingProxyType({}),
) -> None:  # fmt: skip
    """Traced on the first example, compared on both, of two sizes; no file stays where outputs differ.
    `about` becomes the file's metadata."""
    onnx = needs("--to onnx", "onnx", "onnx", "onnxruntime")
    import onnxruntime

    with atomic(out) as part, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of what a trace may miss: it is compared below
        names: dict[str, Any] = {"input_names": [given], "output_names": outputs, "dynamic_axes": axes}
        torch.onnx.export(module, (examples[0],), str(part), opset_version=OPSET, dynamo=False, **names)
        if about:
            model = onnx.load(part)
            onnx.helper.set_model_props(model, dict(about))
            onnx.save(model, part)
        session = onnxruntime.InferenceSession(part.read_bytes())
        for example in examples:
            found = session.run(None, {given: example.numpy()})
            expected = module(example)
            for one, other in zip(found, [expected] if isinstance(expected, Tensor) else expected):
                most = TOLERANCE * max(1.0, float(other.abs().max()) if other.numel() else 0.0)
                if one.shape != tuple(other.shape) or not np.allclose(one, other.numpy(), rtol=0, atol=most):
                    raise BadInput(f"{out}: onnxruntime gives other values than torch, for {[*example.shape]}.")
