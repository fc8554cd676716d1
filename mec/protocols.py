"""`mec evaluate RUN PROTOCOL ...`: every protocol's flags and the function it calls, in one table.

No torch here: the command line reads this before it loads anything heavy. A protocol is a frozen dataclass whose fields
are its flags and whose `measure` takes a `mec.evaluate.subject.Subject` and gives results, one by one or all at once;
they are printed and stored as they come. To add one: write the dataclass, and a row of PROTOCOLS.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from mec.errors import BadInput

if TYPE_CHECKING:
    from mec.data import Data
    from mec.evaluate.multiobject import Benchmark
    from mec.evaluate.subject import Subject
    from mec.results import Result


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What every protocol takes."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the encoder runs."""
    out: Path | None = None
    """Folder for results.jsonl and cached features. Default: RUN, or runs/NAME for what is no run folder."""
    image_size: int | None = None
    """Side of the images the encoder gets, px. Default: what it was trained on; 224 where that is unknown."""
    workers: int = 0
    """Processes that decode images."""

    def measure(self, subject: Subject) -> Iterable[Result]:
        """Results that name their data; encoder, checkpoint and time are added by the caller."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class OnLabels(Protocol):
    """What protocols take that learn from one labelled data set and test on its other part."""

    data: Positional[str]
    """digits, a data set's name, or a folder with train/CLASS/ and val|test/CLASS/."""
    data_root: Path | None = None
    """Where a torchvision data set's files are; imagenet reads DIR/train and DIR/val."""
    download: bool = False
    """Fetch a torchvision data set from its own home."""
    limit: int | None = None
    """Use this many training images, for a quick look."""

    def open(self) -> Data:
        """The data set, which has labels on both sides.

        Raises:
            BadInput: it is not there, or has no labels.
        """
        from mec.data import open_data

        data = open_data(self.data, root=self.data_root, download=self.download, limit=self.limit)
        if not data.can_be_measured:
            raise BadInput(
                f"{self.data} has no labels to measure with: it needs folders train/CLASS/, and val/CLASS/ or "
                "test/CLASS/."
            )
        return data

    def results(self, data: Data, found: Iterable[Result]) -> list[Result]:
        """The results with the data they were measured on, and how much of it."""
        from mec.results import labelled

        return labelled(found, data=data.name, data_fingerprint=data.fingerprint)


@dataclass(frozen=True, kw_only=True)
class FewShot(OnLabels):
    """Logistic regression on a few labels a class, over seeded draws: mean and spread."""

    labels_per_class: str = "1,5"
    """Numbers of labels, with commas."""
    draws: int = 20
    """Random draws of the labelled images."""
    seed: int = 0
    """Of the draws."""

    def measure(self, subject: Subject) -> list[Result]:
        numbers = whole_numbers(self.labels_per_class, "--labels-per-class")
        from mec.evaluate import fewshot

        data = self.open()
        train, test = subject.both(data)
        found = fewshot(train, test, labels_per_class=numbers, draws=self.draws, seed=self.seed)
        return self.results(data, found)


@dataclass(frozen=True, kw_only=True)
class Knn(OnLabels):
    """The cosine-weighted vote of the k nearest training images."""

    k: int = 20
    """Neighbours."""
    temperature: float = 0.07
    """A neighbour weighs exp(cosine / temperature)."""

    def measure(self, subject: Subject) -> list[Result]:
        from mec.evaluate import knn

        data = self.open()
        return self.results(data, knn(*subject.both(data), k=self.k, temperature=self.temperature))


@dataclass(frozen=True, kw_only=True)
class Linear(OnLabels):
    """Logistic regression on frozen features, without augmentation; the penalty chosen on held-out training images."""

    seed: int = 0
    """Of the held-out part."""

    def measure(self, subject: Subject) -> list[Result]:
        from mec.evaluate import linear

        data = self.open()
        return self.results(data, linear(*subject.both(data), seed=self.seed))


@dataclass(frozen=True, kw_only=True)
class Tracking(Protocol):
    """What protocols take that follow objects through videos by frozen features."""

    data_root: Path
    """Folder of the benchmark, in its published layout."""
    stage: Literal["3", "4", "both"] = "both"
    """The last stage of the ResNet that is kept; both gives results of each."""
    sequences: str = ""
    """Names with commas. Default: all."""
    batch_size: int = 8
    """Frames or crops that go through the encoder together."""
    video: Literal["mp4", "gif"] | None = None
    """Also draw what was found over the frames, a file a sequence beside the result files."""

    def names(self) -> tuple[str, ...]:
        if self.batch_size < 1:
            raise BadInput(f"--batch-size is {self.batch_size}: at least 1.")
        return tuple(name.strip() for name in self.sequences.split(",") if name.strip())


