"""What a user can do wrong, told apart from what the program did wrong; and names, as they are meant and shown."""

import difflib
import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def plain(words: str) -> str:
    """Words that a terminal shows as they are: control characters, as a file's name may hold them, are spelt out.

    >>> print(plain("a\\x1b[2Jb.png"))
    a\\x1b[2Jb.png"""
    if words.isprintable():
        return words
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in words)


def home(value: Any) -> Any:
    """A path that begins with ~ from the home folder on, as a shell has it; also after --flag=. Others as they are.

    >>> home("~user"), home("a/~"), home(Path("~/b")) == Path.home() / "b", home("--out=~/b")[:7]
    ('~user', 'a/~', True, '--out=/')"""
    if not isinstance(value, (str, Path)):
        return value
    flag, sign, path = str(value).rpartition("=") if str(value).startswith("--") else ("", "", str(value))
    return type(value)(f"{flag}{sign}{Path.home()}{path[1:]}") if path == "~" or path.startswith("~/") else value


class BadInput(ValueError):
    """Something the caller gave does not fit. The message repeats it, says what fits and what to do."""


class TrainingStopped(RuntimeError):
    """Training ended before its last step; what was saved, and what to do next, is in the message."""


class Diverged(TrainingStopped):
    """The loss (the last one is kept) or its gradient is not finite, or the loss has run away."""

    def __init__(self, message: str, loss: float = float("nan"), step: int = 0, figures: str = "the loss"):
        super().__init__(message)
        self.loss, self.step, self.figures = loss, step, figures


# What code meets in a file whose values are of other types, sizes or depths than it takes.
MALFORMED = (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError)


def nearest(word: str, known: Iterable[str]) -> str:
    """A half-sentence that names the likeliest known word, or all of them.

    >>> nearest("optimzer", ["optimizer", "views"])
    "Did you mean 'optimizer'?"
    >>> nearest("x", ["optimizer", "views"])
    'Known: optimizer, views.'"""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1) or [k for k in known if word and k.startswith(word)][:1]
    if not close and len(word) < 5:  # two letters of three may be wrong
        close = difflib.get_close_matches(word, [k for k in known if k[:1] == word[:1]], n=1, cutoff=0.3)
    return f"Did you mean '{close[0]}'?" if close else f"Known: {', '.join(known)}."


def needs(what: str, extra: str, *modules: str) -> Any:
    """The first of some modules of an extra. Raises BadInput where one is not installed: names it, and the extra."""
    if lacking := [name for name in modules if importlib.util.find_spec(name) is None]:
        raise BadInput(f"{what} needs {' and '.join(lacking)}: pip install 'mec-ssl[{extra}]'.")
    return importlib.import_module(modules[0])


@dataclass(frozen=True)
class Absent:
    """A data set that is not there: its name, where its files are expected, how to get them."""

    name: str
    place: str
    how: str


def absent(sets: Sequence[Absent]) -> BadInput:
    """One message for all data sets that are missing.

    >>> print(absent([Absent("dtd", "data/dtd/dtd", "--download"), Absent("cars", "data/cars", "see docs/data.md")]))
    2 data sets are not there:
      dtd: expected in data/dtd/dtd; --download
      cars: expected in data/cars; see docs/data.md"""
    lines = "".join(f"\n  {each.name}: expected in {each.place}; {each.how}" for each in sets)
    return BadInput(f"{len(sets)} data set{'s are' if len(sets) > 1 else ' is'} not there:{lines}")
