"""Scores: trackeval's known answers through our files, trackeval called directly, and poses scored by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mec.errors import BadInput
from mec.evaluation.tracking import motfiles, trackscores
from mec.evaluation.tracking.posefiles import Pose, PoseFrame

# --- trackeval ---------------------------------------------------------------------------------------------------

# MOT15's example tracker, trackeval 1.3.0; MOTA and IDF1 are also those of py-motmetrics' README.
KNOWN = {
    "TUD-Campus": {
        "HOTA": 39.140, "DetA": 41.805, "AssA": 36.912, "MOTA": 52.646, "IDF1": 55.766,
        "ID switches": 7, "false positives": 13, "misses": 150,
    },
    "TUD-Stadtmitte": {
        "HOTA": 39.785, "DetA": 39.227, "AssA": 40.884, "MOTA": 56.401, "IDF1": 64.462,
        "ID switches": 7, "false positives": 45, "misses": 452,
    },
    "all": {"HOTA": 39.996, "MOTA": 55.512, "IDF1": 62.430},
}  # fmt: skip


@pytest.mark.samples
def test_trackevals_known_answers_come_through_our_reader_and_writer(samples, tmp_path):
    given = samples / "samples/trackeval_gt"
    lengths = {"TUD-Campus": 71, "TUD-Stadtmitte": 179}
    for name, length in lengths.items():
        truth = motfiles.read_boxes(given / f"gt/MOT15-train/{name}/gt/gt.txt", length, unique=True)
        found = motfiles.read_boxes(given / f"mot15_tracker_results/{name}.txt", length, unique=True)
        motfiles.write_boxes(tmp_path / f"gt/{name}/gt/gt.txt", truth, truth=True)
        motfiles.write_boxes(tmp_path / f"found/{name}.txt", found)
    scores = trackscores.score_tracks(tmp_path / "gt", tmp_path / "found", lengths, "MOT15")
    for name, known in KNOWN.items():
        for metric, value in known.items():
            assert scores[name][metric] == pytest.approx(value, abs=6e-4), (name, metric)


def directly(kind: str, truth: Path, results: Path, lengths: dict[str, int], **config) -> dict[str, dict]:
    """trackeval's own evaluator."""
    import trackeval

    quiet = {"PRINT_CONFIG": False}
    off = {f"OUTPUT_{name}": False for name in ("SUMMARY", "EMPTY_CLASSES", "DETAILED")}
    printing = {"PRINT_RESULTS": False, "TIME_PROGRESS": False, "PLOT_CURVES": False, "PRINT_ONLY_COMBINED": True}
    evaluator = trackeval.Evaluator({**trackeval.Evaluator.get_default_eval_config(), **off, **printing, **quiet})
    data = getattr(trackeval.datasets, kind)(
        {
            **config, **quiet, "GT_FOLDER": str(truth), "TRACKERS_FOLDER": str(results.parent), "SEQ_INFO": lengths,
            "TRACKERS_TO_EVAL": [results.name], "TRACKER_SUB_FOLDER": "", "SKIP_SPLIT_FOL": True,
        }
    )  # fmt: skip
    metrics = [trackeval.metrics.HOTA(), trackeval.metrics.CLEAR(quiet), trackeval.metrics.Identity(quiet)]
    found, _ = evaluator.evaluate([data], metrics)
    return {name: one["pedestrian"] for name, one in found[kind][results.name].items()}


def compare(ours: trackscores.Scores, theirs: dict[str, dict]) -> None:
    for name, one in theirs.items():
        mine = ours["all" if name == "COMBINED_SEQ" else name]
        expected = {
            "HOTA": 100 * one["HOTA"]["HOTA"].mean(), "AssA": 100 * one["HOTA"]["AssA"].mean(),
            "MOTA": 100 * one["CLEAR"]["MOTA"], "sMOTA": 100 * one["CLEAR"]["sMOTA"],
            "ID switches": one["CLEAR"]["IDSW"], "false positives": one["CLEAR"]["CLR_FP"],
            "misses": one["CLEAR"]["CLR_FN"], "IDF1": 100 * one["Identity"]["IDF1"],
        }  # fmt: skip
        for metric, value in expected.items():
            assert mine[metric] == value, (name, metric)


