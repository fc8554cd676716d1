"""The images that a question is about: opened, their features, labels and names, one row each; and CSVs of answers."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mec.answers.options import OnImages
from mec.data.sources import Source, open_images
from mec.errors import BadInput
from mec.evaluation.subject import Subject, resolve
from mec.runtime.files import write_text
from mec.runtime.locks import only_one
from mec.runtime.progress import say


@dataclass(frozen=True)
class Pool:
    """Images that can be read, and what the encoder makes of them: x [n, e] float32, perhaps mapped from disk."""

    source: Source
    x: np.ndarray
    subject: Subject

    def __len__(self) -> int:
        return len(self.x)

    @property
    def y(self) -> np.ndarray:
        """[n], -1 where there is no label."""
        labels = self.source.split.labels
        return np.full(len(self.x), -1) if labels is None else labels

    @property
    def names(self) -> tuple[str, ...]:
        return self.source.names

    @property
    def classes(self) -> tuple[str, ...]:
        return self.source.data.classes

    def unit(self) -> np.ndarray:
        length = np.linalg.norm(self.x, axis=1, keepdims=True)
        return self.x / np.where(length == 0, 1, length)


def gather(run: Any, images: Any, options: OnImages, labels: str | Path | None = None) -> Pool:
    """The pool of what a user names; features are found again in the run's features/, if they were made before.
    Raises BadInput and FileNotFoundError as `open_images` and `resolve`, and where features are not finite."""
    subject = resolve(run, device=options.device, workers=options.workers)
    return of_source(subject, open_images(images, labels, scale=subject.info.scale))


def of_source(subject: Subject, source: Source) -> Pool:
    for words in source.data.words():
        say(words)
    found = subject.features(source.split)
    found.check_finite()
    lost = {image.path for image in found.skipped}
    if lost:
        name = source.split.images.name
        source = source.take(np.array([i for i in range(len(source.names)) if name(i) not in lost], np.int64))
    return Pool(source, found.x.numpy(), subject)


@contextmanager
def reserved(out: Path, *suffixes: str) -> Iterator[None]:
    """Before hours of work: OUT's suffix fits, its folder is there and may be written, and nobody else writes it.
    Raises BadInput."""
    if out.suffix not in suffixes:
        raise BadInput(f"--out is {out}: its name ends with {' or '.join(suffixes)}.")
    if out.is_dir():
        raise BadInput(f"--out is {out}: a folder lies there.")
    out.parent.mkdir(parents=True, exist_ok=True)
    with only_one(out):
        yield


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """In UTF-8, whole or not at all."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())
