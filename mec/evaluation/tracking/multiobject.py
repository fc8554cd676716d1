"""What MOT16, MOTS20 and PoseTrack share: options, time keeping, choice of detections, and the run over a benchmark.

Given detections are joined to tracks by a frozen encoder; nothing is trained. A `Benchmark` knows its files and scores:
`mot.py`, `mots.py` and `posetrack.py` have one each. Needs the extra `tracking`.
"""

from __future__ import annotations

import importlib.util
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image
from torch import Tensor

from mec.errors import BadInput, nearest
from mec.evaluation.results import Result
from mec.evaluation.subject import Subject
from mec.evaluation.tracking.appearance import Appearance, appearances, feature_maps
from mec.evaluation.tracking.association import Settings
from mec.evaluation.tracking.motfiles import Clip
from mec.evaluation.tracking.trackscores import SWITCHES, Scores
from mec.evaluation.tracking.video import frames_of, write_video
from mec.runtime.files import write_json


@dataclass(frozen=True)
class Options:
    """What a run of a benchmark may be told."""

    split: str  # train, val or test
    detections: str | None = None  # see `choose_detections`; None: the only ones there are
    motion: bool = False
    mode: Literal["clean", "unitrack"] = "clean"  # unitrack: the source's quirks too
    names: tuple[str, ...] = ()  # of sequences; all where empty
    batch_size: int = 1
    cache: Path | None = None  # a folder for feature maps

    def maps(self, appearance: Appearance, frames: Iterable[Tensor]) -> Iterator[Tensor]:
        return feature_maps(appearance, frames, batch_size=self.batch_size, cache=self.cache)


@dataclass
class Clock:
    """Seconds spent on frames."""

    frames: int = 0
    features: float = 0.0  # reading and encoding
    association: float = 0.0

    def around(self, maps: Iterable[Tensor]) -> Iterator[Tensor]:
        """The same maps; counts the time that each takes to come, and that until the next is asked for."""
        before = time.perf_counter()
        for features in maps:
            begun = time.perf_counter()
            self.features += begun - before
            yield features
            before = time.perf_counter()
            self.association += before - begun
            self.frames += 1

    def __add__(self, other: Clock) -> Clock:
        return Clock(self.frames + other.frames, self.features + other.features, self.association + other.association)

    @property
    def rate(self) -> float:
        return self.frames / max(self.features + self.association, 1e-9)


class Benchmark(ABC):
    """The sequences of a benchmark with their detections, read and checked when it is made.

    Tracks are what a benchmark wants them to be: rows of boxes or masks, or poses with ids.
    """

    task: ClassVar[str]  # the command's word
    metrics: ClassVar[tuple[str, ...]]  # that are reported
    needs: ClassVar[tuple[str, ...]]  # modules

    names: list[str]  # of sequences
    detections: str
    data: str
    fingerprint: str
    options: Options

    @abstractmethod
    def __init__(self, root: Path, options: Options): ...

    @abstractmethod
    def track(self, appearance: Appearance, name: str) -> tuple[Any, Clock]:
        """Tracks of a sequence."""

    @abstractmethod
    def still(self, name: str) -> Any:
        """The baseline that never moves: what the first frame with detections has, in every frame."""

    @abstractmethod
    def write(self, folder: Path, name: str, tracks: Any) -> None:
        """In the benchmark's submission format."""

    @abstractmethod
    def pictures(self, name: str, tracks: Any) -> tuple[Iterable[Image.Image], float]:
        """Frames with the tracks drawn over them, and how many a second."""

    @abstractmethod
    def scores(self, folder: Path) -> Scores:
        """Of what was written; empty where there is no truth."""


def measure_tracks(
    make: type[Benchmark],
    subject: Subject,
    root: Path,
    options: Options,
    *,
    stage: str = "both",
    video: str | None = None,
) -> Iterator[Result]:
    """Results of tracks that never move, then of each stage; files go to FOLDER/TASK/SPLIT-DETECTIONS/SETTING/.

    The data are read and checked at once, the results come as they are asked for. scores.json has every sequence, and
    where the time went.

    Args:
        make: one of `mot.Mot`, `mots.Mots`, `posetrack.PoseTrack`.
        root: the benchmark's folder.
        stage: "3", "4" or "both".
        video: "mp4" or "gif" to draw the tracks over the frames.

    Raises:
        BadInput, FileNotFoundError: of the data or detections, in words.
    """
    require(make)
    return _tracked(make(root, options), appearances(subject, stage), subject.folder, video)


def _tracked(bench: Benchmark, maps: Sequence[Appearance], folder: Path, video: str | None) -> Iterator[Result]:
    options = bench.options
    given = re.sub(r"[^\w.-]+", "-", bench.detections).strip("-")  # a name, or a folder's path
    out = folder / bench.task / f"{options.split}-{given}"
    for name in bench.names:
        bench.write(out / "still", name, bench.still(name))
    yield from _results(bench, out / "still", {"head": "still"}, {})
    for appearance in maps:
        motion = "motion" if options.motion else "womotion"
        folder = out / f"stage{appearance.stage}-{motion}-{options.mode}"
        clocks = {}
        for name in bench.names:
            tracks, clocks[name] = bench.track(appearance, name)
            bench.write(folder, name, tracks)
            if video is not None:
                images, rate = bench.pictures(name, tracks)
                write_video(folder / f"{name}.{video}", images, rate=rate)
        settings = {"stage": appearance.stage, "motion": options.motion, "mode": options.mode}
        yield from _results(bench, folder, settings, clocks)


