"""Features on disk, by what they were made of: the encoder's tensors, the transform, the images.

A file FEATURES/<key>.npy is used for exactly what its key was computed from, so a stale one is never read. Extraction
appends to <key>.part and notes how far it has come, so that it goes on after a stop. Deleting the folder is safe.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
import torchvision
from torch import Tensor, nn

from mec.data.images import Files, Images, Stored
from mec.data.shards import Shards
from mec.runtime.files import write_text
from mec.version import __version__

MAP_ABOVE = 1 << 28  # bytes; larger files are mapped, so that only what is used is in memory


NOTE_EVERY = 1 << 26  # bytes between two notes of how far extraction has come


# Where torchvision's data sets keep the paths of their images.
PATHS = ("_image_files", "_images", "_samples", "samples", "_file_paths")


def feature_key(encoder: nn.Module, images: Images, transform: Callable[[Any], Tensor], device: str) -> str | None:
    """A hash of all that decides the features, or None where it cannot be told (then nothing is cached)."""
    words = repr(transform)
    if " at 0x" in words:  # a function shows its address, not what it does
        return None
    content = images_hash(images)
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


def images_hash(images: Images) -> str | None:
    """A hash that changes with the images: of pixels in memory; of path, size and time of change of files."""
    state = hashlib.sha256()
    if isinstance(images, Stored):
        state.update(f"{[*images.pixels.shape]}".encode())
        state.update(images.pixels.contiguous().numpy().tobytes())
        return state.hexdigest()
    if isinstance(images, Shards):
        state.update("".join(f"{tar}\0{os.path.getsize(tar)}\n" for tar in images.table.tars).encode())
        state.update(images.table.crc.tobytes() + images.rows.tobytes())
        return state.hexdigest()
    if isinstance(images, Files):
        paths: Iterable[Any] = images.paths
    else:
        inside = getattr(getattr(images, "items", None), "__dict__", {})
        found: Any = next((inside[name] for name in PATHS if name in inside), None)
        if found is None:
            return None
        paths = [found[int(i)] for i in images.indices]
    for path in paths:
        path = path[0] if isinstance(path, (tuple, list)) else path
        try:
            info = os.stat(path)
        except (OSError, TypeError):
            return None
        state.update(f"{path}\0{info.st_size}\0{info.st_mtime_ns}\n".encode())
    return state.hexdigest()


def cached(folder: Path, key: str, rows: int, batches: Callable[[int, int], Iterable[Tensor]]) -> Tensor:
    """Features [rows, e] float32: read from the folder, or made and kept there.

    Args:
        folder: made if need be.
        key: of `feature_key`.
        rows: how many there are.
        batches: gives features [m, e] in order, from a row on; also gets e, 0 where it is not known yet.
    """
    path = folder / f"{key}.npy"
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / f"{key}.lock"):
        found = _read(path, rows)
        if found is None:
            _write(path, rows, batches)
            found = _read(path, rows)
            assert found is not None
    return found


def _read(path: Path, rows: int) -> Tensor | None:
    """None where it is not there, or not whole."""
    try:
        # Copy on write: torch wants writable memory, and the file stays as it is.
        array = np.load(path, mmap_mode="c" if path.stat().st_size > MAP_ABOVE else None, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if array.ndim != 2 or len(array) != rows or array.dtype != np.float32:
        return None
    return torch.from_numpy(array)


def _write(path: Path, rows: int, batches: Callable[[int, int], Iterable[Tensor]]) -> None:
    part, note = path.with_suffix(".part"), path.with_suffix(".json")
    done, size = _progress(part, note, rows)
    with open(part, "r+b" if done else "wb") as file:
        if done:
            file.truncate(_header(rows, size) + 4 * size * done)
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
                    file.write(_header_bytes(rows, size))
                file.write(batch.contiguous().numpy().astype(np.float32, copy=False).tobytes())
                done += len(batch)
                if file.tell() - noted > NOTE_EVERY:
                    secure()
                    noted = file.tell()
        except BaseException:  # Ctrl-C too: what is there is kept for the next time
            with contextlib.suppress(OSError):
                if done:
                    secure()
            raise
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    note.unlink(missing_ok=True)


def _progress(part: Path, note: Path, rows: int) -> tuple[int, int]:
    """Rows that are surely on disk, and their width."""
    try:
        values = json.loads(note.read_text())
        done, size = int(values["done"]), int(values["size"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0, 0
    needed = _header(rows, size) + 4 * size * done
    return (done, size) if part.exists() and part.stat().st_size >= needed else (0, 0)


def _header_bytes(rows: int, size: int) -> bytes:
    import io

    out = io.BytesIO()
    values = {"descr": "<f4", "fortran_order": False, "shape": (rows, size)}
    np.lib.format.write_array_header_1_0(out, values)
    return out.getvalue()


def _header(rows: int, size: int) -> int:
    return len(_header_bytes(rows, size))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time makes a file; another waits and finds it. Without locks where the system has none."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
