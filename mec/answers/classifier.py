"""A classifier on disk, with its encoder: a folder of classifier.safetensors, classifier.json, encoder.safetensors."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from mec.answers.choosing import unit
from mec.answers.classifying import Fitted
from mec.answers.neighbours import nearest
from mec.errors import MALFORMED, BadInput
from mec.evaluation.evaluate import features
from mec.evaluation.subject import Subject
from mec.networks.encoder_file import save_encoder
from mec.runtime.files import atomic, file_hash, first_line, write_json
from mec.runtime.paths import ENCODER

FILE, ABOUT = "classifier.safetensors", "classifier.json"
NUMBERS = ("temperature", "doubt", "unsure", "unlike")


@dataclass(frozen=True)
class Classifier:
    """What names the class of images, from features of its encoder.

    classes: names, of columns; seen: [m, e] unit rows of the labelled images; unlike: the cosine with the nearest of
    them below which an image is unlike all of them."""

    fitted: Fitted
    classes: tuple[str, ...]
    seen: np.ndarray
    unlike: float
    folder: Path | None = None  # where it was loaded from

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """[n, c], calibrated, of features [n, e] of any length."""
        x = np.asarray(x, dtype=np.float64)
        if x.ndim != 2 or x.shape[1] != self.seen.shape[1]:
            raise BadInput(f"features are {[*x.shape]}: this classifier takes [n, {self.seen.shape[1]}].")
        return self.fitted.probabilities(unit(x))

    def flags(self, unit: np.ndarray, confidence: np.ndarray) -> list[str]:
        """ "unlike", "unsure", both or neither of unit rows [n, e]."""
        unlike = nearest(self.seen, unit, 1)[0][:, 0] < self.unlike
        unsure = confidence < self.fitted.unsure
        return [" ".join(["unlike"] * bool(a) + ["unsure"] * bool(b)) for a, b in zip(unlike, unsure)]

    def __call__(self, images: Any, *, device: str = "auto") -> list[tuple[str, str, float]]:
        """(name, label, confidence) of each image that can be read: a folder, a file, a list of paths or PIL images.
        Raises BadInput: the classifier was not loaded from a folder, or as `mec.features` does."""
        if self.folder is None:
            raise BadInput("this classifier has no encoder beside it: load it by mec.load_classifier(FOLDER).")
        found = features(self.folder, images, device=device)
        chance = self.probabilities(found.x.numpy())
        return [(n, self.classes[i], float(p[i])) for n, p, i in zip(found.names, chance, chance.argmax(1).tolist())]


def save_classifier(folder: Path, classifier: Classifier, subject: Subject, about: dict[str, Any]) -> None:
    """The classifier and its encoder; `about` is for people to read, in classifier.json."""
    folder.mkdir(parents=True, exist_ok=True)
    save_encoder(folder / ENCODER, subject.encoder, subject.info)
    fitted = classifier.fitted
    tensors = {"weight": fitted.weight, "bias": fitted.bias, "seen": classifier.seen}
    numbers = dict(zip(NUMBERS, (fitted.temperature, fitted.doubt, fitted.unsure, classifier.unlike)))
    known = {"classes": classifier.classes, **numbers, "encoder": file_hash(folder / ENCODER)}
    with atomic(folder / FILE) as part:
        safetensors.numpy.save_file(
            {n: np.ascontiguousarray(t, np.float32) for n, t in tensors.items()}, part, {"mec": json.dumps(known)}
        )
    write_json(folder / ABOUT, {**known, **about})


def load_classifier(folder: str | Path) -> Classifier:
    """The classifier that `mec predict` saved, to be called with images, or asked for `probabilities` of features.

    Args:
        folder: the one that it wrote.

    Returns:
        A `Classifier`: `classifier("photos/")` gives (name, label, confidence) of each image.

    Raises:
        FileNotFoundError: no classifier there.
        BadInput: it cannot be read, or the encoder beside it is another one."""
    folder = Path(folder)
    if not (folder / FILE).is_file():
        raise FileNotFoundError(f"{folder}: no {FILE} in it. `mec predict` writes such a folder.")
    try:
        with safetensors.safe_open(folder / FILE, framework="np") as file:
            known = json.loads(file.metadata()["mec"])
            weight, bias, seen = (file.get_tensor(name).astype(np.float64) for name in ("weight", "bias", "seen"))
        classes = tuple(map(str, known["classes"]))
        temperature, doubt, unsure, unlike = (float(known[name]) for name in NUMBERS)
        if not (weight.shape == (seen.shape[1], len(classes)) and bias.shape == weight.shape[1:] and temperature > 0):
            raise ValueError(f"weight {weight.shape}, bias {bias.shape}, {len(classes)} classes")
        if not all(np.isfinite(tensor).all() for tensor in (weight, bias, seen)):
            raise ValueError("values that are not finite")
    except (*MALFORMED, OSError, safetensors.SafetensorError) as error:
        raise BadInput(
            f"{folder / FILE}: not a classifier that mec wrote, or damaged ({first_line(error)})."
        ) from error
    if not (folder / ENCODER).is_file() or file_hash(folder / ENCODER) != known.get("encoder"):
        words = "not the encoder that the classifier was fitted on. Run `mec predict` again."
        raise BadInput(f"{folder / ENCODER}: {words}")
    return Classifier(Fitted(weight, bias, temperature, doubt, unsure), classes, seen, unlike, folder)
