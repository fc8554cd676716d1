"""The eleven data sets of the transfer table: where their files lie, their splits, their metrics, their oddities."""

import hashlib
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mec.data.dataset import Split, stratified
from mec.data.decoding import SUFFIXES
from mec.data.images import Files, InMemory
from mec.data.named import TORCHVISION, terms_of, torchvision_split
from mec.errors import Absent, BadInput, absent, nearest
from mec.evaluation.metrics import VOC_CLASSES
from mec.recipes.fields import from_dict, from_yaml
from mec.runtime.files import first_line, read_text
from mec.runtime.flags import names
from mec.runtime.progress import say


@dataclass(frozen=True)
class Choices:
    """What is left open by the protocol."""

    seed: int = 0  # of the parts that are held out where there is no official validation set, and Caltech's draw
    background: bool = True  # Caltech-101 with its 102nd folder, BACKGROUND_Google
    difficult_as_absent: bool = False  # VOC: count images with difficult instances only as negatives


@dataclass(frozen=True)
class Parts:
    """`fit` and `held_out` choose the settings, both together are then fitted once more, and `test` is used once.
    Labels are [n] classes from 0; for VOC [n, 20] of 1 (present), -1 (absent) and 0 (difficult instances only)."""

    name: str
    fit: Split
    held_out: Split
    test: Split
    classes: tuple[str, ...]
    metric: str  # a key of METRICS
    fingerprint: str
    drawn: dict[str, list[int]]  # rows of the source that were drawn, not given: stored beside the results

    def together(self) -> Split:
        """fit and held_out, in order."""
        both, y = (self.fit.images, self.held_out.images), np.concatenate([self.fit.y, self.held_out.y])
        pixels = [images.pixels for images in both if images.pixels is not None]
        names = tuple(images.name(i) for images in both for i in range(len(images)))
        return Split(InMemory(torch.cat(pixels)) if pixels else Files(names), y)


Official = tuple[Sequence[tuple[Split, tuple[str, ...]]], dict[str, list[int]]]  # parts with classes; rows drawn


@dataclass(frozen=True)
class TransferSet:
    """A row of `TRANSFER_SETS`."""

    title: str  # the paper's column
    metric: str
    needs: tuple[str, ...]  # below --data-root
    kind: str  # torchvision's class
    parts: tuple[dict[str, Any], ...]  # and its keywords for each
    get: str = "--download fetches it"
    fetched: bool = True  # whether torchvision still can
    terms: str = ""  # where `mec.data.named` has none
    held_out: tuple[int, int] | None = None  # to choose settings, and of how many

    def fetch(self, root: Path) -> None:
        """Have torchvision fetch it from its own home."""
        import torchvision

        for keywords in self.parts:
            getattr(torchvision.datasets, self.kind)(root=str(root), download=True, **keywords)


CALTECH_TRAIN = 30  # images a class


def open_set(name: str, root: Path, choices: Choices) -> Parts:
    """A data set. Raises BadInput: its files cannot be understood."""
    entry = TRANSFER_SETS[name]
    try:
        if name in READERS:
            return transfer_parts(name, root, READERS[name](root, choices), choices)
        official = [torchvision_split(entry.kind, root, **keywords) for keywords in entry.parts]
        return transfer_parts(name, root, (official, {}), choices)
    except BadInput:
        raise
    except Exception as error:  # of lists, XML, archives and torchvision's readers
        words = f"{type(error).__name__}: {first_line(error)[:200]}"
        raise BadInput(f"{name}: its files below {root} cannot be read ({words}). Is the copy whole?") from error


def sun397(root: Path, choices: Choices) -> Official:
    """Partition 1 of the official ten: 50 training and 50 test images a class, not all 108,754 images."""
    folder = root / "SUN397"
    classes = tuple(read_text(folder / "ClassName.txt").split())
    number = {name: i for i, name in enumerate(classes)}
    splits = []
    for part in ("Training_01.txt", "Testing_01.txt"):
        beside, packed = folder / part, folder / "Partitions" / part
        names = sorted(read_text(beside if beside.exists() else packed).split())  # /a/abbey/sun_aakbd.jpg
        labels = np.array([number[os.path.dirname(name)] for name in names])
        splits.append((Split(Files(tuple(f"{folder}{name}" for name in names)), labels), classes))
    return splits, {}


def voc2007(root: Path, choices: Choices) -> Official:
    """Many labels an image: those of its objects; official train, val and test."""
    folder, splits = root / "VOCdevkit" / "VOC2007", []
    for part in ("train", "val", "test"):
        names = read_text(folder / "ImageSets" / "Main" / f"{part}.txt").split()
        labels = np.stack([voc_labels(folder / "Annotations" / f"{name}.xml") for name in names])
        if choices.difficult_as_absent:
            labels[labels == 0] = -1
        images = Files(tuple(str(folder / "JPEGImages" / f"{name}.jpg") for name in names))
        splits.append((Split(images, labels), VOC_CLASSES))
    return splits, {}


def voc_labels(path: Path) -> np.ndarray:
    """[20]: 1 with an instance that is not difficult, 0 with difficult ones only, else -1; as VOC's own lists of each
    class have it."""
    labels = np.full(len(VOC_CLASSES), -1)
    for item in ElementTree.parse(path).iter("object"):
        name, difficult = item.findtext("name", ""), item.findtext("difficult", "0").strip() == "1"
        c = VOC_CLASSES.index(name.strip())
        labels[c] = max(labels[c], 0 if difficult else 1)
    return labels


