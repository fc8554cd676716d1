"""`mec track` on videos and folders of one's own: what the benchmarks' heads give, by frame and id."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mec
from mec.cli.main import main
from mec.errors import BadInput
from mec.evaluation.tracking import motfiles
from mec.evaluation.tracking.appearance import open_appearance
from mec.evaluation.tracking.following import track
from mec.evaluation.tracking.sot import BoxVideo, track_targets
from mec.evaluation.tracking.video import open_frames, write_video
from mec.evaluation.tracking.vos import segment

FRAMES, STEP = 6, (5, 3)


def frame(t: int, second: bool = False) -> Image.Image:
    """A textured square goes over a textured ground; a second one goes the other way."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 128, (30, 40, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    squares = [random.integers(100, 255, (6, 6, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1) for _ in range(2)]
    for (x, y), square in zip(corners(t), squares[: 1 + second]):
        pixels[y : y + 24, x : x + 24] = square
    return Image.fromarray(pixels)


def corners(t: int) -> list[tuple[int, int]]:
    return [(40 + STEP[0] * t, 40 + STEP[1] * t), (120 - 6 * t, 80)]


def folder(root: Path, second: bool = False) -> Path:
    """Frames whose names are in order by value alone: 8.png, 9.png, 10.png, ..."""
    root.mkdir()
    for t in range(FRAMES):
        frame(t, second).save(root / f"{t + 8}.png")
    return root


def rows(path: Path) -> np.ndarray:
    return np.loadtxt(path, delimiter=",", ndmin=2)


def test_a_box_is_followed_through_a_folder_as_the_benchmarks_head_follows_it(tmp_path, capsys):
    frames, out = folder(tmp_path / "frames"), tmp_path / "new" / "tracks.txt"
    words = ["track", "pixels", str(frames), "--box", "40,40,24,24", "--out", str(out)]
    assert main([*words, "--video", str(tmp_path / "drawn" / "a.gif")]) == 0
    found = rows(out)
    assert found[:, :2].tolist() == [[t + 1, 1] for t in range(FRAMES)]
    assert found[:, 6:].tolist() == [[1, -1, -1, -1]] * FRAMES
    paths = tuple(frames / f"{t + 8}.png" for t in range(FRAMES))
    first = np.array([41.0, 41, 24, 24])  # OTB counts from 1
    (expected,) = track_targets(open_appearance("pixels"), [BoxVideo("a", paths, first, first[None])], "dcf")
    np.testing.assert_allclose(found[:, 2:6], expected - [1, 1, 0, 0], atol=1e-9)
    true = np.array([[*corners(t)[0], 24, 24] for t in range(FRAMES)])
    assert np.abs(found[:, 2:4] - true[:, :2]).max() < 8
    said = capsys.readouterr().out
    assert f"{out}: 6 frames, " in said
    with Image.open(tmp_path / "drawn" / "a.gif") as video:
        assert (video.n_frames, video.size) == (FRAMES, (160, 120))


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_a_video_file_is_followed_and_its_own_rate_is_kept(tmp_path, suffix):
    pytest.importorskip("av")
    video = tmp_path / f"a{suffix}"
    write_video(video, (frame(t) for t in range(FRAMES)), rate=10)
    opened = open_frames(video)
    assert (opened.size, opened.rate, opened.names) == ((120, 160), 10, ())
    assert len([*opened]) == len([*opened]) == FRAMES  # as often as it is asked for
    out = mec.track(
        "pixels", video, box=[40, 40, 24, 24], head="xcorr", out=tmp_path / "t.txt", video=tmp_path / "b.gif"
    )
    found = rows(out)
    assert len(found) == FRAMES
    assert np.abs(found[:, 2:4] - [corners(t)[0] for t in range(FRAMES)]).max() < 8
    with Image.open(tmp_path / "b.gif") as drawn:
        assert drawn.info["duration"] == 100


def test_masks_are_propagated_and_written_with_their_ids(tmp_path):
    frames, ids = folder(tmp_path / "frames", second=True), np.zeros((120, 160), np.uint8)
    for (x, y), name in zip(corners(0), (3, 7)):
        ids[y : y + 24, x : x + 24] = name
    Image.fromarray(ids).save(tmp_path / "ids.png")
    out = track("pixels", frames, mask=tmp_path / "ids.png", out=tmp_path / "t.txt", video=tmp_path / "t.gif")
    found = motfiles.read_masks(out, FRAMES, unique=True)
    assert {row.id for row in found} == {3, 7}
    expected = [*segment(open_appearance("pixels"), iter(open_frames(frames)), ids)]
    for row in found:
        assert (row.decoded() == (expected[row.frame - 1] == row.id)).all()
    last = next(row for row in found if (row.frame, row.id) == (FRAMES, 3)).decoded()
    x, y = corners(FRAMES - 1)[0]
    assert last[y + 4 : y + 20, x + 4 : x + 20].mean() > 0.8


