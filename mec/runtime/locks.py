"""One writer at a time: a lock beside or in what is written, with the host, process and start of who holds it.

The system lets go of it when its process ends, however it ends; so no lock is stale, and a file left behind by a kill
is taken over. Record locks (`lockf`) also hold over NFS, and a data worker that outlives its run does not inherit them.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mec.errors import BadInput, TrainingStopped

if TYPE_CHECKING:
    from mec.runtime.distributed import Ranks

LOCK = ".lock"  # in a folder; else .NAME.lock beside what is written
_held: set[Path] = set()  # by this process: record locks do not keep it from itself


def is_empty(folder: Path) -> bool:
    """Whether nothing is in a folder but what an interrupted start leaves: a lock, parts of files."""
    return not any(p for p in folder.iterdir() if p.name != LOCK and p.suffix != ".part")


@contextlib.contextmanager
def only_one(path: Path, lock: Path | None = None) -> Iterator[None]:
    """No other process that asks the same writes to this path meanwhile; its parent is made.
    lock: the file that says so; default: .NAME.lock beside the path.
    Raises BadInput: another does; says which. OSError: nothing can be written there."""
    file = lock or path.with_name(f".{path.name}{LOCK}")
    file.parent.mkdir(parents=True, exist_ok=True)
    file = file.parent.resolve() / file.name
    if file in _held:
        raise _refused(path, file, "this very process")
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            _lock(handle)
        except OSError as error:
            taken = error.errno in (errno.EACCES, errno.EAGAIN)
            if holder := _holder(handle, surely=taken):  # else a file system without locks, and nobody of ours
                os.close(handle)
                raise _refused(path, file, holder) from None
        with contextlib.suppress(OSError):
            if os.fstat(handle).st_ino == file.stat().st_ino:
                break
        os.close(handle)  # who held it before has just removed it
    _held.add(file)
    try:
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        with contextlib.suppress(OSError):  # a full disk: the words matter less than the lock
            about = {"host": socket.gethostname(), "process": os.getpid(), "started": now}
            os.ftruncate(handle, 0)
            os.lseek(handle, 0, os.SEEK_SET)
            os.write(handle, json.dumps(about).encode())
        yield
    finally:
        _held.discard(file)
        with contextlib.suppress(OSError):
            if os.fstat(handle).st_ino == file.stat().st_ino:
                file.unlink()
        os.close(handle)


def _lock(handle: int) -> None:
    """Raises OSError: another process has the lock (EACCES, EAGAIN), or the file system has no locks."""
    try:
        import fcntl
    except ImportError:  # Windows: of a byte far beyond the words, which others read
        import msvcrt

        os.lseek(handle, 1 << 30, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    else:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _holder(handle: int, *, surely: bool) -> str:
    """Who wrote the lock, in words; "" where nobody holds it any more."""
    try:
        os.lseek(handle, 0, os.SEEK_SET)
        about: Any = json.loads(os.read(handle, 4096))
        host, process, started = about["host"], int(about["process"]), about["started"]
        if not surely and host == socket.gethostname() and os.name == "posix":  # elsewhere it would be a Ctrl-C
            os.kill(process, 0)
    except (ValueError, TypeError, KeyError, OSError):
        return "another process" if surely else ""
    return f"process {process} on {host}, since {started}"


def _refused(path: Path, file: Path, holder: str) -> BadInput:
    words = f"Wait for it to end, stop it, or choose another --out. Its lock, {file}, goes with that process."
    return BadInput(f"{path} is being written by {holder}. {words}")


@contextlib.contextmanager
def only_run(out: Path, ranks: Ranks) -> Iterator[None]:
    """The folder, made and locked by the first process; empty it goes again.
    Raises BadInput: another process trains there (on all ranks). TrainingStopped: it cannot be written."""
    with contextlib.ExitStack() as until_end:
        refused: Exception | None = None
        if ranks.rank == 0 and (out.is_dir() or not out.exists()):  # a file is refused in words of its own
            until_end.callback(_remove_empty, [folder for folder in (out, *out.parents) if not folder.exists()])
            try:
                out.mkdir(parents=True, exist_ok=True)
                until_end.enter_context(only_one(out, out / LOCK))
            except BadInput as error:
                refused = error
            except OSError as error:
                refused = TrainingStopped(f"{out}: cannot be written ({error}). Make room, or choose another --out.")
        if ranks.any(refused is not None):
            raise refused or BadInput(f"{out}: refused; the first process says why.")
        yield


def _remove_empty(folders: Sequence[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()
