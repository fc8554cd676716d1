"""What a campaign keeps: each fault or hostile input that was tried, and what came of it.

Good is what a user can live with: a value, or a sentence (an error that the command line tells). A traceback of any
other kind, a hang, or memory without end is not.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mec.cli.main import TOLD

LONG = os.environ.get("MEC_FAULTS") == "long"
SECONDS = 60  # for one input
MEMORY = 4 << 30  # bytes above what the process has


class Hang(BaseException):
    """It took too long."""


@dataclass
class Kind:
    tried: int = 0
    bad: dict[str, str] = field(default_factory=dict)  # label -> what came of it


KINDS: dict[str, Kind] = {}


def note(kind: str, label: str, problem: str | None) -> None:
    """One that was tried; `problem` in words, None where it was good."""
    entry = KINDS.setdefault(kind, Kind())
    entry.tried += 1
    if problem:
        entry.bad.setdefault(label, problem)


def judged(kind: str, label: str, call: Callable[[], Any]) -> str | None:
    """Try one in this process; gives the problem in words, None where it was good."""
    problem = None
    try:
        with no_longer_than(SECONDS):
            call()
    except TOLD as error:
        problem = None if str(error).strip() else f"{type(error).__name__} without a word"
    except Hang:
        problem = f"hangs (over {SECONDS} s)"
    except Exception as error:
        problem = f"{type(error).__name__}: {str(error)[:120]} ({last_place(error)})"
    note(kind, label, problem)
    return problem


def last_place(error: BaseException) -> str:
    """The last line of the package that the error went through."""
    place, trace = "", error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if f"{os.sep}mec{os.sep}" in file:
            place = f"{Path(file).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


@contextlib.contextmanager
def no_longer_than(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """Of address space, `MEMORY` more than now."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def table() -> str:
    """Markdown: of each kind, how many were tried and how many were good."""
    lines = ["| fault or input | tried | good |", "|---|--:|--:|"]
    lines += [f"| {name} | {kind.tried:,} | {kind.tried - len(kind.bad):,} |" for name, kind in sorted(KINDS.items())]
    tried, bad = sum(kind.tried for kind in KINDS.values()), sum(len(kind.bad) for kind in KINDS.values())
    return "\n".join([*lines, f"| **all** | **{tried:,}** | **{tried - bad:,}** |"])