def caltech101(root: Path, choices: Choices) -> Official:
    """30 random images a class to train on, without replacement; all others are the test set.
    torchvision's class leaves out the background folder and has no split, so that the folders are read here."""
    folder = root / "caltech101" / "101_ObjectCategories"
    names = sorted(p.name for p in folder.iterdir() if p.is_dir())
    classes = tuple(n for n in names if choices.background or n != "BACKGROUND_Google")
    paths: list[str] = []
    labels: list[int] = []
    for c, name in enumerate(classes):  # BACKGROUND_Google also holds a file that is no image
        found = sorted(str(p) for p in (folder / name).iterdir() if p.suffix.lower() in SUFFIXES)
        if len(found) <= CALTECH_TRAIN:
            raise BadInput(
                f"{folder / name} has {len(found)} images: {CALTECH_TRAIN} are drawn to train on, and at least one is "
                "left to test. Is the copy whole?"
            )
        paths, labels = paths + found, labels + [c] * len(found)
    y = np.array(labels)
    generator = np.random.default_rng([choices.seed, 101])
    draws = [generator.choice(np.flatnonzero(y == c), CALTECH_TRAIN, replace=False) for c in range(len(classes))]
    chosen = np.sort(np.concatenate(draws))
    everything = Split(Files(tuple(paths)), y)
    rest = np.setdiff1d(np.arange(len(y)), chosen)
    return [(everything.take(rows), classes) for rows in (chosen, rest)], {"train": chosen.tolist()}


def transfer_parts(name: str, root: Path, found: Official, choices: Choices) -> Parts:
    """From the official train, val and test; without val a seeded, stratified part is held out, as large as BYOL's."""
    ((fit, classes), *val, (test, _)), drawn = found
    if val:
        held_out = val[0][0]
    else:
        part, whole = TRANSFER_SETS[name].held_out or (0, 0)
        rows = stratified(fit.labels, len(fit), max(1, round(len(fit) * part / whole)), choices.seed)
        fit, held_out = fit.take(np.setdiff1d(np.arange(len(fit)), rows)), fit.take(rows)
        drawn["held_out"] = rows.tolist()
    state = hashlib.sha256(name.encode())
    for split in (fit, held_out, test):
        if not len(split):
            raise BadInput(f"{name}: a part of it is empty below {root}. Is the copy whole?")
        if split.images.pixels is not None:
            state.update(split.images.pixels.numpy().tobytes())
        else:  # names and sizes of files
            paths = [split.images.name(i) for i in range(len(split))]
            if missing := [p for p in paths if not os.path.exists(p)]:
                raise BadInput(f"{len(missing)} images named by the lists are not there, among them {missing[0]}.")
            state.update("\n".join(f"{os.path.relpath(p, root)} {os.path.getsize(p)}" for p in paths).encode())
        state.update(np.ascontiguousarray(split.y).tobytes())
    return Parts(name, fit, held_out, test, classes, TRANSFER_SETS[name].metric, state.hexdigest()[:16], drawn)


# Where torchvision's class does not give what the protocol takes.
READERS: dict[str, Callable[[Path, Choices], Official]] = {
    "sun397": sun397, "voc2007": voc2007, "caltech101": caltech101
}  # fmt: skip
TRANSFER_SETS = {
    name: from_dict(TransferSet, row, name) for name, row in from_yaml(Path(__file__).with_name("sets.yaml")).items()
}


def names_of(asked: str | Sequence[str]) -> list[str]:
    """NAME, NAME,NAME or all; or a sequence of names."""
    found = list(TRANSFER_SETS) if asked == "all" else names(asked, "the list of data sets")
    for name in found:
        if name not in TRANSFER_SETS:
            known = ["all", *TRANSFER_SETS]
            raise BadInput(f"{name!r} is no transfer data set. {nearest(name, known)} Known: {', '.join(known)}.")
    return list(dict.fromkeys(found))


def require_sets(names: Sequence[str], root: Path, *, download: bool = False) -> None:
    """See that every data set's files are there, fetching those that can be fetched where asked for.
    Raises BadInput: some are absent: one message says which, where each is expected, and how to get it."""
    missing = []
    for name in names:
        entry, reason = TRANSFER_SETS[name], ""
        if download and lacking(name, root) and entry.fetched:
            say(terms_of(name, TORCHVISION[name].terms if name in TORCHVISION else entry.terms))
            try:
                root.mkdir(parents=True, exist_ok=True)
                entry.fetch(root)
            except (OSError, RuntimeError, ValueError) as error:  # a dead host, a broken archive
                reason = f" (tried: {first_line(error)})"
        if places := lacking(name, root):
            missing.append(Absent(name, ", ".join(str(root / place) for place in places), entry.get + reason))
    if missing:
        here = [name for name in names if not lacking(name, root)]
        rest = f"\nTo measure those that are there, give {','.join(here)} as their name." if here else ""
        raise BadInput(f"{absent(missing)}{rest}")


def lacking(name: str, root: Path) -> list[str]:
    """Which of its files are not there; SUN's lists may lie in a folder of their own, as they are packed."""
    ways = ((p, p.replace("SUN397/", "SUN397/Partitions/")) for p in TRANSFER_SETS[name].needs)
    return [place for place, packed in ways if not (root / place).exists() and not (root / packed).exists()]