@dataclass(frozen=True, kw_only=True)
class Sot(Tracking):
    """One object a video, followed from its first box: OTB-2015, AUC of success and precision at 20 px."""

    head: Literal["xcorr", "dcf", "both"] = "both"
    """Cross-correlation with the first frame, or a correlation filter that learns."""
    mode: Literal["clean", "unitrack"] = "clean"
    """unitrack keeps that code's slips, to compare with its figures."""

    def measure(self, subject: Subject) -> Iterable[Result]:
        from mec.evaluate.sot import measure

        heads = ("xcorr", "dcf") if self.head == "both" else (self.head,)
        yield from measure(
            subject,
            self.data_root,
            stage=self.stage,
            heads=heads,
            mode=self.mode,
            names=self.names(),
            batch_size=self.batch_size,
            video=self.video,
        )


@dataclass(frozen=True, kw_only=True)
class Vos(Tracking):
    """Masks of the first frame carried through a video: DAVIS-2017, mean overlap J and boundary accuracy F."""

    cache: Path | None = None
    """Folder to keep feature maps in (6 to 50 MB a frame at 480p), and to find them in."""

    def measure(self, subject: Subject) -> Iterable[Result]:
        from mec.evaluate.vos import measure

        yield from measure(
            subject,
            self.data_root,
            stage=self.stage,
            names=self.names(),
            batch_size=self.batch_size,
            cache=self.cache,
            video=self.video,
        )


@dataclass(frozen=True, kw_only=True)
class Association(Tracking):
    """What protocols take that join given detections to tracks."""

    detections: str | None = None
    """A name in obs/, det (each sequence's det/det.txt), gt (the truth), or a folder. Default: the only ones there."""
    motion: bool = False
    """Let a Kalman filter's distances count beside appearance; it predicts boxes in any case."""
    mode: Literal["clean", "unitrack"] = "clean"
    """unitrack keeps that code's slips, to compare with its figures."""
    split: str = "train"
    """Of the benchmark; train has a public truth."""
    batch_size: int = 1
    """Frames that go through the encoder together."""
    cache: Path | None = None
    """Keep feature maps in this folder (some 10 to 60 MB a frame), and find them again."""

    def measure(self, subject: Subject) -> Iterable[Result]:
        from mec.evaluate.multiobject import Options, measure

        options = Options(
            split=self.split,
            detections=self.detections,
            motion=self.motion,
            mode=self.mode,
            names=self.names(),
            batch_size=self.batch_size,
            cache=self.cache,
        )
        yield from measure(self.benchmark(), subject, self.data_root, options, stage=self.stage, video=self.video)

    def benchmark(self) -> type[Benchmark]:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Mot(Association):
    """Many people as boxes: MOT16, IDF1, HOTA and MOTA."""

    def benchmark(self) -> type[Benchmark]:
        from mec.evaluate.mot import Mot

        return Mot


@dataclass(frozen=True, kw_only=True)
class Mots(Association):
    """Many people as masks: MOTS20, IDF1, HOTA, sMOTA and MOTA."""

    def benchmark(self) -> type[Benchmark]:
        from mec.evaluate.mots import Mots

        return Mots


@dataclass(frozen=True, kw_only=True)
class PoseTrack(Association):
    """Many people as poses: PoseTrack 2017 or 2018, IDF1, MOTA and switches over joints."""

    split: str = "val"
    """Of the benchmark; val has a public truth."""

    def benchmark(self) -> type[Benchmark]:
        from mec.evaluate.posetrack import PoseTrack

        return PoseTrack


PROTOCOLS: dict[str, type[Protocol]] = {
    "fewshot": FewShot,
    "knn": Knn,
    "linear": Linear,
    "sot": Sot,
    "vos": Vos,
    "mot": Mot,
    "mots": Mots,
    "posetrack": PoseTrack,
}


def whole_numbers(text: str, flag: str) -> list[int]:
    """
    >>> whole_numbers("1,5", "--k")
    [1, 5]
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise BadInput(f"{flag} is {text!r}: whole numbers with commas between, for example 1,5.") from None
