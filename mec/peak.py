"""Peak memory of this process, or of its GPU, since a reset."""

from __future__ import annotations

import contextlib
import ctypes
import math
from pathlib import Path

import torch

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak_memory(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(AttributeError, OSError):  # no glibc
        ctypes.CDLL(None).malloc_trim(0)  # what was freed, and kept (mec.memory), would count as in use
    with contextlib.suppress(OSError):  # not Linux, or not allowed: the peak is then that of the whole process
        RESET.write_text("5")


def peak_memory(device: str) -> float:
    """GiB: allocated on the GPU for cuda, else resident in this process; NaN where it cannot be told."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    with contextlib.suppress(OSError, StopIteration):
        line = next(x for x in STATUS.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 2**20
    return math.nan
