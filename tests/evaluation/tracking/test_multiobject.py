"""MOT, MOTS and PoseTrack from files to figures, on a small video with people of plain colours that cross."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ranks
from helpers import as_stored, small_subject, stored_in
from PIL import Image

from mec.cli.main import main
from mec.errors import BadInput
from mec.evaluation.evaluate import evaluate
from mec.evaluation.results import Result
from mec.evaluation.subject import resolve
from mec.evaluation.tracking import mot, motfiles, multiobject, posefiles
from mec.evaluation.tracking.appearance import open_appearance
from mec.evaluation.tracking.mot import FIRST_ID, MotBenchmark, MotsBenchmark, boxes_of_rows
from mec.evaluation.tracking.motfiles import MaskRow
from mec.evaluation.tracking.objects import pose_mask
from mec.evaluation.tracking.posetrack import NOT_TRACKED, PoseTrackBenchmark
from mec.evaluation.tracking.protocols import Association, Mot, benchmarks_in

FRAMES, HEIGHT, WIDTH = 9, 160, 256
COLOURS = ((220, 40, 40), (40, 200, 60), (60, 80, 230))
ORDERS = ((2, 0, 1), (1, 2, 0), (0, 1, 2))  # of poses, in turn
SKELETON = {
    0: (8, 58), 1: (9, 46), 2: (10, 34), 3: (20, 34), 4: (21, 46), 5: (22, 58), 6: (4, 32), 7: (5, 24),
    8: (8, 14), 9: (22, 14), 10: (25, 24), 11: (26, 32), 12: (15, 12), 13: (15, 7), 14: (15, 2),
}  # fmt: skip


def asked(split: str, detections: str | None = None, **flags) -> Association:
    return Association(data_root="", split=split, detections=detections, **flags)


def measure_tracks(kind, subject, root: Path, options: Association, **flags):
    return multiobject.measure_tracks(kind, subject, replace(options, data_root=root, **flags))


def corners(t: int) -> list[tuple[int, int]]:
    """Top left of each person: two cross at different heights, one stays."""
    return [(40 + 12 * t, 20), (130 - 12 * t, 40), (200, 90)]


def joints(t: int, person: int) -> dict[int, tuple[float, float]]:
    x, y = corners(t)[person]
    return {joint: (float(x + dx), float(y + dy)) for joint, (dx, dy) in SKELETON.items()}


def masks(t: int) -> list[np.ndarray]:
    """People as drawn; a pixel belongs to the one drawn last."""
    whole = [pose_mask(joints(t, i), (HEIGHT, WIDTH)) for i in range(3)]
    return [mask & ~np.any(whole[i + 1 :], axis=0) if i < 2 else mask for i, mask in enumerate(whole)]


def picture(t: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(100, 140, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for mask, colour in zip(masks(t), COLOURS):
        pixels[mask] = colour
    return Image.fromarray(pixels)


def clip(root: Path, name: str) -> Path:
    folder = root / "images" / "train" / name
    (folder / "img1").mkdir(parents=True)
    for t in range(FRAMES):
        picture(t).save(folder / "img1" / f"{t + 1:06}.png")
    keys = f"frameRate=30\nseqLength={FRAMES}\nimWidth={WIDTH}\nimHeight={HEIGHT}\nimExt=.png"
    (folder / "seqinfo.ini").write_text(f"[Sequence]\nname={name}\nimDir=img1\n{keys}\n")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The video in all three layouts; do not change it."""
    root = tmp_path_factory.mktemp("videos")
    rows = [(t + 1, i + 1, x, y, 30, 62) for t in range(FRAMES) for i, (x, y) in enumerate(corners(t))]
    boxes = boxes_of_rows(rows)
    folder = clip(root / "mot", "MOT16-01")
    truth = replace(boxes, kind=np.ones(len(rows), int), visibility=np.ones(len(rows)))
    motfiles.write_boxes(folder / "gt" / "gt.txt", truth, truth=True)
    rng = np.random.default_rng(1)  # detections are a little off, and in any order
    lines = [f"{r[0]},-1,{','.join(str(v) for v in np.array(r[2:]) + rng.normal(0, 1.5, 4))},0.9" for r in rows]
    rng.shuffle(lines)
    (folder / "det").mkdir()
    (folder / "det" / "det.txt").write_text("\n".join([*lines, "1,-1,5,5,30,60,0.4"]))  # the last is too doubtful

    folder = clip(root / "mots", "MOTS20-01")
    found = [
        MaskRow(t + 1, FIRST_ID + i + 1, 2, (HEIGHT, WIDTH), motfiles.encoded_mask(mask))
        for t in range(FRAMES)
        for i, mask in enumerate(masks(t))
    ]
    motfiles.write_masks(folder / "gt" / "gt.txt", found)
    for t in range(FRAMES):
        now = [replace(row, id=0) for row in found if row.frame == t + 1]
        now = [now[i] for i in rng.permutation(3)]
        motfiles.write_masks(root / f"mots/obs/made/train/MOTS20-01/img1/{t + 1:06}.txt", now)

    def annotation(t: int, named: bool) -> dict:
        persons = []
        for i in range(3) if named else ORDERS[t % 3]:
            points = [{"id": [j], "x": [x], "y": [y]} for j, (x, y) in joints(t, i).items()]
            head = {"x1": [0], "y1": [0], "x2": [6], "y2": [8]} if named else {}
            persons.append({"track_id": [i if named else 0], "annopoints": [{"point": points}], **head})
        return {"image": [{"name": f"images/val/a/{t:06}.png"}], "annorect": persons}

    (root / "posetrack/images/val/a").mkdir(parents=True)
    for t in range(FRAMES):
        picture(t).save(root / f"posetrack/images/val/a/{t:06}.png")
    for place, named in (("posetrack_data/annotations/val/a.json", True), ("obs/val/made/a.json", False)):
        content = {"annolist": [annotation(t, named) for t in range(FRAMES)]}
        posefiles.write_annotations(root / "posetrack" / place, content)
    return root


