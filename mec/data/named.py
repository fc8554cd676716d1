"""Data sets by name: digits, and those that torchvision reads."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from mec.data.dataset import Data, Split
from mec.data.images import Files, Images, InMemory, median_size, sample_sizes
from mec.errors import BadInput
from mec.runtime.files import first_line
from mec.runtime.progress import say


def digits() -> Data:
    """scikit-learn's handwritten digits: 1,797 grey images of 8x8 px, split 70/30 stratified with a fixed seed."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    pixels = torch.from_numpy(np.rint(x.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)).repeat(1, 3, 1, 1)
    train, test = train_test_split(np.arange(len(y)), test_size=0.3, stratify=y, random_state=0)
    train, test = (Split(InMemory(pixels[rows]), y[rows].astype(np.int64)) for rows in (np.sort(train), np.sort(test)))
    return Data("digits", train, test, classes=tuple("0123456789"), typical_size=(8, 8), suits="digits")


class TorchvisionSet(NamedTuple):
    """How torchvision opens a data set: its class, the keywords of the training and of the test part; terms of use."""

    kind: str
    train: dict[str, Any]
    test: dict[str, Any]
    terms: str


_SPLITS, _TRAINVAL = ({"split": "train"}, {"split": "test"}), ({"split": "trainval"}, {"split": "test"})
TORCHVISION: dict[str, TorchvisionSet] = {
    "cifar10": TorchvisionSet("CIFAR10", {"train": True}, {"train": False}, "MIT licence, as the paper states it"),
    "cifar100": TorchvisionSet("CIFAR100", {"train": True}, {"train": False}, "no licence stated; research use"),
    "stl10": TorchvisionSet("STL10", {"split": "train+unlabeled"}, {"split": "test"}, "drawn from ImageNet: its terms"),
    "svhn": TorchvisionSet("SVHN", *_SPLITS, "non-commercial use only"),
    "food101": TorchvisionSet("Food101", *_SPLITS, "images from Foodspotting: research use, see its terms"),
    "flowers102": TorchvisionSet("Flowers102", *_SPLITS, "no licence stated; images from the web"),
    "dtd": TorchvisionSet("DTD", *_SPLITS, "research use only"),
    "pets": TorchvisionSet("OxfordIIITPet", *_TRAINVAL, "CC BY-SA 4.0"),
    "aircraft": TorchvisionSet("FGVCAircraft", *_TRAINVAL, "non-commercial research only"),
    "gtsrb": TorchvisionSet("GTSRB", *_SPLITS, "CC0"),
    "mnist": TorchvisionSet("MNIST", {"train": True}, {"train": False}, "CC BY-SA 3.0"),
    "fashion-mnist": TorchvisionSet("FashionMNIST", {"train": True}, {"train": False}, "MIT licence"),
}


def terms_of(name: str, terms: str) -> str:
    """The line that is printed before a data set is fetched."""
    return f"{name}: {terms}. See docs/data.md before you use it."


def from_torchvision(name: str, root: str | Path | None, download: bool) -> Data:
    """A data set of `TORCHVISION`, its files in `root`. Raises BadInput as `torchvision_split`, and without a root."""
    entry = TORCHVISION[name]
    if root is None:
        raise BadInput(f"{name} needs --data-root DIR: where its files are, or where --download puts them.")
    if download:
        say(terms_of(name, entry.terms))
    advice = "" if download else " Add --download to fetch it from its own home."
    (train, classes), (test, _) = (
        torchvision_split(entry.kind, root, advice, download=download, **part) for part in (entry.train, entry.test)
    )
    return Data(name, train, test, classes, typical_size=median_size(sample_sizes(train.images)))


def torchvision_split(
    kind: str, root: str | Path, advice: str = " Is the copy whole?", **keywords: Any
) -> tuple[Split, tuple[str, ...]]:
    """One part of a data set that torchvision opens, as pixels or as files, and the names of its classes.

    `kind` is torchvision's class, whose `keywords` say what part; `advice` ends the message where it cannot be opened.

    Raises BadInput: torchvision cannot open it there, or does not say where its images are."""
    import torchvision

    try:
        items = getattr(torchvision.datasets, kind)(root=str(root), **keywords)
    except (RuntimeError, FileNotFoundError, ValueError) as error:
        raise BadInput(f"{root}: torchvision's {kind} cannot be read there ({first_line(error)}).{advice}") from error
    if hasattr(items, "data"):  # CIFAR, MNIST, STL-10 and SVHN: one array
        images: Images = InMemory(as_pixels(torch.as_tensor(items.data)))
        labels = items.targets if hasattr(items, "targets") else items.labels
    else:  # torchvision has no public name for the paths; `Files` decodes them as those of any folder
        paths: Any = getattr(items, "_image_files", None) or getattr(items, "_images", ())
        labels = getattr(items, "_labels", ())
        if hasattr(items, "_samples"):
            paths, labels = zip(*items._samples)
        if not len(paths) == len(labels) == len(items):
            raise BadInput(
                f"torchvision {torchvision.__version__} keeps the images of {kind} where this version of mec does not "
                f"look. Give the folder of its images, in {root}, as the data."
            )
        images = Files(tuple(map(str, paths)))
    numbers = np.asarray(labels, dtype=np.int64)
    classes = getattr(items, "classes", ()) or np.unique(numbers[numbers >= 0])
    return Split(images, numbers), tuple(map(str, classes))


def as_pixels(array: torch.Tensor) -> torch.Tensor:
    """uint8 [n, h, w], [n, h, w, 3] or [n, 3, h, w] -> [n, 3, h, w]; grey is repeated."""
    if array.ndim == 3:
        return array[:, None].repeat(1, 3, 1, 1)
    return (array.permute(0, 3, 1, 2) if array.shape[-1] == 3 else array).contiguous()
