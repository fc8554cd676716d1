"""Files that are whole or not there: atomic writing, locks, hashes; and folders that are free for a run."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from mec.errors import MALFORMED, BadInput, plain
from mec.runtime.locks import is_empty, only_one


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A path to write to, its folder made; the file takes its place whole, or (disk full, killed) the one before stays.
    It is on disk afterwards, even if the power goes off, and others may read it as the umask has it."""
    part = path.with_name(path.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        part.unlink(missing_ok=True)
        part.touch()
        mode = part.stat().st_mode
        yield part
        part.chmod(mode)  # safetensors makes a file of its own, for its owner alone
        with open(part, "r+b") as file:  # Windows writes nothing out of a file that was opened to be read
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException as error:
        came = part.stat().st_size if part.exists() else 0
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(path.parent).free
            words = f"{error.strerror}: {path} takes more than {came:,} bytes, and {free:,} are free"
            raise OSError(error.errno, words) from error
        # torch and safetensors report a full disk as an error of their own kind.
        if isinstance(error, RuntimeError) or type(error).__name__ == "SafetensorError":
            raise OSError(f"{path}: {first_line(error)}") from error
        raise
    sync_folder(path.parent)


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A new folder to write to, which takes the place of an empty one or none; or nothing of it stays.
    Raises BadInput: another process writes it."""
    folder = folder.resolve()
    part = folder.with_name(folder.name + ".part")
    with only_one(folder):
        shutil.rmtree(part, ignore_errors=True)  # of one that was interrupted
        try:
            part.mkdir()
            yield part
            for path in part.iterdir():
                with open(path, "r+b") as file:
                    os.fsync(file.fileno())
            if folder.exists():
                folder.rmdir()
            os.replace(part, folder)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on disk, where the system can: a rename alone may be lost with the power."""
    with contextlib.suppress(OSError):  # Windows opens no folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: Path, text: str) -> None:
    with atomic(path) as part:
        part.write_bytes(text.encode("utf-8", "backslashreplace"))  # JSON's own escape, for names that are no UTF-8


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_text(path: Path) -> str:
    """What a file holds, in UTF-8.
    Raises BadInput: another encoding, or no text."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: no text in UTF-8 ({error.reason} at byte {error.start}).") from error


def read_json(path: Path, kind: type = object) -> Any:
    """What a file holds, a `dict` or a `list` where one is wanted.
    Raises BadInput: no JSON, too deep, or of another kind."""
    try:
        found = json.loads(read_text(path))
    except MALFORMED as error:
        raise BadInput(f"{path}: not valid JSON ({first_line(error)[:200]}).") from error
    if not isinstance(found, kind):
        words = "an object of named values" if kind is dict else "a list"
        raise BadInput(f"{path}: holds a {type(found).__name__} where {words} is wanted.")
    return found


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


def content_hash(about: Any, *, sort_keys: bool = False) -> str:
    """16 hex digits that tell whether two works are the same, from plain data (what JSON can hold) about them."""
    return hashlib.sha256(json.dumps(about, sort_keys=sort_keys).encode()).hexdigest()[:16]


SETTINGS = "settings.json"


def check_free(out: Path) -> None:
    """A new run takes an empty folder: nothing finished is ever written over."""
    if (out / SETTINGS).exists():
        raise BadInput(f"{out} already holds a run. Add --resume to resume it, or choose another --out.")
    if out.exists() and not (out.is_dir() and is_empty(out)):
        raise BadInput(f"{out} already holds something that is no run. Choose another --out.")


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], out: Path) -> None:
    """A run is resumed with the settings that it was started with.
    Raises BadInput: names every setting that differs, with both values."""
    differing = [f"{k}: {before.get(k)!r} before, {v!r} now" for k, v in now.items() if before.get(k) != v]
    if differing:
        words = "Resume it with those, or start a new run with another --out."
        raise BadInput(f"{out} was started with other settings ({'; '.join(differing)}). {words}")


def only_writer(file: IO[Any]) -> None:
    """From now until the file is closed no other process of this machine writes to it, where the system has locks."""
    with contextlib.suppress(ImportError, OSError):  # Windows; a file system without locks
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)


def as_drawn(name: str) -> str:
    """A name for a figure, which takes $ for formulas and no name that is no UTF-8."""
    return plain(name).replace("$", r"\$")


def write_figure(figure: Any, path: Path) -> None:
    with atomic(path) as part:
        figure.savefig(part, format="png", dpi=110)


def missing(paths: Iterable[Path], what: str) -> None:
    """Raises BadInput where files are not there: names the first, and how many of how many."""
    paths = list(paths)
    absent = [path for path in paths if not path.is_file()]
    if absent:
        raise BadInput(f"{what}: {len(absent)} of {len(paths)} files are missing, the first is {absent[0]}.")