def _results(bench: Benchmark, folder: Path, settings: dict[str, Any], clocks: dict[str, Clock]) -> list[Result]:
    """scores.json, a line on speed, and the results over all sequences."""
    scores = bench.scores(folder)
    total = sum(clocks.values(), Clock())
    times = {name: {**asdict(clock), "frames_per_second": clock.rate} for name, clock in clocks.items()}
    write_json(folder / "scores.json", {"scores": scores, "seconds": times})
    if clocks:
        print(
            f"{bench.task} stage {settings['stage']}: {total.frames} frames, {total.rate:.2f} a second (reading and "
            f"features {total.features:.0f} s, association {total.association:.1f} s); tracks in {folder}"
        )
    if not scores:
        print(f"{bench.task}: no truth for this split: tracks are in {folder}, nothing was scored.")
        return []
    settings = {**settings, "detections": bench.detections, "sequences": len(bench.names)}
    return [
        Result(
            bench.task,
            metric,
            scores["all"][metric],
            unit="" if metric == SWITCHES else "%",
            data=bench.data,
            split=bench.options.split,
            settings=settings,
            data_fingerprint=bench.fingerprint,
        )
        for metric in bench.metrics
    ]


def require(make: type[Benchmark]) -> None:
    """Nothing, where the modules that a benchmark needs can be imported.

    Raises:
        BadInput: says which extra to install.
    """
    absent = [name for name in make.needs if importlib.util.find_spec(name) is None]
    if absent:
        raise BadInput(f"{make.task} needs {', '.join(absent)}: pip install 'mec-ssl[tracking]'.")


def chosen_names(found: Sequence[str], asked: Sequence[str], where: Path) -> list[str]:
    """The sequences asked for, or all.

    Raises:
        BadInput: one is not there.
    """
    for name in asked:
        if name not in found:
            raise BadInput(f"{where} has no sequence {name!r}. {nearest(name, found)}")
    return [name for name in found if not asked or name in asked]


def choose_detections(folder: Path, asked: str | None, also: Sequence[str]) -> str:
    """Which detections to use: what was asked for, or the only ones in a folder, or those that sequences bring.

    Args:
        folder: of detections by name.
        asked: a name in it, one of `also`, or another folder.
        also: names that need no folder: "gt", and "det" where every sequence has a det/det.txt.

    Raises:
        BadInput: none, several to choose from, or not there.
    """
    names = sorted(p.name for p in folder.glob("*") if p.is_dir())
    if asked is not None:
        if asked in names or asked in also or Path(asked).is_dir():
            return asked
        raise BadInput(f"--detections {asked}: no folder, and none of those here ({', '.join([*names, *also])}).")
    choices = names or [name for name in also if name != "gt"]
    if len(choices) == 1:
        return choices[0]
    what = f"there are {', '.join(choices)}" if choices else f"none in {folder}"
    raise BadInput(f"which detections? {what}. --detections takes one of these, another folder, or gt (the truth).")


def clip_frames(clip: Clip) -> Iterator[Tensor]:
    """The frames of a sequence, uint8 [3, h, w].

    Raises:
        BadInput: one cannot be read, or has another size than seqinfo.ini says.
    """
    for path, frame in zip(clip.frames, frames_of(clip.frames)):
        h, w = frame.shape[1:]
        if (h, w) != clip.size:
            raise BadInput(f"{path}: {w} x {h} px, but its seqinfo.ini says {clip.size[1]} x {clip.size[0]}.")
        yield frame


def judged(clips: Sequence[Clip], read: Callable[[Path, int], Any]) -> dict[str, int]:
    """Lengths of the sequences that have a truth, which is read here so that what is wrong with it is said early.

    Raises:
        BadInput: some have one and some not.
    """
    have = [clip for clip in clips if (clip.folder / "gt" / "gt.txt").is_file()]
    if have and len(have) < len(clips):
        without = next(clip for clip in clips if clip not in have)
        raise BadInput(f"{without.folder}: no gt/gt.txt, which {have[0].name} has; all sequences of a split have one.")
    for clip in have:
        read(clip.folder / "gt" / "gt.txt", len(clip.frames))
    return {clip.name: len(clip.frames) for clip in have}


def id_map(shown: Iterable[tuple[int, np.ndarray]], size: tuple[int, int]) -> np.ndarray:
    """[h, w] of ids, 0 where nothing is."""
    ids = np.zeros(size, dtype=np.int64)
    for name, mask in shown:
        ids[mask] = name
    return ids


def tracking_rules(task_motion: float, gated: bool, options: Options, **settings: Any) -> Settings:
    """The life of tracks, with the motion of this benchmark if the options ask for it."""
    motion: dict[str, Any] = {"motion": task_motion, "gated": gated} if options.motion else {}
    return Settings(compat=options.mode == "unitrack", **motion, **settings)
