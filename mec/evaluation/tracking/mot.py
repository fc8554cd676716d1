"""MOT16 and MOTS20: people as boxes, and people as masks, linked to tracks.

Layout: images/SPLIT/SEQUENCE/{img1/000001.jpg, gt/gt.txt, det/det.txt, seqinfo.ini}, seqmaps/MOT16-SPLIT.txt (MOTS- for
masks), obs/NAME/SPLIT/SEQUENCE/img1/000001.txt.
"""

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from torch import Tensor

from mec.errors import BadInput
from mec.evaluation.tracking import motfiles, objects, trackscores
from mec.evaluation.tracking.appearance import Appearance
from mec.evaluation.tracking.association import Tracker
from mec.evaluation.tracking.motfiles import Boxes, Clip, MaskRow, boxes_of_rows
from mec.evaluation.tracking.multiobject import Benchmark, choose_detections, id_map
from mec.evaluation.tracking.trackscores import Scores
from mec.evaluation.tracking.video import chosen_names, files_fingerprint, frames_of, with_boxes, with_masks

CONFIDENT = 0.5  # detected boxes above it are used
SMALLEST, WIDEST = 200, 1.6  # a resulting box has more px than this, and at most this w / h
FIRST_ID = 2000  # ids of pedestrians in MOTS come after it


class ClipBenchmark(Benchmark):
    """A benchmark in the layout of MOTChallenge: clips with seqinfo.ini."""

    seqmap: ClassVar[str]  # seqmaps/SEQMAP-SPLIT.txt lists the sequences
    title: ClassVar[str]

    def __init__(self, options: Any):
        self.root = root = Path(options.data_root)
        self.images, self.options = root / "images" / options.split, options
        folders = {p.name: p for p in motfiles.list_clips(root, options.split, f"{self.seqmap}-{options.split}.txt")}
        self.names = chosen_names(folders, options.names(), self.images)
        self.clips = {name: motfiles.read_clip(folders[name]) for name in self.names}
        clips = [*self.clips.values()]
        det = self.task == "mot" and all((clip.folder / "det" / "det.txt").is_file() for clip in clips)
        self.detections = choose_detections(root / "obs", options.detections, [*(["det"] if det else []), "gt"])
        self.found = {clip.name: self.read_detections(clip) for clip in clips}
        self.lengths, self.judged = {clip.name: len(clip.frames) for clip in clips}, self.have_truth(clips)
        self.data = f"{self.title}-{options.split}"
        self.fingerprint = files_fingerprint([frame for clip in clips for frame in clip.frames], root)

    @abstractmethod
    def read_detections(self, clip: Clip) -> Any:
        """Of one sequence: its truth ("gt"), obs/NAME, or a folder of SEQUENCE.txt, as `motfiles` reads them."""

    @abstractmethod
    def read_truth(self, path: Path, length: int) -> Any:
        """A gt.txt of so many frames."""

    def places(self, clip: Clip) -> tuple[Path | None, Path]:
        """Where the detections of a sequence are: a folder with a file a frame, if there is one; or a file."""
        folders = [self.root / "obs" / self.detections / self.options.split, Path(self.detections)]
        by_frame = (folder / clip.name / "img1" for folder in folders)
        files = [folder / f"{clip.name}.txt" for folder in folders]
        return next((f for f in by_frame if f.is_dir()), None), files[0] if files[0].is_file() else files[1]

    def have_truth(self, clips: Sequence[Clip]) -> bool:
        """Whether the sequences have a truth (all or none); it is read here, so that errors come early."""
        have = [clip for clip in clips if (clip.folder / "gt" / "gt.txt").is_file()]
        if have and len(have) < len(clips):
            place = next(clip.folder for clip in clips if clip not in have)
            raise BadInput(f"{place}: no gt/gt.txt, which {have[0].name} has; all sequences of a split have one.")
        for clip in have:
            self.read_truth(clip.folder / "gt" / "gt.txt", len(clip.frames))
        return bool(have)

    def scores(self, folder: Path) -> Scores:
        return trackscores.score_tracks(self.images, folder, self.lengths, self.seqmap) if self.judged else {}


