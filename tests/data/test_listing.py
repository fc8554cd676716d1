"""A cached listing: right, or made again."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from helpers import labelled_folder, write_images

from mec.data import decoding, folders, listing
from mec.data.opening import open_data
from mec.errors import BadInput


@pytest.fixture
def caching(monkeypatch, tmp_path_factory):
    """Small folders are cached too, at once and in a folder of their own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    for module in (listing, folders):
        monkeypatch.setattr(module, "CACHE_FROM", 4)
    monkeypatch.setattr(listing, "SETTLED", 0)


def settle(root: Path) -> None:
    """Let the clock of the file system move on."""
    time.sleep(0.02)


@pytest.fixture
def folder(tmp_path, caching) -> Path:
    labelled_folder(tmp_path / "set", width=70, height=66)
    return tmp_path / "set"


def counted(monkeypatch) -> list[str]:
    """Every folder that is walked and every image that is checked from now on."""
    seen: list[str] = []
    walk, check = listing.list_images, decoding.why_unreadable
    monkeypatch.setattr(listing, "list_images", lambda root: seen.append(str(root)) or walk(root))
    monkeypatch.setattr(folders, "why_unreadable", lambda path: seen.append(path) or check(path))
    return seen


def test_the_second_start_walks_nothing_checks_what_was_unreadable_and_finds_the_same(folder, monkeypatch):
    rotten = folder / "train" / "a" / "0003.png"
    rotten.write_bytes(b"rot")
    (folder / "train" / "notes.txt").write_text("no image")
    settle(folder)
    first, seen = open_data(str(folder)), counted(monkeypatch)
    second = open_data(str(folder))
    assert seen == [str(rotten)]  # it may have been mended
    assert first.fingerprint == second.fingerprint
    assert first.train.images == second.train.images
    assert first.skipped == second.skipped
    assert len(second.skipped) == 1
    assert first.left_out == second.left_out == {"files with the suffix .txt": 1}
    assert first.train.labels.tolist() == second.train.labels.tolist()


def test_an_image_that_was_mended_is_trained_on_again(folder):
    rotten = folder / "train" / "a" / "0003.png"
    whole = rotten.read_bytes()
    rotten.write_bytes(bytes(len(whole)))
    settle(folder)
    assert len(open_data(str(folder)).train) == 35
    rotten.write_bytes(whole)
    assert len(open_data(str(folder)).train) == 36


@pytest.mark.parametrize("target", [".", "..", "../b"])
def test_links_that_lead_to_what_is_listed_anyway_are_not_followed(tmp_path, target):
    write_images(tmp_path / "set" / "a", 3)
    write_images(tmp_path / "set" / "b", 2)
    (tmp_path / "set" / "a" / "link").symlink_to(target)
    names = listing.list_images(tmp_path / "set").names
    assert names == ["a/0000.png", "a/0001.png", "a/0002.png", "b/0000.png", "b/0001.png"]


def test_a_folder_that_may_not_be_listed_is_named_and_the_rest_is_read(tmp_path, monkeypatch):
    write_images(tmp_path / "set" / "open", 3)
    write_images(tmp_path / "set" / "closed", 2)
    scan = os.scandir

    def refused(path):
        if Path(path) == refuse:
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refused)
    refuse = tmp_path / "set" / "closed"
    found = open_data(str(tmp_path / "set"))
    assert len(found.train) == 3
    assert [(s.path, s.reason) for s in found.skipped] == [(str(refuse), "folder cannot be listed: Permission denied")]
    refuse = tmp_path / "set"
    with pytest.raises(BadInput, match=r"set: cannot be listed \(Permission denied\)"):
        open_data(str(tmp_path / "set"))


def add(folder):
    write_images(folder / "train" / "b" / "new", 1, width=70, height=66)


def remove(folder):
    (folder / "train" / "a" / "0000.png").unlink()


def rename(folder):
    (folder / "train" / "a" / "0000.png").rename(folder / "train" / "a" / "zero.png")


def overwrite(folder):
    write_images(folder / "train" / "a", 1, width=71, height=66)


@pytest.mark.parametrize("change", [add, remove, rename, overwrite])
def test_a_folder_that_changed_is_walked_again(folder, change):
    settle(folder)
    before = open_data(str(folder))
    settle(folder)
    change(folder)
    after = open_data(str(folder))
    names = {os.path.relpath(p, folder / "train") for p in after.train.images.paths}
    assert names == {str(p.relative_to(folder / "train")) for p in (folder / "train").rglob("*.png")}
    assert after.fingerprint != before.fingerprint


def test_a_damaged_cache_is_done_without(folder):
    settle(folder)
    first = open_data(str(folder))
    kept = list(Path(os.environ["XDG_CACHE_HOME"]).rglob("*.npz"))
    assert len(kept) == 4  # listing and unreadable ones, of train and of val
    for path in kept:
        path.write_bytes(path.read_bytes()[:100])
    assert open_data(str(folder)).fingerprint == first.fingerprint


def test_a_cache_that_cannot_be_written_is_done_without(folder, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/nowhere")
    assert len(open_data(str(folder)).train) == 36


def test_small_folders_leave_no_trace(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_images(tmp_path / "set", 20, width=70, height=66)
    open_data(str(tmp_path / "set"))
    assert not (tmp_path / "cache").exists()
    assert len(list((tmp_path / "set").iterdir())) == 20
