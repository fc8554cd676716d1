"""A folder of images: its parts by its layout, its classes, and which of its images can be read."""

import contextlib
import hashlib
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mec.data.contents import contents_hash, sampled
from mec.data.dataset import ROLES, TEST, TRAIN, VALIDATION, Data, Split, stratified
from mec.data.decoding import KINDS, Skipped, kinds_of, nothing_in, one_kind, quiet, why_unreadable
from mec.data.images import MOST_UNREADABLE, Files, too_many
from mec.data.listing import CACHE_FROM, cached_listing, load_cache, pack_names, save_cache, unpack_names
from mec.data.named import TORCHVISION
from mec.data.tables import assigned, located, members, read_table
from mec.errors import BadInput, nearest, plain
from mec.runtime.machine import cores
from mec.runtime.paths import data_name, is_table

CHECK_ALL_BELOW = 20_000  # images; larger folders are checked by a sample, and as they are read
BEFORE = ("val", "valid", "validation", "test")  # the first of these went into fingerprints before 0.2


@dataclass(frozen=True)
class Part:
    """The training or the held-out images of a folder, by name relative to `root`."""

    name: str  # as the folder is called
    root: Path
    names: list[str]
    sizes: np.ndarray  # [n] bytes
    labels: np.ndarray | None = None

    def take(self, indices: np.ndarray) -> "Part":
        labels = None if self.labels is None else self.labels[indices]
        return replace(self, names=[self.names[i] for i in indices], sizes=self.sizes[indices], labels=labels)

    @property
    def paths(self) -> list[str]:
        return [os.path.join(self.root, name) for name in self.names]

    def without(self, skipped: Sequence[Skipped]) -> Split:
        """The images and labels but those skipped."""
        left = self.take(rows_without(self.paths, skipped))
        return Split(Files(tuple(left.paths)), left.labels)


@dataclass(frozen=True)
class Layout:
    """What a folder holds: its parts, the training part first; classes; what is left out by reason; what to say."""

    parts: list[Part]
    classes: tuple[str, ...]
    left_out: Mapping[str, int]
    told: list[str]
    closed: tuple[Skipped, ...] = ()  # folders in it that this user may not list
    stamp: str = ""  # of a table of labels


def folder_layout(folder: Path, labels: str | Path | None = None) -> Layout:
    """Parts and classes of a folder: training images, and held-out ones where there are parts and nothing else.

    Instead of a folder also a table of images. `labels`: a table of theirs, in place of folders of classes.
    Raises BadInput: no such folder, no image in it, or a table that does not fit."""
    if not folder.exists():
        known = ["digits", "imagenet", *TORCHVISION]
        raise BadInput(f"{folder}: no such folder, nor a data set of that name. {nearest(str(folder), known)}")
    table = None if labels is None else read_table(labels, labels=True)
    root, rows, left_out, closed = folder, None, Counter[str](), tuple[Skipped, ...]()
    if is_table(folder):
        own = read_table(folder)
        root, names, told = located(own)
        paths = [os.path.join(root, name) for name in names]  # -1: the reason is told when the image is opened
        sizes = np.array([os.path.getsize(p) if os.path.isfile(p) else -1 for p in paths], np.int64)
        parts = [Part(TRAIN, root, names, sizes)]
        if table is None:
            table, rows = own, np.arange(len(names))
    elif folder.is_dir():
        inside, told = split_folders(folder, left_out)
        found = [cached_listing(folder / name) for name in inside or ["."]]
        parts = [Part(name, Path(each.root), each.names, each.sizes) for name, each in zip(inside or [TRAIN], found)]
        closed = tuple(unlisted for each in found for unlisted in each.closed)
        for each in found:
            left_out.update(each.left_out)
        if not parts[0].names:
            raise BadInput(nothing_in(parts[0].root))
    else:
        packed = re.search(r"\.(tgz|tar\.\w+|zip)$", folder.name)
        what = "a packed file: unpack it first, or give a plain .tar" if packed else "a file"
        raise BadInput(f"{folder} is {what}: give the folder that holds the images.")
    words = [[first_folder(name)[0] for name in part.names] for part in parts]
    if table is not None:
        names = [os.path.relpath(path, root) for part in parts for path in part.paths]
        part_of, word_of, more = assigned(table, names, root, [part.name for part in parts for _ in part.names], rows)
        whole = Part(TRAIN, root, names, np.concatenate([part.sizes for part in parts]))
        parts = [replace(whole.take(chosen), name=name) for name, chosen in members(part_of).items()]
        words = [[word_of[i] for i in chosen] for chosen in members(part_of).values()]
        told = [*told, *more]
        if not parts[0].names:
            raise BadInput(f"{table.file}: none of its images is to train on: some have to be of the part train.")
    told = [*told, *linked(parts)]
    numbers, classes, more = with_labels([part.name for part in parts], words)
    parts = [replace(part, labels=y) for part, y in zip(parts, numbers)]
    return Layout(parts, classes, left_out, [*told, *more], closed, table.stamp if table else "")


