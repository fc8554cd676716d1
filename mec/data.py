"""Images on disk or in memory: data sets by name or folder, splits, limits, fingerprints."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mec.errors import BadInput, nearest
from mec.images import Decoded, Picture, Skipped, nothing_in, quiet, read_image, reason, to_rgb, why_unreadable
from mec.listing import REMEMBER_FROM, lines, listing, remember, remembered, text
from mec.shards import Shards, is_packed, open_packed
from mec.views import uniforms

MOST_UNREADABLE = 0.2  # of a folder's images; above it training does not start, or stops
CHECK_ALL_BELOW = 20_000  # images; larger folders are checked by a sample, and as they are read
KEEP_BELOW = 64  # px; images of one size up to this live in memory
KEEP_BYTES = 2**30  # of pixels, a process: decoding more than 350,000 images of 32 px would hold up every start
TEST_NAMES = ("val", "valid", "validation", "test")


@dataclass(frozen=True)
class Stored:
    """Images of one size, in memory."""

    pixels: Tensor  # uint8 [n, 3, h, w]

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, index: int) -> Image.Image:
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

    def name(self, index: int) -> str:
        return self.paths[index]

    def bytes(self, index: int) -> bytes:
        return Path(self.paths[index]).read_bytes()

    def open(self, index: int) -> Picture:
        return Picture.of(self.bytes(index))

    def read(self, index: int) -> Image.Image:
        return read_image(self.paths[index])

    def take(self, indices: np.ndarray) -> Files:
        return replace(self, paths=tuple(self.paths[i] for i in indices))


@dataclass(frozen=True)
class Wrapped:
    """A torchvision data set that gives (image, label)."""

    items: Any
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        return f"{type(self.items).__name__} {self.indices[index]}"

    def open(self, index: int) -> Decoded:
        return Decoded(np.asarray(self.read(index)))

    def read(self, index: int) -> Image.Image:
        return to_rgb(self.items[int(self.indices[index])][0])

    def take(self, indices: np.ndarray) -> Wrapped:
        return replace(self, indices=self.indices[indices])


Encoded = Files | Wrapped | Shards  # decoded when asked for
Images = Stored | Encoded


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
    suits: Literal["photographs", "digits"] = "photographs"  # which views make sense

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
    """A data set by name, a folder of images nested in any way, or shards.

    A folder with train/<class>/... and val|test/<class>/...: only train is trained on, labels serve evaluation.

    Args:
        name: "digits", a torchvision data set in `TORCHVISION`, a folder, or what `mec pack` wrote (also a pattern of
            tars, or a URL).
        root: where torchvision's files are; "imagenet" reads ROOT/train and ROOT/val; a URL is fetched to ROOT.
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
    elif is_packed(name):
        data = from_packed(name, root, limit, seed)
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


@dataclass(frozen=True)
class Part:
    """Images of a folder that serve one purpose, by name relative to `root`."""

    name: str  # "train" or "test"
    root: Path
    names: list[str]
    sizes: np.ndarray  # [n] bytes
    labels: np.ndarray | None
    closed: tuple[Skipped, ...] = ()  # folders in it that may not be listed

    def take(self, indices: np.ndarray) -> Part:
        labels = None if self.labels is None else self.labels[indices]
        return replace(self, names=[self.names[i] for i in indices], sizes=self.sizes[indices], labels=labels)


