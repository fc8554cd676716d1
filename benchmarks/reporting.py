"""What a benchmark found: timed in turns, told, and written beside the machine that it ran on."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from mec.runtime.device import wait_for
from mec.runtime.files import write_json
from mec.runtime.progress import Console

Key = TypeVar("Key")


def report(where: Mapping[str, Any], shown: Iterable[Any], found: Mapping[str, Any], path: Path, *others: Path) -> None:
    """Print the machine, then what there is to show; write the machine and what was found to a JSON file; name all."""
    console = Console(highlight=False)
    console.width = max(console.width, 110)  # of tables with six columns
    for each in (", ".join(f"{k} {v}" for k, v in where.items()), *shown):
        console.print(each)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"machine": where, **found})
    console.print("Written: " + ", ".join(map(str, (path, *others))), soft_wrap=True)


def in_turns(
    contenders: Mapping[Key, Callable[[], object]], repeats: int, device: str, *, per_second: int = 1
) -> dict[Key, tuple[float, float, float]]:
    """Median, least and most time of each: one round to warm up, then `repeats` rounds in which each runs once.
    In seconds; with 1000 `per_second` in milliseconds."""
    times: dict[Key, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats + 1):
        for name, run in contenders.items():
            wait_for(device)
            began = time.perf_counter()
            run()
            wait_for(device)
            times[name].append(per_second * (time.perf_counter() - began))
    return {name: (statistics.median(t[1:]), min(t[1:]), max(t[1:])) for name, t in times.items()}