def linked(parts: Sequence[Part]) -> list[str]:
    """What there is to say of held-out images that are, by links, training images too; not looked for in large sets."""
    if len(parts) < 2 or sum(len(part.names) for part in parts) > CHECK_ALL_BELOW:
        return []
    found = [[(s.st_dev, s.st_ino) for s in map(os.stat, filter(os.path.isfile, part.paths))] for part in parts]
    known = {file for file in found[0] if file[1]}  # there are file systems without identities
    twice = {part.name: sum(file in known for file in of_part) for part, of_part in zip(parts[1:], found[1:])}
    return [f"{name}/: {n:,} images are, by links, trained on too ({parts[0].name}/)" for name, n in twice.items() if n]


def split_folders(folder: Path, left_out: Counter[str]) -> tuple[list[str], list[str]]:
    """The sub-folders that are parts, the training part first, or none, and what to say; what is beside is counted."""
    roles: dict[str | None, list[str]] = {}
    for name in subfolders(folder):
        roles.setdefault(ROLES.get(name.lower()), []).append(name)
    train, held_out = roles.get(TRAIN, [])[:1], [*roles.get(VALIDATION, []), *roles.get(TEST, [])]
    if not train:  # parts inside of folders, as CLASS/train/ or one folder above the set's
        held = [word for word, role in ROLES.items() if role != TRAIN]
        inside = [name for name in subfolders(folder) if (folder / name / "train").is_dir()]
        inside = [f"{name}/" for name in inside if any((folder / name / word).is_dir() for word in held)]
        words = f"{', '.join(inside[:3])}: parts lie inside (train/, val/), and images of all of them are trained on. "
        return [], [words + "Give the folder that holds train/CLASS/ and val/CLASS/ to keep them apart."] * bool(inside)
    below = {name: os.walk(folder / name) for name in (*roles.get(None, []), *roles[TRAIN][1:])}
    beside = [name for name, walk in below.items() if any(map(is_image, (f for _, _, files in walk for f in files)))]
    classes = {name: {*subfolders(folder / name)} for name in (*train, *held_out)}
    if beside and not any(classes[train[0]] & classes[name] for name in held_out):
        others = ", ".join(f"{name}/" for name in [*beside, *held_out][:4])
        words = f"{train[0]}/ lies beside {others}: it is taken as one folder among them, all are trained on. "
        return [], [words + f"To train on it alone give {folder / train[0]}."]
    left_out |= {f"images in {name}/, which is no part": len(cached_listing(folder / name).names) for name in beside}
    with os.scandir(folder) as entries:
        loose = sum(is_image(entry.name) and entry.is_file() for entry in entries)
    if loose:
        left_out[f"images beside {train[0]}/, in no part"] = loose
    return [*train, *held_out], []


def is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in KINDS


