"""Lists of images and their labels as people have them: a CSV with a column of paths, or a text with a path a line."""

import csv
import hashlib
import io
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas

from mec.data.dataset import ROLES, TEST, TRAIN, VALIDATION
from mec.data.decoding import KINDS, read_file
from mec.data.listing import list_images
from mec.errors import BadInput, plain
from mec.runtime.paths import LISTS

COLUMNS = {
    "path": ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img", "id"),
    "label": ("label", "class", "category", "target", "species", "diagnosis"),
    "split": ("split", "part", "subset"),
}  # the first of each that a table has, in any case
HELD_OUT = 0.3  # of each class, where nothing says what to measure on; digits are split so


@dataclass(frozen=True)
class Table:
    """Rows of a file, in its order, each path once: paths as written, labels and parts ("" where a row has none)."""

    file: Path
    paths: tuple[str, ...]
    labels: tuple[str, ...] | None = None
    splits: tuple[str, ...] | None = None
    told: tuple[str, ...] = ()

    @property
    def stamp(self) -> str:
        """A hash of what it says."""
        return hashlib.sha256(repr((self.paths, self.labels, self.splits)).encode("utf-8", "replace")).hexdigest()[:16]

    def words(self, rows: np.ndarray) -> list[str | None]:
        """The labels of rows [n], None where there is none; a row of -1 is none."""
        return [(self.labels[row] or None) if self.labels is not None and row >= 0 else None for row in rows.tolist()]


def read_table(file: str | Path, *, labels: bool = False) -> Table:
    """The rows of a CSV (or TSV) with a header, or of a text with a path a line; `labels`: a column of them is needed.
    Raises BadInput: it is not there, cannot be read, lacks a column, or contradicts itself."""
    file = Path(file)
    try:
        text = read_file(file).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{file}: cannot be read ({error}). A CSV in UTF-8 with the columns path,label fits.") from error
    if file.suffix.lower() in LISTS and not labels:
        paths, told = merged(file, [(line.strip(), "", "") for line in text.splitlines() if line.strip()])
        return Table(file, paths, told=told)
    first = text.partition("\n")[0]
    try:
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), strict=True)
        header, *rows = [row for row in lines if row]
    except (csv.Error, ValueError) as error:
        raise BadInput(f"{file}: no table ({error}). A CSV with the columns path,label fits.") from error
    named = [name.strip().lower() for name in header]
    columns = {kind: next((named.index(n) for n in names if n in named), None) for kind, names in COLUMNS.items()}
    wanted = [kind for kind in ("path", "label")[: 1 + labels] if columns[kind] is None]
    if wanted:
        also = ", ".join(COLUMNS[wanted[0]][1:6])
        raise BadInput(
            f"{file}: no column {wanted[0]!r} (nor {also}). Its columns: {plain(', '.join(header))[:200]}. The first "
            "line names them: path,label, and split (train, val, test) where there is one."
        )
    odd = next((i for i, row in enumerate(rows) if len(row) != len(header)), None)
    if odd is not None:
        raise BadInput(f"{file}: row {odd + 1} has {len(rows[odd])} fields, the header {len(header)}. Quote commas.")
    values = [tuple("" if at is None else row[at].strip() for at in columns.values()) for row in rows]
    foreign = Counter(split for _, _, split in values if split and split.lower() not in ROLES)
    if foreign:
        some = ", ".join(f"{name!r} ({n:,} rows)" for name, n in foreign.most_common(3))
        raise BadInput(f"{file}: its column {header[columns['split'] or 0]} has {plain(some)}. Train, val or test fit.")
    paths, told = merged(file, values)
    given = {path: rest for path, *rest in values}
    label, split = (tuple(given[path][i] for path in paths) for i in (0, 1))
    unused = [name for i, name in enumerate(header) if i not in columns.values()]
    told = (*told, *[f"{file.name}: columns that are not used: {plain(', '.join(unused))[:200]}"] * bool(unused))
    has = {kind: columns[kind] is not None for kind in columns}
    return Table(file, paths, label if has["label"] else None, split if has["split"] else None, told)


