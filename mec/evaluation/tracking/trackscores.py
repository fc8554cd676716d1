"""How good tracks are: HOTA, IDF1, MOTA, switches. Boxes and masks through trackeval, poses by our own counts.

trackeval is in the extra `tracking`. Poses could be left to motmetrics, whose counts ours equal, but it spends seconds
a sequence in pandas. Every score is by sequence and, under "all", over all of them.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from mec.errors import BadInput
from mec.evaluation.tracking.objects import JOINTS, Joints
from mec.evaluation.tracking.posefiles import Pose, PoseFrame

Pairs = tuple[Sequence[int], Sequence[int], NDArray[np.float64]]
Scores = dict[str, dict[str, float]]  # sequence or "all" -> metric -> value, shares in %
SWITCHES = "ID switches"
HEAD_SHARE = 0.6  # the size of a head is this times the diagonal of its rectangle
NEAR_HEADS = 0.5  # a joint is found within this many head sizes


def score_tracks(truth: Path, results: Path, lengths: Mapping[str, int], benchmark: str) -> Scores:
    """Scores of results/SEQUENCE.txt against truth/SEQUENCE/gt/gt.txt.

    Args:
        lengths: frames of each sequence that is judged.
        benchmark: MOTS, with sMOTA; or of boxes: MOT15 has no classes, hence no preprocessing; MOT16 and MOT17 take
            distractors away.

    Raises BadInput: trackeval refuses the files, for example because masks of a frame overlap; in its words."""
    from trackeval.datasets import MotChallenge2DBox, MOTSChallenge
    from trackeval.metrics import CLEAR, HOTA, Identity
    from trackeval.utils import TrackEvalException

    quiet = {"PRINT_CONFIG": False}
    metrics = {"hota": HOTA(), "clear": CLEAR(quiet), "identity": Identity(quiet)}
    found: dict[str, dict[str, Any]] = {name: {} for name in metrics}
    where = {
        "GT_FOLDER": str(truth), "TRACKERS_FOLDER": str(results.parent), "TRACKERS_TO_EVAL": [results.name],
        "TRACKER_SUB_FOLDER": "", "SEQ_INFO": dict(lengths), "SKIP_SPLIT_FOL": True,
    }  # fmt: skip
    boxes = {} if benchmark == "MOTS" else {"BENCHMARK": benchmark}
    try:
        data = (MotChallenge2DBox if boxes else MOTSChallenge)({**boxes, **quiet, **where})
        for sequence in lengths:
            rows = data.get_preprocessed_seq_data(data.get_raw_seq_data(results.name, sequence), "pedestrian")
            for name, metric in metrics.items():
                found[name][sequence] = metric.eval_sequence(rows)
    except TrackEvalException as error:
        raise BadInput(f"trackeval cannot score {results} against {truth}: {error}") from error
    for name, metric in metrics.items():
        found[name]["all"] = metric.combine_sequences({s: found[name][s] for s in lengths})
    named = {}
    for sequence in [*lengths, "all"]:
        hota, clear, identity = (scores[sequence] for scores in found.values())
        shares = {"IDF1": identity["IDF1"], **{name: np.mean(hota[name]) for name in ("HOTA", "DetA", "AssA")}}
        shares |= {name: clear[name] for name in ("MOTA", "sMOTA")}
        counts = {SWITCHES: clear["IDSW"], "false positives": clear["CLR_FP"], "misses": clear["CLR_FN"]}
        named[sequence] = {k: 100 * float(v) for k, v in shares.items()} | {k: float(v) for k, v in counts.items()}
    return named


def score_poses(pairs: Mapping[str, tuple[Sequence[PoseFrame], Sequence[PoseFrame]]]) -> Scores:
    """PoseTrack's scores of (truth, found) frames by sequence, joint by joint.
    IDF1: mean over sequences for each joint, then over joints. MOTA: counts are summed over sequences for each joint;
    mean over joints. Switches, misses and false positives are sums over joints and sequences.
    Source: poseval, with UniTrack's IDF1 and switches.
    Raises BadInput: unequal numbers of frames, other images, or truth without ids or heads."""
    counts = {name: _joint_counts(name, *pair) for name, pair in pairs.items()}  # [joints, 5] each
    scores = {name: _pose_scores(table[None]) for name, table in counts.items()}
    return {**scores, "all": _pose_scores(np.stack(list(counts.values())))}


def _pose_scores(counts: NDArray) -> dict[str, float]:
    """[sequences, joints, (IDF1, switches, misses, false positives, objects)] -> named scores."""
    identity, errors = counts[..., 0], counts[..., 1:4].sum(-1).sum(0)
    objects = counts[..., 4].sum(0)
    # A sequence that has neither truth nor prediction of a joint leaves its IDF1 open, as in the source.
    per_joint = identity.mean(0)
    mota = 1 - errors[objects > 0] / objects[objects > 0]
    idf1 = float("nan") if np.isnan(per_joint).all() else 100 * float(np.nanmean(per_joint))
    counted = dict(zip((SWITCHES, "misses", "false positives"), counts[..., 1:4].sum((0, 1)).tolist()))
    return {"IDF1": idf1, "MOTA": 100 * float(mota.mean()) if len(mota) else float("nan"), **counted}


def _joint_counts(name: str, truth: Sequence[PoseFrame], found: Sequence[PoseFrame]) -> NDArray:
    check_frames(name, truth, found)
    # Frames without a person in the truth are the ones that were not labelled.
    frames = [(t, f) for t, f in zip(truth, found) if t.poses]
    kept = [(_visible(t.poses, t.ignored), _visible(f.poses, t.ignored)) for t, f in frames][:-1]  # poseval drops one
    # Where a side has no person: one miss and one false positive for every joint, whoever was on the other.
    nobody: Pairs = [0], [0], np.full((1, 1), np.nan)

    def pairs(joint: int) -> Iterator[Pairs]:
        return (_joint_distances(name, joint, *both) if all(both) else nobody for both in kept)

    return np.array([identity_counts(pairs(joint)) for joint in range(JOINTS)])


def identity_counts(frames: Iterable[Pairs]) -> tuple[float, int, int, int, int]:
    """IDF1 (0 to 1, NaN where nothing is there), switches, misses, false positives and objects of a sequence.
    A frame is (true ids [n], found ids [m], distances [n, m], NaN where a pair may not match). What was matched to each
    other before stays so where it may; the rest is paired for the smallest sum of distances."""
    partner: dict[int, int] = {}  # the latest of each true id
    together: Counter[tuple[int, int]] = Counter()
    switches = matched = objects = predictions = 0
    for true, found, distances in frames:
        objects, predictions = objects + len(true), predictions + len(found)
        near = np.isfinite(distances)
        together.update((true[i], found[j]) for i, j in zip(*np.nonzero(near)))
        open_rows, open_columns = [], [*range(len(found))]
        for i, one in enumerate(true):
            j = next((j for j in open_columns if one in partner and found[j] == partner[one]), None)
            if j is not None and near[i, j]:
                open_columns.remove(j)
                matched += 1
            else:
                open_rows.append(i)
        rest = np.where(near, distances, 1e6)[np.ix_(open_rows, open_columns)]
        for row, column in zip(*linear_sum_assignment(rest)):
            i, j = open_rows[row], open_columns[column]
            if near[i, j]:
                matched += 1
                switches += true[i] in partner and partner[true[i]] != found[j]
                partner[true[i]] = found[j]
    rows, columns = ({one: k for k, one in enumerate(sorted({pair[side] for pair in together}))} for side in (0, 1))
    shared = np.zeros((len(rows), len(columns)))
    for (one, other), count in together.items():
        shared[rows[one], columns[other]] = count
    best = shared[linear_sum_assignment(shared, maximize=True)].sum()
    f1 = 2 * best / (objects + predictions) if objects or predictions else float("nan")
    return f1, switches, objects - matched, predictions - matched, objects


def _joint_distances(name: str, joint: int, real: list[Pose], predicted: list[Pose]) -> Pairs:
    """Ids of those who have the joint, and distances in head sizes, NaN where they are too far apart to match."""
    ours = [pose for pose in real if joint in pose.joints]
    theirs = [pose for pose in predicted if joint in pose.joints]
    for pose in ours:
        if pose.head is None or pose.id is None:
            raise BadInput(f"{name}: a person of the truth has no {'head (x1 to y2)' if pose.head is None else 'id'}.")
    sizes = np.array([HEAD_SHARE * np.hypot(p.head[2] - p.head[0], p.head[3] - p.head[1]) for p in ours])  # type: ignore[index]
    places, others = (np.array([p.joints[joint] for p in poses]).reshape(-1, 2) for poses in (ours, theirs))
    away = np.linalg.norm(places[:, None] - others[None], axis=2)
    with np.errstate(divide="ignore", invalid="ignore"):  # a head without extent matches nothing
        away = away / sizes[:, None]
    away[~(away <= NEAR_HEADS)] = np.nan
    return [p.id or 0 for p in ours], [p.id or 0 for p in theirs], away


def _visible(poses: Sequence[Pose], ignored: Sequence[NDArray[np.float64]]) -> list[Pose]:
    """Persons without the joints inside ignored polygons; those without any joint are left out."""
    from matplotlib.path import Path as Outline

    def outside(joints: Joints) -> Joints:
        for outline in (Outline(polygon) for polygon in ignored if len(polygon) >= 3):
            joints = {joint: place for joint, place in joints.items() if not outline.contains_point(place)}
        return joints

    return [replace(pose, joints=joints) for pose in poses if (joints := outside(pose.joints))]


def check_frames(name: str, truth: Sequence[PoseFrame], found: Sequence[PoseFrame]) -> None:
    """Both sides are the same frames, by the file names of their images.
    Raises BadInput: they are not."""
    if len(truth) != len(found):
        raise BadInput(f"{name}: {len(truth)} frames in the truth and {len(found)} of poses; both list every frame.")
    for number, (t, f) in enumerate(zip(truth, found)):
        if Path(t.name).name != Path(f.name).name:
            where = f"{name}, frame {number}"
            raise BadInput(f"{where}: the truth has {t.name}, the poses {f.name}; the order is the same.")
