"""A file from a URL: whole or not there, gone on with where it broke off, within a time and a size known beforehand.

http and https by the standard library; s3, gs, hf and others by fsspec, which finds credentials its own ways.
"""

import contextlib
import http.client
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mec.errors import BadInput
from mec.runtime.files import sha256, sync_folder
from mec.runtime.locks import only_one

PATIENCE = 60.0  # seconds without an answer, or in which fewer than LEAST bytes came
LEAST = 60_000  # bytes: 1 kB a second
SPARE = 1 << 30  # bytes of the disk that a file of unknown size leaves
TRIES = 5  # in a row that bring nothing
PAUSE = 1.0  # seconds after the first of them; then twice as many each time
BUSY = (408, 425, 429)  # and 500 or more: answers after which another try may do


class Lasting(OSError):
    """What another try would not change."""


def fetch(url: str, path: Path, checksum: str | None = None, *, again: bool = False, size: int | None = None) -> None:
    """Fetch a file from a URL, the whole file or none, unless it is there (with the checksum, if one is given).
    What broke off is tried again; with a checksum it goes on where it was, also after a kill. Of several processes one
    fetches, and the others wait for it.

    Args:
        size: of the file in bytes, where it is known.

    Raises:
        BadInput: it cannot be fetched, was cut off on the way, has another size or SHA-256, or the server sends less
            than 1 kB a second for a minute, or without end."""

    def is_there() -> bool:
        return path.exists() and not again and (checksum is None or sha256(path) == checksum)

    if is_there():
        return
    part = path.with_name(f"{path.name}.part")
    try:
        with _alone(path), contextlib.ExitStack() as until_end:
            if is_there():
                return
            if checksum is None:
                until_end.callback(part.unlink, missing_ok=True)
            _tried(url, part, size, checksum is not None)
            if checksum is not None and sha256(part) != checksum:
                part.unlink()
                raise Lasting("it is not the file that the index lists: SHA-256 differs")
            os.replace(part, path)
            sync_folder(path.parent)
    except Exception as error:  # of libraries for all kinds of places
        words = str(error) or type(error).__name__
        raise BadInput(f"{url}: cannot be fetched ({words}). Try again.") from error


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Waits while another process fetches the same."""
    with contextlib.ExitStack() as held:
        while True:
            with contextlib.suppress(BadInput):
                held.enter_context(only_one(path))
                break
            time.sleep(0.2)
        yield


def _tried(url: str, part: Path, size: int | None, resumes: bool) -> None:
    """Until it is whole, or so many tries in a row have brought nothing."""
    failed = 0
    while True:
        had = part.stat().st_size if resumes and part.exists() else 0
        had = 0 if size is not None and had > size else had
        try:
            return _copy(url, part, size, had)
        except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
            code = error.code if isinstance(error, urllib.error.HTTPError) else 500
            lasts = isinstance(error, (Lasting, FileNotFoundError, PermissionError))
            lasts |= code < 500 and code not in BUSY
            failed = 1 if resumes and part.exists() and part.stat().st_size > had else failed + 1
            if lasts or failed >= TRIES:
                raise
        time.sleep(PAUSE * 2 ** (failed - 1))


def _copy(url: str, part: Path, size: int | None, start: int) -> None:
    """What is missing of a file from its byte `start` on, or all of it where the server gives no parts."""
    if start and start == size:
        return
    with _opened(url, start) as (answer, promised, begins), open(part, "r+b" if begins else "wb") as file:
        promised = size if promised is None else promised
        if size is not None and promised != size:
            raise Lasting(f"the server has {promised:,} bytes, the index says {size:,}")
        file.truncate(begins)
        came = file.seek(begins)
        free = came + shutil.disk_usage(part.parent).free
        if promised is not None and promised > free:
            raise Lasting(f"it has {promised:,} bytes, and {free:,} are free in {part.parent}")
        most = max(0, free - SPARE) if promised is None else promised
        read, since, counted = getattr(answer, "read1", answer.read), time.monotonic(), came
        while block := read(1 << 20):
            file.write(block)
            came += len(block)
            if came > most:
                raise Lasting(f"more than {most:,} bytes came, which is all that was to come or that is free")
            if time.monotonic() - since > PATIENCE:
                if came - counted < LEAST:
                    raise Lasting(f"{came - counted:,} bytes in {PATIENCE:.0f} s: too slow to wait for")
                since, counted = time.monotonic(), came
        file.flush()
        os.fsync(file.fileno())
    if promised is not None and came != promised:
        raise OSError(f"{came:,} of {promised:,} bytes came")


@contextlib.contextmanager
def _opened(url: str, start: int) -> Iterator[tuple[Any, int | None, int]]:
    """What is behind a URL, the bytes of all of it where they are known, and from which byte on it comes."""
    if url.startswith(("http://", "https://")):
        asked = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
        with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
            begins, length = start if answer.status == 206 else 0, answer.headers.get("Content-Length")
            yield answer, None if length is None else begins + int(length), begins
        return
    from fsspec.core import url_to_fs

    place, path = url_to_fs(url, use_listings_cache=False)
    whole = int(place.size(path))
    with place.open(path, "rb", block_size=8 << 20) as file:
        yield file, whole, file.seek(min(start, whole))
