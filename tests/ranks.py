"""Run a function on W processes that share a gloo group, as `torchrun` would start them."""

from __future__ import annotations

import socket
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from processes import CONTEXT, Forked, mec


def run(function: Callable[..., Any], size: int, *arguments: Any, timeout: float = 300) -> list[Any]:
    """What function(*arguments) returns on each of `size` ranks; a module-level function."""
    with tempfile.TemporaryDirectory() as folder:
        workers = [CONTEXT.Process(target=_rank, args=(r, size, folder, function, arguments)) for r in range(size)]
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


def measured(protocol: Any) -> tuple[list[float], list[str]]:
    """Figures of raw pixels by a protocol over the ranks that there are, and what was said."""
    from mec.evaluation.evaluate import results_of
    from mec.runtime import distributed

    said: list[str] = []
    distributed._shared.append(distributed.current())
    try:
        return [result.value for result in results_of("pixels", protocol, said.append)], said
    finally:
        distributed._shared.pop()


def same_on_two(protocol: Any, place: Path) -> dict[Path, str]:
    """The tracks that a protocol writes on one process, after they were seen to be those of two, as its figures are."""
    expected, _ = measured(replace(protocol, out=place / "one"))
    (found, _), (none, _) = run(measured, 2, replace(protocol, out=place / "two"))
    assert (found, none) == (expected, [])
    tracks = [{p.relative_to(out): p.read_text() for p in out.rglob("*.txt")} for out in (place / "one", place / "two")]
    assert tracks[0] == tracks[1]
    return tracks[0]


def commands(size: int, words: list[str], folder: Path) -> list[str]:
    """`mec WORDS` in `size` processes as torchrun starts them, by variables of the environment; what each printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        about = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free.getsockname()[1], "WORLD_SIZE": size}
    processes = [Forked(mec, *words, folder=folder, **about, RANK=rank, LOCAL_RANK=rank) for rank in range(size)]
    for process in processes:
        process.start()
    said = ["".join(process.communicate(120)) for process in processes]
    assert [process.exitcode for process in processes] == [0] * size, said
    return said


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