def folder_parts(folder: Path) -> tuple[list[Part], tuple[str, ...]]:
    """What a folder's layout says: its training images; with labels of these classes, also its test images.

    Raises:
        BadInput: no such folder, or no image in it.
    """
    if not folder.exists():
        known = ["digits", "imagenet", *TORCHVISION]
        raise BadInput(f"{folder}: no such folder, nor a data set of that name. {nearest(str(folder), known)}")
    if not folder.is_dir():
        raise BadInput(f"{folder} is a file: give the folder that holds the images.")
    train_root = folder / "train" if (folder / "train").is_dir() else folder
    test_root = next((folder / name for name in TEST_NAMES if (folder / name).is_dir()), None)
    found = listing(train_root)
    if not found.names:
        raise BadInput(nothing_in(train_root))
    train = Part("train", train_root, found.names, found.sizes, None, found.closed)
    if train_root == folder or test_root is None:
        return [train], ()
    held_out = listing(test_root)
    classes = tuple(sorted({c for name in found.names if (c := class_of(name)) is not None}))
    number = {name: i for i, name in enumerate(classes)}
    labels, test_labels = (
        np.array([number.get(class_of(name) or "", -1) for name in each.names], np.int64) for each in (found, held_out)
    )
    test = Part("test", test_root, held_out.names, held_out.sizes, test_labels, held_out.closed)
    if len(classes) < 2 or (test_labels < 0).all():  # one folder in train/ names no classes
        return [train, replace(test, labels=None)], ()
    return [replace(train, labels=labels), test], classes


def from_folder(folder: Path, limit: int | None, seed: int) -> Data:
    """A folder: train and test by its layout, unreadable images set aside, small images of one size kept in memory."""
    parts, classes = folder_parts(folder)
    chosen = parts[0]
    if limit is not None and limit < len(chosen.names):
        chosen = chosen.take(stratified(chosen.labels, len(chosen.names), limit, seed))
    prints = []
    for part in (chosen, *parts[1:]):
        place = os.path.relpath(part.root, folder)  # once: it takes as long as a million names
        prints += [f"{place}/{name} {size}" for name, size in zip(part.names, part.sizes)]
    train, skipped = readable_part(chosen)
    test = None
    if classes:
        assert parts[1].labels is not None
        test, more = readable_part(parts[1].take(np.flatnonzero(parts[1].labels >= 0)))
        skipped += more
    skipped += [closed for part in parts for closed in part.closed]
    return in_memory_if_small(
        Data(
            folder.resolve().name,
            train,
            test,
            classes,
            tuple(skipped),
            hashlib.sha256("\n".join(prints).encode("utf-8", "surrogateescape")).hexdigest()[:16],
        )
    )


def from_packed(name: str, root: str | Path | None, limit: int | None, seed: int) -> Data:
    """Shards: a folder that `mec pack` wrote, tars by a pattern, or a URL of either."""
    packed = open_packed(name, root)
    splits = []
    for rows in (np.flatnonzero(~packed.test), np.flatnonzero(packed.test)):
        labels = packed.table.label[rows]
        splits.append(Split(Shards(packed.table, rows), labels if (labels >= 0).any() else None))
    train, test = splits
    if not len(train):
        raise BadInput(f"{name}: holds no images to train on.")
    train = limited(train, limit, seed)
    assert isinstance(train.images, Shards)
    state = hashlib.sha256("\n".join(packed.checksums).encode())
    state.update(train.images.rows.tobytes())
    found = Data(
        packed.name,
        train,
        test.labelled() if test.labels is not None else None,
        packed.classes,
        fingerprint=state.hexdigest()[:16],
    )
    return in_memory_if_small(found)


def in_memory_if_small(data: Data) -> Data:
    """The data with its typical size; images of one small size are decoded now and stay in memory."""
    sizes = sample_sizes(data.train.images)
    both = {*sizes, *(sample_sizes(data.test.images) if data.test else ())}
    skipped = list(data.skipped)
    needed = (len(data.train) + len(data.test or ())) * 3 * math.prod(sizes[0])
    if len(both) == 1 and max(*both) <= KEEP_BELOW and needed <= KEEP_BYTES:
        train = _in_memory(data.train, sizes[0], skipped)
        test = data.test and _in_memory(data.test, sizes[0], skipped)
        data = replace(data, train=train, test=test, skipped=tuple(skipped))
    return replace(data, typical_size=middle(sizes))


def class_of(name: str) -> str | None:
    """The first folder of a relative path."""
    first, _, rest = name.partition(os.sep)
    return first if rest else None


