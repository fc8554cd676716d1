"""A folder of images: its parts by its layout, its classes, and which of its images can be read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mec.data.dataset import Data, Split, in_memory_if_small, stratified
from mec.data.decoding import Skipped, nothing_in, quiet, why_unreadable
from mec.data.images import MOST_UNREADABLE, Files, too_many
from mec.data.listing import CACHE_FROM, cached_listing, load_cache, pack_names, save_cache, unpack_names
from mec.data.named import TORCHVISION
from mec.errors import BadInput, nearest
from mec.runtime.machine import cores

CHECK_ALL_BELOW = 20_000  # images; larger folders are checked by a sample, and as they are read
TEST_NAMES = ("val", "valid", "validation", "test")


@dataclass(frozen=True)
class Part:
    """The training or the test images of a folder, by name relative to `root`."""

    name: str  # "train" or "test"
    root: Path
    names: list[str]
    sizes: np.ndarray  # [n] bytes
    labels: np.ndarray | None
    closed: tuple[Skipped, ...] = ()  # folders in it that this user may not list

    def take(self, indices: np.ndarray) -> Part:
        labels = None if self.labels is None else self.labels[indices]
        return replace(self, names=[self.names[i] for i in indices], sizes=self.sizes[indices], labels=labels)


def folder_parts(folder: Path) -> tuple[list[Part], tuple[str, ...]]:
    """The parts and classes of a folder, from its layout: always training images; test images where there are any.
    Raises BadInput: no such folder, or no image in it."""
    if not folder.exists():
        known = ["digits", "imagenet", *TORCHVISION]
        raise BadInput(f"{folder}: no such folder, nor a data set of that name. {nearest(str(folder), known)}")
    if not folder.is_dir():
        raise BadInput(f"{folder} is a file: give the folder that holds the images.")
    train_root = folder / "train" if (folder / "train").is_dir() else folder
    test_root = next((folder / name for name in TEST_NAMES if (folder / name).is_dir()), None)
    found = cached_listing(train_root)
    if not found.names:
        raise BadInput(nothing_in(train_root))
    train = Part("train", train_root, found.names, found.sizes, None, found.closed)
    if train_root == folder or test_root is None:
        return [train], ()
    held_out = cached_listing(test_root)
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
    """A folder's images: parts by its layout, without the unreadable ones, small images of one size in memory."""
    parts, classes = folder_parts(folder)
    chosen = parts[0]
    if limit is not None and limit < len(chosen.names):
        chosen = chosen.take(stratified(chosen.labels, len(chosen.names), limit, seed))
    prints = []
    for part in (chosen, *parts[1:]):
        below = os.path.relpath(part.root, folder)  # once: it takes as long as a million names
        prints += [f"{below}/{name} {size}" for name, size in zip(part.names, part.sizes)]
    train, skipped = readable_part(chosen)
    test = None
    if classes:
        assert parts[1].labels is not None
        test, more = readable_part(parts[1].take(np.flatnonzero(parts[1].labels >= 0)))
        skipped += more
    skipped += [closed for part in parts for closed in part.closed]
    fingerprint = hashlib.sha256("\n".join(prints).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return in_memory_if_small(Data(folder.resolve().name, train, test, classes, tuple(skipped), fingerprint))


def class_of(name: str) -> str | None:
    """The first folder of a relative path."""
    first, _, rest = name.partition(os.sep)
    return first if rest else None


def readable_part(part: Part) -> tuple[Split, list[Skipped]]:
    """`readable` for a part of a folder; the unreadable images are cached where there are many images."""
    paths = [os.path.join(part.root, name) for name in part.names]
    state = hashlib.sha256("\n".join(part.names).encode("utf-8", "surrogateescape"))
    state.update(part.sizes.tobytes())
    stamp = np.frombuffer(state.digest(), np.uint8)
    cached = load_cache(part.root, "unreadable") if len(paths) >= CACHE_FROM else None
    if cached is not None and {"stamp", "names"} <= cached.keys() and np.array_equal(cached["stamp"], stamp):
        known = [os.path.join(part.root, name) for name in unpack_names(cached["names"])]
        with quiet():  # once more: they may have been mended, or been out of reach for a moment
            skipped = [Skipped(path, why) for path in known if (why := why_unreadable(path))]
        return drop_unreadable(paths, part.labels, skipped), skipped
    split, skipped = readable(paths, part.labels, part.root)
    if len(paths) >= CACHE_FROM:
        names = pack_names([os.path.relpath(s.path, part.root) for s in skipped])
        save_cache(part.root, "unreadable", stamp=stamp, names=names)
    return split, skipped


def readable(
    paths: list[str], labels: np.ndarray | None, root: Path, *, all_of_them: bool = False
) -> tuple[Split, list[Skipped]]:
    """The images that can be read, and the others with reasons.

    Above `CHECK_ALL_BELOW` images a spread sample is checked here, and the rest when training reads them.

    Raises BadInput: too many cannot be read.
    """
    step = 1 if all_of_them else max(1, -(-len(paths) // CHECK_ALL_BELOW))
    with quiet(), ThreadPoolExecutor(max_workers=cores()) as pool:
        reasons = dict(zip(paths[::step], pool.map(why_unreadable, paths[::step])))
    skipped = [Skipped(path, reason) for path, reason in reasons.items() if reason]
    if len(skipped) > MOST_UNREADABLE * len(reasons):
        raise BadInput(too_many(skipped, len(reasons), root))
    return drop_unreadable(paths, labels, skipped), skipped


def drop_unreadable(paths: list[str], labels: np.ndarray | None, skipped: Sequence[Skipped]) -> Split:
    """The images at `paths`, with their labels, that are not among the skipped ones."""
    bad = {s.path for s in skipped}
    kept = np.array([i for i, path in enumerate(paths) if path not in bad], dtype=np.int64)
    return Split(Files(tuple(paths[i] for i in kept)), None if labels is None else labels[kept])
