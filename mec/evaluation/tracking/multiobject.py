"""What MOT16, MOTS20 and PoseTrack share: options, choice of detections, and the run over a benchmark.

Given detections are linked to tracks by a frozen encoder; nothing is trained. A `Benchmark` knows its files and scores:
see `mot.py` and `posetrack.py`. Needs the extra `tracking`.
"""

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from torch import Tensor

from mec.errors import BadInput, needs
from mec.evaluation.results import Result, labelled
from mec.evaluation.subject import Subject
from mec.evaluation.tracking.appearance import Appearance, appearances, feature_maps
from mec.evaluation.tracking.association import Settings
from mec.evaluation.tracking.trackscores import SWITCHES, Scores
from mec.evaluation.tracking.video import speed, write_video
from mec.runtime.files import write_json
from mec.runtime.progress import say


class Benchmark(ABC):
    """The sequences of a benchmark with their detections, read and checked when it is made.
    What tracks are depends on the benchmark: rows of boxes or masks, or poses with ids."""

    task: ClassVar[str]  # the command's word
    metrics: ClassVar[tuple[str, ...]]  # that are reported
    needs: ClassVar[tuple[str, ...]]  # modules
    motion: ClassVar[float]  # with --motion: the share of appearance in the cost
    gated: ClassVar[bool]  # with --motion: pairs too far apart for the filter never match

    names: list[str]  # of sequences
    lengths: dict[str, int]  # of them, in frames
    detections: str
    data: str
    fingerprint: str
    options: Any  # a `protocols.Association`

    @abstractmethod
    def __init__(self, options: Any): ...

    def maps(self, appearance: Appearance, frames: Iterable[Tensor]) -> Iterator[Tensor]:
        return feature_maps(appearance, frames, batch_size=self.options.batch_size, cache=self.options.cache)

    def rules(self, **settings: Any) -> Settings:
        """The tracker's rules, with this benchmark's motion term if the options ask for it."""
        motion: dict[str, Any] = {"motion": self.motion, "gated": self.gated} if self.options.motion else {}
        return Settings(compat=self.options.mode == "unitrack", **motion, **settings)

    @abstractmethod
    def track(self, appearance: Appearance, name: str) -> Any:
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
        """Scores of what was written; empty without a ground truth."""


def measure_tracks(make: type[Benchmark], subject: Subject, options: Any) -> Iterator[Result]:
    """Results of tracks that never move, then of each stage; files go to FOLDER/TASK/SPLIT-DETECTIONS/SETTING/.
    The data are read and checked at once, the results come as they are asked for. scores.json has every sequence, and
    how long it took.
    Raises BadInput, FileNotFoundError: of the data or detections, in words; or a module is missing."""
    needs(make.task, "tracking", *make.needs)
    return _tracked(make(options), appearances(subject, options.stage), subject)


def _tracked(bench: Benchmark, maps: Sequence[Appearance], subject: Subject) -> Iterator[Result]:
    options = bench.options
    given = re.sub(r"[^\w.-]+", "-", bench.detections).strip("-")  # a name, or a folder's path
    out = subject.folder / bench.task / f"{options.split}-{given}"
    for name in subject.ranks.dealt(bench.names):
        bench.write(out / "still", name, bench.still(name))
    yield from _results(bench, subject, out / "still", {"head": "still"}, {})
    for appearance in maps:
        motion = "motion" if options.motion else "womotion"
        folder = out / f"stage{appearance.stage}-{motion}-{options.mode}"
        own = []
        for name in subject.ranks.dealt(bench.names):
            began = time.perf_counter()
            tracks = bench.track(appearance, name)
            own.append({"frames": bench.lengths[name], "seconds": time.perf_counter() - began})
            bench.write(folder, name, tracks)
            if options.video is not None:
                images, rate = bench.pictures(name, tracks)
                write_video(folder / f"{name}.{options.video}", images, rate=rate)
        times = dict(zip(bench.names, subject.ranks.collected(own)))
        settings = {"stage": appearance.stage, "motion": options.motion, "mode": options.mode}
        total, seconds = (sum(each[key] for each in times.values()) for key in ("frames", "seconds"))
        say(speed(f"{bench.task} stage {appearance.stage}", int(total), seconds) + subject.where(folder))
        yield from _results(bench, subject, folder, settings, times)


def _results(
    bench: Benchmark, subject: Subject, folder: Path, settings: dict[str, Any], times: dict[str, Any]
) -> list[Result]:
    """scores.json, and the results over all sequences; of several processes the first has them."""
    subject.ranks.wait()  # all files are there
    if subject.ranks.rank:
        return []
    scores = bench.scores(folder)
    write_json(folder / "scores.json", {"scores": scores, "seconds": times})
    if not scores:
        say(f"{bench.task}: no ground truth for this split: nothing was scored{subject.where(folder)}")
        return []
    settings = {**settings, "detections": bench.detections, "sequences": len(bench.names)}
    units = {SWITCHES: ""}
    found = [Result(bench.task, name, scores["all"][name], units.get(name, "%")) for name in bench.metrics]
    where = {"data": bench.data, "split": bench.options.split, "data_fingerprint": bench.fingerprint}
    return labelled(found, settings=settings, **where)


def choose_detections(folder: Path, asked: str | None, also: Sequence[str]) -> str:
    """Which detections to use: what was asked for, or the only ones in a folder, or those that sequences bring.

    Args:
        folder: of detections by name.
        asked: a name in it, one of `also`, or another folder.
        also: names that need no folder: "gt", and "det" where every sequence has a det/det.txt.
    Raises BadInput: none, several to choose from, or not there."""
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


def id_map(shown: Iterable[tuple[int, np.ndarray]], size: tuple[int, int]) -> np.ndarray:
    """Id map [h, w], 0 where there is no object."""
    ids = np.zeros(size, dtype=np.int64)
    for name, mask in shown:
        ids[mask] = name
    return ids