def subfolders(folder: Path) -> list[str]:
    """The names of a folder's visible sub-folders, sorted; none where it may not be listed."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    return []


def with_labels(
    parts: Sequence[str], words: Sequence[Sequence[str | None]]
) -> tuple[list[np.ndarray | None], tuple[str, ...], list[str]]:
    """Labels of each part's images by their words, the classes (training's first), and what does not fit between them.

    A held-out image of a class that training lacks keeps a label of its own: no measurement can get it right."""
    counts = [Counter(of_part) for of_part in words]
    own = sorted(c for c in counts[0] if c is not None)
    foreign = sorted({c for found in counts[1:] for c in found if c is not None and c not in counts[0]})
    told = []
    if len(own) < 2 or not any(c in found for found in counts[1:] for c in own):  # one folder names no classes
        for part, found in zip(parts[1:], counts[1:]):
            if len(own) > 1 and found:
                inside = ", ".join(sorted(c for c in found if c is not None)[:4]) or "no folders"
                told.append(f"{part}/ has no class of {parts[0]}/ ({inside}): nothing can be measured on it.")
        return [None] * len(parts), (), told
    for part, found in zip(parts[1:], counts[1:]):
        if found[None]:
            told.append(f"{found[None]:,} images in {part}/ lie in no class: they are not measured on.")
    number = {name: i for i, name in enumerate([*own, *foreign])}
    labels = [np.array([number.get(word or "", -1) for word in of_part], np.int64) for of_part in words]
    return [*labels], tuple(map(plain, number)), told


def from_folder(
    folder: Path, limit: int | None, seed: int, labels: str | Path | None = None
) -> tuple[Data, dict[str, Split]]:
    """A folder's or a table's images without the unreadable ones: those to train on, and held-out parts by name."""
    layout = folder_layout(folder, labels)
    chosen, *others = layout.parts
    if limit is not None and limit < len(chosen.names):
        chosen = chosen.take(stratified(chosen.labels, len(chosen.names), limit, seed))
    train, skipped = readable_part(chosen)
    held_out: dict[str, Split] = {}
    for part in others:
        if part.labels is not None and (part.labels >= 0).any():
            held_out[part.name], more = readable_part(part.take(np.flatnonzero(part.labels >= 0)))
            skipped += more
    told = (*layout.told, *sampled(np.concatenate([part.sizes for part in (chosen, *others)])))
    stamp = folder_fingerprint(folder, [chosen, *others], layout.stamp)
    firsts = [part.names[0] for part in layout.parts if part.names]  # a listing is of one kind, a table need not be
    whole = is_table(folder) or len(kinds_of(firsts)) > 1
    suits = one_kind((name for part in layout.parts for name in part.names) if whole else firsts, folder)
    about: dict[str, Any] = {"classes": layout.classes, "left_out": layout.left_out, "told": told, "suits": suits}
    skipped = [*skipped, *layout.closed]
    name = plain(data_name(folder.resolve()))
    return Data(name, train, skipped=tuple(skipped), fingerprint=stamp, **about), held_out


def folder_fingerprint(folder: Path, parts: Sequence[Part], stamp: str = "") -> str:
    """Names and sizes, as before 0.2, and the stamp of a table of labels; then a hash of the contents."""
    before = next((part for name in BEFORE for part in parts[1:] if part.name == name), None)
    prints = [stamp] * bool(stamp)
    for part in (parts[0], *([before] if before else [])):
        # Once: it takes as long as a million names.
        below = os.path.relpath(part.root, folder if folder.is_dir() else part.root)
        prints += [f"{below}/{name} {size}" for name, size in zip(part.names, part.sizes)]
    state = hashlib.sha256("\n".join(prints).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    paths = [path for part in parts for path in part.paths]
    return f"{state}-{contents_hash(paths, np.concatenate([part.sizes for part in parts]))}"


def first_folder(name: str) -> tuple[str | None, str]:
    """The first folder of a relative path, and what follows it.

    >>> first_folder("cat/a/1.png"), first_folder("1.png")
    (('cat', 'a/1.png'), (None, '1.png'))"""
    first, sign, rest = name.partition(os.sep)
    return (first, rest) if sign else (None, name)


def readable_part(part: Part) -> tuple[Split, list[Skipped]]:
    """The images of a part that can be read, and the others; the latter are cached where there are many images."""
    many = len(part.names) >= CACHE_FROM
    state = hashlib.sha256("\n".join(part.names).encode("utf-8", "surrogateescape"))
    state.update(part.sizes.tobytes())
    stamp = np.frombuffer(state.digest(), np.uint8)
    cached = (load_cache(part.root, "unreadable") if many else None) or {}
    if "names" in cached and np.array_equal(cached.get("stamp", ()), stamp):
        known = [os.path.join(part.root, name) for name in unpack_names(cached["names"])]
        with quiet():  # once more: they may have been mended, or been out of reach for a moment
            skipped = [Skipped(path, why) for path in known if (why := why_unreadable(path))]
        return part.without(skipped), skipped
    skipped = unreadable(part.paths, part.root)
    if many:
        names = pack_names([os.path.relpath(s.path, part.root) for s in skipped])
        save_cache(part.root, "unreadable", stamp=stamp, names=names)
    return part.without(skipped), skipped


def unreadable(paths: list[str], root: Path, *, all_of_them: bool = False) -> list[Skipped]:
    """The images that cannot be read, with reasons.

    Above `CHECK_ALL_BELOW` images a spread sample is checked here, and the rest when training reads them.

    Raises BadInput: too many cannot be read."""
    step = 1 if all_of_them else max(1, -(-len(paths) // CHECK_ALL_BELOW))
    with quiet(), ThreadPoolExecutor(max_workers=cores()) as pool:
        reasons = dict(zip(paths[::step], pool.map(why_unreadable, paths[::step])))
    skipped = [Skipped(path, reason) for path, reason in reasons.items() if reason]
    if len(skipped) > MOST_UNREADABLE * len(reasons):
        raise BadInput(too_many(skipped, len(reasons), root))
    return skipped


def rows_without(paths: Sequence[str], skipped: Sequence[Skipped]) -> np.ndarray:
    """The indices of the paths that are not among the skipped ones."""
    bad = {s.path for s in skipped}
    return np.array([i for i, path in enumerate(paths) if path not in bad], np.int64)
