"""Videos, objects tracked by frozen features"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from tyro.conf import arg

from mec.errors import BadInput
from mec.evaluation.protocol import Protocol
from mec.runtime.flags import Folder, Name, OptionalNames, Place, field_names, names
from mec.runtime.progress import say
from mec.runtime.ranges import FROM_1

if TYPE_CHECKING:
    from mec.evaluation.results import Result
    from mec.evaluation.subject import Subject

Stages = Literal["3", "4", "both"]
WhichHead = Literal["xcorr", "dcf", "both"]
Modes = Literal["clean", "unitrack"]
Video = Annotated[Literal["mp4", "gif"] | None, arg(metavar="{mp4,gif}", help_behavior_hint="")]


@dataclass(frozen=True, kw_only=True)
class Tracking(Protocol):
    """What protocols take that follow objects through videos by frozen features.

    `measure` reads and checks the data when it is called; what takes long comes with the results."""

    mark: ClassVar[str]  # what tells the benchmark's folder
    shared: ClassVar[bool] = True  # by sequences

    data_root: Place
    """Folder of the benchmark, in its published layout."""
    stage: Stages = "both"
    """The last stage of the ResNet that is kept; both gives results of each."""
    sequences: OptionalNames = None
    """Sequences to track. Default: all."""
    batch_size: Annotated[int, FROM_1] = 8
    """Frames or crops that go through the encoder together."""
    video: Video = None
    """Also draw the tracks over the frames: a file for each sequence, beside the result files."""

    def names(self) -> tuple[str, ...]:
        return () if self.sequences is None else tuple(names(self.sequences, "--sequences"))


@dataclass(frozen=True, kw_only=True)
class Sot(Tracking):
    """One object per video, followed from its first box: OTB-2015, AUC of success and precision at 20 px."""

    mark = "OTB2015.json"

    head: WhichHead = "both"
    """xcorr: cross-correlation with the first frame. dcf: a correlation filter that is updated."""
    mode: Modes = "clean"
    """unitrack repeats the known errors of UniTrack's released code, to compare with its published figures."""

    def measure(self, subject: "Subject") -> "Iterable[Result]":
        from mec.evaluation.tracking.sot import measure_sot

        return measure_sot(subject, self)


@dataclass(frozen=True, kw_only=True)
class Vos(Tracking):
    """Masks of the first frame propagated through a video: DAVIS-2017, region similarity J and boundary accuracy F."""

    mark = "ImageSets/2017/*.txt"
    cache: Folder = None
    """Folder in which feature maps are kept and found again (6 to 50 MB a frame at 480p)."""

    def measure(self, subject: "Subject") -> "Iterable[Result]":
        from mec.evaluation.tracking.vos import measure_vos

        return measure_vos(subject, self)


@dataclass(frozen=True, kw_only=True)
class Association(Tracking):
    """What protocols take that link given detections to tracks."""

    detections: Name = None
    """A name in obs/, det (each sequence's det/det.txt), gt (the ground truth), or a folder. Default: the only ones
    there."""
    motion: bool = False
    """Add the Kalman filter's Mahalanobis distance to the matching cost; the filter predicts boxes in any case."""
    mode: Modes = "clean"
    """unitrack repeats the known errors of UniTrack's released code, to compare with its published figures."""
    split: str = "train"
    """Split of the benchmark; train has a public ground truth."""
    batch_size: Annotated[int, FROM_1] = 1
    """Frames that go through the encoder together."""
    cache: Folder = None
    """Folder in which feature maps are kept and found again (10 to 60 MB a frame)."""

    def measure(self, subject: "Subject") -> "Iterable[Result]":
        from mec.evaluation.tracking.mot import MotBenchmark, MotsBenchmark
        from mec.evaluation.tracking.multiobject import Benchmark, measure_tracks
        from mec.evaluation.tracking.posetrack import PoseTrackBenchmark

        makes: dict[type, type[Benchmark]] = {Mot: MotBenchmark, Mots: MotsBenchmark, PoseTrack: PoseTrackBenchmark}
        return measure_tracks(makes[type(self)], subject, self)


