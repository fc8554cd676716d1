"""Packed images: tar files in the webdataset layout with an index, read in any order like files of a folder."""

import contextlib
import glob
import hashlib
import io
import itertools
import os
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from braceexpand import braceexpand

from mec.data.contents import CHUNK, contents_hash, sampled
from mec.data.dataset import ROLES, TEST, TRAIN, Split
from mec.data.decoding import KINDS, Picture
from mec.data.fetching import fetch
from mec.data.images import Images
from mec.data.listing import cache_file, pack_names, suffix_words, unpack_names
from mec.data.mapped import CHUNK as ROWS
from mec.data.mapped import LARGE, Names, chunks, mapped, piece
from mec.data.values import Scale
from mec.errors import MALFORMED, BadInput
from mec.runtime.files import read_json, sha256, write_json
from mec.runtime.paths import is_url

INDEX, TABLE, QUARANTINE = "index.json", "index.npz", "quarantine.jsonl"
FORMAT, FORMAT_OF_PARTS = "mec-pack-1", "mec-pack-2"  # the second: held-out parts have names of their own
COLUMNS = {"shard": np.int32, "offset": np.int64, "length": np.int32, "crc": np.int64, "label": np.int32}
NO_CRC = -1
MOST_TARS = 100_000  # that a pattern may stand for


@dataclass(frozen=True)
class Packed:
    """The n images of a folder of shards, or of the tars that a pattern names, and where each of them lies."""

    name: str
    classes: tuple[str, ...]
    tars: tuple[str, ...]
    names: Sequence[str]
    parts: tuple[str, ...]  # "train", or what held-out ones are called
    part: np.ndarray  # [n] of small numbers, into these: the part that the image belongs to
    shard: np.ndarray  # [n] its tar, as are its first byte, length in bytes, CRC-32 (or -1) and label (or -1)
    offset: np.ndarray
    length: np.ndarray
    crc: np.ndarray
    label: np.ndarray
    checksums: tuple[str, ...]  # of the tars; without an index their names and sizes
    contents: str = ""  # a hash of what the tars hold, where there are no checksums
    left_out: Mapping[str, int] = field(default_factory=dict)  # a reason in words -> how many
    told: tuple[str, ...] = ()

    def rows_of(self, part: str) -> np.ndarray:
        """The images of a part, by their row."""
        number = self.parts.index(part) if part in self.parts else -1
        some = int(np.count_nonzero(self.part == number))
        if some == len(self.part):
            return np.arange(some, dtype=kind_of(some))
        rows, done = np.empty(some, kind_of(len(self.part))), 0
        for start in range(0, len(self.part), ROWS):
            found = start + np.flatnonzero(self.part[start : start + ROWS] == number)
            rows[done : done + len(found)] = found
            done += len(found)
        return rows

    def split(self, rows: np.ndarray) -> Split:
        """The images at these rows [m], with labels where any has one."""
        whole = len(rows) > 0 and rows[-1] - rows[0] + 1 == len(rows)  # then without a copy
        label = self.label[rows[0] : rows[-1] + 1] if whole else self.label[rows]
        labelled = any((some >= 0).any() for (some,) in chunks(label))
        return Split(Shards(self, rows), np.array(label, kind_of(len(self.names))) if labelled else None)


def kind_of(n: int) -> type[np.integer[Any]]:
    """Of numbers for n images: of very many in half the memory."""
    return np.int64 if n < LARGE else np.int32


def coded(parts: Sequence[str]) -> dict[str, Any]:
    """`Packed`'s two fields of the part [n] that each image belongs to."""
    names = tuple(dict.fromkeys(parts))
    number = {name: i for i, name in enumerate(names)}
    return {"parts": names, "part": np.array([number[part] for part in parts], np.min_scalar_type(len(names)))}


