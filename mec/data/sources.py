"""`open_images`: whatever images a user names, as one set in one order, with names, and labels where there are any."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mec.data.dataset import ROLES, Data, Split, with_scale
from mec.data.decoding import nothing_in
from mec.data.folders import first_folder, rows_without, unreadable
from mec.data.images import Files, Opened
from mec.data.listing import list_images
from mec.data.shards import is_packed, open_packed
from mec.data.tables import Table, fits, located, matched, read_table
from mec.data.values import Scale
from mec.errors import BadInput, home, plain
from mec.runtime.paths import data_name, is_table

BY_FOLDER = "folders"  # labels are the folders that images lie in


@dataclass(frozen=True)
class Source:
    """Images in one order, readable as far as was looked at; one entry each in names, parts and labels.

    `data.train` holds the images and their labels [n] (-1: none), numbers into `data.classes`; `data.words()` is what a
    user has to be told; `data.skipped` are those that cannot be read."""

    data: Data
    names: tuple[str, ...]  # relative to the folder, the list's folder, or as packed
    parts: tuple[str, ...]  # train, val, test, ... where the layout or a column split says so, else ""

    @property
    def split(self) -> Split:
        return self.data.train

    def take(self, indices: np.ndarray) -> "Source":
        """The images at these indices [m], in this order."""
        names, parts = (tuple(values[i] for i in indices) for values in (self.names, self.parts))
        return Source(replace(self.data, train=self.split.take(indices)), names, parts)


def open_images(
    images: Any, labels: str | Path | None = None, *, scale: Scale | None = None, look: bool = True
) -> Source:
    """All the images of what a user names, in the order of their names or of the list.

    Args:
        images: a folder, nested in any way; tars, a pattern of them or what `mec pack` wrote; a CSV with a column of
            paths (labels and parts too, where it has them); a text with a path a line; a file; a list of paths, or of
            PIL images; pixels uint8 [n, h, w] or [n, h, w, 3]; a part of a data set, `mec.open_data("digits").train`.
        labels: a CSV with the columns path and label; or "folders": by the first folder below the images' own, or
            below train/, val/, test/. Default: those of a CSV, of tars, or of a part of a data set.
        scale: of 16-bit, float and signed values, as an encoder was trained on. Default: one that fits these images.
        look: decode each image now, and leave out those that cannot be read; else a sample, above 20,000 images.

    Raises:
        BadInput: no image, too many that cannot be read, or labels that do not fit.
        FileNotFoundError: no such folder or file."""
    images = home(images)
    found, table = _found(images, look), None
    if str(labels) == BY_FOLDER and not os.path.exists(BY_FOLDER):
        words = [first_folder(part_and_rest(name)[1])[0] for name in found.names]
        if len({*words} - {None}) < 2:
            raise BadInput(f"{images}: labels are the names of folders, and there are fewer than two: CLASS/image.png.")
        found = labelled(found, words)
    elif labels is not None:
        if isinstance(images, Split):
            raise BadInput(f"labels is {labels}, but these images are a part of a data set, with labels of its own.")
        table = read_table(home(labels), labels=True)
        root = images if isinstance(images, (str, Path)) and Path(images).is_dir() else Path()
        root = Path(images).absolute().parent if is_one_file(images) and Path(images).is_file() else root
        found = by_rows(found, table, matched(table, found.names, root))
    return replace(found, data=with_scale(found.data, scale))


def is_one_file(images: Any) -> bool:
    return isinstance(images, (str, Path)) and not is_packed(str(images)) and not Path(images).is_dir()


def part_and_rest(name: str) -> tuple[str, str]:
    """
    >>> part_and_rest("Val/cat/1.png"), part_and_rest("cat/1.png")
    (('val', 'cat/1.png'), ('', 'cat/1.png'))"""
    first, rest = first_folder(name.replace("/", os.sep))
    return (first.lower(), rest) if first and first.lower() in ROLES else ("", name)


def by_rows(source: Source, table: Table, rows: np.ndarray, *, own: bool = False) -> Source:
    """The images with the labels and parts of a table's rows [n], -1 where an image has none."""
    told = fits(table, source.names, rows, own=own)
    found = labelled(source, table.words(rows)) if table.labels is not None else source
    if table.splits is not None:
        parts = (table.splits[r].lower() or p if r >= 0 else p for r, p in zip(rows.tolist(), source.parts))
        found = replace(found, parts=tuple(parts))
    return replace(found, data=replace(found.data, told=(*found.data.told, *told)))