@dataclass(frozen=True, kw_only=True)
class Mot(Association):
    """Many people as boxes: MOT16, IDF1, HOTA and MOTA."""

    mark = "images/*/MOT16-*"


@dataclass(frozen=True, kw_only=True)
class Mots(Association):
    """Many people as masks: MOTS20, IDF1, HOTA, sMOTA and MOTA."""

    mark = "images/*/MOTS20-*"


@dataclass(frozen=True, kw_only=True)
class PoseTrack(Association):
    """Many people as poses: PoseTrack 2017 or 2018, IDF1, MOTA and switches over joints."""

    mark = "posetrack_data/annotations/*/*.json"
    split: str = "val"
    """Split of the benchmark; val has a public ground truth."""


BENCHMARKS: dict[str, type[Tracking]] = {"sot": Sot, "vos": Vos, "mot": Mot, "mots": Mots, "posetrack": PoseTrack}


@dataclass(frozen=True, kw_only=True)
class Videos(Protocol):
    """All of sot, vos, mot, mots and posetrack whose data is there, each with its only detections."""

    shared: ClassVar[bool] = True
    data_root: Place
    """A folder with a benchmark's folders in it, each in its published layout; or one of these."""
    stage: Stages = "both"
    """The last stage of the ResNet that is kept; both gives results of each."""
    head: WhichHead = "both"
    """For sot. xcorr: cross-correlation with the first frame. dcf: a correlation filter that is updated."""
    mode: Modes = "clean"
    """unitrack repeats the known errors of UniTrack's released code, to compare with its published figures."""
    motion: bool = False
    """For mot, mots and posetrack: add the Kalman filter's Mahalanobis distance to the matching cost."""
    video: Video = None
    """Also draw the tracks over the frames."""

    def measure(self, subject: "Subject") -> "Iterable[Result]":
        places = benchmarks_in(Path(self.data_root))
        absent = [word for word in BENCHMARKS if word not in places]
        say(f"Found {', '.join(f'{word} in {place}' for word, place in places.items())}.")
        if absent:
            say(f"No data for {', '.join(absent)}: left out.")
        yield from chain.from_iterable(self.checked(subject, places))

    def checked(self, subject: "Subject", places: dict[str, Path]) -> "list[Iterable[Result]]":
        """The runs, before the first takes its hours; those that cannot run are named, and refused where none can."""
        runs, complaints = [], []
        for word, place in places.items():
            known = {*field_names(BENCHMARKS[word])} & {"stage", "head", "mode", "motion", "video"}
            flags: dict[str, Any] = {name: getattr(self, name) for name in known}
            try:
                runs.append(BENCHMARKS[word](data_root=place, **flags).measure(subject))
            except (BadInput, FileNotFoundError) as error:
                by_itself = f"By itself, with all of its flags: mec evaluate RUN {word} --data-root {place}"
                complaints.append(f"{word} is left out: {error} {by_itself}")
        if not runs:
            raise BadInput("\n".join(complaints))
        for words in complaints:
            say(words)
        return runs


def benchmarks_in(root: Path) -> dict[str, Path]:
    """Folders of tracking benchmarks by the protocol's word: the root itself, or one of the folders in it.
    Raises BadInput: none, or two of one kind."""
    marks = {word: kind.mark for word, kind in BENCHMARKS.items()}
    folders = [root, *sorted(p for p in root.glob("*") if p.is_dir())]
    found = {word: [folder for folder in folders if any(folder.glob(mark))] for word, mark in marks.items()}
    for word, places in found.items():
        if len(places) > 1:
            raise BadInput(f"{places[0]} and {places[1]} both have data for {word}: give --data-root one of them.")
    if not any(found.values()):
        known = ", ".join(f"{mark} ({word})" for word, mark in marks.items())
        raise BadInput(f"{root}: no tracking benchmark in it or in its folders. One of these would tell: {known}.")
    return {word: places[0] for word, places in found.items() if places}


PROTOCOLS: dict[str, type[Protocol]] = {**BENCHMARKS, "tracking": Videos}
