"""One home for what a command and its function take: a frozen dataclass of options, its docstrings the help of both.

The command line parses the dataclass, a function takes it (`takes`), and a caller in Python writes the same words as
keyword arguments. No torch here: the command line reads this before it loads anything heavy.
"""

import functools
import inspect
import textwrap
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar, overload

from tyro.conf import Positional, UseAppendAction, arg

from mec.errors import BadInput, home, nearest
from mec.runtime.ranges import Range

P = ParamSpec("P")
A = TypeVar("A")
B = TypeVar("B")
Options = TypeVar("Options", covariant=True)
R = TypeVar("R")


def as_typed(default: str) -> str:
    """The default of a list as a user types it, for help texts.

    >>> as_typed("['1,5']")
    '(default: 1,5)'"""
    return f"(default: {default.strip('[]').strip(chr(39))})"


DataSet = Annotated[Positional[str], arg(metavar="DATA")]
# Flags that may be left out; what happens then is said in words.
Folder = Annotated[str | Path | None, arg(metavar="DIR", constructor=Path, help_behavior_hint="")]
Place = Annotated[str | Path, arg(metavar="DIR", constructor=Path, help_behavior_hint=as_typed)]
File = Annotated[str | Path | None, arg(metavar="FILE", constructor=Path, help_behavior_hint="")]
Labels = Annotated[str | Path | None, arg(metavar="CSV", constructor=Path, help_behavior_hint="")]
Name = Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")]
Number = Annotated[int | None, arg(metavar="N", help_behavior_hint="")]
Real = Annotated[float | None, arg(metavar="X", help_behavior_hint="")]
Minutes = Annotated[float | None, arg(metavar="MIN", help_behavior_hint="")]
# Lists: with commas on the command line; from Python also one value or a sequence of them.
Names = Annotated[str | Sequence[str], arg(metavar="A,B,...", constructor=str, help_behavior_hint=as_typed)]
Integers = Annotated[str | int | Sequence[int], arg(metavar="N,N,...", constructor=str, help_behavior_hint=as_typed)]
Reals = Annotated[str | float | Sequence[float], arg(metavar="X,X,...", constructor=str, help_behavior_hint=as_typed)]
listed = functools.partial(arg, constructor=str, help_behavior_hint="")
OptionalNames = Annotated[str | Sequence[str] | None, listed(metavar="A,B,...")]
OptionalIntegers = Annotated[str | int | Sequence[int] | None, listed(metavar="N,N,...")]
OptionalReals = Annotated[str | float | Sequence[float] | None, listed(metavar="X,X,...")]
Device = Literal["auto", "cpu", "cuda"]
if TYPE_CHECKING:
    KeyValues = Sequence[str]
else:  # several after each --set, which may be repeated
    PAIRS = arg(metavar="KEY=VALUE ...", help_behavior_hint="")
    KeyValues = Annotated[tuple[tuple[str, ...], ...], UseAppendAction, PAIRS]


def check(options: Any) -> None:
    """Hold the fields of a dataclass to their types: numbers to their `Range`, words to their choices.
    Raises BadInput: repeats the flag and what was given, and says what fits."""
    hints = typing.get_type_hints(type(options), include_extras=True)
    for name in field_names(options):
        value, hint = getattr(options, name), hints[name]
        kinds = [part for kind in (hint, *typing.get_args(hint)) for part in (kind, *typing.get_args(kind))]
        if value is None and type(None) in kinds:
            continue
        choices = [choice for kind in kinds if typing.get_origin(kind) is Literal for choice in typing.get_args(kind)]
        if choices and value not in choices:
            raise BadInput(f"{as_flag(name)} is {value!r}. {nearest(str(value), choices)}")
        for within in getattr(hint, "__metadata__", ()):
            if isinstance(within, Range):
                numbers = integers if within.kind is int else reals
                several = numbers(value, as_flag(name)) if str in kinds else [value]
                if not all(map(within.fits, several)):
                    raise BadInput(f"{as_flag(name)} is {value}: {within}.")


def as_flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


