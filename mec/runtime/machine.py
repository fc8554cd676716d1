"""What this machine has for this process: cores, memory, units for bf16, its name; what memory the process takes."""

import contextlib
import ctypes
import math
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mec.version import __version__

CGROUP, CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # malloc.h


@dataclass(frozen=True)
class Machine:
    """What training will run on."""

    accelerator: str  # "cpu" or "cuda"
    memory_gib: float  # of one accelerator, or of the machine
    cores: int


def this_machine(accelerator: str) -> Machine:
    memory = torch.cuda.get_device_properties(0).total_memory if accelerator == "cuda" else memory_bytes()
    return Machine(accelerator, memory / 2**30, cores())


def cores() -> int:
    """Cores that this process may use: its affinity, and the quota of its container or job."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # cpu.max is "time period" in microseconds: of a quota of 1.5 cores a second worker still uses a half.
    shares = [-(-int(time) // int(period)) for time, period in limits("cpu.max")]
    return max(1, min([allowed, *shares]))


def memory_bytes() -> int:
    """Memory that this process may use: the machine's, or less by the limit of its container or job."""
    return min([physical_memory(), *(int(limit) for (limit,) in limits("memory.max"))])


def physical_memory() -> int:
    """Bytes of this machine; where no way to ask is known, as many as a small one has."""
    with contextlib.suppress(AttributeError, ValueError, OSError):  # Windows has no sysconf
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    kib = ctypes.c_ulonglong(8 << 20)
    with contextlib.suppress(AttributeError):
        ctypes.windll.kernel32.GetPhysicallyInstalledSystemMemory(ctypes.byref(kib))  # type: ignore[attr-defined,unused-ignore]
    return kib.value << 10


def limits(name: str) -> Iterator[list[str]]:
    """The numbers of a file of this process's cgroup (version 2) and those above it that set a limit."""
    with contextlib.suppress(OSError, StopIteration):  # not Linux, or without such groups
        own = next(line[3:] for line in CGROUP.read_text().splitlines() if line.startswith("0::"))
        for group in (below := Path(own.lstrip("/")), *below.parents):
            with contextlib.suppress(OSError):  # the topmost has none
                if (CGROUPS / group / name).read_text().split()[0] != "max":
                    yield (CGROUPS / group / name).read_text().split()


def has_bf16_units(accelerator: str) -> bool:
    """Whether bf16 is faster than fp32 here, and not emulated."""
    if accelerator == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(kind) for kind in ("amx_bf16", "avx512_bf16"))


def cpu_name() -> str:
    """The processor's name, where the system tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    found = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(filter(None, found), platform.processor() or platform.machine())


def machine(device: str) -> dict[str, str | int]:
    """What a timing depends on."""
    name = torch.cuda.get_device_name() if device == "cuda" else cpu_name()
    threads = torch.get_num_threads()
    return {"device": name, "threads": threads, "torch": torch.__version__, "mec": __version__}


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
        return int(next(x for x in STATUS.read_text().splitlines() if x.startswith("VmHWM")).split()[1]) / 2**20
    return math.nan
