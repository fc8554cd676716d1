"""The images in a folder, cached between runs, so that a million images start in seconds the second time.

Nothing is written into the folder: listings of large folders lie in $XDG_CACHE_HOME/mec (~/.cache/mec). One is used
again only if no folder below has changed since, and a spread sample of its files still has the sizes that it gives.
"""

import contextlib
import hashlib
import os
import stat
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mec.data.decoding import HEIF, HEIF_EXTRA, KINDS, Skipped, kinds_of
from mec.data.sounds import SOUND_EXTRA, SOUNDS
from mec.errors import BadInput

CACHE_FROM = 10_000  # images
SAMPLE = 1_000  # files whose size is compared before a listing is used again
SETTLED = 2 * 10**9  # ns since the last change of a folder before its listing is cached: clocks are coarse


@dataclass(frozen=True)
class Listing:
    """Images below a folder, sorted, each once by its identity on disk; what is left out is counted by reason."""

    root: str
    names: list[str]  # relative to root
    sizes: np.ndarray  # [n] bytes
    folders: list[str]  # relative to root
    times: np.ndarray  # [folders] ns, of their last change
    closed: tuple[Skipped, ...] = ()  # folders that this user may not list
    left_out: Mapping[str, int] = field(default_factory=dict)  # a reason in words -> how many files


def cached_listing(root: Path) -> Listing:
    """The images of a folder, from the cache where that is still right."""
    cached = load_cache(root, "listing")
    if cached is not None:
        with contextlib.suppress(KeyError):
            names, folders = unpack_names(cached["names"]), unpack_names(cached["folders"])
            left_out = dict(zip(unpack_names(cached["reasons"]), cached["counts"].tolist(), strict=True))
            found = Listing(str(root), names, cached["sizes"], folders, cached["times"], (), left_out)
            if is_current(found):
                return found
    found = list_images(root)
    settled = len(found.times) and time.time_ns() - found.times.max() > SETTLED
    if len(found.names) >= CACHE_FROM and settled and not found.closed:
        lists = {"names": found.names, "folders": found.folders, "reasons": [*found.left_out]}
        arrays = {"sizes": found.sizes, "times": found.times, "counts": np.array([*found.left_out.values()], np.int64)}
        save_cache(root, "listing", **arrays, **{kind: pack_names(names) for kind, names in lists.items()})
    return found


def list_images(root: Path) -> Listing:
    """The images of a folder as it is now; links are followed after what lies there itself, and to nothing twice.
    Raises BadInput: the folder itself may not be listed."""
    names: dict[str, int] = {}  # and sizes
    folders: dict[str, int] = {}  # and times of change
    closed: list[Skipped] = []
    left_out: Counter[str] = Counter()
    seen: set[tuple[int, int]] = set()
    waiting, links = deque(["."]), deque[str]()  # relative to root

    def is_new(info: os.stat_result, once_more: str) -> bool:
        """Whether a file or folder was not met before; there are file systems without identities."""
        known = info.st_ino != 0 and (info.st_dev, info.st_ino) in seen
        seen.add((info.st_dev, info.st_ino))
        left_out[once_more] += known
        return not known

    while waiting or links:
        below = (waiting or links).popleft()
        path, prefix = os.path.join(root, below), "" if below == "." else below + os.sep
        try:
            info = os.stat(path)
        except OSError:  # a broken link: the reason is told when the image is opened
            names[below] = -1
            continue
        if not stat.S_ISDIR(info.st_mode):  # waiting and links hold images and folders
            if not stat.S_ISREG(info.st_mode):
                left_out["no regular files (pipes, devices)"] += 1
            elif is_new(info, "files linked twice"):
                names[below] = info.st_size
        elif is_new(info, "folders linked twice"):
            try:
                with os.scandir(path) as found:
                    entries = sorted(found, key=lambda entry: entry.name)
            except OSError as error:
                if below == ".":
                    raise BadInput(f"{root}: cannot be listed ({error.strerror}).") from error
                closed.append(Skipped(path, f"folder cannot be listed: {error.strerror}"))
                continue
            folders[below] = info.st_mtime_ns
            for entry in entries:
                suffix = os.path.splitext(entry.name)[1].lower()
                if entry.name.startswith("."):
                    left_out["hidden files or folders"] += 1
                elif suffix in KINDS or entry.is_dir():
                    (links if entry.is_symlink() else waiting).append(prefix + entry.name)
                else:
                    left_out[suffix_words(suffix)] += 1
    if len(kinds := kinds_of(names)) > 1:  # covers beside recordings, masks as arrays beside images
        most = max(kinds, key=lambda kind: (kinds[kind], kind == "images"))
        left_out.update({f"{kind} among {most}": n for kind, n in kinds.items() if kind != most})
        names = {name: size for name, size in names.items() if kinds_of([name])[most]}
    told = {reason: count for reason, count in sorted(left_out.items()) if count}
    sizes, times = (np.array([*values], np.int64) for values in (map(names.get, sorted(names)), folders.values()))
    return Listing(str(root), sorted(names), sizes, [*folders], times, tuple(closed), told)


def suffix_words(suffix: str) -> str:
    """Why files of a suffix are left out, with how to read them where there is a way."""
    words = f"files with the suffix {suffix.lower()}" if suffix else "files without a suffix"
    if suffix.lower() in SOUNDS:
        return f"{words} ({SOUND_EXTRA} reads them)"
    if suffix.lower() in HEIF:
        return f"{words} are no images that can be read here ({HEIF_EXTRA} reads them)"
    return f"{words} (give the tars themselves as the data)" if suffix.lower() == ".tar" else words


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
    ['a/b.png', 'c.png']"""
    return array.tobytes().decode("utf-8", "surrogateescape").split("\0") if len(array) else []
