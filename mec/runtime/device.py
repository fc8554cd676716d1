"""The device that is asked for, and Lightning Fabric, started the same way by everything that trains."""

import contextlib
import functools
import inspect
import logging
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from mec.errors import BadInput, TrainingStopped
from mec.runtime.distributed import ALONE, Ranks, _shared, current, start_group
from mec.runtime.sharding import shard

HOURS = 24.0  # that processes of a measurement wait for the first, which does alone what needs no network


def chosen_device(device: str) -> str:
    """cpu, cuda or mps, a Mac's GPU.
    Raises BadInput: neither these nor auto, or cuda or mps where there is none."""
    if device not in ("auto", "cpu", "cuda", "mps"):
        raise BadInput(f"--device is {device!r}: auto, cpu, cuda or mps.")
    if device == "mps" and not torch.backends.mps.is_available():
        raise BadInput("--device mps: torch sees no GPU of a Mac here. Use --device cpu.")
    if device == "cuda" and not torch.cuda.is_available():
        raise BadInput("--device cuda: torch sees no CUDA device here. Use --device cpu, or install a CUDA torch.")
    return device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def start_fabric(device: str, strategy: str = "ddp", *, hours: float = 0.5) -> Any:
    """Lightning Fabric for this process: alone, or one of those that torchrun or srun started, which wait for each
    other so many hours. Raises BadInput: fsdp, and there is one process."""
    device = chosen_device(device)
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
    from lightning_fabric.strategies import DDPStrategy, ModelParallelStrategy

    # It recommends products in less precision than log-determinants bear, and says what rank each process is.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    tasks_of_srun()
    world = int(os.environ.get("WORLD_SIZE", 1))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world)) if world > 1 else 1
    # Told what started this process, Fabric does not look for SLURM, and warns of no srun that lies about.
    plugins = TorchElasticEnvironment() if world > 1 else LightningEnvironment()
    known = inspect.signature(DistributedDataParallel).parameters
    buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # before torch 2.14
    alike: Any = {buffers: False}
    if world == 1 and strategy == "fsdp":
        raise BadInput("--strategy fsdp in one process: start several (torchrun --nproc-per-node N -m mec ...).")
    way: Any = DDPStrategy(**alike) if world > 1 else "auto"
    if strategy == "fsdp":
        way = ModelParallelStrategy(shard, data_parallel_size=world, tensor_parallel_size=1)
    about: Any = {"strategy": way, "plugins": plugins, "precision": "32-true"}
    fabric = Fabric(accelerator=device, devices=local, num_nodes=world // local, **about)
    if world > 1:
        start_group(device, hours)
    fabric.launch()
    return fabric


@contextlib.contextmanager
def over_ranks(device: str) -> Iterator[Ranks]:
    """A measurement by the processes that torchrun or SLURM started: all of them do the same and share the network's
    work, the first alone speaks and writes. Without such processes nothing changes.

    A process that ends is noticed at once by those that wait for it; one that hangs, after `HOURS`.
    Raises TrainingStopped: the others were ended by a signal."""
    tasks_of_srun()
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield ALONE
        return
    start_fabric(device, hours=HOURS)
    ranks = current()
    _shared.append(ranks)

    def ended(number: int, frame: Any) -> None:
        raise TrainingStopped(
            f"stopped by signal {number}: it was asked to, or another process of this measurement has ended. What is "
            "done is kept: the same command goes on, also with another number of processes."
        )

    before = signal.signal(signal.SIGTERM, ended)
    try:
        with open(os.devnull, "w") as nowhere, contextlib.ExitStack() as quiet:
            if ranks.rank:
                quiet.enter_context(contextlib.redirect_stdout(nowhere))
                quiet.enter_context(contextlib.redirect_stderr(nowhere))
            yield ranks
    finally:
        signal.signal(signal.SIGTERM, before)
        _shared.pop()


@functools.cache
def tasks_of_srun() -> None:
    """The variables of torchrun for the tasks of a step of srun; a job's own script, or its shell, is one process.
    Raises BadInput: the nodes have different numbers of tasks."""
    world, nodes = (int(os.environ.get(f"SLURM_STEP_NUM_{what}", 0)) for what in ("TASKS", "NODES"))
    if "WORLD_SIZE" in os.environ:
        return
    if not world:
        if (tasks := int(os.environ.get("SLURM_NTASKS", 1))) > 1:
            print(f"mec: this job has {tasks} tasks, this is one process: `srun mec ...` starts all.", file=sys.stderr)
        return
    from lightning_fabric.plugins.environments import SLURMEnvironment

    if world % nodes:
        raise BadInput(f"srun started {world} tasks on {nodes} nodes: each has the same number, --ntasks-per-node N.")
    first = SLURMEnvironment.resolve_root_node_address(os.environ["SLURM_STEP_NODELIST"]) if nodes > 1 else "127.0.0.1"
    job = int(os.environ["SLURM_JOB_ID"]) + int(os.environ["SLURM_STEP_ID"])
    os.environ |= {
        "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world // nodes), "RANK": os.environ["SLURM_PROCID"],
        "LOCAL_RANK": os.environ["SLURM_LOCALID"], "MASTER_ADDR": first, "MASTER_PORT": str(15_000 + job % 10_000),
    }  # fmt: skip


def wait_for(device: str) -> None:
    """Until all work of this kind of device is done, so that a clock may be read."""
    if device in ("cuda", "mps"):
        getattr(torch, device).synchronize()
