"""Tables of very many images: columns and names left on disk, and an order that is computed where it is asked for."""

import mmap
import struct
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mec.views.views import mixed

LARGE = 10_000_000  # images; of fewer all is in memory, and an order is drawn as a whole
CHUNK = 1 << 20  # rows, or bytes of names, that are looked at at once
BLOCK = 64  # names, of which the first one's place is known
LOCAL_HEADER = 26  # bytes into a member of a zip: the lengths of its name and of what is added, then these


def mapped(file: Path) -> dict[str, Any]:
    """The arrays of an .npz, left on disk. Their checksums are not looked at.
    Raises ValueError, OSError, zipfile.BadZipFile: not such a file, a compressed one, or with objects in it."""
    found: dict[str, Any] = {}
    with zipfile.ZipFile(file) as archive, open(file, "rb") as raw:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{member.filename} is no column of numbers as it is, but compressed")
            raw.seek(member.header_offset + LOCAL_HEADER)
            start = member.header_offset + LOCAL_HEADER + 4 + sum(struct.unpack("<HH", raw.read(4)))
            raw.seek(start)
            version = np.lib.format.read_magic(raw)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(raw)
            if dtype.hasobject or len(shape) != 1:
                raise ValueError(f"{member.filename} is no column of numbers as it is")
            found[member.filename.removesuffix(".npy")] = np.memmap(file, dtype, "r", raw.tell(), shape)
    return found


def chunks(*columns: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """The same rows of some columns, `CHUNK` at a time; pages of mapped ones are given back."""
    for start in range(0, len(columns[0]), CHUNK):
        yield tuple(column[start : start + CHUNK] for column in columns)
        for column in columns:
            if isinstance(column, np.memmap) and hasattr(mmap.mmap, "madvise"):
                column._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]


def piece(column: np.ndarray, start: int, end: int) -> np.ndarray:
    """Rows start to end - 1; of a mapped column read, since a page of a map brings its neighbours into memory."""
    if not isinstance(column, np.memmap):
        return column[start:end]
    where = column.offset + start * column.itemsize
    return np.fromfile(str(column.filename), column.dtype, end - start, offset=where)


class Names(Sequence[str]):
    """n names in one array of bytes, separated by zeros (`listing.pack_names`), each read where it is asked for."""

    def __init__(self, packed: np.ndarray, n: int):
        self.packed, self.n, self.starts = packed, n, np.empty(0, np.int64)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: Any) -> Any:
        block, place = divmod(range(self.n)[index], BLOCK)
        return self.block(block)[place]

    def __iter__(self) -> Iterator[str]:
        for block in range(-(-self.n // BLOCK)):
            yield from self.block(block)

    def block(self, number: int) -> list[str]:
        if not len(self.starts):
            ends, before = [np.zeros(1, np.int64)], 0
            for at, (part,) in enumerate(chunks(self.packed)):
                zeros = np.flatnonzero(part == 0)
                ends.append(zeros[(-before - 1) % BLOCK :: BLOCK] + at * CHUNK + 1)
                before += len(zeros)
            self.starts = np.concatenate(ends)
            if before + 1 != self.n:
                raise ValueError(f"names of {before + 1:,} images, not of {self.n:,}")
        start, end = (
            self.starts[number],
            self.starts[number + 1] - 1 if number + 1 < len(self.starts) else len(self.packed),
        )
        return piece(self.packed, start, end).tobytes().decode("utf-8", "surrogateescape").split("\0")


class Shuffled:
    """All of n numbers in an order that seed and epoch decide, without a table: a Feistel network of four rounds over
    the next power of 4, walked on from a number that is n or more (Black and Rogaway, CT-RSA 2002)."""

    def __init__(self, n: int, seed: int, epoch: int):
        self.n, self.half = n, np.uint64(((n - 1).bit_length() + 1) // 2)
        with np.errstate(over="ignore"):
            key = mixed(mixed(np.asarray([seed], np.uint64)) + np.uint64(epoch))
            self.keys = mixed(key + np.arange(1, 5, dtype=np.uint64))

    def __getitem__(self, places: slice) -> np.ndarray:
        x = np.arange(*places.indices(self.n), dtype=np.uint64)
        outside = np.ones(len(x), bool)
        while outside.any():
            x[outside] = self.turned(x[outside])
            outside = x >= self.n
        return x.astype(np.int64)

    def turned(self, x: np.ndarray) -> np.ndarray:
        low = np.uint64((1 << int(self.half)) - 1)
        left, right = x >> self.half, x & low
        for key in self.keys:
            left, right = right, left ^ (mixed(right + key) & low)
        return (left << self.half) | right
