"""Run a function on W processes that share a gloo group, as `torchrun` would start them."""

from __future__ import annotations

import multiprocessing
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def run(function: Callable[..., Any], size: int, *arguments: Any, timeout: float = 300) -> list[Any]:
    """What function(*arguments) returns on each of `size` ranks; a module-level function."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch._dynamo", "mec.objectives.table"])  # DDP needs it; once, not once a rank
    with tempfile.TemporaryDirectory() as folder:
        workers = [context.Process(target=_rank, args=(r, size, folder, function, arguments)) for r in range(size)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(timeout)
            if worker.is_alive():
                worker.kill()
        results = []
        for r in range(size):
            found = Path(folder, str(r))
            ok, result = torch.load(found, weights_only=True) if found.exists() else (False, "it left no result")
            assert ok, f"rank {r} of {size}: {result}"
            results.append(result)
        return results


def _rank(rank: int, size: int, folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    try:
        found = True, function(*arguments)
    except BaseException:
        found = False, traceback.format_exc()
    torch.save(found, Path(folder, str(rank)))
    if found[0]:  # a rank that failed leaves at once: others may be waiting for it
        dist.destroy_process_group()
