"""What a folder holds, remembered between runs, so that a million images start in seconds the second time.

Nothing is written into the folder: large listings lie in $XDG_CACHE_HOME/mec (~/.cache/mec). One is used again only if
no folder below has changed since, and a spread sample of its files still has the sizes that it says.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mec.data.decoding import SUFFIXES, Skipped
from mec.errors import BadInput

REMEMBER_FROM = 10_000  # images


SAMPLE = 1_000  # files whose size is compared before a listing is used again


SETTLED = 2 * 10**9  # ns since the last change of a folder before its listing is kept: clocks are coarse


@dataclass(frozen=True)
class Listing:
    """Images below a folder, sorted; hidden files and folders are left out."""

    root: str
    names: list[str]  # relative to root
    sizes: np.ndarray  # [n] bytes
    folders: list[str] = field(default_factory=list)  # relative, each with its time of change
    times: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # ns
    closed: tuple[Skipped, ...] = ()  # folders that may not be listed


def listing(root: Path) -> Listing:
    """The images of a folder, from memory where that is still right."""
    kept = remembered(root, "listing")
    if kept is not None:
        with contextlib.suppress(KeyError):
            found = Listing(str(root), lines(kept["names"]), kept["sizes"], lines(kept["folders"]), kept["times"])
            if still_right(found):
                return found
    found = walked(root)
    settled = len(found.times) and time.time_ns() - found.times.max() > SETTLED
    if len(found.names) >= REMEMBER_FROM and settled and not found.closed:
        remember(
            root,
            "listing",
            names=text(found.names),
            sizes=found.sizes,
            folders=text(found.folders),
            times=found.times,
        )
    return found


def walked(root: Path) -> Listing:
    """The images of a folder as it is now.

    Raises:
        BadInput: the folder itself may not be listed.
    """
    names, folders = [], []
    closed: list[Skipped] = []

    def note(error: OSError) -> None:
        if error.filename == str(root):
            raise BadInput(f"{root}: cannot be listed ({error.strerror}).") from error
        closed.append(Skipped(str(error.filename), f"folder cannot be listed: {error.strerror}"))

    for folder, subfolders, files in os.walk(str(root), followlinks=True, onerror=note):
        subfolders[:] = sorted(n for n in subfolders if not n.startswith(".") and not leads_back(folder, n))
        below = os.path.relpath(folder, root)
        folders.append(below)
        prefix = "" if below == "." else below + os.sep
        names += [
            prefix + name
            for name in files
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES
        ]
    names.sort()
    times = [os.stat(os.path.join(root, folder)).st_mtime_ns for folder in folders]
    sizes = [size(os.path.join(root, name)) for name in names]
    return Listing(str(root), names, np.array(sizes, np.int64), folders, np.array(times, np.int64), tuple(closed))


def leads_back(folder: str, name: str) -> bool:
    """Whether a link in a folder points to one that holds it, and would be walked for ever."""
    path = os.path.join(folder, name)
    return os.path.islink(path) and Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(path))


def size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:  # a broken link: why it cannot be read is said where it is opened
        return -1


def still_right(found: Listing) -> bool:
    sample = np.unique(np.linspace(0, len(found.names) - 1, min(SAMPLE, len(found.names))).astype(int))
    try:
        return all(
            os.stat(os.path.join(found.root, folder)).st_mtime_ns == changed
            for folder, changed in zip(found.folders, found.times.tolist())
        ) and all(os.path.getsize(os.path.join(found.root, found.names[i])) == found.sizes[i] for i in sample)
    except OSError:
        return False


def place(root: Path | str, kind: str) -> Path:
    """The file for what is kept about a folder or a URL."""
    known_by = str(root.resolve()) if isinstance(root, Path) else root
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(cache) / "mec" / f"{hashlib.sha256(known_by.encode()).hexdigest()[:16]}-{kind}.npz"


def remembered(root: Path, kind: str) -> dict[str, np.ndarray] | None:
    """What was kept about a folder; None if nothing, or nothing readable."""
    try:
        with open(place(root, kind), "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception:  # absent, cut off or foreign: it is made again
        return None


def remember(root: Path, kind: str, **arrays: np.ndarray) -> None:
    """Keep arrays about a folder; a cache that cannot be written is done without."""
    path = place(root, kind)
    part = path.with_suffix(f".{os.getpid()}")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        os.replace(part, path)


def text(names: list[str]) -> np.ndarray:
    """Names as bytes, with a zero between them, which no name holds."""
    return np.frombuffer("\0".join(names).encode("utf-8", "surrogateescape"), np.uint8)


def lines(array: np.ndarray) -> list[str]:
    """The names that `text` packed.

    >>> lines(text(["a/b.png", "c.png"]))
    ['a/b.png', 'c.png']
    """
    return array.tobytes().decode("utf-8", "surrogateescape").split("\0") if len(array) else []