@pytest.mark.samples
def test_perturbed_boxes_score_as_trackeval_scores_them(samples, tmp_path, capsys):
    given, lengths = samples / "samples/trackeval_gt/gt/MOT16-train", {"MOT16-09": 60, "MOT16-05": 60}
    for seed, (name, length) in enumerate(lengths.items()):
        rng = np.random.default_rng(seed)
        lines = [line.split(",") for line in (given / name / "gt/gt.txt").read_text().split()]
        lines = [parts for parts in lines if int(parts[0]) <= length]
        for folder in ("truth", "ours"):  # the very text
            place = tmp_path / folder / name / "gt/gt.txt"
            place.parent.mkdir(parents=True)
            place.write_text("\n".join(",".join(parts) for parts in lines))
        # All rows, distractors too, as a tracker that does not know classes would give them.
        rows = motfiles.read_boxes(tmp_path / "ours" / name / "gt/gt.txt", length, unique=True)
        kept = rows.where(rng.uniform(size=len(rows)) > 0.2)  # drops
        swapped = np.where((kept.frame > 30) & (kept.id % 3 == 0), kept.id + 1000, kept.id)  # new ids half-way
        shifted = kept.box + rng.normal(0, 6, kept.box.shape) * [1, 1, 0, 0]
        motfiles.write_boxes(tmp_path / f"found/{name}.txt", replace(kept, id=swapped, box=shifted))
        plain = [
            f"{f},{i},{float(x)!r},{float(y)!r},{float(w)!r},{float(h)!r},1,-1,-1,-1"
            for f, i, (x, y, w, h) in zip(kept.frame, swapped, shifted)
        ]
        (tmp_path / "plain").mkdir(exist_ok=True)
        (tmp_path / f"plain/{name}.txt").write_text("\n".join(plain))
    ours = trackscores.score_tracks(tmp_path / "ours", tmp_path / "found", lengths, "MOT16")
    theirs = directly("MotChallenge2DBox", tmp_path / "truth", tmp_path / "plain", dict(lengths), BENCHMARK="MOT16")
    compare(ours, theirs)
    assert 20 < ours["all"]["IDF1"] < 95
    assert ours["all"]["ID switches"] > 0


@pytest.mark.samples
def test_perturbed_masks_score_as_trackeval_scores_them(samples, tmp_path, capsys):
    given, length = samples / "samples/trackeval_gt/gt/MOTS-train/MOTS20-05", 12
    lines = [line.split(" ") for line in (given / "gt/gt.txt").read_text().splitlines()]
    lines = [parts for parts in lines if int(parts[0]) <= length]
    text = "\n".join(" ".join(parts) for parts in lines)
    for folder in ("truth", "ours"):
        place = tmp_path / folder / "MOTS20-05/gt/gt.txt"
        place.parent.mkdir(parents=True)
        place.write_text(text)
    rng = np.random.default_rng(0)
    rows = [
        replace(row, id=row.id + 50 * (row.id % 2 and row.frame > 6), kind=2)  # new ids half-way
        for row in motfiles.read_masks(tmp_path / "ours/MOTS20-05/gt/gt.txt", length, unique=True)
        if row.kind == 2 and rng.uniform() > 0.2  # drops
    ]
    eroded = []
    for row in rows:  # shrunk: they still do not overlap
        mask = row.decoded()
        mask[:, 1:] &= mask[:, :-1]
        mask[1:] &= mask[:-1]
        eroded.append(replace(row, counts=motfiles.encoded_mask(mask)))
    motfiles.write_masks(tmp_path / "found/MOTS20-05.txt", eroded)
    plain = "\n".join(f"{r.frame} {r.id} 2 {r.size[0]} {r.size[1]} {r.counts}" for r in eroded)
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain/MOTS20-05.txt").write_text(plain)
    lengths = {"MOTS20-05": length}
    ours = trackscores.score_tracks(tmp_path / "ours", tmp_path / "found", lengths, "MOTS")
    compare(ours, directly("MOTSChallenge", tmp_path / "truth", tmp_path / "plain", dict(lengths)))
    assert 20 < ours["all"]["sMOTA"] < 95
    assert ours["all"]["ID switches"] > 0


