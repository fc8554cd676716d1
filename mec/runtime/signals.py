"""Stopping well: a signal ends a run after its step, and leaves its workers alone."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

# Ctrl-C, the end of a job, a lost terminal, and what SLURM sends before the end of a job; where the system has them.
STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]


@contextlib.contextmanager
def signals() -> Iterator[Callable[[], bool]]:
    """Ctrl-C, TERM, HUP and USR1 ask for a stop after the step; a second Ctrl-C interrupts at once.
    One that was ignored before, as HUP is under nohup, still is."""
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        received.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    heeded = [number for number in STOPPING if signal.getsignal(number) != signal.SIG_IGN]
    try:
        before = {number: signal.signal(number, note) for number in heeded}
    except ValueError:  # not the main thread: signals are somebody else's
        yield lambda: False
        return
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_signals_to_the_run(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal, the others those of a torchrun or SLURM job: a data worker carries
    on, so that the run can end after its step."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
