"""Peak memory of this process, or of its GPU, since a reset."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

import torch

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):  # not Linux, or not allowed: the peak is then that of the whole process
        RESET.write_text("5")


def peak_memory() -> float:
    """GiB: allocated on the GPU where there is one, else resident in this process; NaN where it cannot be told."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    with contextlib.suppress(OSError, StopIteration):
        line = next(x for x in STATUS.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 2**20
    return math.nan
