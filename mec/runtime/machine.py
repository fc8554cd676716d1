"""What this machine has: cores, memory, units for bf16, its name."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mec.version import __version__


@dataclass(frozen=True)
class Machine:
    """What training will run on."""

    accelerator: str  # "cpu" or "cuda"
    memory_gib: float  # of one accelerator, or of the machine
    cores: int
    bf16: bool = False  # whether it has units for it


def this_machine(accelerator: str) -> Machine:
    import torch

    if accelerator == "cuda":
        memory = torch.cuda.get_device_properties(0).total_memory
    else:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(accelerator, memory / 2**30, os.cpu_count() or 1, has_bf16_units(accelerator))


def has_bf16_units(accelerator: str) -> bool:
    """Whether bf16 is faster than fp32 here, and not emulated."""
    import torch

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