def test_what_trackeval_refuses_is_said_in_its_words(tmp_path, capsys):
    mask = np.ones((4, 6), bool)
    rows = [motfiles.MaskRow(1, 2001 + i, 2, (4, 6), motfiles.encoded_mask(mask)) for i in range(2)]
    motfiles.write_masks(tmp_path / "gt/a/gt/gt.txt", rows[:1])
    motfiles.write_masks(tmp_path / "found/a.txt", rows)
    with pytest.raises(BadInput, match=r"trackeval cannot score .* overlapping masks"):
        trackscores.score_tracks(tmp_path / "gt", tmp_path / "found", {"a": 1}, "MOTS")


# --- poses -------------------------------------------------------------------------------------------------------

HEAD = (0.0, 0.0, 30.0, 40.0)  # diagonal 50, size 30, near within 15 px


def pose(track: int, at: float, joints=range(15), head=HEAD) -> Pose:
    return Pose({joint: (at + 7 * joint, at) for joint in joints}, track, head)


def frames(*rows: list[Pose], ignored=()) -> list[PoseFrame]:
    return [PoseFrame(f"images/{i:06}.jpg", row, list(ignored)) for i, row in enumerate(rows)]


def score(truth: list[PoseFrame], found: list[PoseFrame]) -> dict[str, float]:
    return trackscores.score_poses({"a": (truth, found)})["all"]


TWO = [pose(1, 0), pose(2, 500)]


@pytest.mark.parametrize("seed", range(6))
def test_counts_are_those_of_motmetrics(seed):
    import motmetrics

    rng = np.random.default_rng(seed)
    judge, frames = motmetrics.MOTAccumulator(auto_id=True), []
    for _ in range(30):
        true = rng.choice(6, rng.integers(0, 6), replace=False).tolist()
        found = rng.choice(
            [*range(10, 15), 1000], rng.integers(0, 6), replace=bool(seed % 2)
        ).tolist()  # odd: twice an id
        distances = rng.uniform(size=(len(true), len(found)))
        distances[distances > 0.5] = np.nan
        frames.append((true, found, distances))
        judge.update(true, found, distances)
    names = ["idf1", "num_switches", "num_misses", "num_false_positives", "num_objects"]
    expected = motmetrics.metrics.create().compute(judge, metrics=names).iloc[0].tolist()
    assert trackscores.identity_counts(frames) == pytest.approx(expected)


def test_nothing_at_all_has_no_idf1():
    assert np.isnan(trackscores.identity_counts([([], [], np.empty((0, 0)))])[0])


def test_perfect_poses_score_a_hundred():
    assert score(frames(*[TWO] * 5), frames(*[TWO] * 5)) == {
        "IDF1": 100, "MOTA": 100, "ID switches": 0, "misses": 0, "false positives": 0,
    }  # fmt: skip


def test_exchanged_ids_are_a_switch_for_each_joint_and_person():
    other = [pose(2, 0), pose(1, 500)]
    found = score(frames(*[TWO] * 7), frames(*[TWO] * 3, *[other] * 4))  # six frames count: three and three
    assert found["ID switches"] == 30
    assert found["MOTA"] == pytest.approx(100 * (1 - 2 / 12))
    assert found["IDF1"] == pytest.approx(50)


def test_the_last_frame_of_a_sequence_does_not_count():
    other = [pose(2, 0), pose(1, 500)]
    assert score(frames(*[TWO] * 4), frames(*[TWO] * 3, other))["MOTA"] == 100


def test_unlabelled_frames_do_not_count_even_as_the_last():
    found = frames(TWO, TWO, [pose(9, 900)], TWO, [pose(9, 900)])
    assert score(frames(TWO, TWO, [], TWO, []), found)["MOTA"] == 100


