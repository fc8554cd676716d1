"""Memory of this process: freed blocks kept for the next step, and the peak since a reset."""

import contextlib
import ctypes
import math
import platform
from pathlib import Path

import torch

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # malloc.h
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def keep_freed() -> bool:
    """Keep freed memory in this process for the next step, under glibc; returns whether it was told so.
    By default glibc gives every large block back to the system, and each training step on a CPU has its activations
    mapped and zeroed again: a seventh to a third of the step (docs/log.md). It changes no number that is computed."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    wanted = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, 64 << 20))
    return all([mallopt(parameter, value) == 1 for parameter, value in wanted])


def reset_peak_memory(device: str) -> None:
    """From now on `peak_memory` tells the peak; where the system does not allow it, that of the whole process."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(AttributeError, OSError):  # no glibc
        ctypes.CDLL(None).malloc_trim(0)  # freed blocks that `keep_freed` has kept would count as in use
    with contextlib.suppress(OSError):  # not Linux, or not allowed
        RESET.write_text("5")


def peak_memory(device: str) -> float:
    """GiB: allocated on the GPU for cuda, else resident in this process; NaN where it cannot be told."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    with contextlib.suppress(OSError, StopIteration):
        line = next(x for x in STATUS.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 2**20
    return math.nan