def test_a_mask_of_0_and_255_is_one_object_and_said_so(tmp_path, capsys):
    frames, mask = folder(tmp_path / "frames"), np.zeros((120, 160), np.uint8)
    mask[40:64, 40:64] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    out = track("pixels", frames, mask=tmp_path / "m.png", out=tmp_path / "t.txt")
    assert "m.png: the pixels of 255 are taken as object 1." in capsys.readouterr().out
    assert {row.id for row in motfiles.read_masks(out)} == {1}


def given(tmp_path: Path, kind: str) -> Path:
    """Detections of both squares in any order, and a doubtful one."""
    found = [(t, *corners(t)[i], 24, 24, 0.9) for t in range(FRAMES) for i in ((0, 1), (1, 0))[t % 2]]
    found.append((2, 5, 5, 20, 30, 0.3))
    if kind == "json":
        content = {
            "images": [{"id": 50 + t, "file_name": f"{t + 8}.png"} for t in range(FRAMES)],
            "categories": [],
            "annotations": [{"image_id": 50 + t, "bbox": [x, y, w, h], "score": s} for t, x, y, w, h, s in found],
        }
        (tmp_path / "d.json").write_text(json.dumps(content))
        return tmp_path / "d.json"
    lines = [",".join(map(str, (t + 1, *([-1] if kind == "seven" else []), *rest))) for t, *rest in found]
    (tmp_path / "d.txt").write_text("\n".join(lines))
    return tmp_path / "d.txt"


@pytest.mark.parametrize("kind", ["six", "seven", "json"])
@pytest.mark.parametrize("motion", [False, True])
def test_detections_are_linked_to_one_track_an_object(kind, motion, tmp_path):
    frames, path = folder(tmp_path / "frames", second=True), given(tmp_path, kind)
    out = track("pixels", frames, detections=path, out=tmp_path / "t.txt", motion=motion, video=tmp_path / "t.gif")
    found = rows(out)
    assert len(found) == 2 * FRAMES
    for name, which in ((1, 0), (2, 1)):
        own = found[found[:, 1] == name]
        assert own[:, 0].tolist() == [*range(1, FRAMES + 1)]
        assert np.abs(own[:, 2:4] - [corners(t)[which] for t in range(FRAMES)]).max() < 6


BAD = [
    ({}, "One of --box, --mask and --detections; none came"),
    ({"box": [1, 1, 5, 5], "mask": "m.png"}, "--box and --mask came"),
    ({"box": [1, 1, 5]}, "x,y,w,h in px"),
    ({"box": [1, 1, 0, 5]}, "w and h above 0"),
    ({"box": [200, 1, 5, 5]}, "beside the first frame, which has 160 x 120 px"),
    ({"box": [-9, 1, 5, 5]}, "beside the first frame"),
    ({"box": [1, 1, 5, 5], "out": "t.csv"}, r"ends with \.txt"),
    ({"box": [1, 1, 5, 5], "video": "t.avi"}, r"ends with \.mp4 or \.gif"),
    ({"mask": "none.png"}, "no such mask"),
    ({"mask": "black.png"}, "all of it is 0"),
    ({"mask": "small.png"}, "16x12 px, but its frame has 160x120"),
    ({"detections": "later.txt"}, "frame 7; frames are whole numbers from 1 to 6"),
    ({"detections": "weak.txt"}, r"no detection in it above --least-score 0\.5"),
    ({"detections": "others.json"}, r"1 of its images are no frames of .*other\.png"),
    ({"detections": "list.json"}, "not detections as `mec detect` writes them"),
]


@pytest.mark.parametrize(("flags", "words"), BAD)
def test_what_does_not_fit_is_told_before_anything_is_followed(flags, words, tmp_path, monkeypatch):
    folder(tmp_path / "frames")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mec.evaluation.tracking.following.open_appearance", None)  # would fail
    Image.new("L", (160, 120)).save("black.png")
    Image.new("L", (16, 12), 1).save("small.png")
    Path("later.txt").write_text("7,1,1,5,5,0.9")
    Path("weak.txt").write_text("1,1,1,5,5,0.5")
    Path("others.json").write_text('{"images": [{"id": 1, "file_name": "other.png"}], "annotations": []}')
    Path("list.json").write_text('{"images": [3], "annotations": []}')
    with pytest.raises((BadInput, FileNotFoundError), match=words):
        track("pixels", "frames", **{"out": "t.txt", **flags})
    assert not Path("t.txt").exists()


def test_what_is_no_video_is_told(tmp_path):
    pytest.importorskip("av")
    with pytest.raises(FileNotFoundError, match="no such video, nor a folder"):
        open_frames(tmp_path / "none.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(BadInput, match=r"text\.mp4: not a video that can be read"):
        open_frames(tmp_path / "text.mp4")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="no frame in it"):
        open_frames(tmp_path / "empty")
    frames = folder(tmp_path / "frames")
    (frames / "10.png").write_bytes(b"cut off")
    (tmp_path / "t.txt").write_text("of before")
    with pytest.raises(BadInput, match=r"10\.png: cannot be read.*every frame"):
        track("pixels", frames, box="40,40,24,24", out=tmp_path / "t.txt")
    assert (tmp_path / "t.txt").read_text() == "of before"
