"""PoseTrack, 2017 or 2018: people as poses, linked to tracks. IDF1, MOTA, switches, joint by joint.

Layout: images/SPLIT/SEQUENCE/*.jpg, posetrack_data/annotations/SPLIT/SEQUENCE.json (or annotations/SPLIT/...),
obs/SPLIT/NAME/SEQUENCE.json with the same frames.
"""

from collections.abc import Iterable, Sequence
from itertools import tee
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mec.evaluation.tracking import objects, posefiles, trackscores
from mec.evaluation.tracking.appearance import Appearance
from mec.evaluation.tracking.association import Tracker
from mec.evaluation.tracking.multiobject import Benchmark, choose_detections, id_map
from mec.evaluation.tracking.posefiles import PoseFrame
from mec.evaluation.tracking.trackscores import Scores
from mec.evaluation.tracking.video import chosen_names, files_fingerprint, frames_of, with_boxes, with_masks
from mec.runtime.files import missing

NOT_TRACKED = 1000  # id of detections that are of no track
POSE_CELLS = {3: 400, 4: 200}  # at most so many of a pose's mask, by stage
BUFFER = 6  # frames a track may be lost
RATE = 25  # frames a second of what is drawn


class PoseTrackBenchmark(Benchmark):
    """People as poses; tracks are an id for every pose of every frame, `NOT_TRACKED` for those of no track."""

    task, metrics = "posetrack", ("IDF1", "MOTA", trackscores.SWITCHES)
    needs = ("cv2",)
    motion, gated = 0.9999, False

    def __init__(self, options: Any):
        self.root, self.options = (root := Path(options.data_root)), options
        places = [root / "posetrack_data" / "annotations" / options.split, root / "annotations" / options.split]
        place = next((p for p in places if any(p.glob("*.json"))), None)
        if place is None:
            raise FileNotFoundError(f"{places[0]}: no SEQUENCE.json there, nor in {places[1]}.")
        self.names = chosen_names(sorted(p.stem for p in place.glob("*.json")), options.names(), place)
        observed = root / "obs" / options.split
        self.detections = choose_detections(observed, options.detections, ["gt"])
        folder = place if self.detections == "gt" else observed / self.detections
        folder = folder if folder.is_dir() else Path(self.detections)
        self.content, self.found, self.truth = {}, {}, {}
        for name in self.names:
            source, file = folder / f"{name}.json", place / f"{name}.json"
            self.content[name] = posefiles.read_annotations(source)
            self.found[name] = posefiles.poses_of(self.content[name], source)
            self.truth[name] = posefiles.poses_of(posefiles.read_annotations(file), file)
            trackscores.check_frames(name, self.truth[name], self.found[name])
            missing(self.images(name), f"{source}: its images below {root}")
        self.lengths = {name: len(frames) for name, frames in self.found.items()}
        self.data = f"PoseTrack-{options.split}"
        self.fingerprint = files_fingerprint([place / f"{name}.json" for name in self.names], root)

    def images(self, name: str) -> list[Path]:
        return [self.root / frame.name for frame in self.found[name]]

    def track(self, appearance: Appearance, name: str) -> list[list[int]]:
        rules = self.rules(duplicate=0.2, confirm=0.6, buffer=BUFFER, sure=True)
        tracker, cells = Tracker(rules), POSE_CELLS.get(appearance.stage, 400)
        frames, again = tee(frames_of(self.images(name)))
        ids = []
        for picture, features, frame in zip(again, self.maps(appearance, frames), self.found[name]):
            joints = [pose.joints for pose in frame.poses]
            seen = tracker.step(objects.pose_objects(features, joints, (picture.shape[1], picture.shape[2]), cells))
            # The source does not refresh the pose of a track that returns, so that its detection stays without id.
            of_track = {s.detection: s.id for s in seen if not (rules.compat and s.returned)}
            ids.append([of_track.get(i, NOT_TRACKED) for i in range(len(joints))])
        return ids

    def still(self, name: str) -> dict:
        """An annotation of its own: the poses of the first frame that has some, in every frame."""
        entries = self.content[name]["annolist"]
        first = next((entry["annorect"] for entry in entries if entry.get("annorect")), ())
        persons = [{**person, "track_id": [i]} for i, person in enumerate(first, start=1)]
        return {**self.content[name], "annolist": [{**entry, "annorect": persons} for entry in entries]}

    def write(self, folder: Path, name: str, tracks: list[list[int]] | dict) -> None:
        full = tracks if isinstance(tracks, dict) else posefiles.with_tracks(self.content[name], tracks)
        posefiles.write_annotations(folder / f"{name}.json", full)

    def pictures(self, name: str, tracks: list[list[int]]) -> tuple[Iterable[Image.Image], float]:
        return map(drawn_pose, frames_of(self.images(name)), self.found[name], tracks), RATE

    def scores(self, folder: Path) -> Scores:
        pairs = {}
        for name in self.names:
            file = folder / f"{name}.json"
            pairs[name] = self.truth[name], posefiles.poses_of(posefiles.read_annotations(file), file)
        return trackscores.score_poses(pairs)


def drawn_pose(picture: Tensor, frame: PoseFrame, ids: Sequence[int]) -> Image.Image:
    """A frame with its poses as the tracker sees them, in the colours of their ids."""
    size = (picture.shape[1], picture.shape[2])
    masks = (objects.pose_mask(pose.joints, size) for pose in frame.poses)
    tinted = torch.from_numpy(np.array(with_masks(picture, id_map(zip(ids, masks), size)))).permute(2, 0, 1)
    boxes = (objects.pose_box(pose.joints) for pose in frame.poses)
    return with_boxes(tinted, [(x1, y1, x2 - x1, y2 - y1) for x1, y1, x2, y2 in boxes], ids, width=1)