def labelled(source: Source, words: Sequence[str | None]) -> Source:
    classes = sorted({word for word in words if word is not None})
    number: dict[str | None, int] = {name: i for i, name in enumerate(classes)}
    split = replace(source.split, labels=np.array([number.get(word, -1) for word in words], np.int64))
    return replace(source, data=replace(source.data, train=split, classes=tuple(map(plain, classes))))


def _found(images: Any, look: bool) -> Source:
    """The images without a table of labels beside them; deep values are not scaled yet."""
    if isinstance(images, Data):
        raise BadInput(f"{images.name} has parts: give one of them, for example data.train.")
    if isinstance(images, Split):
        names = tuple(images.images.name(i) for i in range(len(images)))
        return Source(Data("", images), names, ("",) * len(names))
    if isinstance(images, (str, Path)) and is_packed(str(images)):
        packed = open_packed(str(images))
        split = packed.split(np.arange(len(packed.names)))
        data = Data(packed.name, split, classes=packed.classes, left_out=packed.left_out, told=packed.told)
        return Source(data, tuple(packed.names), tuple(packed.parts[i] for i in packed.part))
    if isinstance(images, (str, Path)) and Path(images).is_dir():
        folder = Path(images)
        listed = list_images(folder)
        if not listed.names:
            raise BadInput(nothing_in(folder))
        more = Data(folder.resolve().name, Split(Files(())), skipped=listed.closed, left_out=listed.left_out)
        return files(more, folder, listed.names, look)[0]
    if is_one_file(images) and is_table(images) and Path(images).is_file():
        table = read_table(images)
        root, listing, told = located(table)
        more = Data(data_name(table.file.resolve()), Split(Files(())), told=tuple(told))
        source, kept = files(more, root, listing, look)
        return by_rows(source, table, kept, own=True)
    if is_one_file(images) and not Path(images).is_file():
        raise FileNotFoundError(
            f"{images}: no such folder or image. Of a data set give a part: mec.open_data({str(images)!r}).train"
        )
    several: Any = [images] if isinstance(images, (str, Path)) else images
    if isinstance(several, np.ndarray) and several.dtype.kind not in "OU":
        if several.dtype != np.uint8 or several.ndim not in (3, 4) or several.shape[3:] not in ((), (3,)):
            kind = f"{several.dtype} {[*several.shape]}"
            raise BadInput(f"images are {kind}: pixels are uint8 [n, h, w] or [n, h, w, 3].")
        several = [Image.fromarray(each).convert("RGB") for each in several]
    several = [*several]
    of_paths = all(isinstance(image, (str, Path)) for image in several)
    if not several or not (of_paths or all(isinstance(image, Image.Image) for image in several)):
        fit = "a list of paths or of PIL images (not empty), pixels uint8 [n, h, w(, 3)], or a part of a data set"
        raise BadInput(f"no images: give a folder, {fit}.")
    split = Split(Files(tuple(map(str, several))) if of_paths else Opened(tuple(several)))
    names = tuple(split.images.name(i) for i in range(len(split)))
    return Source(Data("", split), names, ("",) * len(names))


def files(about: Data, root: Path, names: list[str], look: bool) -> tuple[Source, np.ndarray]:
    """The readable ones of these files, and which those are [n]. Raises BadInput: too many are not."""
    paths = [os.path.join(root, name) for name in names]
    skipped = unreadable(paths, root, all_of_them=look)
    kept = rows_without(paths, skipped)
    names = [names[i] for i in kept]
    about = replace(about, train=Split(Files(tuple(paths[i] for i in kept))), skipped=(*skipped, *about.skipped))
    return Source(about, tuple(names), tuple(part_and_rest(name)[0] for name in names)), kept
