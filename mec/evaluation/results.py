"""A result is a named number with where it came from; results.jsonl holds one per line."""

import datetime
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mec.runtime.files import as_drawn, write_figure, write_json
from mec.runtime.records import append_records
from mec.version import __version__

RESULTS = "results.jsonl"
CONFUSION = "confusion"  # folder beside it

TELLING = (  # settings that are printed beside a figure
    *("labels_per_class", "k", "preset", "labels", "set", "stage", "head", "mode", "epoch", "lr", "part"),
    *("detections", "motion", "crops", "train"),
)


@dataclass(frozen=True)
class Confusion:
    """counts [c, c] of images: row their class, column what they were taken for; and the names of the classes."""

    counts: np.ndarray
    classes: tuple[str, ...]

    @classmethod
    def of(cls, predicted: np.ndarray, labels: np.ndarray, classes: Sequence[str] = ()) -> "Confusion":
        """Of predictions [n] and labels [n]; classes without a name go by their number."""
        size = max(int(max(predicted.max(), labels.max())) + 1, len(classes))
        return cls(np.bincount(labels * size + predicted, minlength=size * size).reshape(size, size), ()).named(classes)

    def named(self, classes: Sequence[str]) -> "Confusion":
        """With the classes' names, among them those that no image has."""
        size = max(len(self.counts), len(classes))
        counts = np.pad(self.counts, (0, size - len(self.counts)))
        return Confusion(counts, (*classes, *map(str, range(len(classes), size))))

    def record(self) -> dict[str, Any]:
        """By class: images, recall and precision (%; None where there is nothing to count), and the matrix."""
        right = np.diag(self.counts)
        shares = [[100 * r / n if n else None for r, n in zip(right.tolist(), self.counts.sum(axis).tolist())]
                  for axis in (1, 0)]  # fmt: skip
        return {
            "classes": self.classes, "images": self.counts.sum(1).tolist(), "recall": shares[0],
            "precision": shares[1], "matrix": self.counts.tolist(),
        }  # fmt: skip


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
    split: str = "test"  # the part that was measured on, as its folder is called
    encoder: str = ""  # a method, "untrained", "pixels", or a name
    seed: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: str = ""  # hash of the encoder's file
    data_fingerprint: str = ""
    version: str = __version__
    time: str = ""
    images: int | None = None  # that it was measured on
    interval: tuple[float, float] | None = None  # 95 %, in the unit of the value: another such set of images
    largest_class: float | None = None  # share (%) of the images: what one gets who always says the same
    told: tuple[str, ...] = ()  # of the data: what was left out by reason, and what else there is to know
    confusion: Confusion | None = field(default=None, compare=False, repr=False)  # in a file of its own

    def __str__(self) -> str:
        spread = "" if self.spread is None else f" ± {self.spread:.1f}"
        return f"{self.protocol} {self.metric}: {self.value:.1f}{spread} {self.unit}"

    def line(self) -> str:
        """In words, with the settings that distinguish it from other results of its protocol."""
        words = [] if self.images is None else [f"{self.images:,} images of {self.split}"]
        words += [] if self.largest_class is None else [f"largest class {self.largest_class:.1f} %"]
        words += [f"{key.replace('_', ' ')} {self.settings[key]}" for key in TELLING if key in self.settings]
        known = "" if self.interval is None else " (95 %: {:.1f} to {:.1f})".format(*self.interval)
        return ", ".join([str(self) + known, *words, *([f"n {self.n}"] if self.n > 1 else [])])


def recipe_settings(recipe: Any) -> dict[str, Any]:
    """A recipe's fields as a result's settings keep them: without empty ones."""
    return {name: value for name, value in asdict(recipe).items() if value not in (None, ())}


def labelled(results: Iterable[Result], **where: Any) -> list[Result]:
    """The results with what the protocol could not know: data, encoder, checkpoint, ..."""
    return [replace(result, **where) for result in results]


def named(results: Iterable[Result], classes: Sequence[str]) -> list[Result]:
    """The results, their confusion matrices with the names of the classes."""
    return [replace(r, confusion=None if r.confusion is None else r.confusion.named(classes)) for r in results]


def as_records(results: Iterable[Result]) -> list[dict[str, Any]]:
    """What results.jsonl holds of them; with the time where they have none."""
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    found = [asdict(replace(result, time=result.time or now, confusion=None)) for result in results]
    return [{name: value for name, value in each.items() if name != "confusion"} for each in found]


def record(folder: Path, results: Iterable[Result]) -> None:
    """Append to the folder's results.jsonl; confusion matrices are written to its confusion/."""
    results = list(results)
    append_records(folder / RESULTS, as_records(results))
    for result in results:
        if result.confusion is not None:
            write_confusion(folder / CONFUSION, result, result.confusion)


def write_confusion(folder: Path, result: Result, confusion: Confusion) -> None:
    """NAME.json and NAME.png of a result: figures by class, and who was taken for whom."""
    words = [f"{key}-{result.settings[key]}" for key in TELLING if key in result.settings]
    words = [result.protocol, *words, Path(result.data).name, result.split]
    name = re.sub(r"[^\w.-]+", "-", "-".join(filter(None, words)))
    about = {key: getattr(result, key) for key in ("protocol", "encoder", "data", "split", "value", "settings")}
    write_json(folder / f"{name}.json", {**about, **confusion.record()})
    write_figure(confusion_figure(confusion, f"{result}, {result.data} {result.split}"), folder / f"{name}.png")


def confusion_figure(confusion: Confusion, title: str) -> Any:
    """A matplotlib figure: the share of each class's images that were taken for each class, with counts where few."""
    from matplotlib.figure import Figure

    size = len(confusion.classes)
    side = 2.2 + min(0.45 * size, 14.0)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axis = figure.subplots()
    totals = confusion.counts.sum(1, keepdims=True)
    shares = 100 * confusion.counts / np.maximum(totals, 1)
    shown = axis.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    names = [as_drawn(name if len(name) <= 24 else name[:23] + "…") for name in confusion.classes]
    font = 8 if size <= 40 else 4
    axis.set_xticks(range(size), names, rotation=90, fontsize=font)
    axis.set_yticks(range(size), [f"{name} ({n})" for name, n in zip(names, totals[:, 0])], fontsize=font)
    axis.set(xlabel="taken for", ylabel="class (images)")
    axis.set_title(as_drawn(title), fontsize=9, wrap=True)
    if size <= 20:
        for (row, column), count in np.ndenumerate(confusion.counts):
            if count:
                shade = "white" if shares[row, column] > 60 else "black"
                axis.text(column, row, str(count), ha="center", va="center", fontsize=7, color=shade)
    figure.colorbar(shown, label="% of the class", shrink=0.8)
    return figure
