"""Contents, not sizes: what was replaced by something of equal size and time is noticed, in folders and in tars."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from helpers import small_subject, tiny_run, write_images
from PIL import Image

from mec.data import contents
from mec.data.contents import BLOCK, contents_hash
from mec.data.dataset import Split
from mec.data.images import Files
from mec.data.opening import open_data
from mec.errors import BadInput
from mec.training.run import check_images, read_settings

SMALL_RUN = {"limit": None, "batch_size": 4, "recipe": "digits", "epochs": 1, "workers": 0}


def replace_in_place(path: Path, old: bytes, new: bytes) -> None:
    """Other bytes of the same number, at the same time of change."""
    before, data = path.stat(), path.read_bytes()
    assert len(old) == len(new)
    assert data.count(old) >= 1
    path.write_bytes(data.replace(old, new, 1))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def bitmaps(folder: Path, count: int = 8, **size) -> list[Path]:
    """Uncompressed, so that all have the same number of bytes."""
    return write_images(folder, count, ".bmp", **({"width": 70, "height": 66} | size))


def swap(path: Path) -> None:
    pixels = path.read_bytes()[100:103]
    replace_in_place(path, pixels, bytes(255 - b for b in pixels))


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_a_run_is_not_resumed_on_images_that_were_replaced(tmp_path, kind):
    paths = bitmaps(tmp_path / "set")
    data, victim = tmp_path / "set", paths[3]
    if kind == "tar":
        data = victim = tmp_path / "set.tar"
        with tarfile.open(data, "w") as tar:
            for path in paths:
                tar.add(path, path.name)
    run = tiny_run(tmp_path / "run", str(data), **SMALL_RUN)
    stored = read_settings(run)
    check_images(run, stored, open_data(str(data)))
    if kind == "tar":
        pixels = paths[3].read_bytes()[100:140]
        replace_in_place(victim, pixels, bytes(255 - b for b in pixels))
    else:
        swap(victim)
    with pytest.raises(BadInput, match="was started on other images"):
        check_images(run, stored, open_data(str(data)))


def test_a_run_of_before_that_knows_names_and_sizes_alone_goes_on(tmp_path):
    from dataclasses import replace

    bitmaps(tmp_path / "set")
    run = tiny_run(tmp_path / "run", str(tmp_path / "set"), **SMALL_RUN)
    stored = read_settings(run)
    old = replace(stored, data_fingerprint=stored.data_fingerprint.partition("-")[0])
    found = open_data(str(tmp_path / "set"))
    check_images(run, old, found)
    assert [found.fits(each) for each in (found.fingerprint, found.fingerprint[:-1] + "x", "")] == [True, False, False]
    bitmaps(tmp_path / "set", 1, width=71)
    with pytest.raises(BadInput, match="was started on other images"):
        check_images(run, old, open_data(str(tmp_path / "set")))


def test_cached_features_of_images_that_were_replaced_are_not_used_again(tmp_path):
    paths = bitmaps(tmp_path / "set")
    subject, split = small_subject(tmp_path), Split(Files(tuple(map(str, paths))))
    before = subject.features(split).x
    Image.new("RGB", (70, 66)).save(tmp_path / "black.bmp")
    stat = paths[2].stat()
    assert stat.st_size == (tmp_path / "black.bmp").stat().st_size
    paths[2].write_bytes((tmp_path / "black.bmp").read_bytes())
    os.utime(paths[2], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = subject.features(split).x
    assert [i for i in range(8) if not np.array_equal(before[i], after[i])] == [2]


def test_cached_features_of_a_tar_that_was_replaced_are_not_used_again(tmp_path):
    """Without an index nothing is known of its images but where they lie."""
    path = tmp_path / "set.tar"
    with tarfile.open(path, "w") as tar:
        for image in bitmaps(tmp_path / "set"):
            tar.add(image, image.name)
    subject = small_subject(tmp_path)
    before = subject.features(open_data(str(path)).train).x
    pixels = (tmp_path / "set" / "0003.bmp").read_bytes()[8000:8040]  # of the middle, which this encoder sees
    replace_in_place(path, pixels, bytes(255 - b for b in pixels))
    after = subject.features(open_data(str(path)).train).x
    assert [i for i in range(8) if not np.array_equal(before[i], after[i])] == [3]


def test_a_copy_elsewhere_at_another_time_has_the_same_contents(tmp_path):
    for name in ("one", "other"):
        bitmaps(tmp_path / name / "set")
    os.utime(tmp_path / "other" / "set" / "0000.bmp", (1, 1))
    prints = {open_data(str(tmp_path / name / "set")).fingerprint for name in ("one", "other")}
    assert len(prints) == 1


def test_above_the_stated_size_places_all_over_the_set_are_compared_and_that_is_said(tmp_path, monkeypatch):
    paths = [str(p) for p in bitmaps(tmp_path / "set", 4, width=300, height=200)]
    big = tmp_path / "big.bin"
    big.write_bytes(bytes(40 * BLOCK))
    paths.append(str(big))
    sizes = [os.path.getsize(path) for path in paths]
    whole = contents_hash(paths, sizes)
    monkeypatch.setattr(contents, "WHOLE_BELOW", 1000)
    monkeypatch.setattr(contents, "PLACES", 16)
    sampled = contents_hash(paths, sizes)
    assert sampled == contents_hash(paths, sizes) != whole
    noticed = 0
    for place in range(40):
        with open(big, "r+b") as file:
            file.seek(place * BLOCK + 7)
            file.write(b"x")
        noticed += contents_hash(paths, sizes) != sampled
        big.write_bytes(bytes(40 * BLOCK))
    assert 10 <= noticed <= 16
    big.unlink()
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        tar.add(paths[0], "a.bmp")
    for name in ("set", "set.tar"):
        assert any("16 places in these" in words for words in open_data(str(tmp_path / name)).words()), name


def test_a_file_that_went_away_meanwhile_counts_as_empty(tmp_path):
    (path,) = bitmaps(tmp_path, 1)
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    assert contents_hash([str(path) + "x"], [10]) == contents_hash([str(empty)], [0]) != contents_hash([str(path)], [9])