@dataclass(frozen=True)
class Shards(Images):
    """Images inside tar files."""

    table: Packed
    rows: np.ndarray  # [n] of the table
    scale: Scale | None = None
    pixels = None

    def __len__(self) -> int:
        return len(self.rows)

    def of(self, index: int, column: str) -> int:
        row = int(self.rows[index])
        return int(piece(getattr(self.table, column), row, row + 1)[0])

    def name(self, index: int) -> str:
        return f"{self.table.tars[self.of(index, 'shard')]}#{self.table.names[int(self.rows[index])]}"

    def bytes(self, index: int) -> bytes:
        """The image's file, as it was packed.
        Raises OSError: the tar is gone or cut off, or the bytes are not those that were packed."""
        shard, offset, length, crc = (self.of(index, column) for column in ("shard", "offset", "length", "crc"))
        with open(self.table.tars[shard], "rb") as file:
            file.seek(offset)
            data = file.read(length)
        if len(data) < length:
            raise OSError("the tar file is cut off")
        if crc not in (NO_CRC, zlib.crc32(data)):
            raise OSError("the bytes are not those that were packed (CRC-32 differs)")
        return data

    def open(self, index: int) -> Picture:
        return Picture.of(self.bytes(index), self.scale)

    def take(self, indices: np.ndarray) -> "Shards":
        return replace(self, rows=self.rows[indices])

    def content_hash(self) -> str | None:
        """Of the tars' paths and sizes, and the images' checksums; without these the tars' contents."""
        with contextlib.suppress(OSError):
            sizes = [os.path.getsize(tar) for tar in self.table.tars]
            tars = "".join(f"{tar}\0{size}\n" for tar, size in zip(self.table.tars, sizes)) + str(self.scale)
            if (self.table.crc == NO_CRC).any():
                tars += contents_hash(self.table.tars, sizes)
            about = tars.encode("utf-8", "surrogateescape")
            return hashlib.sha256(about + self.table.crc.tobytes() + self.rows.tobytes()).hexdigest()
        return None


def is_packed(name: str) -> bool:
    """Whether packed images are named: a folder with an index, a tar, a pattern of tars, or a URL of these."""
    return is_url(name) or (name.endswith(".tar") and not os.path.isdir(name)) or (Path(name) / INDEX).is_file()


def open_packed(name: str, root: str | Path | None = None) -> Packed:
    """A folder that `mec pack` wrote, a tar or a brace pattern of tars; those behind a URL are first fetched to `root`.
    Raises BadInput: something is missing, damaged or of another format."""
    if is_url(name):
        last = name.removesuffix(INDEX).rstrip("/").rpartition("/")[2]
        name = fetch_packed(name, Path(root) if root else cache_file(name, "fetched").with_suffix(""))
        if not name.endswith(".tar"):
            return replace(read_index(Path(name)), name=last)
    if not name.endswith(".tar"):
        return read_index(Path(name))
    tars = [tar for pattern in expand_braces(name) for tar in sorted(glob.glob(pattern)) or [pattern]]
    for tar in tars:
        if not os.path.isfile(tar):
            raise BadInput(f"{tar}: no such file. {name} stands for {len(tars)} tars, from {tars[0]} to {tars[-1]}.")
    return scan_tars(tars)


def expand_braces(pattern: str) -> list[str]:
    """The names that a brace pattern stands for. Raises BadInput: too many, or its braces do not match."""
    try:
        found = [*itertools.islice(braceexpand(pattern, escape=False), MOST_TARS + 1)]
    except ValueError as error:
        raise BadInput(f"{pattern}: {error}; {{00..09}} and {{a,b}} stand for several names.") from error
    if len(found) > MOST_TARS:
        raise BadInput(f"{pattern} stands for more than {MOST_TARS:,} names, the most that are read.")
    return found


def read_index(folder: Path) -> Packed:
    """A folder that `mec pack` wrote. Raises BadInput where it is damaged or of another format."""
    try:
        index = read_json(folder / INDEX, dict)
        if index["format"] not in (FORMAT, FORMAT_OF_PARTS):
            raise BadInput(f"{folder / INDEX}: format {index['format']!r}; this version reads {FORMAT_OF_PARTS!r}.")
        shards = index["shards"]
        if sum(shard.get("images", 0) for shard in shards) >= LARGE:
            arrays = mapped(folder / TABLE)
            names: Sequence[str] = Names(arrays["names"], len(arrays["shard"]))
        else:
            with open(folder / TABLE, "rb") as file, np.load(file, allow_pickle=False) as stored:
                arrays = dict(stored)
            names = tuple(unpack_names(arrays["names"]))
        columns = {name: arrays[name] for name in COLUMNS}
        tars = tuple(str(folder / shard["name"]) for shard in shards)
        about = coded([str(shard["part"]) for shard in shards])
        about["part"] = np.concatenate([about["part"][some] for (some,) in chunks(columns["shard"])])
        checksums = tuple(shard["sha256"] for shard in shards)
        packed = Packed(
            folder.resolve().name, tuple(index["classes"]), tars, names, **about, **columns, checksums=checksums
        )
        check_table(packed, shards, index["classes"])
    except BadInput:
        raise
    except Exception as error:  # JSON, zip and key errors of many kinds
        raise BadInput(
            f"{folder}: its {INDEX} or {TABLE} cannot be read ({type(error).__name__}: {error}). Pack the images "
            f"again, or give the tars themselves: '{folder}/train-{{000000..000009}}.tar'."
        ) from error
    for shard, tar in zip(shards, tars):
        size = os.path.getsize(tar) if os.path.isfile(tar) else None
        if size != shard["bytes"]:
            what = "is missing" if size is None else f"has {size:,} bytes, not {shard['bytes']:,}"
            raise BadInput(f"{tar} {what}: copy it again, or pack the images again.")
    return packed


