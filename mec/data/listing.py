"""The images in a folder, cached between runs, so that a million images start in seconds the second time.

Nothing is written into the folder: listings of large folders lie in $XDG_CACHE_HOME/mec (~/.cache/mec). One is used
again only if no folder below has changed since, and a spread sample of its files still has the sizes that it gives.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mec.data.decoding import SUFFIXES, Skipped
from mec.errors import BadInput

CACHE_FROM = 10_000  # images
SAMPLE = 1_000  # files whose size is compared before a listing is used again
SETTLED = 2 * 10**9  # ns since the last change of a folder before its listing is cached: clocks are coarse


@dataclass(frozen=True)
class Listing:
    """Images below a folder, sorted; hidden files and folders are left out."""

    root: str
    names: list[str]  # relative to root
    sizes: np.ndarray  # [n] bytes
    folders: list[str]  # relative to root
    times: np.ndarray  # [folders] ns, of their last change
    closed: tuple[Skipped, ...] = ()  # folders that this user may not list


def cached_listing(root: Path) -> Listing:
    """The images of a folder, from the cache where that is still right."""
    cached = load_cache(root, "listing")
    if cached is not None:
        with contextlib.suppress(KeyError):
            names, folders = unpack_names(cached["names"]), unpack_names(cached["folders"])
            found = Listing(str(root), names, cached["sizes"], folders, cached["times"])
            if is_current(found):
                return found
    found = list_images(root)
    settled = len(found.times) and time.time_ns() - found.times.max() > SETTLED
    if len(found.names) >= CACHE_FROM and settled and not found.closed:
        packed = {"names": pack_names(found.names), "folders": pack_names(found.folders)}
        save_cache(root, "listing", **packed, sizes=found.sizes, times=found.times)
    return found


def list_images(root: Path) -> Listing:
    """The images of a folder as it is now. Raises BadInput: the folder itself may not be listed."""
    names, folders = [], []
    closed: list[Skipped] = []

    def note(error: OSError) -> None:
        if error.filename == str(root):
            raise BadInput(f"{root}: cannot be listed ({error.strerror}).") from error
        closed.append(Skipped(str(error.filename), f"folder cannot be listed: {error.strerror}"))

    for folder, subfolders, files in os.walk(str(root), followlinks=True, onerror=note):
        subfolders[:] = sorted(n for n in subfolders if not n.startswith(".") and not is_cycle(folder, n))
        below = os.path.relpath(folder, root)
        folders.append(below)
        prefix = "" if below == "." else below + os.sep
        shown = (name for name in files if not name.startswith("."))
        names += [prefix + name for name in shown if os.path.splitext(name)[1].lower() in SUFFIXES]
    names.sort()
    times = [os.stat(os.path.join(root, folder)).st_mtime_ns for folder in folders]
    sizes = [file_size(os.path.join(root, name)) for name in names]
    return Listing(str(root), names, np.array(sizes, np.int64), folders, np.array(times, np.int64), tuple(closed))


def is_cycle(folder: str, name: str) -> bool:
    """Whether a link in a folder points to a folder around it, so that the walk would never end."""
    path = os.path.join(folder, name)
    return os.path.islink(path) and Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(path))


def file_size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:  # a broken link: the reason is told when the image is opened
        return -1


def is_current(found: Listing) -> bool:
    """Whether no folder has changed and a sample of the files has the sizes listed."""
    sample = np.unique(np.linspace(0, len(found.names) - 1, min(SAMPLE, len(found.names))).astype(int))
    try:
        return all(
            os.stat(os.path.join(found.root, folder)).st_mtime_ns == changed
            for folder, changed in zip(found.folders, found.times.tolist())
        ) and all(os.path.getsize(os.path.join(found.root, found.names[i])) == found.sizes[i] for i in sample)
    except OSError:
        return False


def cache_file(root: Path | str, kind: str) -> Path:
    """Where something of this kind is cached about a folder or a URL."""
    key = str(root.resolve()) if isinstance(root, Path) else root
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(cache) / "mec" / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}-{kind}.npz"


def load_cache(root: Path | str, kind: str) -> dict[str, np.ndarray] | None:
    """The arrays cached about a folder; None where there are none that can be read."""
    try:
        with open(cache_file(root, kind), "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception:  # absent, cut off or foreign: it is made again
        return None


def save_cache(root: Path | str, kind: str, **arrays: np.ndarray) -> None:
    """Cache arrays about a folder, if the cache can be written."""
    path = cache_file(root, kind)
    part = path.with_suffix(f".{os.getpid()}")  # every process of a run opens the data
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        os.replace(part, path)


def pack_names(names: list[str]) -> np.ndarray:
    """Names as one array of bytes, separated by zeros, which no name contains."""
    return np.frombuffer("\0".join(names).encode("utf-8", "surrogateescape"), np.uint8)


def unpack_names(array: np.ndarray) -> list[str]:
    """The names that `text` packed.

    >>> unpack_names(pack_names(["a/b.png", "c.png"]))
    ['a/b.png', 'c.png']
    """
    return array.tobytes().decode("utf-8", "surrogateescape").split("\0") if len(array) else []
