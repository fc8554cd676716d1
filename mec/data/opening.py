"""`open_data`: a name, a folder or shards -> what to train on and what to measure on."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from mec.data.dataset import Data, Split, fingerprint, in_memory_if_small, limited, stratified
from mec.data.folders import from_folder
from mec.data.named import TORCHVISION, digits, from_torchvision
from mec.data.shards import Shards, is_packed, open_packed
from mec.errors import BadInput, home


def open_data(
    name: str, *, root: str | Path | None = None, download: bool = False, limit: int | None = None, seed: int = 0
) -> Data:
    """A data set by name, a folder of images nested in any way, or shards.

    Of a folder with train/<class>/... and val|test/<class>/... only train is trained on; labels serve evaluation.

    Args:
        name: "digits", a torchvision data set in `TORCHVISION`, a folder, or the shards that `mec pack` wrote (their
            folder, a pattern of tars, or a URL).
        root: the folder of torchvision's files; "imagenet" reads ROOT/train and ROOT/val; a URL is fetched to ROOT.
        download: fetch from the data set's own home, where torchvision still can.
        limit: use this many training images, stratified where there are labels.
        seed: of the draw that `limit` makes.

    Raises:
        BadInput: no such data set or folder, nothing in it, or too many images unreadable.
    """
    if limit is not None and limit < 1:
        raise BadInput(f"--limit is {limit}: it is a number of images, at least 1.")
    if seed < 0:
        raise BadInput(f"--seed is {seed}: a whole number, 0 or above.")
    name, root = home(name), home(root)
    if name == "digits":
        data = digits()
    elif name in TORCHVISION and not Path(name).is_dir():
        data = from_torchvision(name, root, download)
    elif name == "imagenet" and not Path(name).is_dir():
        if root is None:
            raise BadInput("imagenet needs --data-root DIR, with DIR/train/<wnid>/*.JPEG and DIR/val/<wnid>/*.JPEG.")
        data = replace(from_folder(Path(root), limit, seed), name="imagenet")
    elif is_packed(name):
        data = from_packed(name, root, limit, seed)
    else:
        data = from_folder(Path(name), limit, seed)
    data = replace(data, train=limited(data.train, limit, seed))
    return data if data.fingerprint else replace(data, fingerprint=fingerprint(data))


def from_packed(name: str, root: str | Path | None, limit: int | None, seed: int) -> Data:
    """Shards: a folder that `mec pack` wrote, tars by a pattern, or a URL of either."""
    packed = open_packed(name, root)
    parts = []
    for rows in (np.flatnonzero(~packed.test), np.flatnonzero(packed.test)):
        labels = packed.table.label[rows]
        parts.append((Shards(packed.table, rows), labels if (labels >= 0).any() else None))
    (train, train_labels), test = parts[0], Split(*parts[1])
    if not len(train):
        raise BadInput(f"{name}: holds no images to train on.")
    if limit is not None and limit < len(train):
        chosen = stratified(train_labels, len(train), limit, seed)
        train, train_labels = train.take(chosen), None if train_labels is None else train_labels[chosen]
    state = hashlib.sha256("\n".join(packed.checksums).encode() + train.rows.tobytes())
    held_out = test.labelled() if test.labels is not None else None
    found = Data(packed.name, Split(train, train_labels), held_out, packed.classes, fingerprint=state.hexdigest()[:16])
    return in_memory_if_small(found)
