"""MOTS20: people as masks, joined to tracks. IDF1, HOTA, sMOTA, MOTA, switches.

Layout: images/SPLIT/SEQUENCE/{img1/000001.jpg, gt/gt.txt, seqinfo.ini}, seqmaps/MOTS-SPLIT.txt,
obs/NAME/SPLIT/SEQUENCE/img1/000001.txt.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from mec.errors import BadInput
from mec.evaluation.tracking import motfiles, objects, trackscores
from mec.evaluation.tracking.appearance import Appearance
from mec.evaluation.tracking.association import Settings, Tracker
from mec.evaluation.tracking.motfiles import Clip, MaskRow
from mec.evaluation.tracking.multiobject import (
    Benchmark,
    Clock,
    Options,
    choose_detections,
    chosen_names,
    clip_frames,
    id_map,
    judged,
    tracking_rules,
)
from mec.evaluation.tracking.trackscores import Scores
from mec.evaluation.tracking.video import fingerprint, frames_of, with_masks

FIRST_ID = 2000  # ids of pedestrians come after it


MOTION, GATED = 0.98, False  # share of appearance with --motion


class Mots(Benchmark):
    task, metrics = "mots", ("IDF1", "HOTA", "sMOTA", "MOTA", trackscores.SWITCHES)
    needs = ("trackeval", "cv2", "pycocotools")

    def __init__(self, root: Path, options: Options):
        self.images, self.options = root / "images" / options.split, options
        folders = {p.name: p for p in motfiles.list_clips(root, options.split, f"MOTS-{options.split}.txt")}
        self.names = chosen_names([*folders], options.names, self.images)
        self.clips = {name: motfiles.read_clip(folders[name]) for name in self.names}
        self.detections = choose_detections(root / "obs", options.detections, ["gt"])
        self.found = {n: detections(root, options.split, clip, self.detections) for n, clip in self.clips.items()}
        clips = [*self.clips.values()]
        self.lengths = judged(clips, lambda path, length: motfiles.read_masks(path, length, unique=True))
        self.data = f"MOTS20-{options.split}"
        self.fingerprint = fingerprint([frame for clip in clips for frame in clip.frames], root)

    def track(self, appearance: Appearance, name: str) -> tuple[list[MaskRow], Clock]:
        clip = self.clips[name]
        rules = tracking_rules(MOTION, GATED, self.options, buffer=int(clip.rate), sure=True)
        return track(appearance, clip, self.found[name], rules, self.options)

    def still(self, name: str) -> list[MaskRow]:
        first = min((row.frame for row in self.found[name]), default=1)
        masks = [row for row in self.found[name] if row.frame == first]
        frames = range(1, len(self.clips[name].frames) + 1)
        return [replace(m, frame=f, id=FIRST_ID + i) for f in frames for i, m in enumerate(masks, start=1)]

    def write(self, folder: Path, name: str, tracks: list[MaskRow]) -> None:
        motfiles.write_masks(folder / f"{name}.txt", tracks)

    def pictures(self, name: str, tracks: list[MaskRow]) -> tuple[Iterable[Image.Image], float]:
        clip, rows = self.clips[name], by_frame(tracks)
        maps = (
            id_map(((row.id - FIRST_ID, row.decoded()) for row in rows.get(i, [])), clip.size)
            for i in range(1, len(clip.frames) + 1)
        )
        return (with_masks(frame, ids) for frame, ids in zip(frames_of(clip.frames), maps)), clip.rate

    def scores(self, folder: Path) -> Scores:
        return trackscores.score_masks(self.images, folder, self.lengths) if self.lengths else {}


def by_frame(rows: Iterable[MaskRow]) -> dict[int, list[MaskRow]]:
    found: dict[int, list[MaskRow]] = {}
    for row in rows:
        found.setdefault(row.frame, []).append(row)
    return found


def track(
    appearance: Appearance, clip: Clip, found: Sequence[MaskRow], rules: Settings, options: Options | None = None
) -> tuple[list[MaskRow], Clock]:
    """Tracks of one sequence: the detections' own masks, with ids."""
    options = options or Options("train")
    tracker, clock = Tracker(rules), Clock()
    masks = by_frame(row for row in found if row.kind == motfiles.PERSON)
    rows: list[MaskRow] = []
    for number, features in enumerate(clock.around(options.maps(appearance, clip_frames(clip))), start=1):
        now = masks.get(number, [])
        those, kept = objects.mask_objects(features, [row.decoded() for row in now])
        rows += [replace(now[kept[seen.detection]], id=FIRST_ID + seen.id) for seen in tracker.step(those)]
    return rows, clock


def detections(root: Path, split: str, clip: Clip, chosen: str) -> list[MaskRow]:
    """Pedestrians of one sequence: its truth ("gt"), obs/NAME, or a folder of SEQUENCE.txt.

    Raises:
        BadInput, FileNotFoundError: not there, of another size than the frames, or masks that overlap.
    """
    length = len(clip.frames)
    folders = [root / "obs" / chosen / split / clip.name / "img1", Path(chosen) / clip.name / "img1"]
    folder = next((f for f in folders if f.is_dir()), None)
    if chosen == "gt":
        source = clip.folder / "gt" / "gt.txt"
        rows = motfiles.read_masks(source, length, unique=True)
    elif folder is not None:
        source, rows = folder, []
        for path in sorted(folder.glob("*.txt")):
            rows += motfiles.read_masks(path, length, frame=motfiles.frame_of(path, length))
    else:
        named = root / "obs" / chosen / split / f"{clip.name}.txt"
        source = named if named.is_file() else Path(chosen) / f"{clip.name}.txt"
        rows = motfiles.read_masks(source, length)
    rows = [row for row in rows if row.kind == motfiles.PERSON]
    for number, now in by_frame(rows).items():
        wrong = next((row for row in now if row.size != clip.size), None)
        if wrong is not None:
            h, w = wrong.size
            raise BadInput(
                f"{source}: a mask of {w} x {h} px in frame {number}, but {clip.name} has {clip.size[1]} x "
                f"{clip.size[0]} px."
            )
        both = motfiles.overlapping(now)
        if both:
            raise BadInput(
                f"{source}: masks {both[0] + 1} and {both[1] + 1} of frame {number} overlap; the benchmark scores only "
                "masks that do not. Give each pixel to one of them."
            )
    return rows
