"""Run a function on W processes that share a gloo group, as `torchrun` would start them."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

PRELOADED = [  # what ranks and the files of their functions import: once, not once a rank
    "torch._dynamo", "mec.objectives.table", "mec.training.pretrain", "mec.evaluation.evaluate",
    "mec.evaluation.transfer.sweeps", "mec.evaluation.probing.protocols", "mec.cli.main", "timm", "sklearn.datasets",
    "torchvision.transforms.v2", "pytest", "hypothesis",
]  # fmt: skip


def run(function: Callable[..., Any], size: int, *arguments: Any, timeout: float = 300) -> list[Any]:
    """What function(*arguments) returns on each of `size` ranks; a module-level function."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
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


def commands(size: int, words: list[str], folder: Path) -> list[str]:
    """`mec WORDS` in `size` processes as torchrun starts them, by variables of the environment; what each printed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        about = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(size)}
    said = [folder / f"said-by-{rank}.txt" for rank in range(size)]
    workers = [
        context.Process(target=_command, args=(words, {**about, "RANK": str(rank), "LOCAL_RANK": str(rank)}, path))
        for rank, path in enumerate(said)
    ]
    for worker in workers:
        worker.start()
    for worker, path in zip(workers, said):
        worker.join(120)
        worker.kill()
        assert worker.exitcode == 0, path.read_text()
    return [path.read_text() for path in said]


def _command(words: list[str], variables: dict[str, str], said: Path) -> None:
    from mec.cli.main import main

    os.environ.update(variables)
    with open(said, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.exit(main(words))


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
