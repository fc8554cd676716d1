"""A result is a named number with where it came from; results.jsonl holds one per line."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mec.runtime.records import append_records
from mec.version import __version__

RESULTS = "results.jsonl"

TELLING = (  # settings that are printed beside a figure
    *("labels_per_class", "k", "preset", "labels", "set", "stage", "head", "mode", "epoch", "lr", "part"),
    *("detections", "motion"),
)


@dataclass(frozen=True)
class Result:
    """One figure. `spread` is the sample standard deviation over `n` draws or runs; None where n is 1."""

    protocol: str  # the command's word
    metric: str
    value: float
    unit: str = "%"
    spread: float | None = None
    n: int = 1
    data: str = ""
    split: str = "test"
    encoder: str = ""  # a method, "untrained", "pixels", or a name
    seed: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: str = ""  # hash of the encoder's file
    data_fingerprint: str = ""
    version: str = __version__
    time: str = ""

    def __str__(self) -> str:
        spread = "" if self.spread is None else f" ± {self.spread:.1f}"
        return f"{self.protocol} {self.metric}: {self.value:.1f}{spread} {self.unit}"

    def line(self) -> str:
        """In words, with the settings that distinguish it from other results of its protocol."""
        words = [f"{key.replace('_', ' ')} {self.settings[key]}" for key in TELLING if key in self.settings]
        return ", ".join([str(self), *words, *([f"n {self.n}"] if self.n > 1 else [])])


def recipe_settings(recipe: Any) -> dict[str, Any]:
    """A recipe's fields as a result's settings keep them: without empty ones."""
    return {name: value for name, value in asdict(recipe).items() if value not in (None, ())}


def labelled(results: Iterable[Result], **where: Any) -> list[Result]:
    """The results with what the protocol could not know: data, encoder, checkpoint, ..."""
    return [replace(result, **where) for result in results]


def as_records(results: Iterable[Result]) -> list[dict[str, Any]]:
    """What results.jsonl holds of them; with the time where they have none."""
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return [asdict(replace(result, time=result.time or now)) for result in results]


def record(folder: Path, results: Iterable[Result]) -> None:
    """Append to the folder's results.jsonl."""
    append_records(folder / RESULTS, as_records(results))
