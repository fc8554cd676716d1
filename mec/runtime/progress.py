"""What a person sees while training runs: a bar with time left, and figures as they come."""

import time
from typing import Any

from rich import console as rich_console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from mec.errors import plain

LINE_EVERY = 15.0  # seconds, where the output is not a terminal


class Console(rich_console.Console):
    """rich's, which prints names as they are: no control character of theirs passes, no bracket is a tag."""

    def __init__(self, **options: Any):
        super().__init__(markup=False, emoji=False, **options)

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(plain(each) if isinstance(each, str) else each for each in objects), **options)

    def status(self, status: Any, **options: Any) -> Any:
        return super().status(Text(plain(status)), **options)


def say(words: str) -> None:
    """Print a line, in which control characters are spelt out."""
    print(plain(words))


class TrainingProgress:
    """A live bar in a terminal, a line now and then elsewhere, nothing when quiet."""

    def __init__(self, console: Console, steps: int, start: int):
        self.console, self.steps, self.start = console, steps, start
        self.began = self.last_line = time.monotonic()
        self.live = console.is_terminal and not console.quiet
        done = [TextColumn("training"), BarColumn(bar_width=28), MofNCompleteColumn(), TextColumn("steps")]
        times = [TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()]
        figures = TextColumn("{task.fields[figures]}", markup=False)
        self.bar = Progress(*done, *times, figures, console=console, transient=True)
        self.task = self.bar.add_task("training", total=steps, completed=start, figures="")

    def __enter__(self) -> "TrainingProgress":
        if self.live:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.bar.stop()

    def step(self, done: int, figures: str = "") -> None:
        """After `done` steps; figures are shown beside the bar where given."""
        if self.live:
            shown: dict[str, Any] = {"figures": figures} if figures else {}
            self.bar.update(self.task, completed=done, **shown)
        elif figures and time.monotonic() - self.last_line > LINE_EVERY:
            self.last_line = time.monotonic()
            left = (time.monotonic() - self.began) / max(1, done - self.start) * (self.steps - done)
            self.console.print(f"step {done}/{self.steps}, {duration(left)} left, {figures}")

    def shorten(self, steps: int) -> None:
        self.steps = steps
        self.bar.update(self.task, total=steps)

    def say(self, words: str) -> None:
        self.console.print(words, highlight=False)


def duration(seconds: float) -> str:
    """
    >>> duration(75), duration(4000)
    ('1:15', '1:06:40')"""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
