"""Features on disk, found again by a hash of the encoder's tensors, the transform and the images.

A file FEATURES/<key>.npy serves only what its key was computed from, so a stale one is never read. Extraction appends
to <key>.part and notes its progress, so that it resumes after a stop. The folder may be deleted at any time.
"""

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
import torchvision
from torch import Tensor, nn

from mec.data.images import Images
from mec.errors import MALFORMED
from mec.runtime.distributed import ALONE, Ranks
from mec.runtime.files import only_writer, write_text
from mec.version import __version__

MAP_ABOVE = 1 << 28  # bytes; larger files are mapped, so that only the pages in use are in memory
NOTE_EVERY = 1 << 26  # bytes between two notes of how far extraction has come


def feature_key(encoder: nn.Module, images: Images, transform: Callable[[Any], Tensor], device: str) -> str | None:
    """A hash of everything that the features depend on; None where that cannot be known, and nothing is cached."""
    words = repr(transform)
    if " at 0x" in words:  # a function shows its address, not what it does
        return None
    content = images.content_hash()
    if content is None:
        return None
    parts = (
        state_hash(encoder), words, content, torch.device(device).type, __version__, torch.__version__,
        torchvision.__version__, PIL.__version__,
    )  # fmt: skip
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]


def state_hash(module: nn.Module) -> str:
    """The first 16 hex digits of a SHA-256 over a module's tensors, names and structure."""
    state = hashlib.sha256(repr(module).encode())
    for name, tensor in module.state_dict().items():
        state.update(f"{name} {tensor.dtype} {[*tensor.shape]}".encode())
        state.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return state.hexdigest()[:16]


def cached(
    folder: Path, key: str, rows: int, batches: Callable[[int, int], Iterable[Tensor]], ranks: Ranks = ALONE
) -> Tensor:
    """Features [rows, e] float32: read from the folder, by their `feature_key`, or computed and `stored` there."""
    path = stored(folder, key, rows, batches, ranks)
    # Copy on write: torch wants writable memory, and the file stays as it is.
    return torch.from_numpy(np.load(path, mmap_mode="c" if path.stat().st_size > MAP_ABOVE else None))


def stored(
    folder: Path, key: str, rows: int, batches: Callable[[int, int], Iterable[Tensor]], ranks: Ranks = ALONE
) -> Path:
    """The .npy of features [rows, e] float32, by their `feature_key`: found in the folder, or computed.
    `batches`: (first row, e or 0 where it is not known yet) -> features [m, e] in order from that row on; of several
    ranks, which see the same folder, all compute and the first writes."""
    path = folder / f"{key}.npy"
    folder.mkdir(parents=True, exist_ok=True)
    if ranks.rank:
        done, size = ranks.values(None)[0]
        for _ in batches(done, size) if done < rows else ():
            pass
    else:
        with open(folder / f"{key}.lock", "w") as lock:
            only_writer(lock)  # another process waits, and finds the file
            whole = _is_whole(path, rows)
            ranks.values([rows, 0] if whole else _progress(path.with_suffix(".part"), path.with_suffix(".json"), rows))
            if not whole:
                _write(path, rows, batches)
    ranks.wait()
    return path


def progress_of(folder: Path, key: str, rows: int) -> int:
    """The number of rows that `stored` finds on disk."""
    note, part = folder / f"{key}.json", folder / f"{key}.part"
    return rows if _is_whole(folder / f"{key}.npy", rows) else _progress(part, note, rows)[0]


def _is_whole(path: Path, rows: int) -> bool:
    """Whether all the features are there; what is absent, cut off or foreign is made again."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except Exception:
        return False
    return array.ndim == 2 and len(array) == rows and array.dtype == np.float32


def _write(path: Path, rows: int, batches: Callable[[int, int], Iterable[Tensor]]) -> None:
    part, note = path.with_suffix(".part"), path.with_suffix(".json")
    done, size = _progress(part, note, rows)
    with open(part, "r+b" if done else "wb") as file:
        if done:
            file.truncate(len(_header(rows, size)) + 4 * size * done)
            file.seek(0, os.SEEK_END)
        noted = file.tell()

        def secure() -> None:
            file.flush()
            os.fsync(file.fileno())
            write_text(note, json.dumps({"done": done, "size": size}))

        try:
            for batch in batches(done, size):
                if not done:
                    size = batch.shape[1]
                    file.write(_header(rows, size))
                file.write(batch.contiguous().numpy().astype(np.float32, copy=False).tobytes())
                done += len(batch)
                if file.tell() - noted > NOTE_EVERY:
                    secure()
                    noted = file.tell()
        except BaseException:  # Ctrl-C too: the rows so far are kept for the next time
            with contextlib.suppress(OSError):
                if done:
                    secure()
            raise
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    note.unlink(missing_ok=True)


def _progress(part: Path, note: Path, rows: int) -> tuple[int, int]:
    """The number of rows that are surely on disk, and their width."""
    try:
        values = json.loads(note.read_text())
        done, size = int(values["done"]), int(values["size"])
        there = 0 < done <= rows and 0 < size < 2**31
        there = there and part.stat().st_size >= len(_header(rows, size)) + 4 * size * done
    except (OSError, *MALFORMED):
        there = False
    return (done, size) if there else (0, 0)


def _header(rows: int, size: int) -> bytes:
    """The beginning of an .npy file of float32 [rows, size]."""
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": "<f4", "fortran_order": False, "shape": (rows, size)})
    return out.getvalue()
