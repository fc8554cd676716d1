"""A folder of images: its parts by its layout, its classes, and which of its images can be read."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mec.data.contents import contents_hash, sampled
from mec.data.dataset import ROLES, TEST, TRAIN, VALIDATION, Data, Split, ready, stratified
from mec.data.decoding import SUFFIXES, Skipped, nothing_in, quiet, why_unreadable
from mec.data.images import MOST_UNREADABLE, Files, too_many
from mec.data.listing import CACHE_FROM, cached_listing, load_cache, pack_names, save_cache, unpack_names
from mec.data.named import TORCHVISION
from mec.data.tables import Table, assigned, located, members, read_table
from mec.data.values import Scale
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
    closed: tuple[Skipped, ...] = ()  # folders in it that this user may not list

    def take(self, indices: np.ndarray) -> Part:
        labels = None if self.labels is None else self.labels[indices]
        return replace(self, names=[self.names[i] for i in indices], sizes=self.sizes[indices], labels=labels)

    @property
    def paths(self) -> list[str]:
        return [os.path.join(self.root, name) for name in self.names]


@dataclass(frozen=True)
class Layout:
    """What a folder holds: its parts, the training part first; classes; what is left out by reason; what to say."""

    parts: list[Part]
    classes: tuple[str, ...]
    left_out: Mapping[str, int]
    told: list[str]
    stamp: str = ""  # of a table of labels


def folder_layout(folder: Path, labels: str | Path | None = None) -> Layout:
    """Parts and classes of a folder: training images, and held-out ones where there are parts and nothing else.

    Instead of a folder also a table of images. `labels`: a table of theirs, in place of folders of classes.
    Raises BadInput: no such folder, no image in it, or a table that does not fit.
    """
    if not folder.exists():
        known = ["digits", "imagenet", *TORCHVISION]
        raise BadInput(f"{folder}: no such folder, nor a data set of that name. {nearest(str(folder), known)}")
    table = None if labels is None else read_table(labels, labels=True)
    if is_table(folder):
        own = read_table(folder)
        root, names, told = located(own)
        sizes = np.array([file_size(os.path.join(root, name)) for name in names], np.int64)
        parts = [Part(TRAIN, root, names, sizes)]
        return by_table(root, parts, {}, told, table or own, None if table else np.arange(len(names)))
    if not folder.is_dir():
        packed = re.search(r"\.(tgz|tar\.\w+|zip)$", folder.name)
        what = "a packed file: unpack it first, or give a plain .tar" if packed else "a file"
        raise BadInput(f"{folder} is {what}: give the folder that holds the images.")
    names, left_out, told = split_folders(folder)
    parts = []
    for name in names or ["."]:
        found = cached_listing(folder / name)
        parts.append(Part(name if names else TRAIN, folder / name, found.names, found.sizes, None, found.closed))
        for reason, count in found.left_out.items():
            left_out[reason] = left_out.get(reason, 0) + count
    if not parts[0].names:
        raise BadInput(nothing_in(parts[0].root))
    if table is not None:
        return by_table(folder, parts, left_out, told, table)
    labelled, classes, more = with_labels(parts)
    return Layout(labelled, classes, left_out, told + more)


def file_size(path: str) -> int:
    """In bytes; -1 where there is none: the reason is told when the image is opened."""
    return os.path.getsize(path) if os.path.isfile(path) else -1


def by_table(
    root: Path,
    parts: list[Part],
    left_out: dict[str, int],
    told: list[str],
    table: Table,
    rows: np.ndarray | None = None,
) -> Layout:
    """The layout of these parts with labels and parts as `assigned`. rows: of the images in the table, if known."""
    names = [os.path.relpath(path, root) for part in parts for path in part.paths]
    sizes, closed = np.concatenate([part.sizes for part in parts]), tuple(s for part in parts for s in part.closed)
    own, words, more = assigned(table, names, root, [part.name for part in parts for _ in part.names], rows)
    whole = Part(TRAIN, root, names, sizes)
    made = [replace(whole.take(chosen), name=name) for name, chosen in members(own).items()]
    if not made[0].names:
        raise BadInput(f"{table.file}: none of its images is to train on: some have to be of the part train.")
    made[0] = replace(made[0], closed=closed)
    labelled, classes, also = with_labels(made, [[words[i] for i in chosen] for chosen in members(own).values()])
    told = [*told, *more, *also]
    return Layout(labelled, classes, left_out, told, table.stamp)


def split_folders(folder: Path) -> tuple[list[str], dict[str, int], list[str]]:
    """The sub-folders that are parts, the training part first, or none; what lies beside them; what to say."""
    roles: dict[str | None, list[str]] = {}
    for name in subfolders(folder):
        roles.setdefault(ROLES.get(name.lower()), []).append(name)
    train, held_out = roles.get(TRAIN, [])[:1], [*roles.get(VALIDATION, []), *roles.get(TEST, [])]
    if not train:
        return [], {}, []
    beside = [name for name in (*roles.get(None, []), *roles[TRAIN][1:]) if has_image(folder / name)]
    classes = {name: {*subfolders(folder / name)} for name in (*train, *held_out)}
    if beside and not any(classes[train[0]] & classes[name] for name in held_out):
        others = ", ".join(f"{name}/" for name in [*beside, *held_out][:4])
        words = f"{train[0]}/ lies beside {others}: it is taken as one folder among them, all are trained on. "
        return [], {}, [words + f"To train on it alone give {folder / train[0]}."]
    left_out = {f"images in {name}/, which is no part": len(cached_listing(folder / name).names) for name in beside}
    with os.scandir(folder) as entries:
        loose = sum(os.path.splitext(entry.name)[1].lower() in SUFFIXES and entry.is_file() for entry in entries)
    if loose:
        left_out[f"images beside {train[0]}/, in no part"] = loose
    return [*train, *held_out], left_out, []


def has_image(folder: Path) -> bool:
    """Whether there is an image in it, in any depth."""
    return any(os.path.splitext(name)[1].lower() in SUFFIXES for _, _, files in os.walk(folder) for name in files)


def subfolders(folder: Path) -> list[str]:
    """The names of a folder's visible sub-folders, sorted; none where it may not be listed."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    return []