class MotBenchmark(ClipBenchmark):
    """MOT16: people as boxes."""

    task, metrics = "mot", ("IDF1", "HOTA", "MOTA", trackscores.SWITCHES)
    needs = ("trackeval", "cv2")
    seqmap = title = "MOT16"
    motion, gated = 0.98, True

    def read_truth(self, path: Path, length: int) -> Boxes:
        return motfiles.read_boxes(path, length, unique=True)

    def read_detections(self, clip: Clip) -> Boxes:
        if self.detections == "gt":
            truth = self.read_truth(clip.folder / "gt" / "gt.txt", len(clip.frames))
            truth = truth.where((truth.kind == 1) & (truth.score != 0))
            return replace(truth, score=np.ones(len(truth)))
        if self.detections == "det":
            return motfiles.read_boxes(clip.folder / "det" / "det.txt", len(clip.frames))
        folder, file = self.places(clip)
        if folder is not None:
            return motfiles.read_observed(folder, len(clip.frames), clip.size)
        return motfiles.read_boxes(file, len(clip.frames))

    def track(self, appearance: Appearance, name: str) -> Boxes:
        """Boxes of the filter, not too small and not too wide."""
        clip, unitrack = self.clips[name], self.options.mode == "unitrack"
        tracker, maps = Tracker(self.rules(buffer=int(clip.rate))), partial(self.maps, appearance)
        tracks = linked_boxes(tracker, maps, clip_frames(clip), self.confident(name), unitrack=unitrack)
        w, h = tracks.box[:, 2:].T
        return tracks.where((w * h > SMALLEST) & (w <= WIDEST * h))

    def confident(self, name: str) -> Boxes:
        return self.found[name].where(self.found[name].score > CONFIDENT)

    def still(self, name: str) -> Boxes:
        found = self.confident(name)
        first = found.where(found.frame == min(found.frame, default=1))
        frames, boxes = range(1, len(self.clips[name].frames) + 1), first.box.tolist()
        return boxes_of_rows([(frame, i, *box) for frame in frames for i, box in enumerate(boxes, start=1)])

    def write(self, folder: Path, name: str, tracks: Boxes) -> None:
        motfiles.write_boxes(folder / f"{name}.txt", tracks)

    def pictures(self, name: str, tracks: Boxes) -> tuple[Iterable[Image.Image], float]:
        clip = self.clips[name]
        shown = (tracks.where(tracks.frame == i) for i in range(1, len(clip.frames) + 1))
        return (with_boxes(f, t.box.tolist(), t.id.tolist()) for f, t in zip(frames_of(clip.frames), shown)), clip.rate


def linked_boxes(
    tracker: Tracker, maps: Callable[[Iterator[Tensor]], Iterator[Tensor]], frames: Iterator[Tensor], found: Boxes,
    *, unitrack: bool = False,
) -> Boxes:  # fmt: skip
    """Tracks of the boxes found in frames uint8 [3, h, w]: the filter's, a row a frame.

    Args:
        maps: letterboxed frames -> their feature maps, in order.
        unitrack: with the source's paddings."""
    placed: list[tuple[float, tuple[float, float]]] = []  # scale and corner in the letterbox, of all frames
    moved = np.zeros(2)  # px

    def shrunk() -> Iterator[Tensor]:
        for frame in frames:
            whole, scale, corner = objects.letterboxed(frame.permute(1, 2, 0).numpy())
            placed[:] = [(scale, corner)]
            if unitrack:
                placed[0], moved[:] = objects.unitracks_padding((frame.shape[1], frame.shape[2]), scale)
            yield whole

    rows: list[tuple[float, ...]] = []
    for number, features in enumerate(maps(shrunk()), start=1):
        now = found.where(found.frame == number)
        corners = np.concatenate([now.box[:, :2], now.box[:, :2] + now.box[:, 2:]], axis=1)
        those = objects.box_objects(features, corners, now.score, *placed[0])
        for seen in tracker.step(replace(those, boxes=those.boxes + np.tile(moved, 2))):
            x1, y1, x2, y2 = seen.box.tolist()
            rows.append((number, seen.id, x1, y1, x2 - x1, y2 - y1))
    return boxes_of_rows(rows)


