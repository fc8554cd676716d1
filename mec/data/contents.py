"""A fast hash of what files hold: of all of it where that is little, of places spread over it where it is much."""

import contextlib
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from mec.data.decoding import read_file
from mec.runtime.machine import cores

WHOLE_BELOW = 2**30  # bytes of a set: up to here all of them are hashed
CHUNK = 2**24  # bytes that are read at once
PLACES, BLOCK = 4096, 2**16  # above: so many places spread evenly over all files, of so many bytes each


def sampled(sizes: Sequence[int] | np.ndarray) -> list[str]:
    """That `contents_hash` does not look at everything, where it does not."""
    words = f"contents: when resuming, {PLACES:,} places in these {np.sum(sizes) / 1e9:,.0f} GB are compared"
    return [words + " (up to 1 GiB: every byte)"] * (int(np.sum(sizes)) > WHOLE_BELOW)


def contents_hash(paths: Sequence[str], sizes: Sequence[int] | np.ndarray) -> str:
    """16 hex digits over the contents of files, in their order; a file that cannot be read counts as empty.

    With up to `WHOLE_BELOW` bytes in all, every byte counts; with more, `PLACES` of them do, the same each time: a
    change of single images may go unnoticed there, another copy of the set does not."""
    many = np.maximum(np.asarray(sizes, np.int64), 0)
    if not sampled(many):
        pieces = [(p, start, CHUNK) for p, size in zip(paths, many.tolist()) for start in range(0, size, CHUNK)]
    else:
        ends = np.cumsum(many)
        places = np.linspace(0, ends[-1] - 1, PLACES).astype(np.int64)
        which = np.searchsorted(ends, places, side="right")
        starts = (places - (ends - many)[which]) // BLOCK * BLOCK
        pieces = [(paths[i], start, BLOCK) for i, start in zip(which.tolist(), starts.tolist())]
    state = hashlib.blake2b(digest_size=8)
    with ThreadPoolExecutor(max_workers=cores()) as pool:
        for digest in pool.map(_digest, pieces):
            state.update(digest)
    return state.hexdigest()


def _digest(piece: tuple[str, int, int]) -> bytes:
    with contextlib.suppress(OSError):  # gone or closed: told when it is opened
        return hashlib.blake2b(read_file(*piece), digest_size=16).digest()
    return b""