def check_table(table: Packed, shards: Sequence[Any], classes: Sequence[Any]) -> None:
    """Raise ValueError where an index contradicts itself, or points out of its folder."""
    if any(os.path.basename(shard["name"]) != shard["name"] for shard in shards):
        raise ValueError("a shard lies outside of the folder")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise ValueError("classes are no list of names")
    sizes, columns = [shard["bytes"] for shard in shards], [getattr(table, name) for name in COLUMNS]
    if any(column.shape != (len(table.names),) or column.dtype.kind not in "iu" for column in columns):
        raise ValueError("columns of several lengths, or that are no whole numbers")
    bytes_of = np.array(sizes, np.int64)
    for shard, offset, length, label in chunks(table.shard, table.offset, table.length, table.label):
        if min(shard.min(), offset.min(), length.min()) < 0 or (offset + length > bytes_of[shard]).any():
            raise ValueError("an image lies outside of its shard")
        if label.min() < -1 or (len(classes) and label.max() >= len(classes)):
            raise ValueError("a label of no class")


def scan_tars(tars: Sequence[str]) -> Packed:
    """Tars of the webdataset layout without an index: only their headers are read. Raises BadInput as `open_packed`."""
    rows: list[tuple[int, int, int, int, int]] = []
    names: list[str] = []
    state, parts = [], []
    left_out: Counter[str] = Counter()
    told = []
    for number, tar in enumerate(tars):
        word = re.split(r"[^a-z]", os.path.basename(tar).lower())[0]  # val of set/val-000001.tar
        part = word if ROLES.get(word, TRAIN) != TRAIN else TRAIN
        labels: dict[str, int] = {}
        images: list[tuple[str, tarfile.TarInfo]] = []  # by key, which an image shares with its label
        try:
            # To its end: over zeros (two tars put together) and over headers that are damaged.
            with tarfile.TarFile(tar, ignore_zeros=True) as file, open(tar, "rb") as raw:
                broken, end = 0, 0  # stretches that belong to no member and are not zeros
                for member in file:
                    raw.seek(end)
                    broken += any(raw.read(max(0, min(member.offset - end, CHUNK))))
                    end = member.offset_data + -(-member.size * member.isreg() // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                    stem, suffix = os.path.splitext(member.name)
                    base = os.path.basename(member.name)
                    if member.isdir():
                        continue
                    if not member.isfile() or base.startswith("."):
                        left_out["hidden files" if member.isfile() else "files that are links or no regular files"] += 1
                    elif suffix.lower() in KINDS:
                        images.append((stem, member))
                    elif suffix == ".cls":
                        content = file.extractfile(member)
                        words = content.read(20) if content else b""
                        if words.strip().isdigit():
                            labels[stem] = int(words)
                        else:
                            left_out["labels (.cls) that are no whole numbers"] += 1
                    else:
                        left_out[suffix_words(suffix)] += 1
                raw.seek(end)
                broken += any(raw.read(CHUNK))
                raw.seek(-tarfile.BLOCKSIZE, os.SEEK_END)
                ended = not any(raw.read())
        except (tarfile.TarError, OSError) as error:
            raise BadInput(f"{tar}: not a readable tar file ({error}). Is the copy whole?") from error
        if broken and not images:
            raise BadInput(f"{tar}: not a readable tar file (no valid header).")
        if broken:
            left_out[f"files or more at damaged headers of {tar} (copy it again to have all)"] += broken
        if not ended:
            told.append(f"{tar} has no end mark, as a copy that was cut off: {len(images):,} images are in it.")
        keys = {key for key, _ in images}
        for key, image in images:
            folder, _, base = key.rpartition("/")
            first = (folder + "/" if folder else "") + base.partition(".")[0]
            if first != key and first in keys and key not in labels:
                left_out["files that belong to another image (as a.seg.png to a.jpg)"] += 1
                continue
            rows.append((number, image.offset_data, image.size, NO_CRC, labels.get(key, labels.get(first, -1))))
            names.append(image.name)
            parts.append(part)
        state.append(f"{os.path.basename(tar)} {os.path.getsize(tar)}")
    if not rows:
        raise BadInput(f"{tars[0]}: no image in {len(tars)} tars. Looked for {', '.join(sorted(KINDS))}.")
    columns: dict[str, Any] = dict(zip(COLUMNS, np.array(rows, np.int64).T))
    name = os.path.basename(os.path.dirname(os.path.abspath(tars[0])))
    sizes = [os.path.getsize(tar) for tar in tars]
    told += sampled(sizes)
    about: dict[str, Any] = {"contents": contents_hash(tars, sizes), "left_out": dict(left_out), "told": tuple(told)}
    about |= coded(parts if TRAIN in parts else [TRAIN] * len(parts))
    return Packed(name, (), tuple(tars), tuple(names), **columns, checksums=tuple(state), **about)


def fetch_packed(url: str, folder: Path) -> str:
    """Fetch the shards behind a URL into a folder, unless they lie there; returns the local name. Raises as `fetch`."""
    folder.mkdir(parents=True, exist_ok=True)
    if url.endswith(".tar"):
        for one in expand_braces(url):
            fetch(one, folder / one.rpartition("/")[2])
        return str(folder / url.rpartition("/")[2])
    base = url.removesuffix(INDEX).rstrip("/")
    try:
        for name in (INDEX, TABLE):  # again, since the server's may be newer
            fetch(f"{base}/{name}", folder / name, again=True)
    except BadInput:
        if not all((folder / name).exists() for name in (INDEX, TABLE)):
            raise
    try:
        shards = read_json(folder / INDEX, dict)["shards"]
        listed = [(os.path.basename(s["name"]), str(s["sha256"]), int(s["bytes"])) for s in shards]
    except MALFORMED as error:
        raise BadInput(f"{base}/{INDEX}: not what `mec pack` writes ({type(error).__name__}: {error}).") from error
    for name, checksum, size in listed:
        fetch(f"{base}/{name}", folder / name, checksum, size=size)
    return str(folder)


class ShardWriter:
    """Writes images into tars of about `most_bytes` each, and keeps the table of where each image lies."""

    def __init__(self, folder: Path, part: str, most_bytes: int):
        self.folder, self.part, self.most_bytes = folder, part, most_bytes
        self.shards: list[dict[str, Any]] = []
        self.rows: list[tuple[int, int, int, int, int]] = []
        self.names: list[str] = []
        self.tar: tarfile.TarFile | None = None
        self.first = 0  # image of the tar that is being written

    def add(self, data: bytes, suffix: str, name: str, label: int) -> None:
        """Add an image as KEY.suffix and, with a label, KEY.cls; without times and owners: equal input, equal tars."""
        if self.tar is not None and self.tar.offset + len(data) > self.most_bytes:
            self.close()
        if self.tar is None:
            self.path = self.folder / f"{self.part}-{len(self.shards):06}.tar"
            self.tar = tarfile.open(self.path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 (close() closes it)
            self.first = len(self.rows)
        key = f"{len(self.rows):09}"
        self.rows.append((len(self.shards), self.tar.offset + tarfile.BLOCKSIZE, len(data), zlib.crc32(data), label))
        self.names.append(name)
        for ending, content in ((suffix, data), (".cls", str(label).encode())):
            if ending != ".cls" or label >= 0:
                member = tarfile.TarInfo(key + ending)
                member.size = len(content)
                self.tar.addfile(member, io.BytesIO(content))

    def close(self) -> None:
        if self.tar is None:
            return
        self.tar.close()
        self.tar = None
        about = {"name": self.path.name, "part": self.part, "images": len(self.rows) - self.first}
        self.shards.append({**about, "bytes": self.path.stat().st_size, "sha256": sha256(self.path)})


def write_index(folder: Path, writers: Sequence[ShardWriter], classes: Sequence[str], about: dict[str, Any]) -> None:
    """Write index.npz and index.json over the shards of all writers."""
    rows: list[np.ndarray] = []
    shards: list[dict[str, Any]] = []
    for writer in writers:
        if writer.rows:
            rows.append(np.array(writer.rows, np.int64))
            rows[-1][:, 0] += len(shards)
        shards += writer.shards
    table = np.concatenate(rows)
    packed_names = pack_names([name for writer in writers for name in writer.names])
    with open(folder / TABLE, "wb") as file:
        columns = {name: column.astype(kind) for (name, kind), column in zip(COLUMNS.items(), table.T)}
        np.savez(file, names=packed_names, **columns)
    new = {shard["part"] for shard in shards} - {TRAIN, TEST}
    index = {"format": FORMAT_OF_PARTS if new else FORMAT, "classes": list(classes), **about, "shards": shards}
    write_json(folder / INDEX, index)