class MotsBenchmark(ClipBenchmark):
    """MOTS20: people as masks; tracks are the detections' own masks, with ids."""

    task, metrics = "mots", ("IDF1", "HOTA", "sMOTA", "MOTA", trackscores.SWITCHES)
    needs = ("trackeval", "cv2", "pycocotools")
    seqmap, title = "MOTS", "MOTS20"
    motion, gated = 0.98, False

    def read_truth(self, path: Path, length: int) -> list[MaskRow]:
        return motfiles.read_masks(path, length, unique=True)

    def read_detections(self, clip: Clip) -> list[MaskRow]:
        """Pedestrians alone; masks of another size than the frames, or that overlap, are refused."""
        length, (folder, source) = len(clip.frames), self.places(clip)
        if self.detections == "gt":
            source = clip.folder / "gt" / "gt.txt"
            rows = self.read_truth(source, length)
        elif folder is not None:
            source, rows = folder, []
            for path in sorted(folder.glob("*.txt")):
                rows += motfiles.read_masks(path, length, frame=motfiles.frame_of(path, length))
        else:
            rows = motfiles.read_masks(source, length)
        rows = [row for row in rows if row.kind == motfiles.PERSON]
        for number, now in by_frame(rows).items():
            if wrong := next((row for row in now if row.size != clip.size), None):
                (h, w), size = wrong.size, f"{clip.size[1]} x {clip.size[0]}"
                raise BadInput(f"{source}: a mask of {w} x {h} px in frame {number}, but {clip.name} has {size} px.")
            if both := motfiles.overlapping(now):
                raise BadInput(
                    f"{source}: masks {both[0] + 1} and {both[1] + 1} of frame {number} overlap; the benchmark scores "
                    "only masks that do not. Give each pixel to one of them."
                )
        return rows

    def track(self, appearance: Appearance, name: str) -> list[MaskRow]:
        clip, masks = self.clips[name], by_frame(self.found[name])
        tracker = Tracker(self.rules(buffer=int(clip.rate), sure=True))
        rows: list[MaskRow] = []
        for number, features in enumerate(self.maps(appearance, clip_frames(clip)), start=1):
            now = masks[number]
            those, kept = objects.mask_objects(features, [row.decoded() for row in now])
            rows += [replace(now[kept[seen.detection]], id=FIRST_ID + seen.id) for seen in tracker.step(those)]
        return rows

    def still(self, name: str) -> list[MaskRow]:
        first = min((row.frame for row in self.found[name]), default=1)
        masks = [row for row in self.found[name] if row.frame == first]
        frames = range(1, len(self.clips[name].frames) + 1)
        return [replace(m, frame=f, id=FIRST_ID + i) for f in frames for i, m in enumerate(masks, start=1)]

    def write(self, folder: Path, name: str, tracks: list[MaskRow]) -> None:
        motfiles.write_masks(folder / f"{name}.txt", tracks)

    def pictures(self, name: str, tracks: list[MaskRow]) -> tuple[Iterable[Image.Image], float]:
        clip, rows = self.clips[name], by_frame(tracks)
        shown = ([(row.id - FIRST_ID, row.decoded()) for row in rows[i]] for i in range(1, len(clip.frames) + 1))
        return (with_masks(f, id_map(masks, clip.size)) for f, masks in zip(frames_of(clip.frames), shown)), clip.rate


def by_frame(rows: Iterable[MaskRow]) -> defaultdict[int, list[MaskRow]]:
    found = defaultdict(list)
    for row in rows:
        found[row.frame].append(row)
    return found


def clip_frames(clip: Clip) -> Iterator[Tensor]:
    """The frames of a sequence, uint8 [3, h, w]; refused where one is of another size than seqinfo.ini says."""
    for path, frame in zip(clip.frames, frames_of(clip.frames)):
        h, w = frame.shape[1:]
        if (h, w) != clip.size:
            raise BadInput(f"{path}: {w} x {h} px, but its seqinfo.ini says {clip.size[1]} x {clip.size[0]}.")
        yield frame
