"""Reading and writing PoseTrack's files: poses of a sequence, frame by frame.

The 2017 layout ("annolist") is read as it is; the COCO-like one of 2018 is turned into it first. Results are the
detections' file with track ids filled in.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mec.errors import MALFORMED, BadInput
from mec.evaluation.tracking.objects import JOINTS
from mec.runtime.files import read_json, write_text

# Keypoints of 2018, in their order (nose, head bottom, head top, ears, then pairs left before right) -> joint ids.
FROM_2018 = (13, 12, 14, None, None, 9, 8, 10, 7, 11, 6, 3, 2, 4, 1, 5, 0)


@dataclass(frozen=True)
class Pose:
    """A person in a frame."""

    joints: Mapping[int, tuple[float, float]]  # id -> (x, y) px
    id: int | None = None  # of the track
    head: tuple[float, float, float, float] | None = None  # x1, y1, x2, y2; truth has it


@dataclass(frozen=True)
class PoseFrame:
    name: str  # of the image, from the root of the data
    poses: list[Pose]
    ignored: list[NDArray[np.float64]]  # polygons [n, 2]


def read_annotations(path: Path) -> dict[str, Any]:
    """A file's content in the 2017 layout.
    Raises FileNotFoundError: no such file. BadInput: no JSON, or of neither layout."""
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*.json"))[:8]
        raise FileNotFoundError(f"{path}: no such file. Beside it: {', '.join(near) or 'nothing'}.")
    content = read_json(path)
    if isinstance(content, dict) and isinstance(content.get("annolist"), list):
        return content
    if isinstance(content, dict) and {"images", "annotations"} <= content.keys():
        try:
            return from_2018(content)
        except MALFORMED as error:
            what = f"{type(error).__name__}: {error}"
            raise BadInput(f"{path}: not in the layout of PoseTrack 2018 ({what}).") from error
    raise BadInput(f"{path}: neither 'annolist' (PoseTrack 2017) nor 'images' and 'annotations' (2018) is in it.")


def from_2018(content: Mapping[str, Any]) -> dict[str, Any]:
    """The COCO-like layout of 2018 as an annolist; ears are dropped, a joint at 0, 0 that is not visible is absent.
    Raises ValueError: a pose without 17 keypoints, or of an image that is not listed."""
    of_image: dict[Any, list[dict]] = {image["id"]: [] for image in content["images"]}
    for person in content["annotations"]:
        if person["image_id"] not in of_image:
            raise ValueError(f"an annotation of image {person['image_id']}, which is not listed")
        points = np.array(person["keypoints"], dtype=float)
        if points.size != 51:
            raise ValueError(f"{points.size} keypoint values where 17 x 3 = 51 are wanted")
        scores = person.get("scores") or [None] * 17
        joints = []
        for (x, y, visible), joint, score in zip(points.reshape(17, 3).tolist(), FROM_2018, scores):
            if joint is not None and (x, y, visible) != (0, 0, 0):
                one = {"id": [joint], "x": [x], "y": [y]}
                joints.append(one if score is None else {**one, "score": [score]})
        entry: dict[str, Any] = {"annopoints": [{"point": joints}], "track_id": [person.get("track_id", 0)]}
        if person.get("bbox_head"):
            x, y, w, h = person["bbox_head"]
            entry |= {"x1": [x], "y1": [y], "x2": [x + w], "y2": [y + h]}
        if "score" in person:
            entry["score"] = [person["score"]]
        of_image[person["image_id"]].append(entry)
    frames = []
    for image in content["images"]:
        frame = {"image": [{"name": image["file_name"]}], "annorect": of_image[image["id"]]}
        outlines = zip(image.get("ignore_regions_x") or [], image.get("ignore_regions_y") or [])
        regions = [{"point": [{"x": [x], "y": [y]} for x, y in zip(xs, ys, strict=True)]} for xs, ys in outlines]
        frames.append({**frame, "ignore_regions": regions} if regions else frame)
    return {"annolist": frames}


def poses_of(content: Mapping[str, Any], path: Path) -> list[PoseFrame]:
    """The frames of an annolist; `path` is for messages.
    Raises BadInput: a person that cannot be understood: joints with unknown ids, twice, or not finite; named by its
    frame."""
    frames = []
    for number, entry in enumerate(content["annolist"]):
        try:
            name = str(entry["image"][0]["name"])
            poses = [_pose(person) for person in entry.get("annorect") or []]
            ignored = [
                np.array([[_one(point["x"]), _one(point["y"])] for point in region["point"]], dtype=float)
                for region in entry.get("ignore_regions") or []
            ]
        except MALFORMED as error:
            text = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
            raise BadInput(f"{path}, frame {number} of {len(content['annolist'])}: {text}.") from error
        frames.append(PoseFrame(name, poses, ignored))
    return frames


def _pose(person: Mapping[str, Any]) -> Pose:
    joints: dict[int, tuple[float, float]] = {}
    for part in person.get("annopoints") or []:
        for point in part.get("point") or []:
            joint, place = int(_one(point["id"])), (float(_one(point["x"])), float(_one(point["y"])))
            if joint not in range(JOINTS):
                raise ValueError(f"joint {joint}, ids are 0 to {JOINTS - 1}")
            if joint in joints:
                raise ValueError(f"joint {joint} twice in one person")
            if not np.isfinite(place).all():
                raise ValueError(f"joint {joint} at {place}, which is not finite")
            joints[joint] = place
    track, corners = person.get("track_id"), [float(_one(person[k])) for k in ("x1", "y1", "x2", "y2") if k in person]
    head = (corners[0], corners[1], corners[2], corners[3]) if len(corners) == 4 else None
    return Pose(joints, None if track is None else int(_one(track)), head)


def _one(value: Any) -> Any:
    """Numbers come bare or as a list of one."""
    return value[0] if isinstance(value, list) else value


def with_tracks(content: Mapping[str, Any], ids: Sequence[Sequence[int]]) -> dict[str, Any]:
    """A copy of an annolist with a track id for every person, frame by frame."""
    copied = copy.deepcopy(dict(content))
    for entry, frame in zip(copied["annolist"], ids, strict=True):
        for person, track in zip(entry.get("annorect") or [], frame, strict=True):
            person["track_id"] = [int(track)]
    return copied


def write_annotations(path: Path, content: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(content))
