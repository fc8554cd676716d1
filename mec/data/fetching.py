"""A file from a URL: whole or not there, within a time and a size that are known beforehand."""

import http.client
import os
import shutil
import time
import urllib.request
from pathlib import Path

from mec.errors import BadInput
from mec.runtime.files import sha256, sync_folder

PATIENCE = 60.0  # seconds without an answer, or in which fewer than LEAST bytes came
LEAST = 60_000  # bytes: 1 kB a second
SPARE = 1 << 30  # bytes of the disk that a file of unknown size leaves


def fetch(url: str, path: Path, checksum: str | None = None, *, again: bool = False, size: int | None = None) -> None:
    """Fetch a file from a URL, the whole file or none, unless it is there (with the checksum, if one is given).

    Args:
        size: of the file in bytes, where it is known.

    Raises:
        BadInput: it cannot be fetched, was cut off on the way, has another size or SHA-256, or the server sends less
            than 1 kB a second for a minute, or without end."""
    if path.exists() and not again and (checksum is None or sha256(path) == checksum):
        return
    part = path.with_name(f"{path.name}.{os.getpid()}.part")  # another process may fetch the same
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer, open(part, "wb") as file:
            promised = answer.headers.get("Content-Length")
            promised = size if promised is None else int(promised)
            if size is not None and promised != size:
                raise OSError(f"the server has {promised:,} bytes, the index says {size:,}")
            free = shutil.disk_usage(part.parent).free
            if promised is not None and promised > free:
                raise OSError(f"it has {promised:,} bytes, and {free:,} are free in {part.parent}")
            most = max(0, free - SPARE) if promised is None else promised
            came, since, counted = 0, time.monotonic(), 0
            while block := answer.read1(1 << 20):
                file.write(block)
                came += len(block)
                if came > most:
                    raise OSError(f"more than {most:,} bytes came, which is all that was to come or that is free")
                if time.monotonic() - since > PATIENCE:
                    if came - counted < LEAST:
                        raise OSError(f"{came - counted:,} bytes in {PATIENCE:.0f} s: too slow to wait for")
                    since, counted = time.monotonic(), came
            file.flush()
            os.fsync(file.fileno())
        if promised is not None and came != promised:
            raise OSError(f"{came:,} of {promised:,} bytes came")
        if checksum is not None and sha256(part) != checksum:
            raise OSError("it is not the file that the index lists: SHA-256 differs")
        os.replace(part, path)
        sync_folder(path.parent)
    except (OSError, ValueError, http.client.HTTPException) as error:  # URLError is an OSError
        words = str(error) or type(error).__name__
        raise BadInput(f"{url}: cannot be fetched ({words}). Try again.") from error
    finally:
        part.unlink(missing_ok=True)