class Lift(Protocol[P, Options]):
    """What `takes` gives: for functions of options alone, and of one or two things beside them."""

    @overload
    def __call__(self, function: Callable[[Options], R], /) -> Callable[P, R]: ...
    @overload
    def __call__(self, function: Callable[[A, Options], R], /) -> Callable[Concatenate[A, P], R]: ...
    @overload
    def __call__(self, function: Callable[[A, B, Options], R], /) -> Callable[Concatenate[A, B, P], R]: ...


def takes(options: Callable[P, Options]) -> Lift[P, Options]:
    """A function whose last parameter is a dataclass of options, called with the dataclass's fields as keywords.

    The options are checked before the function is entered: by their types, and by a method `check` of their own.
    Its docstring has an entry for each of them where it says {options}, in the words that `--help` has.
    """
    made: Any = options

    def lifted(function: Callable[..., Any]) -> Any:
        first = list(inspect.signature(function).parameters)[:-1]

        @functools.wraps(function)
        def called(*given: Any, **flags: Any) -> Any:
            named = {name: flags.pop(name) for name in first[len(given) :] if name in flags}
            refuse_unknown(function.__name__, flags, field_names(options))
            asked = made(**{name: home(value) for name, value in flags.items()})
            check(asked)
            getattr(asked, "check", lambda: None)()
            named = {name: home(value) for name, value in named.items()}
            return function(*map(home, given), **named, options=asked)

        called.__doc__ = (inspect.getdoc(function) or "").replace("{options}", "\n".join(described(options)))
        return called

    return lifted


def refuse_unknown(function: str, flags: Iterable[str], known: Sequence[str]) -> None:
    """
    Raises TypeError: a keyword that the function does not take, with the nearest one that it does."""
    for name in flags:
        if name not in known:
            raise TypeError(f"{function}() takes no {name!r}. {nearest(name, known)}")


def field_names(options: Any) -> list[str]:
    return [field.name for field in fields(options)]


def described(options: Any) -> list[str]:
    """An entry of a docstring's Args for each field: name and help text, wrapped."""
    from docstring_parser import parse_from_object

    hints = typing.get_type_hints(options, include_extras=True)
    # Help that is made from a table stands in the field's type, not in a docstring.
    marks = {name: getattr(hints[name], "__metadata__", ()) for name in field_names(options)}
    words = {name: next((mark.help for mark in marks[name] if getattr(mark, "help", None)), "") for name in marks}
    words |= {entry.arg_name: entry.description for entry in parse_from_object(options).params if entry.description}
    wrapped = textwrap.TextWrapper(116, initial_indent=" " * 4, subsequent_indent=" " * 8, break_on_hyphens=False)
    return [wrapped.fill(" ".join([f"{name}:", *words[name].split()])) for name in marks]


def flat(values: Sequence[str] | Sequence[Sequence[str]]) -> tuple[str, ...]:
    """The texts of a list, or of lists in it."""
    return tuple(word for value in values for word in ([value] if isinstance(value, str) else value))


def names(value: str | Sequence[str], flag: str) -> list[str]:
    """Of a text with commas between, or of a list."""
    parts = [part.strip() for part in (value.split(",") if isinstance(value, str) else value)]
    if not all(parts):
        raise BadInput(f"{flag} is {value!r}: names with commas between, none of them empty.")
    return parts


def integers(value: str | int | Sequence[int], flag: str) -> list[int]:
    """Of a text with commas between, a number or a list."""
    return _numbers(value, flag, int, "whole numbers with commas between, for example 1,5")


def reals(value: str | float | Sequence[float], flag: str) -> list[float]:
    """As `integers`."""
    return _numbers(value, flag, float, "numbers with commas between, for example 0.001,0.1")


def _numbers(value: Any, flag: str, kind: type, fits: str) -> list[Any]:
    parts = value.split(",") if isinstance(value, str) else [value] if isinstance(value, (int, float)) else value
    try:
        found = [kind(part) for part in parts]
    except (TypeError, ValueError):
        found = []
    same = [number == (kind(part) if isinstance(part, str) else part) for part, number in zip(parts, found)]
    if not found or not all(same):  # a NaN equals nothing
        raise BadInput(f"{flag} is {value!r}: {fits}.")
    return found
