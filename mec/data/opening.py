"""`open_data`: a name, a folder or shards -> what to train on and what to measure on."""

import hashlib
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mec.data import dataset
from mec.data.dataset import ROLES, TRAIN, Data, Split, fingerprint, in_memory_if_small, limited, one_sided
from mec.data.decoding import one_kind
from mec.data.folders import from_folder, with_labels
from mec.data.mapped import LARGE, chunks
from mec.data.named import TORCHVISION, digits, from_torchvision
from mec.data.shards import Packed, Shards, coded, is_packed, open_packed
from mec.data.tables import Table, assigned, members, read_table
from mec.data.values import Scale
from mec.errors import BadInput, home

MOST_NAMES = 200_000  # of very many packed images whose suffixes are looked at


def open_data(
    name: str, *, root: str | Path | None = None, download: bool = False, limit: int | None = None, seed: int = 0,
    split: str | None = None, scale: Scale | None = None, labels: str | Path | None = None,
) -> Data:  # fmt: skip
    """A data set by name, a folder of images nested in any way, a list of images, or shards.

    Of a folder with train/<class>/... and val|test/<class>/... (or Training, Validation, Testing) only train is trained
    on; labels serve evaluation, on the test part where there is one.

    Args:
        name: "digits", a torchvision data set in `TORCHVISION`, a folder, a CSV with a column of paths (and of labels,
            and of splits, where it has them), a text with a path a line, or the shards that `mec pack` wrote (their
            folder, a pattern of tars, or a URL).
        root: the folder of torchvision's files; "imagenet" reads ROOT/train and ROOT/val; a URL is fetched to ROOT.
        download: fetch from the data set's own home, where torchvision still can.
        limit: use this many training images, stratified where there are labels.
        seed: of the draw that `limit` makes.
        split: the held-out part to measure on, by its folder's name. Default: test, else validation.
        scale: of 16-bit, float and signed values, as an encoder was trained on. Default: one that fits this set.
        labels: a CSV with the columns path and label (and split: train, val, test), in place of folders of classes.

    Raises:
        BadInput: no such data set or folder, nothing in it, or too many images unreadable."""
    if limit is not None and limit < 1:
        raise BadInput(f"--limit is {limit}: it is a number of images, at least 1.")
    if seed < 0:
        raise BadInput(f"--seed is {seed}: a whole number, 0 or above.")
    name, root = home(name), home(root)
    if labels is not None and (name == "digits" or (name in TORCHVISION and not Path(name).is_dir())):
        raise BadInput(f"--labels is {labels}, but {name} has labels of its own.")
    held_out: dict[str, Split] | None = None
    if name == "digits":
        data = digits()
    elif name in TORCHVISION and not Path(name).is_dir():
        data = from_torchvision(name, root, download)
    elif name == "imagenet" and not Path(name).is_dir():
        if root is None:
            raise BadInput("imagenet needs --data-root DIR, with DIR/train/<wnid>/*.JPEG and DIR/val/<wnid>/*.JPEG.")
        data, held_out = from_folder(Path(root), limit, seed, labels)
        data = replace(data, name="imagenet")
    elif is_packed(name):
        data, held_out = from_packed(name, root, limit, seed, labels)
    else:
        data, held_out = from_folder(Path(name), limit, seed, labels)
    if held_out is not None:
        data = in_memory_if_small(dataset.with_scale(dataset.with_held_out(data, held_out, split or ""), scale))
    if split and data.split.lower() != split.lower() and ROLES.get(data.split.lower()) != ROLES.get(split.lower()):
        raise BadInput(f"{name} has no part {split!r} to measure on. There: {data.split}.")
    data = replace(data, train=limited(data.train, limit, seed))
    data = replace(data, told=(*data.told, *one_sided(data)))
    return data if data.fingerprint else replace(data, fingerprint=fingerprint(data))


def from_packed(
    name: str, root: str | Path | None, limit: int | None, seed: int, labels: str | Path | None = None
) -> tuple[Data, dict[str, Split]]:
    """Shards (a folder that `mec pack` wrote, tars by a pattern, or a URL of either), as `from_folder`."""
    packed, stamp = open_packed(name, root), list[str]()
    if labels is not None:
        table = read_table(labels, labels=True)
        packed, stamp = relabelled(packed, table), [table.stamp]
    parts = {part: packed.split(packed.rows_of(part)) for part in dict.fromkeys((TRAIN, *packed.parts))}
    train = limited(parts.pop(TRAIN), limit, seed)
    if not len(train):
        raise BadInput(f"{name}: holds no images to train on.")
    assert isinstance(train.images, Shards)
    state = hashlib.sha256("\n".join([*packed.checksums, *stamp]).encode())
    for (rows,) in chunks(train.images.rows):
        state.update(rows.astype(np.int64).tobytes())
    stamp_of = "-".join([state.hexdigest()[:16], *filter(None, [packed.contents])])
    about: dict[str, Any] = {"classes": packed.classes, "left_out": packed.left_out, "told": packed.told}
    about["suits"] = one_kind(islice(packed.names, None if len(packed.names) < LARGE else MOST_NAMES), name)
    found = Data(packed.name, train, fingerprint=stamp_of, **about)
    return found, {name: part.labelled() for name, part in parts.items() if part.labels is not None}


def relabelled(packed: Packed, table: Table) -> Packed:
    """Shards with the labels of a table, and its parts. Raises BadInput: they do not fit."""
    parts, words, told = assigned(
        table, packed.names, Path(packed.tars[0]).parent, [packed.parts[i] for i in packed.part]
    )
    found = members(parts)
    numbers, classes, more = with_labels([*found], [[words[i] for i in rows] for rows in found.values()])
    label = np.full(len(words), -1)
    for of_part, rows in zip(numbers, found.values()):
        label[rows] = -1 if of_part is None else of_part
    told_too, about = (*packed.told, *told, *more), coded(parts)
    return replace(packed, **about, label=label, classes=classes, told=told_too)