def figures(results: list[Result], stage: int = 0) -> dict[str, float]:
    return {r.metric: r.value for r in results if r.settings.get("stage") == stage}


TASKS = [("mot", MotBenchmark, "train"), ("mots", MotsBenchmark, "train"), ("posetrack", PoseTrackBenchmark, "val")]


@pytest.mark.parametrize(("task", "kind", "split"), TASKS)
@pytest.mark.parametrize("motion", [False, True])
def test_colours_keep_people_apart_who_cross(made, tmp_path, task, kind, split, motion):
    subject = resolve("pixels", out=tmp_path)
    results = list(measure_tracks(kind, subject, made / task, asked(split, motion=motion)))
    found = figures(results)
    assert found["ID switches"] == 0
    assert found["IDF1"] == pytest.approx(100)
    assert found["MOTA"] == pytest.approx(100)
    still = {r.metric: r.value for r in results if r.settings.get("head") == "still"}
    assert still["IDF1"] < 80  # one of three people stands still
    (settings,) = {json.dumps(dict(r.settings)) for r in results if "stage" in r.settings}
    assert json.loads(settings) == {
        "stage": 0, "motion": motion, "mode": "clean", "detections": "det" if task == "mot" else "made", "sequences": 1,
    }  # fmt: skip


def test_sequences_are_shared_among_ranks_and_each_is_that_of_one(made, tmp_path):
    root = copied(made, tmp_path / "data") / "mot"
    for number in (2, 3):
        folder = root / f"images/train/MOT16-0{number}"
        shutil.copytree(root / "images/train/MOT16-01", folder)
        keys = (folder / "seqinfo.ini").read_text()
        (folder / "seqinfo.ini").write_text(keys.replace("MOT16-01", f"MOT16-0{number}"))
    kind = Mot(data_root=root, split="train")
    assert len(ranks.same_on_two(kind, tmp_path)) == 6  # three that never move, too
    scores = [
        json.loads(next(out.rglob("stage*/scores.json")).read_text()) for out in (tmp_path / "one", tmp_path / "two")
    ]
    assert scores[0]["scores"] == scores[1]["scores"]
    assert scores[1]["seconds"].keys() == {"MOT16-01", "MOT16-02", "MOT16-03"}