def merged(file: Path, rows: Sequence[tuple[str, ...]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The paths of a table, each once, and what to say. Raises BadInput: none, an empty one, or two of them differ."""
    seen, here = dict[str, tuple[str, ...]](), os.path.dirname(os.path.abspath(file))
    for number, row in enumerate(rows, 1):
        if not row[0]:
            raise BadInput(f"{file}: row {number} has no path.")
        known = seen.setdefault(posix(os.path.join(here, row[0])), row)  # one image, however its path is spelt
        if known[1:] != row[1:]:
            one, two = (", ".join(filter(None, r[1:])) or "nothing" for r in (known, row))
            raise BadInput(
                f"{file}: {plain(row[0])} stands in it twice, as {plain(one)} and as {plain(two)}: keep one."
            )
    if not seen:
        raise BadInput(f"{file}: no row in it; a path a line, below a header where it is a CSV.")
    doubled = [f"{file.name}: {len(rows) - len(seen):,} rows are in it twice, and count once"]
    return tuple(row[0] for row in seen.values()), tuple(doubled * (len(rows) > len(seen)))


def located(table: Table) -> tuple[Path, list[str], list[str]]:
    """The folder that a table's paths start from, its paths from there, and what to say where that was looked for.

    That is the table's own folder or, where none of the paths leads anywhere from there, the one that we are in; else
    paths are taken as ends of those of the images below the table's folder. Raises BadInput: one fits several images.
    """
    here = table.file.absolute().parent
    paths = [posix(path) for path in table.paths]
    for place in (here, Path.cwd()):
        if any(os.path.exists(os.path.join(place, path)) for path in paths):
            told = f"{table.file.name}: its paths lead from {place}, not from its own folder"
            return place, paths, [told] * (place != here)
    below = list_images(here).names
    found = {row: name for name, row in zip(below, matched(table, below, here).tolist()) if row >= 0}
    folders = sorted({os.path.dirname(name) or "." for name in found.values()})
    words = [f"{table.file.name}: its paths are taken as ends of those in {', '.join(folders[:3])}/"] * bool(found)
    return here, [found.get(i, path) for i, path in enumerate(paths)], words


def matched(table: Table, names: Sequence[str], root: str | Path) -> np.ndarray:
    """For each image (named from `root` on) its row in the table, -1 where it has none: [n].

    A row is of the image whose path it is (from `root` or from the table's folder); else of the only one whose path
    ends with its, or is the end of its; the suffix may be left out. Raises BadInput: that fits several images."""
    root, exact = str(root), {posix(name): i for i, name in enumerate(names)}
    from_table = os.path.relpath(table.file.absolute().parent, os.path.abspath(root))
    ends: dict[str, list[str]] = defaultdict(list)
    for name in exact:
        base = name.rpartition("/")[2]
        for key in {base, os.path.splitext(base)[0]}:
            ends[key].append(name)
    rows = np.full(len(names), -1)
    for row, written in enumerate(table.paths):
        path = posix(written)
        if os.path.isabs(path):
            path = posix(os.path.relpath(path, os.path.abspath(root)))
        found = {name for name in (path, posix(os.path.join(from_table, path))) if name in exact}
        if not found and not os.path.isabs(written):
            bare = path if os.path.splitext(path)[1].lower() not in KINDS else ""
            for name in ends.get(path.rpartition("/")[2], ()):
                whole, longer = f"/{name}", f"/{path}"
                stem = f"/{os.path.splitext(name)[0]}" if bare else whole
                if whole.endswith(longer) or longer.endswith(whole) or stem.endswith(longer):
                    found.add(name)
        if len(found) > 1:
            some = plain(", ".join(sorted(found)[:3]))
            raise BadInput(f"{table.file}: {plain(written)} fits {len(found)} images ({some}): write more of its path.")
        for name in found:
            before = rows[exact[name]]
            about = {(*table.words(np.array([i])), table.splits and table.splits[i]) for i in (before, row)}
            if before >= 0 and len(about) > 1:
                two = plain(f"{table.paths[before]} and {written}")
                raise BadInput(f"{table.file}: {two} are one image with two labels or parts: keep one.")
            rows[exact[name]] = row if before < 0 else before
    return rows


def posix(path: str) -> str:
    """A path as it is compared: no ./ in it, forward slashes, also where it was written on Windows."""
    return os.path.normpath(path.replace("\\", "/")).replace(os.sep, "/")


def fits(table: Table, names: Sequence[str], rows: np.ndarray, *, own: bool = False) -> list[str]:
    """What does not fit between a table of labels and the images; `own`: the images are those that it lists.
    Raises BadInput: nothing does."""
    found = np.unique(rows[rows >= 0])
    if not len(found):
        raise BadInput(
            f"{table.file}: none of its {len(table.paths):,} paths ({plain(', '.join(table.paths[:2]))}, ...) is one "
            f"of the {len(names):,} images ({plain(', '.join(names[:2]))}, ...)."
        )
    told = list(table.told)
    lost = np.setdiff1d(np.arange(len(table.paths)), found)
    if len(lost) and not own:
        some = plain(", ".join(table.paths[i] for i in lost[:3])) + ", ..." * (len(lost) > 3)
        told.append(f"{table.file.name}: {len(lost):,} of {len(table.paths):,} rows are of no image here ({some})")
    bare = [name for name, word in zip(names, table.words(rows)) if word is None]
    if bare and table.labels is not None:
        some = plain(", ".join(bare[:3])) + ", ..." * (len(bare) > 3)
        told.append(f"{table.file.name}: {len(bare):,} of {len(names):,} images have no label in it ({some})")
    return told


def assigned(
    table: Table, names: Sequence[str], root: str | Path, own: Sequence[str], rows: np.ndarray | None = None
) -> tuple[list[str], list[str | None], list[str]]:
    """Of each image its part and its label by a table, and what to say. `own`: its part without the table.

    Where the table has no column of parts, and there is one part, some of each class are held out. rows: of the images
    in the table, where they are known. Raises BadInput as `matched` and `fits`."""
    found = matched(table, names, root) if rows is None else rows
    told, words, parts = fits(table, names, found, own=rows is not None), table.words(found), [*own]
    if table.splits is not None:
        parts = [table.splits[row].lower() or name if row >= 0 else name for row, name in zip(found.tolist(), own)]
        parts = [TRAIN if ROLES.get(name.lower()) == TRAIN else name for name in parts]
        bare = sum(row >= 0 and not table.splits[row] for row in found.tolist())
        words_of = (
            f"{table.file.name}: {bare:,} images have no part in its column split: train, or that of their folder"
        )
        told += [words_of] * bool(bare)
        if not any(word is not None and part != TRAIN for word, part in zip(words, parts)):
            told.append(f"{table.file.name}: its column split holds out no labelled image, so nothing is measured")
    elif len({*own}) == 1 and len({*words} - {None}) > 1:
        held_out = drawn([table.paths[row] for row in found.tolist()], words)
        parts = [TEST if chosen else TRAIN for chosen in held_out.tolist()]
        told.append(
            f"{table.file.name} has no column split: {held_out.sum():,} of {sum(w is not None for w in words):,} "
            f"labelled images ({HELD_OUT:.0%} of each class, the same each time) are held out to measure on"
        )
    return parts, words, told


def members(parts: Sequence[str]) -> dict[str, np.ndarray]:
    """The indices of each part's images, the training part first (it may be empty), then validation, then tests."""
    others = sorted({*parts} - {TRAIN}, key=lambda name: (ROLES.get(name.lower()) != VALIDATION, name))
    which = np.array(parts, object)
    return {name: np.flatnonzero(which == name) for name in (TRAIN, *others)}


def drawn(keys: Sequence[str], words: Sequence[str | None]) -> np.ndarray:
    """Which images [n] are held out: `HELD_OUT` of each class, by a hash of their keys, so that it is the same ones
    each time, whatever else is there."""
    out = np.zeros(len(keys), bool)
    order = sorted(range(len(keys)), key=lambda i: hashlib.sha256(keys[i].encode("utf-8", "replace")).digest())
    for _, found in pandas.Series(order).groupby([words[i] for i in order]):  # those without a word are in no group
        out[found[: round(HELD_OUT * len(found))]] = True
    return out
