"""Speed, all sides in one run: the contenders take turns, so that a machine's moods meet all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from mec.runtime.device import wait_for

Key = TypeVar("Key")


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