def with_labels(
    parts: list[Part], words: Sequence[Sequence[str | None]] | None = None
) -> tuple[list[Part], tuple[str, ...], list[str]]:
    """Parts with labels, the classes (those of the training part first), and what does not fit between them.

    A held-out image of a class that training lacks keeps a label of its own: no measurement can get it right.
    words: each part's labels, in place of the names of folders.
    """
    words = words or [[class_of(name) for name in part.names] for part in parts]
    counts = [Counter(of_part) for of_part in words]
    own = sorted(c for c in counts[0] if c is not None)
    foreign = sorted({c for found in counts[1:] for c in found if c is not None and c not in counts[0]})
    told = []
    if len(own) < 2 or not any(c in found for found in counts[1:] for c in own):  # one folder names no classes
        for part, found in zip(parts[1:], counts[1:]):
            if len(own) > 1 and part.names:
                inside = ", ".join(sorted(c for c in found if c is not None)[:4]) or "no folders"
                told.append(f"{part.name}/ has no class of {parts[0].name}/ ({inside}): nothing can be measured on it.")
        return parts, (), told
    for name in foreign:
        images = ", ".join(f"{found[name]:,} in {part.name}/" for part, found in zip(parts, counts) if found[name])
        told.append(f"class {name} ({images}) is not in {parts[0].name}/: its images count as wrong.")
    for part, found in zip(parts[1:], counts[1:]):
        lacking = [c for c in own if c not in found]
        if lacking and part.names:
            some = ", ".join(f"{c} ({counts[0][c]:,})" for c in lacking[:5])
            more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
            told.append(f"{part.name}/ has no image of {some}{more}: these classes are trained on, not measured.")
        if found[None]:
            told.append(f"{found[None]:,} images in {part.name}/ lie in no class: they are not measured on.")
    number = {name: i for i, name in enumerate([*own, *foreign])}
    labels = [np.array([number.get(word or "", -1) for word in of_part], np.int64) for of_part in words]
    return [replace(part, labels=y) for part, y in zip(parts, labels)], tuple(map(plain, number)), told


def from_folder(
    folder: Path,
    limit: int | None,
    seed: int,
    scale: Scale | None = None,
    split: str = "",
    labels: str | Path | None = None,
) -> Data:
    """A folder's or a table's images: parts by its layout, without the unreadable ones, small ones of a size in memory.

    `scale` is of deep values, by default one that fits the training images; `split` the part to measure on; `labels` a
    table of them.
    """
    layout = folder_layout(folder, labels)
    chosen, *others = layout.parts
    if limit is not None and limit < len(chosen.names):
        chosen = chosen.take(stratified(chosen.labels, len(chosen.names), limit, seed))
    train, skipped = readable_part(chosen)
    held_out: dict[str, Split] = {}
    for part in others if layout.classes else ():
        assert part.labels is not None
        if (part.labels >= 0).any():
            held_out[part.name], more = readable_part(part.take(np.flatnonzero(part.labels >= 0)))
            skipped += more
    skipped += [closed for part in layout.parts for closed in part.closed]
    data = Data(
        plain(data_name(folder.resolve())),
        train,
        classes=layout.classes,
        skipped=tuple(skipped),
        left_out=layout.left_out,
        told=(*layout.told, *sampled(np.concatenate([part.sizes for part in (chosen, *others)]))),
        fingerprint=folder_fingerprint(folder, [chosen, *others], layout.stamp),
    )
    return ready(data, held_out, split, scale)


def folder_fingerprint(folder: Path, parts: Sequence[Part], stamp: str = "") -> str:
    """Names and sizes, as before 0.2, and the stamp of a table of labels; then a hash of the contents."""
    before = next((part for name in BEFORE for part in parts[1:] if part.name == name), None)
    prints = [stamp] * bool(stamp)
    for part in (parts[0], *([before] if before else [])):
        below = os.path.relpath(
            part.root, folder if folder.is_dir() else part.root
        )  # once: it takes as long as a million names
        prints += [f"{below}/{name} {size}" for name, size in zip(part.names, part.sizes)]
    state = hashlib.sha256("\n".join(prints).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    paths = [path for part in parts for path in part.paths]
    return f"{state}-{contents_hash(paths, np.concatenate([part.sizes for part in parts]))}"


def class_of(name: str) -> str | None:
    """The first folder of a relative path."""
    first, _, rest = name.partition(os.sep)
    return first if rest else None


def readable_part(part: Part) -> tuple[Split, list[Skipped]]:
    """`readable` for a part of a folder; the unreadable images are cached where there are many images."""
    paths = part.paths
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
