"""The images that a question is about: opened, their features, labels and names, one row each; and CSVs of answers."""

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas
from PIL import Image

from mec.answers.choosing import unit
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
    y: np.ndarray  # [n], -1 where there is no label
    subject: Subject

    def __len__(self) -> int:
        return len(self.x)

    def unit(self) -> np.ndarray:
        return unit(self.x)

    @property
    def names(self) -> tuple[str, ...]:
        return self.source.names

    @property
    def classes(self) -> tuple[str, ...]:
        return self.source.data.classes

    def thumbnail(self, index: int, side: int) -> bytes:
        """A JPEG of at most side x side px. Raises as `Images.read`."""
        image, file = self.source.split.images.read(index), io.BytesIO()
        image.thumbnail((side, side), Image.Resampling.BICUBIC)
        image.save(file, "JPEG", quality=80)
        return file.getvalue()


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
    return Pool(source, found.x.numpy(), found.y.numpy(), subject)


@contextmanager
def reserved(out: Path, *suffixes: str) -> Iterator[None]:
    """Before hours of work: OUT's suffix fits, its folder is there and may be written, and nobody else writes it.
    Raises BadInput."""
    if out.suffix not in suffixes:
        raise BadInput(f"--out is {out}: its name ends with {' or '.join(suffixes)}.")
    if out.is_dir():
        raise BadInput(f"--out is {out}: a folder lies there.")
    with only_one(out):
        yield


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """In UTF-8, whole or not at all."""
    write_text(path, pandas.DataFrame([*rows], columns=[*header]).to_csv(index=False, lineterminator="\n"))
