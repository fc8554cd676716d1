"""Files that are whole or not there: atomic writing, locks, hashes; and folders that are free for a run."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import safetensors
import safetensors.torch

from mec.errors import BadInput

if TYPE_CHECKING:
    pass


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A path to write to; the file takes its place whole, or (disk full, killed) the one before it stays."""
    part = path.with_name(path.name + ".part")
    try:
        yield part
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        # torch and safetensors report a full disk as an error of their own kind.
        if isinstance(error, (RuntimeError, safetensors.SafetensorError)):
            raise OSError(f"{path}: {first_line(error)}") from error
        raise


def write_text(path: Path, text: str) -> None:
    with atomic(path) as part:
        part.write_text(text)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def first_line(error: BaseException) -> str:
    """Of its message, or its kind where it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def sha256(path: Path) -> str:
    """A file's SHA-256, 64 hex digits."""
    state = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            state.update(block)
    return state.hexdigest()


def file_hash(path: Path) -> str:
    """The first 16 hex digits of a file's SHA-256."""
    return sha256(path)[:16]


SETTINGS = "settings.json"


def check_free(out: Path) -> None:
    """A new run takes an empty folder: nothing finished is ever written over."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if (out / SETTINGS).exists():
            raise BadInput(f"{out} already holds a run. Add --resume to go on with it, or choose another --out.")
        raise BadInput(f"{out} already holds something that is no run. Choose another --out.")


@contextlib.contextmanager
def only_writer(file: IO[str]) -> Iterator[None]:
    """No other process of this machine writes to the file meanwhile, where the system can lock files."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with contextlib.suppress(OSError):  # a file system without locks: at worst an image is listed twice
        fcntl.flock(file, fcntl.LOCK_EX)  # let go when the file is closed
    yield


def write(figure: Any, path: Path) -> None:
    """A PNG, whole or not at all."""
    with atomic(path) as part:
        figure.savefig(part, format="png", dpi=110)


def missing(paths: Iterable[Path], what: str) -> None:
    """Nothing, or words about the files that are not there.

    Raises:
        BadInput: naming the first, and how many of how many.
    """
    paths = list(paths)
    absent = [path for path in paths if not path.is_file()]
    if absent:
        raise BadInput(f"{what}: {len(absent)} of {len(paths)} files are missing, the first is {absent[0]}.")
