"""MOT, MOTS and PoseTrack on the sample video: figures of several encoders side by side, and frames a second.

    python benchmarks/association.py SAMPLES --out runs/association pixels random:resnet18 runs/cifar

The video (41 frames, four people) comes as MOT and as PoseTrack; as MOTS it is made here, masks drawn from joints by
the rule of the pose front-end, detections from the jittered ones. At full rate people hardly move between frames, so
that overlap alone follows them; --every 6 keeps each sixth frame, where looks have to.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from mec.evaluation.subject import resolve
from mec.evaluation.tracking import motfiles, posefiles
from mec.evaluation.tracking.mot import FIRST_ID, MotBenchmark, MotsBenchmark
from mec.evaluation.tracking.motfiles import Clip, MaskRow
from mec.evaluation.tracking.multiobject import measure_tracks
from mec.evaluation.tracking.objects import Mask, pose_mask
from mec.evaluation.tracking.posefiles import PoseFrame
from mec.evaluation.tracking.posetrack import PoseTrackBenchmark
from mec.evaluation.tracking.protocols import Association

SEQUENCE = "060470979_bonn"


def apart(masks: list[Mask]) -> list[Mask]:
    """Each pixel to the first mask that has it."""
    taken = np.zeros_like(masks[0]) if masks else None
    found = []
    for mask in masks:
        found.append(mask & ~taken)
        taken = taken | mask
    return found


def mask_rows(frames: list[PoseFrame], size: tuple[int, int], named: bool) -> list[MaskRow]:
    rows = []
    for number, frame in enumerate(frames, start=1):
        for i, mask in enumerate(apart([pose_mask(pose.joints, size) for pose in frame.poses])):
            name = FIRST_ID + (frame.poses[i].id or 0) + 1 if named else 0
            rows.append(MaskRow(number, name, motfiles.PERSON, size, motfiles.encoded_mask(mask)))
    return rows


def mots_from_posetrack(poses: Path, clip: Clip, out: Path) -> None:
    """The pose video as a MOTS data set, with the frames of its MOT twin."""
    folder = out / "images" / "train" / "MOTS20-91"
    shutil.copytree(clip.folder / "img1", folder / "img1", dirs_exist_ok=True)
    shutil.copy(clip.folder / "seqinfo.ini", folder / "seqinfo.ini")
    for file, place, named in (
        (poses / f"posetrack_data/annotations/val/{SEQUENCE}.json", folder / "gt" / "gt.txt", True),
        (poses / f"obs/val/gt_jitter/{SEQUENCE}.json", out / "obs/gt_jitter/train/MOTS20-91.txt", False),
    ):
        frames = posefiles.poses_of(posefiles.read_annotations(file), file)
        motfiles.write_masks(place, mask_rows(frames, clip.size, named))


def thinned(samples: Path, out: Path, every: int) -> dict[str, Path]:
    """The three data sets with each `every`-th frame of the video, by task."""
    poses, source = samples / "posetrack_mini", samples / "mot_from_posetrack/images/train/MOT16-91"
    clip = motfiles.read_clip(source)
    kept = [*range(0, len(clip.frames), every)]
    folder = out / "mot/images/train/MOT16-91"
    (folder / "img1").mkdir(parents=True, exist_ok=True)
    for new, old in enumerate(kept, start=1):
        shutil.copy(clip.frames[old], folder / "img1" / f"{new:06}{clip.frames[old].suffix}")
    text = (source / "seqinfo.ini").read_text().replace(f"seqLength={len(clip.frames)}", f"seqLength={len(kept)}")
    (folder / "seqinfo.ini").write_text(text)
    at = {old + 1: new for new, old in enumerate(kept, start=1)}
    truth = motfiles.read_boxes(source / "gt" / "gt.txt")
    truth = truth.where(np.isin(truth.frame, [*at]))
    motfiles.write_boxes(
        folder / "gt" / "gt.txt", replace(truth, frame=np.array([at[f] for f in truth.frame.tolist()])), truth=True
    )
    lines = [line.split(",", 1) for line in (source / "det" / "det.txt").read_text().splitlines() if line]
    (folder / "det").mkdir(exist_ok=True)
    (folder / "det" / "det.txt").write_text(
        "\n".join(f"{at[int(frame)]},{rest}" for frame, rest in lines if int(frame) in at)
    )
    for part in ("posetrack_data/annotations/val", "obs/val/gt_jitter"):
        content = posefiles.read_annotations(poses / part / f"{SEQUENCE}.json")
        entries = [content["annolist"][i] for i in kept]
        posefiles.write_annotations(out / "posetrack" / part / f"{SEQUENCE}.json", {**content, "annolist": entries})
    shutil.copytree(poses / "images", out / "posetrack" / "images", dirs_exist_ok=True)
    mots_from_posetrack(out / "posetrack", motfiles.read_clip(folder), out / "mots")
    return {task: out / task for task in ("mot", "mots", "posetrack")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", type=Path)
    parser.add_argument("encoders", nargs="+", help="what `mec evaluate` takes")
    parser.add_argument("--out", type=Path, default=Path("runs/association"))
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--stage", default="both")
    parser.add_argument("--motion", action="store_true")
    parser.add_argument("--video", choices=["mp4", "gif"])
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    places = thinned(given.samples, given.out / f"data-every{given.every}", given.every)
    kinds = {"mot": (MotBenchmark, "train"), "mots": (MotsBenchmark, "train"), "posetrack": (PoseTrackBenchmark, "val")}
    rows = []
    for encoder in given.encoders:
        name = encoder.replace(":", "-").replace("/", "-").strip("-")
        subject = resolve(encoder, device=given.device, out=given.out / f"{name}-every{given.every}")
        for task, (kind, split) in kinds.items():
            flags = {"motion": given.motion, "stage": given.stage, "video": given.video}
            options = Association(data_root=places[task], split=split, **flags)
            found: dict[str, dict[str, float]] = {}
            for r in measure_tracks(kind, subject, options):
                place = r.settings.get("head") or f"stage {r.settings['stage']}"
                found.setdefault(place, {})[r.metric] = r.value
            for place, figures in found.items():
                rows.append({"task": task, "encoder": encoder, "what": place, **figures})
                print(json.dumps(rows[-1]), flush=True)
    print("| task | encoder | | IDF1 | HOTA | MOTA | ID switches |\n|---|---|---|---|---|---|---|")
    for row in sorted(rows, key=lambda row: str(row["task"])):
        values = [f"{row[key]:.1f}" if key in row else "" for key in ("IDF1", "HOTA", "MOTA")]
        print(f"| {row['task']} | {row['encoder']} | {row['what']} | {' | '.join(values)} | {row['ID switches']:.0f} |")


if __name__ == "__main__":
    main()
