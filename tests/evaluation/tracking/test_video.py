"""Videos are read in order and written so that others can play them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import write_images
from PIL import Image

from mec.errors import BadInput
from mec.evaluation.tracking.video import colour_of, files_fingerprint, frames_of, with_boxes, with_masks, write_video


def test_frames_come_in_order_and_a_broken_one_is_named(tmp_path):
    paths = write_images(tmp_path, 7, width=10, height=8)
    found = list(frames_of(paths, ahead=3))
    for frame, path in zip(found, paths, strict=True):
        assert frame.permute(1, 2, 0).numpy().tolist() == np.array(Image.open(path)).tolist()
    paths[4].write_bytes(b"nothing")
    with pytest.raises(BadInput, match=r"0004\.png: cannot be read"):
        list(frames_of(paths))
    paths[4].unlink()
    with pytest.raises(BadInput, match=r"0004\.png: no such frame"):
        list(frames_of(paths))


@pytest.mark.parametrize("kind", ["16 bits", "floats"])
def test_frames_of_deep_values_are_refused_since_each_would_have_a_scale_of_its_own(tmp_path, kind):
    pixels = np.arange(80).reshape(8, 10)
    path = tmp_path / ("0.png" if kind == "16 bits" else "0.tif")
    Image.fromarray(pixels.astype(np.uint16 if kind == "16 bits" else np.float32)).save(path)
    with pytest.raises(BadInput, match="more than 8 bits"):
        list(frames_of([path]))


def moving(count: int, width: int = 96, height: int = 64):
    for i in range(count):
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[20:40, 4 * i : 4 * i + 20] = (255, 40, 40)
        yield Image.fromarray(pixels)


@pytest.mark.parametrize("suffix", ["gif", "mp4"])
def test_a_video_plays_back_what_was_drawn(tmp_path, suffix):
    path = tmp_path / "deep" / f"a.{suffix}"
    write_video(path, moving(6), rate=10)
    if suffix == "gif":
        with Image.open(path) as video:
            frames = []
            for i in range(video.n_frames):
                video.seek(i)
                frames.append(np.array(video.convert("RGB")))
            assert video.info["duration"] == 100
    else:
        av = pytest.importorskip("av")
        with av.open(path) as container:
            assert container.streams.video[0].codec_context.name == "h264"
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 6
    for i, (found, expected) in enumerate(zip(frames, moving(6))):
        assert np.abs(found.astype(int) - np.array(expected)).mean() < 8, i


def test_large_frames_are_reduced_to_even_sides(tmp_path):
    write_video(tmp_path / "a.gif", moving(2, width=131, height=65), most=100)
    with Image.open(tmp_path / "a.gif") as video:
        assert video.size == (100, 50)


def test_what_cannot_be_written_is_told_and_leaves_nothing(tmp_path):
    with pytest.raises(BadInput, match=r"ends with \.gif or \.mp4"):
        write_video(tmp_path / "a.avi", moving(2))
    for name in ("a.gif", "a.mp4"):
        with pytest.raises(BadInput, match="no frame"):
            write_video(tmp_path / name, iter(()))
    assert list(tmp_path.iterdir()) == []


def test_boxes_and_masks_are_drawn_where_they_are():
    frame = torch.zeros(3, 30, 40, dtype=torch.uint8)
    drawn = np.array(with_boxes(frame, [(10, 5, 20, 8), (-50, -50, 3, 3)], (1, 2), width=1))
    assert tuple(drawn[5, 20]) == tuple(drawn[12, 29]) == tuple(drawn[8, 10]) == colour_of(1)
    assert not drawn[:, :10].any()
    assert not drawn[:5].any()
    ids = np.zeros((30, 40), np.uint8)
    ids[3, 7] = 5
    tinted = np.array(with_masks(frame, ids))
    assert np.abs(tinted[3, 7].astype(float) - np.array(colour_of(5)) / 2).max() <= 0.5
    tinted[3, 7] = 0
    assert not tinted.any()


def test_ids_have_colours_of_their_own():
    assert len({colour_of(number) for number in range(50)}) == 50


def test_a_fingerprint_tells_files_apart(tmp_path):
    paths = write_images(tmp_path, 3)
    before = files_fingerprint(paths, tmp_path)
    assert files_fingerprint(paths, tmp_path) == before != files_fingerprint(paths[:2], tmp_path)
    paths[0].write_bytes(b"other")
    assert files_fingerprint(paths, tmp_path) != before
