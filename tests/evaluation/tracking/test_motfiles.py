"""Files of the benchmarks: what is written is read back; what does not fit is refused with its place."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import write_images

from mec.errors import BadInput
from mec.evaluation.tracking import motfiles, posefiles
from mec.evaluation.tracking.motfiles import Boxes, MaskRow


def boxes(n: int = 12, seed: int = 0) -> Boxes:
    rng = np.random.default_rng(seed)
    return Boxes(
        np.sort(rng.integers(1, 5, n)),
        np.arange(n),
        rng.uniform(0.1, 900, (n, 4)),
        rng.integers(0, 2, n).astype(float),
        rng.integers(1, 14, n),
        rng.uniform(0, 1, n),
    )


def text_file(folder: Path, *lines: str) -> Path:
    path = folder / "rows.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


# --- boxes -------------------------------------------------------------------------------------------------------


def test_truth_is_read_back_as_it_was_written(tmp_path):
    rows = boxes()
    motfiles.write_boxes(tmp_path / "gt.txt", rows, truth=True)
    again = motfiles.read_boxes(tmp_path / "gt.txt", unique=True)
    for name in ("frame", "id", "box", "score", "kind", "visibility"):
        assert (getattr(again, name) == getattr(rows, name)).all(), name


def test_results_have_the_benchmarks_ten_columns(tmp_path):
    motfiles.write_boxes(tmp_path / "seq.txt", boxes(1))
    columns = (tmp_path / "seq.txt").read_text().strip().split(",")
    assert columns[6:] == ["1", "-1", "-1", "-1"]


@pytest.mark.parametrize(
    ("line", "score"),
    [("3,1.5,2,30,40,0.25", 0.25), ("3,-1,1.5,2,30,40,0.25,-1,-1,-1", 0.25), ("3 -1 1.5 2 30 40 0.25", 0.25)],
)
def test_detections_of_every_kind_are_read(tmp_path, line, score):
    rows = motfiles.read_boxes(text_file(tmp_path, line))
    assert rows.frame.tolist() == [3]
    assert rows.box.tolist() == [[1.5, 2, 30, 40]]
    assert rows.score.tolist() == [score]


def test_shares_of_the_image_become_pixels(tmp_path):
    (tmp_path / "000002.txt").write_text("0.5 0.25 0.1 0.2 0.9\n")
    rows = motfiles.read_observed(tmp_path, 3, (100, 200))
    assert rows.frame.tolist() == [2]
    np.testing.assert_allclose(rows.box, [[90, 15, 20, 20]])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("1,2,3,4", "line 2: 4 numbers"),
        ("1,2,x,4,5,6", "line 2: '1,2,x,4,5,6': numbers"),
        ("1,2,3,4,0,6,1", "w and h above 0"),
        ("1,2,3,nan,5,6,1", "finite numbers"),
        ("0,2,3,4,5,6,1", "frame 0; frames are whole numbers from 1 to 9"),
        ("10,2,3,4,5,6,1", "frame 10; .* from 1 to 9, the length"),
        ("1.5,2,3,4,5,6,1", "frame 1.5"),
        ("1,7,3,4,5,6,1", "lines 1 and 2: frame 1 has id 7 twice"),
    ],
)
def test_a_bad_row_is_named_with_its_line(tmp_path, line, words):
    path = text_file(tmp_path, "1,7,3,4,5,6,1", line)
    with pytest.raises(BadInput, match=words):
        motfiles.read_boxes(path, frames=9, unique=True)


def test_an_empty_file_has_no_rows(tmp_path):
    assert len(motfiles.read_boxes(text_file(tmp_path, ""))) == 0


def test_a_missing_file_is_named_with_its_neighbours(tmp_path):
    text_file(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"other\.txt: no such file\. Beside it: rows\.txt"):
        motfiles.read_boxes(tmp_path / "other.txt")


# --- masks -------------------------------------------------------------------------------------------------------


def mask(seed: int, shape=(40, 60)) -> np.ndarray:
    return np.random.default_rng(seed).uniform(size=shape) < 0.3


@pytest.mark.parametrize("seed", range(5))
def test_run_lengths_are_those_that_pycocotools_wrote(seed):
    one = mask(seed) if seed else np.zeros((40, 60), bool)
    runs = motfiles.runs_of(motfiles.encoded_mask(one))
    flat = np.repeat(np.arange(len(runs)) % 2, runs).astype(bool)
    assert (one == flat.reshape(60, 40).T).all()


def test_masks_are_read_back_as_they_were_written(tmp_path):
    rows = [
        MaskRow(1, 2001, 2, (40, 60), motfiles.encoded_mask(mask(1))),
        MaskRow(3, 10000, 10, (40, 60), motfiles.encoded_mask(mask(2))),
    ]
    motfiles.write_masks(tmp_path / "gt.txt", rows)
    assert motfiles.read_masks(tmp_path / "gt.txt", 3, unique=True) == rows
    assert (rows[0].decoded() == mask(1)).all()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("1 2001 2 40 60", "'frame id class h w rle' is wanted"),
        ("1 2001 2 40 sixty abc", "is wanted"),
        ("1 2001 2 40 60 c26>0", "run lengths are not those of a mask of 40 x 60 px"),
        ("1 2001 2 40 60 \N{SNOWMAN}", "run lengths"),
        ("9 2001 2 40 60 GOOD", "frame 9"),
        ("1 2001 2 40 60 GOOD", "lines 1 and 2: frame 1 has id 2001 twice"),
    ],
)
def test_a_bad_mask_is_named_with_its_line(tmp_path, line, words):
    good = motfiles.encoded_mask(mask(3))
    path = text_file(tmp_path, f"1 2001 2 40 60 {good}", line.replace("GOOD", good))
    with pytest.raises(BadInput, match=words):
        motfiles.read_masks(path, 5, unique=True)


def test_masks_that_share_a_pixel_are_found():
    one, other = np.zeros((40, 60), bool), np.zeros((40, 60), bool)
    one[:10, :10], other[10:, :10] = True, True
    rows = [MaskRow(1, i, 2, (40, 60), motfiles.encoded_mask(m)) for i, m in enumerate((one, other))]
    assert motfiles.overlapping(rows) is None
    other[9, 9] = True
    assert motfiles.overlapping([*rows, MaskRow(1, 3, 2, (40, 60), motfiles.encoded_mask(other))]) in ((0, 2), (1, 2))


# --- sequences ---------------------------------------------------------------------------------------------------


def clip_folder(root: Path, name: str = "MOT16-01", frames: int = 3, **info) -> Path:
    folder = root / "images" / "train" / name
    write_images(folder / "img1", frames + 1)
    (folder / "img1" / "0000.png").unlink()
    for i in range(1, frames + 1):
        (folder / "img1" / f"{i:04}.png").rename(folder / "img1" / f"{i:06}.png")
    keys = {
        "name": name,
        "imDir": "img1",
        "frameRate": 30,
        "seqLength": frames,
        "imWidth": 8,
        "imHeight": 8,
        "imExt": ".png",
    }
    lines = [f"{key}={value}" for key, value in {**keys, **info}.items() if value is not None]
    (folder / "seqinfo.ini").write_text("\n".join(["[Sequence]", *lines]))
    return folder


def test_a_sequence_has_its_frames_in_order(tmp_path):
    clip = motfiles.read_clip(clip_folder(tmp_path))
    assert [path.name for path in clip.frames] == ["000001.png", "000002.png", "000003.png"]
    assert (clip.rate, clip.size) == (30, (8, 8))


@pytest.mark.parametrize(
    ("info", "words"),
    [
        ({"seqLength": 5}, r"2 of 5 frames are missing \(000004.png, 000005.png"),
        ({"seqLength": 2}, r"1 frames \(000003.png, ...\) beyond the seqLength 2"),
        ({"frameRate": "fast"}, "could not convert"),
        ({"imWidth": None}, "imWidth"),
    ],
)
def test_a_wrong_seqinfo_is_named(tmp_path, info, words):
    with pytest.raises(BadInput, match=words):
        motfiles.read_clip(clip_folder(tmp_path, **info))


def test_a_seqmap_chooses_sequences_and_must_be_right(tmp_path):
    for name in ("MOT16-01", "MOT16-02"):
        clip_folder(tmp_path, name)
    assert [p.name for p in motfiles.list_clips(tmp_path, "train", "MOT16-train.txt")] == ["MOT16-01", "MOT16-02"]
    (tmp_path / "seqmaps").mkdir()
    (tmp_path / "seqmaps" / "MOT16-train.txt").write_text("name\nMOT16-02\n")
    assert [p.name for p in motfiles.list_clips(tmp_path, "train", "MOT16-train.txt")] == ["MOT16-02"]
    (tmp_path / "seqmaps" / "MOT16-train.txt").write_text("MOT16-02\n")
    assert [p.name for p in motfiles.list_clips(tmp_path, "train", "MOT16-train.txt")] == ["MOT16-02"]
    (tmp_path / "seqmaps" / "MOT16-train.txt").write_text("name\nMOT16-07\n")
    with pytest.raises(BadInput, match="lists MOT16-07, which"):
        motfiles.list_clips(tmp_path, "train", "MOT16-train.txt")
    with pytest.raises(FileNotFoundError, match=r"images/test: no such folder\. Beside it: train"):
        motfiles.list_clips(tmp_path, "test", "MOT16-test.txt")


# --- poses -------------------------------------------------------------------------------------------------------


def person(track: int = 4, **joints) -> dict:
    points = [{"id": [int(k[1:])], "x": [x], "y": [y]} for k, (x, y) in joints.items()]
    return {"track_id": [track], "annopoints": [{"point": points}], "x1": [1], "y1": [2], "x2": [3], "y2": [4]}


def annotation(*frames: list[dict], **more) -> dict:
    return {
        "annolist": [{"image": [{"name": f"images/{i:06}.jpg"}], "annorect": f, **more} for i, f in enumerate(frames)]
    }


def test_poses_are_read_from_the_layout_of_2017(tmp_path):
    region = {"point": [{"x": [0], "y": [0]}, {"x": [9], "y": [0]}, {"x": [9], "y": [9]}]}
    frames = posefiles.poses_of(annotation([person(j0=(5, 6), j13=(7.5, 8))], [], ignore_regions=[region]), tmp_path)
    assert [len(f.poses) for f in frames] == [1, 0]
    (pose,) = frames[0].poses
    assert pose == posefiles.Pose({0: (5, 6), 13: (7.5, 8)}, 4, (1, 2, 3, 4))
    assert frames[0].ignored[0].tolist() == [[0, 0], [9, 0], [9, 9]]


def test_the_layout_of_2018_is_turned_into_that_of_2017(tmp_path):
    keypoints = np.zeros((17, 3))
    keypoints[[0, 1, 3, 5, 16]] = [[10, 20, 1], [11, 21, 1], [1, 1, 1], [12, 22, 1], [13, 23, 0]]
    content = {
        "images": [{"id": 7, "file_name": "a.jpg", "ignore_regions_x": [[0, 1, 1]], "ignore_regions_y": [[0, 0, 1]]}],
        "annotations": [
            {
                "image_id": 7,
                "keypoints": keypoints.ravel().tolist(),
                "track_id": 3,
                "bbox_head": [5, 6, 10, 20],
                "scores": [],
            }
        ],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    (frame,) = posefiles.poses_of(posefiles.read_annotations(tmp_path / "a.json"), tmp_path)
    # Nose 13, head bottom 12, left shoulder 9, right ankle 0; the left ear is dropped.
    assert frame.poses[0].joints == {13: (10, 20), 12: (11, 21), 9: (12, 22), 0: (13, 23)}
    assert frame.poses[0].head == (5, 6, 15, 26)
    assert frame.ignored[0].tolist() == [[0, 0], [1, 0], [1, 1]]


@pytest.mark.samples
def test_the_published_files_of_2018_are_read(samples):
    path = samples / "samples/posetrack18_mmpose/posetrack18/annotations/val/012834_mpii_test.json"
    frames = posefiles.poses_of(posefiles.read_annotations(path), path)
    assert frames[0].name == "images/val/012834_mpii_test/000000.jpg"
    assert len(frames[0].ignored) == 4
    first = frames[0].poses[0]
    assert first.joints[13] == (401, 530)
    assert first.joints[9] == (377, 560)  # left shoulder
    assert first.head == (378, 503, 422, 556)


def test_track_ids_are_filled_in_and_nothing_else_changes(tmp_path):
    content = annotation([person(j0=(5, 6)), person(j1=(7, 8))], [])
    named = posefiles.with_tracks(content, [[9, 1000], []])
    assert [p["track_id"] for p in named["annolist"][0]["annorect"]] == [[9], [1000]]
    assert content["annolist"][0]["annorect"][0]["track_id"] == [4]
    posefiles.write_annotations(tmp_path / "a.json", posefiles.with_tracks(content, [[4, 4], []]))
    assert posefiles.read_annotations(tmp_path / "a.json") == content


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (annotation([person(j15=(1, 1))]), "frame 0 of 1: joint 15, ids are 0 to 14"),
        (annotation([], [person(j1=(float("nan"), 1))]), "frame 1 of 2: joint 1 at"),
        ({"annolist": [{"annorect": []}]}, "'image' is missing"),
        ({"frames": []}, "neither 'annolist'"),
        ({"images": [{"id": 1}], "annotations": []}, "not in the layout of PoseTrack 2018"),
        ({"images": [], "annotations": [{"image_id": 5, "keypoints": []}]}, "image 5, which is not listed"),
    ],
)
def test_poses_that_cannot_be_understood_are_named(tmp_path, content, words):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    with pytest.raises(BadInput, match=words):
        posefiles.poses_of(posefiles.read_annotations(path), path)


def test_no_json_is_said(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(BadInput, match="not valid JSON"):
        posefiles.read_annotations(tmp_path / "a.json")
