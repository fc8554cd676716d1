"""The device that is asked for, and Lightning Fabric, started the same way by everything that trains."""

import logging
import os
from typing import Any

import torch

from mec.errors import BadInput


def chosen_device(device: str) -> str:
    """cpu or cuda.
    Raises BadInput: neither these nor auto, or cuda where there is none."""
    if device not in ("auto", "cpu", "cuda"):
        raise BadInput(f"--device is {device!r}: auto, cpu or cuda.")
    if device == "cuda" and not torch.cuda.is_available():
        raise BadInput("--device cuda: torch sees no CUDA device here. Use --device cpu, or install a CUDA torch.")
    return device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def start_fabric(device: str) -> Any:
    """Lightning Fabric for this process: alone, or one of those that torchrun or SLURM started."""
    device = chosen_device(device)
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    # It recommends products in less precision than log-determinants bear.
    logging.getLogger("lightning_fabric.utilities.rank_zero").setLevel(logging.WARNING)
    world = int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", 1)))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("SLURM_NTASKS_PER_NODE", world)))
    strategy: Any = DDPStrategy(broadcast_buffers=False) if world > 1 else "auto"
    devices, nodes = local if world > 1 else 1, max(1, world // local)
    fabric = Fabric(accelerator=device, devices=devices, num_nodes=nodes, strategy=strategy, precision="32-true")
    fabric.launch()
    return fabric


def wait_for(device: str) -> None:
    """Until all work of this kind of device is done, so that a clock may be read."""
    if device == "cuda":
        torch.cuda.synchronize()