@pytest.mark.parametrize(("task", "kind", "split"), TASKS)
def test_a_grey_encoder_confuses_them(made, tmp_path, task, kind, split, monkeypatch):
    """The figures above come from looks: with features that are alike everywhere, those who cross are mixed up."""
    blind = open_appearance("pixels")
    blind.network.forward = lambda frames: frames.new_ones(
        len(frames), 4, -(-frames.shape[2] // 8), -(-frames.shape[3] // 8)
    )  # type: ignore[method-assign]
    monkeypatch.setattr(multiobject, "appearances", lambda subject, stage: [blind])
    results = list(measure_tracks(kind, resolve("pixels", out=tmp_path), made / task, asked(split)))
    assert figures(results)["IDF1"] < 95


def test_result_files_are_in_the_submission_formats(made, tmp_path):
    subject = resolve("pixels", out=tmp_path)
    for task, kind, split in TASKS:
        list(measure_tracks(kind, subject, made / task, asked(split), video="gif"))
    setting = "stage0-womotion-clean"
    boxes = motfiles.read_boxes(tmp_path / f"mot/train-det/{setting}/MOT16-01.txt", FRAMES, unique=True)
    assert set(boxes.id.tolist()) == {1, 2, 3}
    masks_ = motfiles.read_masks(tmp_path / f"mots/train-made/{setting}/MOTS20-01.txt", FRAMES, unique=True)
    assert {row.id for row in masks_} == {2001, 2002, 2003}
    assert {row.kind for row in masks_} == {2}
    given = posefiles.read_annotations(made / "posetrack/obs/val/made/a.json")
    named = posefiles.read_annotations(tmp_path / f"posetrack/val-made/{setting}/a.json")
    ids = [[person["track_id"][0] for person in frame["annorect"]] for frame in named["annolist"]]
    assert ids == [[1 + ORDERS[0].index(i) for i in ORDERS[t % 3]] for t in range(FRAMES)]
    assert posefiles.with_tracks(named, [[0] * 3] * FRAMES) == given
    for task, name in (("mot/train-det", "MOT16-01"), ("mots/train-made", "MOTS20-01"), ("posetrack/val-made", "a")):
        with Image.open(tmp_path / f"{task}/{setting}/{name}.gif") as video:
            assert video.n_frames == FRAMES  # type: ignore[attr-defined]
        seconds = json.loads((tmp_path / f"{task}/{setting}/scores.json").read_text())["seconds"][name]
        assert seconds["frames"] == FRAMES


@pytest.mark.parametrize(("mode", "first_id"), [("clean", 1), ("unitrack", NOT_TRACKED)])
def test_a_pose_that_returns_has_its_id_at_once_or_as_in_the_source_a_frame_later(made, tmp_path, mode, first_id):
    root = copied(made, tmp_path)
    path = root / "posetrack/obs/val/made/a.json"
    content = posefiles.read_annotations(path)
    for t in (3, 4):  # without the first person
        content["annolist"][t]["annorect"].pop(ORDERS[t % 3].index(0))
    posefiles.write_annotations(path, content)
    list(
        measure_tracks(
            PoseTrackBenchmark, resolve("pixels", out=tmp_path / "out"), root / "posetrack", asked("val", mode=mode)
        )
    )
    named = posefiles.read_annotations(tmp_path / f"out/posetrack/val-made/stage0-womotion-{mode}/a.json")
    ids = [named["annolist"][t]["annorect"][ORDERS[t % 3].index(0)]["track_id"][0] for t in (0, 5, 6)]
    own = ids[0]
    assert ids == [own, own if first_id == 1 else first_id, own]


def test_unitracks_mode_moves_boxes_by_what_its_paddings_differ_and_takes_features_half_a_pixel_off(
    made, tmp_path, monkeypatch
):
    corners, box_objects = [], mot.objects.box_objects
    monkeypatch.setattr(mot.objects, "box_objects", lambda *given: corners.append(given[4]) or box_objects(*given))
    found = []
    for mode in ("clean", "unitrack"):
        out = tmp_path / mode
        options = asked("train", mode=mode)
        list(measure_tracks(MotBenchmark, resolve("pixels", out=out), made / "mot", options))
        found.append(motfiles.read_boxes(out / f"mot/train-det/stage0-womotion-{mode}/MOT16-01.txt"))
    clean, theirs = found
    # 256 px at 3.8 are 972.8 px, pasted as 973 at 57, believed at 57.5, mapped back by 57.6.
    assert {*corners[:FRAMES]} == {(57, 0)}
    assert {*corners[FRAMES:]} == {(57.5, 0.0)}
    assert (clean.id == theirs.id).all()
    np.testing.assert_allclose(theirs.box - clean.box, np.tile([-0.1 / 3.8, 0, 0, 0], (len(clean), 1)), atol=1e-9)


@pytest.mark.parametrize("task", ["mot", "mots", "posetrack"])
def test_the_truth_as_detections_scores_a_hundred(made, tmp_path, task, capsys):
    words = ["evaluate", "pixels", task, "--data-root", str(made / task), "--detections", "gt", "--out", str(tmp_path)]
    assert main(words) == 0
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    found = {line["metric"]: line["value"] for line in lines if "stage" in line["settings"]}
    assert found["IDF1"] == pytest.approx(100)
    assert found["MOTA"] == pytest.approx(100)
    assert {line["protocol"] for line in lines} == {task}
    assert "frames, " in capsys.readouterr().out
    again = evaluate("pixels", task, data_root=made / task, detections="gt", out=str(tmp_path / "again"))
    assert as_stored(again) == stored_in(tmp_path)


def test_maps_are_kept_and_found_again(made, tmp_path):
    subject, cache = resolve("pixels", out=tmp_path / "out"), tmp_path / "maps"
    options = asked("train", cache=cache)
    first = list(measure_tracks(MotsBenchmark, subject, made / "mots", options))
    kept = sorted(cache.glob("*/*.npy"))
    assert len(kept) == FRAMES
    times = [path.stat().st_mtime_ns for path in kept]
    assert list(measure_tracks(MotsBenchmark, subject, made / "mots", options)) == first
    assert [path.stat().st_mtime_ns for path in kept] == times


# --- bad input ---------------------------------------------------------------------------------------------------


def copied(made: Path, to: Path) -> Path:
    import shutil

    return Path(shutil.copytree(made, to / "videos"))


def refused(kind, root: Path, split: str, tmp_path: Path, **options) -> str:
    with pytest.raises((BadInput, FileNotFoundError)) as error:
        list(measure_tracks(kind, resolve("pixels", out=tmp_path / "out"), root, asked(split, **options)))
    return str(error.value)


def test_no_detections_at_all_give_no_tracks_and_no_crash(made, tmp_path):
    root = copied(made, tmp_path)
    (root / "mot/images/train/MOT16-01/det/det.txt").write_text("")
    for path in (root / "mots/obs/made/train/MOTS20-01/img1").glob("*.txt"):
        path.write_text("")
    poses = root / "posetrack/obs/val/made/a.json"
    content = posefiles.read_annotations(poses)
    posefiles.write_annotations(poses, {"annolist": [{**frame, "annorect": []} for frame in content["annolist"]]})
    for task, kind, split in TASKS:
        found = figures(list(measure_tracks(kind, resolve("pixels", out=tmp_path / "out"), root / task, asked(split))))
        assert found["IDF1"] == 0, task


def test_objects_off_the_image_and_of_one_pixel_are_carried_along(made, tmp_path):
    root = copied(made, tmp_path)
    det = root / "mot/images/train/MOT16-01/det/det.txt"
    det.write_text(det.read_text() + "\n2,-1,-900,-900,30,60,0.9\n3,-1,5000,10,30,60,0.9\n4,-1,3,3,1,1,0.9\n")
    dot, corner = (np.zeros((HEIGHT, WIDTH), bool) for _ in range(2))
    dot[3, 3], corner[152, 0] = True, True
    path = root / "mots/obs/made/train/MOTS20-01/img1/000002.txt"
    rows = [MaskRow(2, 0, 2, (HEIGHT, WIDTH), motfiles.encoded_mask(m)) for m in (dot, corner)]
    motfiles.write_masks(path, [*motfiles.read_masks(path), *rows])
    poses = root / "posetrack/obs/val/made/a.json"
    content = posefiles.read_annotations(poses)
    away = {"id": [0], "x": [-5e5], "y": [9e6]}
    content["annolist"][2]["annorect"] += [{"annopoints": [{"point": [away]}]}, {"annopoints": []}, {}]
    posefiles.write_annotations(poses, content)
    for task, kind, split in TASKS:
        found = figures(list(measure_tracks(kind, resolve("pixels", out=tmp_path / "out"), root / task, asked(split))))
        assert found["ID switches"] == 0, task
        assert 80 < found["IDF1"] <= 100, task


def test_a_missing_frame_is_named(made, tmp_path):
    root = copied(made, tmp_path)
    for task in ("mot", "mots"):
        next((root / task).rglob("000004.png")).unlink()
    (root / "posetrack/images/val/a/000004.png").unlink()
    assert "1 of 9 frames are missing (000004.png" in refused(MotBenchmark, root / "mot", "train", tmp_path)
    assert "1 of 9 frames are missing (000004.png" in refused(MotsBenchmark, root / "mots", "train", tmp_path)
    assert "1 of 9 files are missing" in refused(PoseTrackBenchmark, root / "posetrack", "val", tmp_path)


def test_frames_of_another_size_or_unreadable_are_named(made, tmp_path):
    root = copied(made, tmp_path)
    Image.new("RGB", (64, 48)).save(root / "mot/images/train/MOT16-01/img1/000003.png")
    assert "64 x 48 px, but its seqinfo.ini says 256 x 160" in refused(MotBenchmark, root / "mot", "train", tmp_path)
    (root / "posetrack/images/val/a/000003.png").write_bytes(b"no picture")
    assert "cannot be read" in refused(PoseTrackBenchmark, root / "posetrack", "val", tmp_path)


def test_unequal_numbers_of_frames_are_named(made, tmp_path):
    root = copied(made, tmp_path)
    poses = root / "posetrack/obs/val/made/a.json"
    content = posefiles.read_annotations(poses)
    posefiles.write_annotations(poses, {"annolist": content["annolist"][:-1]})
    assert "9 frames in the truth and 8 of poses" in refused(PoseTrackBenchmark, root / "posetrack", "val", tmp_path)


def test_masks_that_overlap_or_have_another_size_are_named(made, tmp_path):
    root = copied(made, tmp_path)
    path = root / "mots/obs/made/train/MOTS20-01/img1/000002.txt"
    rows = motfiles.read_masks(path)
    motfiles.write_masks(path, [*rows, rows[0]])
    assert "masks 1 and 4 of frame 2 overlap" in refused(MotsBenchmark, root / "mots", "train", tmp_path)
    motfiles.write_masks(path, [MaskRow(2, 0, 2, (4, 4), motfiles.encoded_mask(np.ones((4, 4), bool)))])
    assert "a mask of 4 x 4 px in frame 2" in refused(MotsBenchmark, root / "mots", "train", tmp_path)


def test_which_detections_is_asked_where_it_is_not_clear(made, tmp_path):
    root = copied(made, tmp_path)
    words = refused(MotBenchmark, root / "mot", "train", tmp_path, detections="fairmot")
    assert "--detections fairmot: no folder, and none of those here (det, gt)" in words
    (root / "mots/obs/other").mkdir()
    assert "there are made, other" in refused(MotsBenchmark, root / "mots", "train", tmp_path)
    (root / "mot/images/train/MOT16-01/det/det.txt").unlink()
    assert "which detections? none in" in refused(MotBenchmark, root / "mot", "train", tmp_path)


def test_a_folder_of_detections_is_taken_and_a_missing_sequence_named(made, tmp_path):
    root = copied(made, tmp_path)
    mine = tmp_path / "mine"
    mine.mkdir()
    assert "mine/MOT16-01.txt: no such file" in refused(
        MotBenchmark, root / "mot", "train", tmp_path, detections=str(mine)
    )
    (mine / "MOT16-01.txt").write_text((root / "mot/images/train/MOT16-01/det/det.txt").read_text())
    results = list(
        measure_tracks(MotBenchmark, resolve("pixels", out=tmp_path / "out"), root / "mot", asked("train", str(mine)))
    )
    assert figures(results)["IDF1"] == pytest.approx(100)
    list(measure_tracks(MotBenchmark, resolve("pixels", out=tmp_path / "out"), root / "mot", asked("train", "gt")))
    folders = sorted(p.parent for p in (tmp_path / "out").glob("mot/*/still/MOT16-01.txt"))
    assert [p.parent.name for p in folders] == ["train-gt", f"train-{str(mine).strip('/').replace('/', '-')}"]
    texts = {(folder.parent / "stage0-womotion-clean/MOT16-01.txt").read_text() for folder in folders}
    assert len(texts) == 2  # neither took the other's place


def test_unknown_sequences_and_splits_are_named(made, tmp_path):
    assert "no sequence 'MOT16-99'" in refused(MotBenchmark, made / "mot", "train", tmp_path, sequences="MOT16-99")
    assert "images/test: no such folder" in refused(MotBenchmark, made / "mot", "test", tmp_path)
    assert "no SEQUENCE.json" in refused(PoseTrackBenchmark, made / "posetrack", "test", tmp_path)


def test_without_a_truth_tracks_are_written_and_nothing_is_scored(made, tmp_path, capsys):
    root = copied(made, tmp_path)
    (root / "mot/images/train/MOT16-01/gt/gt.txt").unlink()
    assert (
        list(measure_tracks(MotBenchmark, resolve("pixels", out=tmp_path / "out"), root / "mot", asked("train"))) == []
    )
    assert (tmp_path / "out/mot/train-det/stage0-womotion-clean/MOT16-01.txt").stat().st_size > 0
    assert "nothing was scored" in capsys.readouterr().out


def test_a_missing_extra_is_named(made, tmp_path, monkeypatch):
    from importlib import util

    monkeypatch.setattr(util, "find_spec", lambda name: None)
    assert "mot needs trackeval and cv2: pip install 'mec-ssl[tracking]'" in refused(
        MotBenchmark, made / "mot", "train", tmp_path
    )


# --- all of it at once -------------------------------------------------------------------------------------------


def test_tracking_runs_what_is_there_and_says_what_is_not(made, tmp_path, capsys):
    assert main(["evaluate", "pixels", "tracking", "--data-root", str(made), "--out", str(tmp_path)]) == 0
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert {line["protocol"] for line in lines} == {"mot", "mots", "posetrack"}
    assert "No data for sot, vos: left out." in capsys.readouterr().out
    assert as_stored(evaluate("pixels", "tracking", data_root=made, out=tmp_path / "again")) == stored_in(tmp_path)


def test_tracking_leaves_out_what_cannot_run_before_the_rest_runs(made, tmp_path, capsys):
    root = copied(made, tmp_path)
    (root / "mot/images/train/MOT16-01/det/det.txt").unlink()  # the first in turn
    (root / "mots/obs/other").mkdir()
    words = ["evaluate", "pixels", "tracking", "--data-root", str(root), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    lines = [json.loads(line) for line in (tmp_path / "out/results.jsonl").read_text().splitlines()]
    assert {line["protocol"] for line in lines} == {"posetrack"}
    said = capsys.readouterr().out
    assert "mot is left out: which detections? none in" in said
    assert "mots is left out: which detections? there are made, other" in said
    assert f"mec evaluate RUN mots --data-root {root / 'mots'}" in said
    assert said.index("mots is left out") < said.index("posetrack stage")
    (root / "posetrack/images/val/a/000004.png").unlink()
    assert main(words) == 2
    assert "posetrack is left out: " in capsys.readouterr().err


def test_tracking_without_data_or_with_two_of_a_kind_is_refused(made, tmp_path):
    with pytest.raises(BadInput, match="no tracking benchmark in it"):
        benchmarks_in(tmp_path)
    assert benchmarks_in(made / "mot") == {"mot": made / "mot"}
    for name in ("a", "b"):
        (tmp_path / name / "images/train/MOT16-01").mkdir(parents=True)
    with pytest.raises(BadInput, match="both have data for mot"):
        benchmarks_in(tmp_path)


def test_an_encoder_that_cannot_follow_is_refused_before_anything_is_scored(made, tmp_path):
    """Results of what stands still would be stored again at each try."""
    with pytest.raises(BadInput, match="tracking takes stages 3 and 4"):
        measure_tracks(MotBenchmark, small_subject(tmp_path), made / "mot", asked("train"))
    assert list(tmp_path.rglob("*.txt")) == []
