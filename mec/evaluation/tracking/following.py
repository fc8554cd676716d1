"""`mec track`: the heads of the benchmarks on a video of one's own, from a box, a mask or detections to tracks."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from mec.errors import MALFORMED, BadInput
from mec.evaluation.subject import resolve
from mec.evaluation.tracking import motfiles
from mec.evaluation.tracking.appearance import Appearance, feature_maps, open_appearance
from mec.evaluation.tracking.association import Settings, Tracker
from mec.evaluation.tracking.mot import linked_boxes
from mec.evaluation.tracking.motfiles import Boxes, MaskRow, boxes_of_rows
from mec.evaluation.tracking.options import Following
from mec.evaluation.tracking.sot import BoxVideo, track_targets
from mec.evaluation.tracking.video import Frames, open_frames, speed, with_boxes, with_masks, write_video
from mec.evaluation.tracking.vos import VOID, read_mask, segment
from mec.runtime.files import atomic, read_json
from mec.runtime.flags import reals, takes
from mec.runtime.locks import only_one
from mec.runtime.progress import Console, say

MOTION = 0.98  # with --motion: the share of appearance in the cost, as for MOT16


@takes(Following)
def track(run: str | Path, video: str | Path, options: Following) -> Path:
    """Follow objects through a video of your own: one from its box, some from a mask, or all of given detections.

    Args:
        run: as for `mec evaluate`: a run folder, a file of weights, or a name.
        video: a video file, or a folder of frames in the order of their names (numbers by value).
    {options}

    Returns:
        The file of tracks.

    Raises:
        FileNotFoundError: no such run, video, mask or file of detections.
        BadInput: they cannot be read or do not fit each other."""
    console, out = Console(highlight=False), Path(options.out)
    frames = open_frames(Path(video))
    for path in (out, Path(options.video or out)):
        path.parent.mkdir(parents=True, exist_ok=True)
    follow = from_box if options.box is not None else from_mask if options.mask is not None else from_detections
    prepared = follow(frames, options)
    appearance = open_appearance(resolve(run, device=options.device), int(options.stage))
    with only_one(out):
        began = time.perf_counter()
        with console.status(f"following through {video}"):
            write, drawn = prepared(appearance)
        seconds = time.perf_counter() - began
        with atomic(out) as part:
            count = write(part)
        console.print(f"{speed(str(out), count, seconds)}", soft_wrap=True)
        if options.video is not None:
            write_video(Path(options.video), drawn, rate=frames.rate)
            console.print(f"{options.video}: the tracks, drawn", soft_wrap=True)
    return out


# What is given is read and checked, then followed: how the file is written (it gives how many frames), and pictures.
Followed = tuple[Callable[[Path], int], Iterator[Image.Image]]
Follow = Callable[[Appearance], Followed]


def from_box(frames: Frames, options: Following) -> Follow:
    first = np.add(reals(options.box or (), "--box"), (1, 1, 0, 0))  # OTB's pixels begin at 1
    h, w = frames.size
    if (first[:2] > (w, h)).any() or (first[:2] + first[2:] <= 1).any():
        raise BadInput(f"--box is {options.box}: it lies beside the first frame, which has {w} x {h} px.")

    def followed(appearance: Appearance) -> Followed:
        seen = BoxVideo(frames.path.name, frames, first, first[None])  # type: ignore[arg-type]
        (boxes,) = track_targets(appearance, [seen], options.head, batch_size=options.batch_size)
        return boxes_written(frames, boxes_of_rows([(n, 1, *(b - [1, 1, 0, 0])) for n, b in enumerate(boxes, 1)]))

    return followed


def from_mask(frames: Frames, options: Following) -> Follow:
    path, (h, w) = Path(str(options.mask)), frames.size
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such mask.")
    ids = read_mask(path, (w, h))
    if {*np.unique(ids)} <= {0, VOID}:
        ids = np.minimum(ids, 1)
        say(f"{path}: the pixels of 255 are taken as object 1.")
    if not ids.any():
        raise BadInput(f"{path}: all of it is 0, the background; nothing to follow.")

    def followed(appearance: Appearance) -> Followed:
        found = [*segment(appearance, iter(frames), ids, batch_size=options.batch_size)]

        def write(part: Path) -> int:
            each = [(n, now, int(i)) for n, now in enumerate(found, 1) for i in np.unique(now[now > 0])]
            rows = [MaskRow(n, i, 1, (h, w), motfiles.encoded_mask(now == i)) for n, now, i in each]
            motfiles.write_masks(part, rows)
            return len(found)

        return write, (with_masks(frame, now) for frame, now in zip(frames, found))

    return followed


def from_detections(frames: Frames, options: Following) -> Follow:
    path = Path(str(options.detections))
    length = len(frames.names) or None  # a file's may be told wrongly
    found = json_boxes(path, frames) if path.suffix == ".json" else motfiles.read_boxes(path, length)
    found = found.where(found.score > options.least_score)
    if not len(found):
        raise BadInput(f"{path}: no detection in it above --least-score {options.least_score:g}.")
    rules = Settings(buffer=max(1, round(frames.rate)), motion=MOTION if options.motion else None, gated=options.motion)

    def followed(appearance: Appearance) -> Followed:
        maps = partial(feature_maps, appearance, batch_size=options.batch_size)
        return boxes_written(frames, linked_boxes(Tracker(rules), maps, iter(frames), found))

    return followed


def boxes_written(frames: Frames, tracks: Boxes) -> Followed:
    def write(part: Path) -> int:
        motfiles.write_boxes(part, tracks)
        return int(tracks.frame.max(initial=0))

    each = (tracks.where(tracks.frame == n) for n in range(1, 1 << 30))
    return write, (with_boxes(frame, t.box.tolist(), t.id.tolist()) for frame, t in zip(frames, each))


def json_boxes(path: Path, frames: Frames) -> Boxes:
    """Boxes of COCO's JSON, as `mec detect` writes it of the folder of frames: images by their names."""
    content, number = read_json(path, dict), {name: i for i, name in enumerate(frames.names, start=1)}
    try:
        names = {image["id"]: str(image["file_name"]) for image in content["images"]}
        kept = [row for row in content["annotations"] if min(row["bbox"][2:]) > 0]
        rows = [(number.get(names[row["image_id"]]), -1, *row["bbox"], row.get("score", 1)) for row in kept]
        lacking = [name for name in names.values() if name not in number]
        boxes = boxes_of_rows([] if lacking else rows)
    except MALFORMED as error:
        raise BadInput(f"{path}: not detections as `mec detect` writes them ({error!r}).") from error
    if lacking:
        raise BadInput(f"{path}: {len(lacking)} of its images are no frames of {frames.path} ({lacking[0]}).")
    return boxes
