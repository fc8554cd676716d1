"""Data sets by name: digits, and those that torchvision reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mec.data.dataset import Data, Split
from mec.data.images import Images, Stored, Wrapped, middle, sample_sizes
from mec.errors import BadInput


def digits() -> Data:
    """scikit-learn's handwritten digits: 1,797 grey images of 8x8 px, split 70/30 stratified with a fixed seed."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    pixels = torch.from_numpy(np.rint(x.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)).repeat(1, 3, 1, 1)
    train, test = train_test_split(np.arange(len(y)), test_size=0.3, stratify=y, random_state=0)
    train, test = np.sort(train), np.sort(test)
    return Data(
        name="digits",
        train=Split(Stored(pixels[train]), y[train].astype(np.int64)),
        test=Split(Stored(pixels[test]), y[test].astype(np.int64)),
        classes=tuple("0123456789"),
        typical_size=(8, 8),
        suits="digits",
    )


@dataclass(frozen=True)
class TorchvisionSet:
    """How torchvision opens a data set: class name, keywords of the training and of the test part, terms of use."""

    kind: str
    train: dict[str, Any]
    test: dict[str, Any]
    terms: str


_SPLITS = ({"split": "train"}, {"split": "test"})


TORCHVISION: dict[str, TorchvisionSet] = {
    "cifar10": TorchvisionSet("CIFAR10", {"train": True}, {"train": False}, "MIT licence, as the paper states it"),
    "cifar100": TorchvisionSet("CIFAR100", {"train": True}, {"train": False}, "no licence stated; research use"),
    "stl10": TorchvisionSet("STL10", {"split": "train+unlabeled"}, {"split": "test"}, "drawn from ImageNet: its terms"),
    "svhn": TorchvisionSet("SVHN", *_SPLITS, "non-commercial use only"),
    "food101": TorchvisionSet("Food101", *_SPLITS, "images from Foodspotting: research use, see its terms"),
    "flowers102": TorchvisionSet("Flowers102", *_SPLITS, "no licence stated; images from the web"),
    "dtd": TorchvisionSet("DTD", {"split": "train"}, {"split": "test"}, "research use only"),
    "pets": TorchvisionSet("OxfordIIITPet", {"split": "trainval"}, {"split": "test"}, "CC BY-SA 4.0"),
    "aircraft": TorchvisionSet(
        "FGVCAircraft", {"split": "trainval"}, {"split": "test"}, "non-commercial research only"
    ),
    "gtsrb": TorchvisionSet("GTSRB", *_SPLITS, "CC0"),
    "mnist": TorchvisionSet("MNIST", {"train": True}, {"train": False}, "CC BY-SA 3.0"),
    "fashion-mnist": TorchvisionSet("FashionMNIST", {"train": True}, {"train": False}, "MIT licence"),
}


LABELS = ("targets", "labels", "_labels")


def terms_of(name: str, terms: str) -> str:
    """The line that is printed before a data set is fetched."""
    return f"{name}: {terms}. See docs/data.md before you use it."


def from_torchvision(name: str, root: str | Path | None, download: bool) -> Data:
    import torchvision

    entry = TORCHVISION[name]
    if root is None:
        raise BadInput(f"{name} needs --data-root DIR: where its files are, or where --download puts them.")
    if download:
        print(terms_of(name, entry.terms))
    splits = []
    for keywords in (entry.train, entry.test):
        try:
            items = getattr(torchvision.datasets, entry.kind)(root=str(root), download=download, **keywords)
        except (RuntimeError, FileNotFoundError) as error:
            hint = "" if download else " Add --download to fetch it from its own home."
            raise BadInput(f"{name} is not in {root}: {str(error).splitlines()[0]}{hint}") from error
        found = next((getattr(items, a) for a in LABELS if hasattr(items, a)), None)
        if found is None:  # GTSRB keeps (path, label) only
            found = [label for _, label in items._samples]
        splits.append(Split(_stored_or_wrapped(items), np.asarray(found, dtype=np.int64)))
    train, test = splits
    classes = tuple(str(c) for c in getattr(items, "classes", ())) or tuple(map(str, np.unique(np.asarray(found))))
    return Data(name, train, test, classes, typical_size=middle(sample_sizes(train.images)))


def _stored_or_wrapped(items: Any) -> Images:
    """Sets that torchvision holds as one array stay in memory as uint8; the others are read by item."""
    array = getattr(items, "data", None)
    if array is None:
        return Wrapped(items, np.arange(len(items)))
    pixels = torch.as_tensor(array)
    if pixels.ndim == 3:  # grey [n, h, w]
        pixels = pixels[:, None].repeat(1, 3, 1, 1)
    elif pixels.shape[-1] == 3:  # [n, h, w, 3]
        pixels = pixels.permute(0, 3, 1, 2)
    return Stored(pixels.contiguous())
