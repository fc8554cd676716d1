"""What this machine has for this process: cores, memory, units for bf16, its name."""

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mec.version import __version__

CGROUP, CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Machine:
    """What training will run on."""

    accelerator: str  # "cpu" or "cuda"
    memory_gib: float  # of one accelerator, or of the machine
    cores: int
    bf16: bool = False  # whether it has units for it


def this_machine(accelerator: str) -> Machine:
    memory = torch.cuda.get_device_properties(0).total_memory if accelerator == "cuda" else memory_bytes()
    return Machine(accelerator, memory / 2**30, cores(), has_bf16_units(accelerator))


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
    return bool(capabilities.get("amx_bf16"))


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
