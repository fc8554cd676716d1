"""The C library's allocator, told to keep what is freed."""

from __future__ import annotations

import ctypes
import platform

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # malloc.h


def keep_freed() -> bool:
    """Keep freed memory in this process for the next step, under glibc; returns whether it was told so.

    By default glibc gives every large block back to the system, and each training step on a CPU has its activations
    mapped and zeroed again: a seventh to a third of the step (docs/log.md). It changes no number that is computed.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    wanted = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, 64 << 20))
    return all([mallopt(parameter, value) == 1 for parameter, value in wanted])
