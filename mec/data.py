"""Images on disk or in memory: data sets by name or folder, splits, limits, fingerprints."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mec.errors import BadInput, nearest
from mec.images import Skipped, decode, list_images, nothing_in, quiet, read_image, to_rgb, why_unreadable
from mec.views import uniforms

MOST_UNREADABLE = 0.2  # of a folder's images; above it training does not start, or stops
CHECK_ALL_BELOW = 20_000  # images; larger folders are checked by a sample, and as they are read
KEEP_BELOW = 64  # px; images of one size up to this live in memory
TEST_NAMES = ("val", "valid", "validation", "test")


@dataclass(frozen=True)
class Stored:
    """Images of one size, in memory."""

    pixels: Tensor  # uint8 [n, 3, h, w]

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, index: int, at_least: int | None = None) -> Image.Image:
        return Image.fromarray(self.pixels[index].permute(1, 2, 0).numpy())

    def take(self, indices: np.ndarray) -> Stored:
        return Stored(self.pixels[torch.from_numpy(indices)])


@dataclass(frozen=True)
class Files:
    """Images by path, decoded when asked for."""

    paths: tuple[str, ...]
    root: str

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int, at_least: int | None = None) -> Image.Image:
        return read_image(self.paths[index], at_least)

    def take(self, indices: np.ndarray) -> Files:
        return replace(self, paths=tuple(self.paths[i] for i in indices))


@dataclass(frozen=True)
class Wrapped:
    """A torchvision data set that gives (image, label)."""

    items: Any
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int, at_least: int | None = None) -> Image.Image:
        return to_rgb(self.items[int(self.indices[index])][0])

    def take(self, indices: np.ndarray) -> Wrapped:
        return replace(self, indices=self.indices[indices])


Images = Stored | Files | Wrapped


@dataclass(frozen=True)
class Split:
    """Images, and their labels where there are any (-1: this one has none)."""

    images: Images
    labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: np.ndarray) -> Split:
        return Split(self.images.take(indices), None if self.labels is None else self.labels[indices])

    def labelled(self) -> Split:
        """The images that have a label."""
        if self.labels is None or (self.labels >= 0).all():
            return self
        return self.take(np.flatnonzero(self.labels >= 0))


@dataclass(frozen=True)
class Data:
    """What to train on, and, where labels exist, what to measure on."""

    name: str
    train: Split
    test: Split | None = None
    classes: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    fingerprint: str = ""
    typical_size: tuple[int, int] = (0, 0)  # height, width: medians
    suits: str = field(default="photographs")  # or "digits": which views make sense

    @property
    def can_be_measured(self) -> bool:
        """Whether there are labelled images to learn from and others to test on."""
        return self.test is not None and self.test.labels is not None and self.train.labels is not None


def open_data(
    name: str,
    *,
    root: str | Path | None = None,
    download: bool = False,
    limit: int | None = None,
    seed: int = 0,
) -> Data:
    """A data set by name, or a folder of images nested in any way.

    A folder with train/<class>/... and val|test/<class>/...: only train is trained on, labels serve evaluation.

    Args:
        name: "digits", a torchvision data set in `TORCHVISION`, or a folder.
        root: where torchvision's files are; "imagenet" reads ROOT/train and ROOT/val.
        download: fetch from the data set's own home, where torchvision still can.
        limit: this many training images, stratified where there are labels.
        seed: of the draw that `limit` makes.

    Raises:
        BadInput: no such data set or folder, nothing in it, or too much of it unreadable.
    """
    if limit is not None and limit < 1:
        raise BadInput(f"--limit is {limit}: it is a number of images, at least 1.")
    if seed < 0:
        raise BadInput(f"--seed is {seed}: a whole number, 0 or above.")
    if name == "digits":
        data = digits()
        data = replace(data, train=limited(data.train, limit, seed))
    elif name in TORCHVISION and not Path(name).is_dir():
        data = from_torchvision(name, root, download)
        data = replace(data, train=limited(data.train, limit, seed))
    elif name == "imagenet" and not Path(name).is_dir():
        if root is None:
            raise BadInput("imagenet needs --data-root DIR, with DIR/train/<wnid>/*.JPEG and DIR/val/<wnid>/*.JPEG.")
        data = replace(from_folder(Path(root), limit, seed), name="imagenet")
    else:
        data = from_folder(Path(name), limit, seed)
    return data if data.fingerprint else replace(data, fingerprint=fingerprint(data))


def limited(split: Split, limit: int | None, seed: int) -> Split:
    if limit is None or limit >= len(split):
        return split
    return split.take(stratified(split.labels, len(split), limit, seed))


def stratified(labels: np.ndarray | None, n: int, count: int, seed: int) -> np.ndarray:
    """`count` of n indices, sorted; every class in proportion where there are labels. Nested: fewer is a subset."""
    chance = uniforms(seed, 0, np.arange(n), 0, 1)[:, 0]
    if labels is None:
        return np.sort(np.argsort(chance, kind="stable")[:count])
    position = np.empty(n)  # how far through its own class an image comes, in a random order
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        ranks = np.argsort(np.argsort(chance[members], kind="stable"))
        position[members] = (ranks + chance[members]) / len(members)
    return np.sort(np.argsort(position, kind="stable")[:count])


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


def from_torchvision(name: str, root: str | Path | None, download: bool) -> Data:
    import torchvision

    entry = TORCHVISION[name]
    if root is None:
        raise BadInput(f"{name} needs --data-root DIR: where its files are, or where --download puts them.")
    if download:
        print(f"{name}: {entry.terms}. See docs/data.md before you use it.")
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
    return Data(name, train, test, classes, typical_size=_typical_size(train.images))


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


def from_folder(folder: Path, limit: int | None, seed: int) -> Data:
    """A folder: train and test by its layout, unreadable images set aside, small images of one size kept in memory."""
    if not folder.exists():
        known = ["digits", "imagenet", *TORCHVISION]
        raise BadInput(f"{folder}: no such folder, nor a data set of that name. {nearest(str(folder), known)}")
    if not folder.is_dir():
        raise BadInput(f"{folder} is a file: give the folder that holds the images.")
    train_root = folder / "train" if (folder / "train").is_dir() else folder
    test_root = next((folder / name for name in TEST_NAMES if (folder / name).is_dir()), None)
    if train_root == folder:
        test_root = None
    train_paths = list_images(train_root)
    if not train_paths:
        raise BadInput(nothing_in(train_root))
    train_labels = test_labels = None
    classes: tuple[str, ...] = ()
    test_paths: list[str] = []
    if test_root is not None:
        test_paths = list_images(test_root)
        classes = tuple(sorted({c for p in train_paths if (c := class_of(p, train_root)) is not None}))
        number = {name: i for i, name in enumerate(classes)}
        train_labels = np.array([number.get(class_of(p, train_root) or "", -1) for p in train_paths])
        test_labels = np.array([number.get(class_of(p, test_root) or "", -1) for p in test_paths])
        if len(classes) < 2 or (test_labels < 0).all():  # one folder in train/ names no classes
            train_labels = test_labels = None
    if limit is not None and limit < len(train_paths):
        kept = stratified(train_labels, len(train_paths), limit, seed)
        train_paths = [train_paths[i] for i in kept]
        train_labels = None if train_labels is None else train_labels[kept]

    train, skipped = readable(train_paths, train_labels, train_root)
    test = None
    if test_root is not None and test_labels is not None:
        labelled = test_labels >= 0
        paths = [p for p, keep in zip(test_paths, labelled) if keep]
        test, more = readable(paths, test_labels[labelled], test_root)
        skipped += more
    sizes = sample_sizes(train.images)
    split_sizes = {*sizes, *(sample_sizes(test.images) if test else ())}
    if len(split_sizes) == 1 and max(*split_sizes) <= KEEP_BELOW:
        train = _in_memory(train, sizes[0])
        test = test and _in_memory(test, sizes[0])
    typical = (int(np.median([h for h, _ in sizes])), int(np.median([w for _, w in sizes])))
    relative = [os.path.relpath(p, folder) for p in [*train_paths, *test_paths]]
    lines = "\n".join(f"{r} {os.path.getsize(folder / r)}" for r in relative)
    return Data(
        folder.resolve().name,
        train,
        test,
        classes if test else (),
        tuple(skipped),
        hashlib.sha256(lines.encode()).hexdigest()[:16],
        typical,
    )


def class_of(path: str, root: Path) -> str | None:
    """The folder right below root that a path lies in."""
    parts = Path(path).relative_to(root).parts
    return parts[0] if len(parts) > 1 else None


def readable(
    paths: list[str], labels: np.ndarray | None, root: Path, *, all_of_them: bool = False
) -> tuple[Split, list[Skipped]]:
    """The images that can be read, and the others with reasons; an error if these are too many.

    Above `CHECK_ALL_BELOW` images a spread sample is checked here, and the rest when training reads it.
    """
    step = 1 if all_of_them else max(1, -(-len(paths) // CHECK_ALL_BELOW))
    with quiet(), ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        reasons = dict(zip(paths[::step], pool.map(why_unreadable, paths[::step])))
    skipped = [Skipped(path, reason) for path, reason in reasons.items() if reason]
    if len(skipped) > MOST_UNREADABLE * len(reasons):
        raise BadInput(too_many(skipped, len(reasons), root))
    bad = {s.path for s in skipped}
    kept = np.array([i for i, path in enumerate(paths) if path not in bad], dtype=np.int64)
    images = Files(tuple(paths[i] for i in kept), str(root))
    return Split(images, None if labels is None else labels[kept]), skipped


def too_many(skipped: Sequence[Skipped], looked_at: int, root: Path | str) -> str:
    first = "; ".join(f"{os.path.basename(s.path)}: {s.reason}" for s in skipped[:3])
    return (
        f"{root}: {len(skipped)} of {looked_at} images cannot be read, more than {MOST_UNREADABLE:.0%} ({first}). "
        "Mend or remove them; a wrong suffix or an interrupted copy is the usual cause."
    )


def sample_sizes(images: Images, count: int = 200) -> list[tuple[int, int]]:
    """(height, width) of images spread over the set, from their headers."""
    if isinstance(images, Stored):
        return [(images.pixels.shape[2], images.pixels.shape[3])]
    chosen = np.unique(np.linspace(0, len(images) - 1, min(count, len(images))).astype(int))
    sizes = []
    for i in chosen:
        if isinstance(images, Files):
            with quiet(), Image.open(images.paths[i]) as image:
                sizes.append((image.height, image.width))
        else:
            image = images.read(int(i))
            sizes.append((image.height, image.width))
    return sizes


def _typical_size(images: Images) -> tuple[int, int]:
    sizes = sample_sizes(images)
    return int(np.median([h for h, _ in sizes])), int(np.median([w for _, w in sizes]))


def _in_memory(split: Split, size: tuple[int, int]) -> Split:
    """Small images, decoded once. A stray image of another size is resized (bicubic)."""

    assert isinstance(split.images, Files)
    paths = split.images.paths

    def pixels(index: int) -> np.ndarray:
        image = decode(paths[index])
        if image.size != size[::-1]:
            image = image.resize(size[::-1], Image.Resampling.BICUBIC)
        return np.asarray(image)

    with quiet(), ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        array = np.stack(list(pool.map(pixels, range(len(split)), chunksize=256)))
    return Split(Stored(torch.from_numpy(array).permute(0, 3, 1, 2).contiguous()), split.labels)


def fingerprint(data: Data) -> str:
    """A hash that changes when the images or their labels do."""
    state = hashlib.sha256(data.name.encode())
    for split in (data.train, data.test):
        if split is None:
            continue
        state.update(str(len(split)).encode())
        if isinstance(split.images, Stored):
            state.update(split.images.pixels.numpy().tobytes())
        if split.labels is not None:
            state.update(split.labels.tobytes())
    return state.hexdigest()[:16]