@pytest.mark.parametrize(("away", "near"), [(14.9, True), (15.1, False)])
def test_a_joint_is_found_within_half_a_head(away, near):
    moved = [Pose({j: (x + away, y) for j, (x, y) in p.joints.items()}, p.id) for p in TWO]
    assert score(frames(*[TWO] * 3), frames(*[moved] * 3))["MOTA"] == (100 if near else -100)


def test_a_frame_without_predictions_is_one_miss_and_one_false_positive_a_joint():
    found = score(frames(TWO, TWO, TWO), frames(TWO, [], TWO))  # two frames count
    assert (found["misses"], found["false positives"]) == (15, 15)
    assert found["MOTA"] == pytest.approx(100 * (1 - 2 / 3))  # two objects and one dummy


def test_joints_in_ignored_regions_are_taken_from_both_sides():
    region = np.array([[490.0, 490], [700, 490], [700, 510], [490, 510]])  # all of the second person
    found = [pose(1, 0), pose(7, 503)]
    assert score(frames(*[TWO] * 3, ignored=[region]), frames(*[found] * 3))["MOTA"] == 100
    half = np.array([[490.0, 490], [550, 490], [550, 510], [490, 510]])  # its joints 0 to 7
    shifted = Pose({joint: (x + 30, y) for joint, (x, y) in TWO[1].joints.items()}, 2)
    away = [pose(1, 0), shifted]  # its joints 0 to 2 are inside, the others are false
    counted = score(frames(*[TWO] * 3, ignored=[half]), frames(*[away] * 3))
    assert counted["misses"] == 2 * 7
    assert counted["false positives"] == 2 * 12


def test_persons_without_joints_do_not_count():
    empty = Pose({}, 3, HEAD)
    assert score(frames(*[[*TWO, empty]] * 3), frames(*[[*TWO, empty]] * 3))["MOTA"] == 100


def test_several_untracked_poses_may_share_an_id():
    found = [pose(1000, 0), pose(1000, 500)]
    counted = score(frames(*[TWO] * 3), frames(*[found] * 3))
    assert counted["misses"] == counted["false positives"] == 0


def test_a_joint_that_a_sequence_lacks_is_left_out_of_idf1():
    some = [pose(1, 0, joints=range(5))]
    assert score(frames(*[some] * 3), frames(*[some] * 3))["IDF1"] == 100
    other = [pose(5, 0, joints=range(5, 10))]
    assert score(frames(*[some] * 3), frames(*[other] * 3))["IDF1"] == 0


def test_counts_are_summed_over_sequences_and_idf1_is_averaged():
    good, bad = (frames(*[TWO] * 5), frames(*[TWO] * 5)), (frames(*[TWO] * 3), frames(*[[pose(1, 0)]] * 3))
    all_ = trackscores.score_poses({"a": good, "b": bad})
    assert all_["b"]["MOTA"] == 50
    assert all_["all"]["MOTA"] == pytest.approx(100 * (1 - 2 / 12))
    assert all_["b"]["IDF1"] == pytest.approx(100 * 2 / 3)
    assert all_["all"]["IDF1"] == pytest.approx((100 + 100 * 2 / 3) / 2)


@pytest.mark.parametrize(
    ("truth", "found", "words"),
    [
        (frames(TWO, TWO), frames(TWO), "2 frames in the truth and 1"),
        (
            frames(TWO, TWO),
            [frames(TWO)[0], PoseFrame("b.jpg", TWO, [])],
            "frame 1: the truth has images/000001.jpg, the poses b.jpg",
        ),
        (frames(*[[replace(TWO[0], head=None)]] * 2), frames(TWO, TWO), "has no head"),
        (frames(*[[replace(TWO[0], id=None)]] * 2), frames(TWO, TWO), "has no id"),
    ],
)
def test_truth_and_poses_that_do_not_fit_are_named(truth, found, words):
    with pytest.raises(BadInput, match=words):
        score(truth, found)