def readable_part(part: Part) -> tuple[Split, list[Skipped]]:
    """`readable` for a part of a folder; what was found is remembered where there are many images."""
    paths = [os.path.join(part.root, name) for name in part.names]
    state = hashlib.sha256("\n".join(part.names).encode("utf-8", "surrogateescape"))
    state.update(part.sizes.tobytes())
    stamp = np.frombuffer(state.digest(), np.uint8)
    kept = remembered(part.root, "unreadable") if len(paths) >= REMEMBER_FROM else None
    if kept is not None and {"stamp", "names"} <= kept.keys() and np.array_equal(kept["stamp"], stamp):
        known = [os.path.join(part.root, name) for name in lines(kept["names"])]
        with quiet():  # once more: they may have been mended, or been out of reach for a moment
            skipped = [Skipped(path, why) for path in known if (why := why_unreadable(path))]
        return without(paths, part.labels, part.root, skipped), skipped
    split, skipped = readable(paths, part.labels, part.root)
    if len(paths) >= REMEMBER_FROM:
        names = text([os.path.relpath(s.path, part.root) for s in skipped])
        remember(part.root, "unreadable", stamp=stamp, names=names)
    return split, skipped


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
    return without(paths, labels, root, skipped), skipped


def without(paths: list[str], labels: np.ndarray | None, root: Path, skipped: Sequence[Skipped]) -> Split:
    bad = {s.path for s in skipped}
    kept = np.array([i for i, path in enumerate(paths) if path not in bad], dtype=np.int64)
    return Split(Files(tuple(paths[i] for i in kept), str(root)), None if labels is None else labels[kept])


def too_many(skipped: Sequence[Skipped], looked_at: int, root: Path | str) -> str:
    first = "; ".join(f"{os.path.basename(s.path)}: {s.reason}" for s in skipped[:3])
    return (
        f"{root}: {len(skipped)} of {looked_at} images cannot be read, more than {MOST_UNREADABLE:.0%} ({first}). "
        "Mend or remove them; a wrong suffix or an interrupted copy is the usual cause."
    )


def sample_sizes(images: Images, count: int = 200) -> list[tuple[int, int]]:
    """(height, width) of images spread over the set, from their headers; of those that can be read."""
    if isinstance(images, Stored):
        return [(images.pixels.shape[2], images.pixels.shape[3])]
    sizes = []
    with quiet():
        for i in np.unique(np.linspace(0, len(images) - 1, min(count, len(images))).astype(int)):
            with contextlib.suppress(Exception):  # Pillow's decoders raise almost anything on broken files
                picture = images.open(int(i))
                sizes.append((picture.height, picture.width))
    if not sizes:
        raise BadInput(f"{images.name(0)}: none of {count} images looked at can be read.")
    return sizes


def middle(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The median height and the median width."""
    return int(np.median([h for h, _ in sizes])), int(np.median([w for _, w in sizes]))


def _in_memory(split: Split, size: tuple[int, int], skipped: list[Skipped]) -> Split:
    """Small images, decoded once. A stray image of another size is resized (bicubic); one that cannot be read goes."""
    images = split.images
    assert not isinstance(images, Stored)

    def pixels(index: int) -> np.ndarray | Skipped:
        try:
            found = images.open(index).pixels()
        except Exception as error:  # Pillow's decoders raise almost anything on broken files
            return Skipped(images.name(index), reason(error))
        if found.shape[:2] != size:
            found = np.asarray(Image.fromarray(found).resize(size[::-1], Image.Resampling.BICUBIC))
        return found

    with quiet(), ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        found = list(pool.map(pixels, range(len(split))))
    kept = np.array([i for i, f in enumerate(found) if not isinstance(f, Skipped)], np.int64)
    bad = [f for f in found if isinstance(f, Skipped)]
    if len(bad) > MOST_UNREADABLE * len(found):
        raise BadInput(too_many(bad, len(found), images.name(0)))
    skipped += bad
    array = np.stack([f for f in found if not isinstance(f, Skipped)])
    stored = Stored(torch.from_numpy(array).permute(0, 3, 1, 2).contiguous())
    return Split(stored, None if split.labels is None else split.labels[kept])


def fingerprint(data: Data) -> str:
    """A hash that changes when the images in memory, their number or labels do."""
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
