"""Values from text, JSON and files held against the type hints of dataclasses. No torch here."""

import contextlib
import dataclasses
import functools
import numbers
import re
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mec.errors import BadInput, nearest
from mec.version import __version__

T = TypeVar("T")


# The type hint of each field of a dataclass, ranges with it; found once for each.
hints_of: Callable[[Any], dict[str, Any]] = functools.cache(functools.partial(get_type_hints, include_extras=True))


class Checked:
    """Base of dataclasses whose fields are held against their hints when one is made; `key` says where it stands."""

    key = ""

    def __post_init__(self) -> None:
        for name, hint in hints_of(type(self)).items():
            fitted(getattr(self, name), hint, f"{self.key}.{name}".lstrip("."))


def fitted(value: Any, hint: Any, key: str, passed_over: list[str] | None = None) -> Any:
    """The value as the type hint wants it (a list as a tuple, a dict as a dataclass), or an error naming the key.
    Fields that a dataclass does not have are an error, or, where a list is given for them, go there and are left out.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        with contextlib.suppress(BadInput):  # told below, with the range
            found = fitted(value, arguments[0], key)
            if arguments[1].fits(found):
                return found
    elif origin in (Union, types.UnionType):
        for option in arguments:
            try:
                return fitted(value, option, key, passed_over)
            except BadInput:
                continue
    elif origin is Literal:
        if value in arguments:
            return value
    elif origin is tuple:
        if isinstance(value, (list, tuple)):
            variadic = len(arguments) == 2 and arguments[1] is Ellipsis
            hints = [arguments[0]] * len(value) if variadic else arguments
            if len(hints) == len(value):
                return tuple(fitted(v, h, key, passed_over) for v, h in zip(value, hints))
    elif origin is not None and issubclass(origin, Mapping):
        if isinstance(value, Mapping):
            return {k: fitted(v, arguments[1], f"{key}.{k}", passed_over) for k, v in value.items()}
    elif origin is not None and issubclass(origin, Sequence):
        if isinstance(value, (list, tuple)):
            return [fitted(v, arguments[0], key, passed_over) for v in value]
    elif dataclasses.is_dataclass(hint):
        kind_of: Any = hint
        if isinstance(value, kind_of):
            return value
        if isinstance(value, Mapping):
            return from_dict(kind_of, value, key, passed_over)
    elif hint is float:
        if isinstance(value, numbers.Real) and not isinstance(value, bool):
            with contextlib.suppress(OverflowError):
                return float(value)
    elif hint is int:
        if isinstance(value, numbers.Integral) and not isinstance(value, bool):
            return int(value)
    elif hint is type(None):
        if value is None:
            return None
    elif hint is Any or isinstance(value, hint):
        return value
    raise BadInput(f"{key} is {value!r}: it takes {in_words(hint)}.")


def in_words(hint: Any) -> str:
    """A type hint as a reader writes it.

    >>> in_words(int | Literal["all"] | None)
    "a whole number | 'all' | None"
    >>> in_words(tuple[int, ...]), in_words(tuple[float, str])
    ('[a whole number, ...]', '[a number, a text]')"""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return str(arguments[1])
    if origin in (Union, types.UnionType):
        return " | ".join(in_words(option) for option in arguments)
    if origin is Literal:
        return " | ".join(repr(option) for option in arguments)
    if origin is tuple:  # as JSON has it
        return f"[{', '.join('...' if option is Ellipsis else in_words(option) for option in arguments)}]"
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "None"}
    return words.get(hint, getattr(hint, "__name__", str(hint)))


def from_yaml(path: Path) -> dict[str, Any]:
    """What a table of this package holds; nothing but plain data is made of it."""
    import yaml

    found: dict[str, Any] = yaml.load(path.read_text("utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return found


def from_dict(kind: type[T], values: Mapping[str, Any], key: str = "", passed_over: list[str] | None = None) -> T:
    """A dataclass from what `dataclasses.asdict` and JSON made of it; fields that are missing take their defaults.

    `key` says where the values stand, for errors; `passed_over` gets the keys that the dataclass does not have.

    Raises BadInput: a key that is not known (but for `passed_over`), a value that does not fit, or one missing."""
    hints, start = hints_of(kind), f"{key}." if key else ""
    unknown = [name for name in values if name not in hints]
    if unknown and passed_over is None:
        raise BadInput(f"{key or kind.__name__} has no {unknown[0]!r}. {nearest(unknown[0], hints)}")
    if passed_over is not None:
        passed_over += [start + name for name in unknown]
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if field.name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise BadInput(f"{start}{field.name} is missing, and has no default.")
    known = {name: value for name, value in values.items() if name in hints}
    return kind(**{name: fitted(value, hints[name], start + name, passed_over) for name, value in known.items()})


def from_file(kind: type[T], values: Any, path: object) -> T:
    """A dataclass from what a file of some version holds: what is not known is passed over, and a warning names it.
    Raises BadInput: not the fields of this dataclass, or values that do not fit; says if a newer version wrote them."""
    if not isinstance(values, Mapping):
        raise BadInput(f"{path}: holds {type(values).__name__}, not named values: not written by mec, or damaged.")
    passed_over: list[str] = []
    written = str(values.get("version", ""))
    is_newer = numbered(written) > numbered(__version__)
    newer = f"written by mec {written}, newer than this {__version__}" if is_newer else ""
    try:
        found = from_dict(kind, values, passed_over=passed_over)
    except BadInput as error:
        raise BadInput(f"{path}: {error}" + f" It was {newer}." * bool(newer)) from error
    told = [newer] * bool(newer) + [f"not known here, and passed over: {', '.join(passed_over)}"] * bool(passed_over)
    if told:
        warnings.warn(f"{path}: {'; '.join(told)}.", stacklevel=3)
    return found


def numbered(version: str) -> tuple[int, ...]:
    """A version as numbers that compare.

    >>> numbered("0.10.1.dev3") > numbered("0.9")
    True"""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
