"""What a user can do wrong, told apart from what the program did wrong."""

import difflib
from collections.abc import Iterable


class BadInput(ValueError):
    """Something the caller gave does not fit. The message repeats it, says what fits and what to do."""


class TrainingStopped(RuntimeError):
    """Training ended before its last step; what was saved, and what to do next, is in the message."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A half-sentence that names the likeliest known word, or all of them.

    >>> nearest("optimzer", ["optimizer", "views"])
    "Did you mean 'optimizer'?"
    >>> nearest("x", ["optimizer", "views"])
    'Known: optimizer, views.'
    """
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1)
    return f"Did you mean '{close[0]}'?" if close else f"Known: {', '.join(known)}."
