"""Processes that start in moments: forked from one that has imported all that the tests import, and has run none of it.

Where a test is about what a process imports or compiles, it starts an interpreter instead (`helpers.command`).
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing import forkserver, resource_tracker, util
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")


def open_server() -> None:
    """Between the collection of tests and the first that runs: Python's server of forks, here a fork itself."""
    resource_tracker.ensure_running()  # a helper of the server's: an interpreter of its own
    start, util.spawnv_passfds = util.spawnv_passfds, _server
    try:
        forkserver.ensure_running()
    finally:
        util.spawnv_passfds = start


def _server(path: str, words: list[str], kept: list[int]) -> int:
    """What `python -c CODE` would do, in a fork of this process that has no open files but those to keep."""
    if child := os.fork():
        return child
    try:
        for number in map(int, os.listdir("/dev/fd")):
            if number > 2 and number not in kept:
                with contextlib.suppress(OSError):  # of the listing itself
                    os.close(number)
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(nothing, number)
        sys.stdin, sys.stdout, sys.stderr = (open(n, "w" if n else "r", closefd=False) for n in range(3))  # noqa: SIM115
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        forkserver._forkserver.__init__()  # its lock is held here
        gc.enable()
        exec(words[-1], {})
    finally:
        os._exit(0)


class Forked(CONTEXT.Process):
    """work(*arguments) in a process of its own, in a folder; what it says is in files there."""

    def __init__(
        self, work: Callable[..., Any], *arguments: Any, folder: Path, session: bool = False, **variables: str | int
    ):
        super().__init__()
        self.work, self.arguments, self.folder, self.session = work, arguments, folder, session
        self.variables = {"COLUMNS": "400", **{name: str(value) for name, value in variables.items()}}
        self.said = [folder / f"said-{variables.get('RANK', 0)}-{name}.txt" for name in ("out", "err")]
        for path in self.said:
            path.touch()

    def run(self) -> None:
        multiprocessing.set_start_method(None, force=True)  # its own workers start as those of any program
        os.environ.update(self.variables)
        if self.session:
            os.setsid()
        os.chdir(self.folder)
        for number, path in enumerate(self.said, 1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_TRUNC), number)
        sys.exit(self.work(*self.arguments))

    def poll(self) -> int | None:
        return self.exitcode

    def communicate(self, timeout: float = 60) -> tuple[str, str]:
        """What it has said at its end."""
        self.join(timeout)
        if self.is_alive():
            self.kill()
            self.join()
        out, err = (path.read_text() for path in self.said)
        return out, err


def mec(*words: str | Path) -> int:
    """The command."""
    from mec.cli.main import main

    return main([*map(str, words)])


def program(code: str, words: tuple[str, ...], path: Path | None) -> None:
    """`python -c CODE WORDS`, to which the package, perhaps another one at a path, is new, and what it uses is not."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "mec"]:
        del sys.modules[name]
    if path:
        sys.path.insert(0, str(path))
    sys.argv = ["-c", *words]
    exec(code, {"__name__": "__main__"})


def printed(code: str, *words: str, folder: Path, path: Path | None = None) -> str:
    """What a program that ends well prints."""
    process = Forked(program, code, words, path, folder=folder)
    process.start()
    out, err = process.communicate(120)
    assert process.exitcode == 0, err
    return out
