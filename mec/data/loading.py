"""Items of a dataset, prepared by processes that are watched: none is waited for without end, a lost one is told."""

import atexit
import contextlib
import shutil
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.random  # loaded late by numpy: a worker that is forked meanwhile would find it half there
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate, default_convert

from mec.errors import TrainingStopped
from mec.runtime.files import first_line
from mec.runtime.signals import leave_signals_to_the_run

SHARED = Path("/dev/shm")  # where processes share tensors
LEAST_SHARED = 512 << 20  # bytes free there; below it (a container has 64 MB) items come through pipes
PATIENCE = 600.0  # seconds for one item, after which a worker counts as stuck
LOOK = 5.0  # seconds between two looks whether all workers live


def prepared(dataset: Dataset, workers: int, collate: Callable[[Any], Any] | None = None, **options: Any) -> Iterator:
    """The dataset's items in the sampler's order; options as torch's DataLoader takes them.

    Raises:
        TrainingStopped: a worker was killed (memory, most often), or has given nothing for ten minutes.
        What the dataset raises, in its own words."""
    pipes = workers > 0 and SHARED.is_dir() and (free := shutil.disk_usage(SHARED).free) < LEAST_SHARED
    if pipes:
        words = f"{SHARED} has {free / 2**20:.0f} MiB free: what {workers} workers prepare comes through pipes, slower."
        warnings.warn(words, stacklevel=2)
        collate = _Arrays(collate or (default_convert if options.get("batch_size", 1) is None else default_collate))
    before = signal.getsignal(signal.SIGCHLD)
    found = iter(
        DataLoader(
            dataset, num_workers=workers, collate_fn=collate, timeout=LOOK if workers else 0,
            worker_init_fn=leave_signals_to_the_run, **options,
        )
    )  # fmt: skip
    for worker in getattr(found, "_workers", ()):
        atexit.register(worker.kill)  # one that is stuck heeds nothing else, and Python would wait for it at its end
    with contextlib.suppress(ValueError):  # not the main thread
        # torch's own handler raises wherever the program is, in the middle of a step too; here it is told at `next`.
        signal.signal(signal.SIGCHLD, before)
    waited = time.monotonic()
    while True:
        try:
            item = next(found)
        except StopIteration:
            return
        except Exception as error:
            told = str(error)
            if workers and told.startswith("DataLoader timed out"):  # it lost nothing: asked again, it goes on
                if time.monotonic() - waited < PATIENCE:
                    continue
                raise lost(f"has given nothing for {PATIENCE:.0f} s") from error
            if workers and (told.startswith("DataLoader worker") or isinstance(error, (ConnectionError, EOFError))):
                raise lost(f"was killed ({first_line(error)})") from error
            if told.startswith("Caught ") and " in DataLoader worker" in told:  # the last line of its traceback
                raise type(error)(told.strip().splitlines()[-1].partition(": ")[2]) from None
            raise
        if pipes:
            item = apply_to_collection(item, _Sent, lambda sent: torch.from_numpy(sent.array), allow_frozen=True)
        yield item
        waited = time.monotonic()


def lost(what: str) -> TrainingStopped:
    return TrainingStopped(
        f"a process that decodes images {what}. The disk or network may hang, or memory have run out: look there, or "
        "take fewer --workers (0: none). What is saved stays; the same command goes on (mec pretrain: with --resume)."
    )


class _Arrays:
    """A collate function whose tensors travel as arrays: those are written into a pipe, not into shared memory."""

    def __init__(self, collate: Callable[[Any], Any]):
        self.collate = collate

    def __call__(self, items: Any) -> Any:
        return apply_to_collection(self.collate(items), Tensor, lambda t: _Sent(t.numpy()), allow_frozen=True)


class _Sent:
    """A tensor under way."""

    def __init__(self, array: np.ndarray):
        self.array = array
