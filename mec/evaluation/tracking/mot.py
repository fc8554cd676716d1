"""MOT16: people as boxes, joined to tracks. IDF1, HOTA, MOTA, switches.

Layout: images/SPLIT/SEQUENCE/{img1/000001.jpg, gt/gt.txt, det/det.txt, seqinfo.ini}, seqmaps/MOT16-SPLIT.txt,
obs/NAME/SPLIT/SEQUENCE/img1/000001.txt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from mec.evaluation.tracking import motfiles, objects, trackscores
from mec.evaluation.tracking.appearance import Appearance
from mec.evaluation.tracking.association import Settings, Tracker
from mec.evaluation.tracking.motfiles import Boxes, Clip
from mec.evaluation.tracking.multiobject import (
    Benchmark,
    Clock,
    Options,
    choose_detections,
    chosen_names,
    clip_frames,
    judged,
    tracking_rules,
)
from mec.evaluation.tracking.trackscores import Scores
from mec.evaluation.tracking.video import fingerprint, frames_of, with_boxes

CONFIDENT = 0.5  # detections above it are used


SMALLEST, WIDEST = 200, 1.6  # a result has more px than this, and at most this w / h


MOTION, GATED = 0.98, True  # share of appearance with --motion


class Mot(Benchmark):
    task, metrics = "mot", ("IDF1", "HOTA", "MOTA", trackscores.SWITCHES)
    needs = ("trackeval", "cv2")

    def __init__(self, root: Path, options: Options):
        self.images, self.options = root / "images" / options.split, options
        folders = {p.name: p for p in motfiles.list_clips(root, options.split, f"MOT16-{options.split}.txt")}
        self.names = chosen_names([*folders], options.names, self.images)
        self.clips = {name: motfiles.read_clip(folders[name]) for name in self.names}
        det = ["det"] if all((c.folder / "det" / "det.txt").is_file() for c in self.clips.values()) else []
        self.detections = choose_detections(root / "obs", options.detections, [*det, "gt"])
        self.found = {n: detections(root, options.split, clip, self.detections) for n, clip in self.clips.items()}
        clips = [*self.clips.values()]
        self.lengths = judged(clips, lambda path, length: motfiles.read_boxes(path, length, unique=True))
        self.data = f"MOT16-{options.split}"
        self.fingerprint = fingerprint([frame for clip in clips for frame in clip.frames], root)

    def track(self, appearance: Appearance, name: str) -> tuple[Boxes, Clock]:
        clip = self.clips[name]
        rules = tracking_rules(MOTION, GATED, self.options, buffer=int(clip.rate))
        return track(appearance, clip, self.found[name], rules, self.options)

    def still(self, name: str) -> Boxes:
        found = self.found[name]
        found = found.where(found.score > CONFIDENT)
        first = found.where(found.frame == min(found.frame, default=1))
        frames = range(1, len(self.clips[name].frames) + 1)
        return boxes_of([(frame, i, *box) for frame in frames for i, box in enumerate(first.box.tolist(), start=1)])

    def write(self, folder: Path, name: str, tracks: Boxes) -> None:
        motfiles.write_boxes(folder / f"{name}.txt", tracks)

    def pictures(self, name: str, tracks: Boxes) -> tuple[Iterable[Image.Image], float]:
        clip = self.clips[name]
        shown = (tracks.where(tracks.frame == i) for i in range(1, len(clip.frames) + 1))
        images = (with_boxes(f, t.box.tolist(), t.id.tolist()) for f, t in zip(frames_of(clip.frames), shown))
        return images, clip.rate

    def scores(self, folder: Path) -> Scores:
        return trackscores.score_boxes(self.images, folder, self.lengths) if self.lengths else {}


def track(
    appearance: Appearance, clip: Clip, found: Boxes, rules: Settings, options: Options | None = None
) -> tuple[Boxes, Clock]:
    """Tracks of one sequence, as the benchmark wants them: boxes of the filter, not too small, not too wide."""
    options = options or Options("train")
    tracker, clock = Tracker(rules), Clock()
    found = found.where(found.score > CONFIDENT)
    placed: list[tuple[float, tuple[int, int]]] = []  # scale and corner in the letterbox, the same for all frames

    def shrunk() -> Iterator[Tensor]:
        for frame in clip_frames(clip):
            whole, scale, corner = objects.letterboxed(frame.permute(1, 2, 0).numpy())
            placed[:] = [(scale, corner)]
            yield whole

    rows: list[tuple[float, ...]] = []
    for number, features in enumerate(clock.around(options.maps(appearance, shrunk())), start=1):
        now = found.where(found.frame == number)
        corners = np.concatenate([now.box[:, :2], now.box[:, :2] + now.box[:, 2:]], axis=1)
        for seen in tracker.step(objects.box_objects(features, corners, now.score, *placed[0])):
            x1, y1, x2, y2 = seen.box.tolist()
            w, h = x2 - x1, y2 - y1
            if w * h > SMALLEST and w <= WIDEST * h:
                rows.append((number, seen.id, x1, y1, w, h))
    return boxes_of(rows), clock


def boxes_of(rows: Sequence[Sequence[float]]) -> Boxes:
    """Rows of (frame, id, x, y, w, h), of score 1."""
    table = np.array(rows, dtype=np.float64).reshape(-1, 6)
    frame, name = table[:, 0].astype(np.int64), table[:, 1].astype(np.int64)
    none = np.full(len(table), -1)
    return Boxes(frame, name, table[:, 2:], np.ones(len(table)), none, none.astype(np.float64))


def detections(root: Path, split: str, clip: Clip, chosen: str) -> Boxes:
    """Of one sequence: its truth ("gt"), its det/det.txt ("det"), obs/NAME, or a folder of SEQUENCE.txt.

    Raises:
        BadInput, FileNotFoundError: not there, or not as `motfiles` reads it.
    """
    length = len(clip.frames)
    if chosen == "gt":
        truth = motfiles.read_boxes(clip.folder / "gt" / "gt.txt", length, unique=True)
        truth = truth.where((truth.kind == 1) & (truth.score != 0))
        return replace(truth, score=np.ones(len(truth)))
    if chosen == "det":
        return motfiles.read_boxes(clip.folder / "det" / "det.txt", length)
    for folder in (root / "obs" / chosen / split / clip.name / "img1", Path(chosen) / clip.name / "img1"):
        if folder.is_dir():
            return motfiles.read_observed(folder, length, clip.size)
    named = [folder / f"{clip.name}.txt" for folder in (root / "obs" / chosen / split, Path(chosen))]
    return motfiles.read_boxes(named[0] if named[0].is_file() else named[1], length)
