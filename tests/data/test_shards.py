"""Packed images: what webdataset reads of them, and that a run on them is a run on images like any other."""

from __future__ import annotations

import functools
import http.client
import http.server
import json
import shutil
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import crashed_run, identical, labelled_folder, lines, noise_image, tiny_run, weights, write_images
from PIL import Image

from mec.data import fetching
from mec.data.batches import ViewBatches
from mec.data.decoding import read_image
from mec.data.images import InMemory
from mec.data.opening import open_data
from mec.data.pack import pack
from mec.data.shards import Shards, expand_braces
from mec.errors import BadInput
from mec.recipes.recipe import View

VIEWS = (View(size=8, scale=(0.5, 1.0), copies=2),)


def packed(folder: Path, out: Path, **options) -> Path:
    return pack(folder, out, quiet=True, **options)


@pytest.fixture
def photos(tmp_path) -> Path:
    """Thirty images of several formats in nested folders, too large for memory."""
    write_images(tmp_path / "photos" / "a", 12, ".jpg", width=90, height=70)
    write_images(tmp_path / "photos" / "b" / "deep", 12, ".png", seed=1, width=80, height=100)
    write_images(tmp_path / "photos", 6, ".webp", seed=2, width=75, height=75)
    return tmp_path / "photos"


def samples_of(images: Shards) -> dict[str, bytes]:
    return {images.table.names[images.rows[i]]: images.bytes(i) for i in range(len(images))}


def test_packed_images_keep_their_bytes_and_names(photos, tmp_path):
    found = open_data(str(packed(photos, tmp_path / "out", shard_size=0.05)))
    names = {str(p.relative_to(photos)): p.read_bytes() for p in photos.rglob("*.*")}
    assert len(list((tmp_path / "out").glob("train-*.tar"))) > 3
    assert samples_of(found.train.images) == names
    assert found.name == "out"
    assert found.train.labels is None
    order = [n for n in found.train.images.table.names]
    assert order != sorted(order)  # mixed once, so that a reader who goes from front to back sees a mixture


def test_webdataset_reads_what_was_packed(tmp_path):
    from webdataset.tariterators import group_by_keys, tar_file_expander

    labelled_folder(tmp_path / "set", width=70, height=66)
    out = packed(tmp_path / "set", tmp_path / "out", shard_size=0.1)
    found = open_data(str(out))
    for part, split in (("train", found.train), ("val", found.test)):
        theirs = []
        for tar in sorted(out.glob(f"{part}-*.tar")):
            with open(tar, "rb") as file:
                samples = group_by_keys(tar_file_expander([{"url": tar.name, "stream": file}]))
                theirs += [(sample["png"], int(sample["cls"])) for sample in samples]
        ours = [(split.images.bytes(i), int(split.labels[i])) for i in range(len(split))]
        assert theirs == ours
    assert [np.bincount(split.labels).tolist() for split in (found.train, found.test)] == [[12] * 3, [6] * 3]
    assert found.classes == ("a", "b", "c")


def test_labels_stay_with_their_images(tmp_path):
    labelled_folder(tmp_path / "set", width=70, height=66)
    data = open_data(str(packed(tmp_path / "set", tmp_path / "out")))
    for split in (data.train, data.test):
        names = [split.images.table.names[row] for row in split.images.rows]
        assert [n.split("/")[1] for n in names] == [data.classes[label] for label in split.labels]


def test_the_same_folder_gives_the_same_shards(photos, tmp_path):
    one, other = (packed(photos, tmp_path / name, shard_size=0.1) for name in ("one", "other"))
    assert [p.read_bytes() for p in sorted(one.glob("*.tar"))] == [p.read_bytes() for p in sorted(other.glob("*.tar"))]
    assert open_data(str(one)).fingerprint == open_data(str(other)).fingerprint
    assert open_data(str(one), limit=10).fingerprint != open_data(str(one)).fingerprint


def test_resized_images_have_the_shorter_side_asked_for_and_look_the_same(tmp_path, photographs):
    (tmp_path / "set").mkdir()
    photographs[0].save(tmp_path / "set" / "wide.jpg", quality=95)
    photographs[1].transpose(Image.Transpose.ROTATE_90).save(tmp_path / "set" / "high.png")
    noise_image(0, width=100, height=90).save(tmp_path / "set" / "small.png")
    images = open_data(str(packed(tmp_path / "set", tmp_path / "out", resize=120, quality=95))).train.images
    rows = {images.table.names[row]: i for i, row in enumerate(images.rows)}
    assert images.bytes(rows["small.png"]) == (tmp_path / "set" / "small.png").read_bytes()
    assert [images.read(rows[n]).size for n in ("wide.jpg", "high.png")] == [(180, 120), (120, 180)]
    judge = read_image(tmp_path / "set" / "wide.jpg").resize((180, 120), Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(images.read(rows["wide.jpg"])).astype(int) - np.asarray(judge)).mean() < 3


def test_unreadable_images_stand_in_the_quarantine_list_with_their_reasons(photos, tmp_path, capsys):
    (photos / "empty.jpg").write_bytes(b"")
    (photos / "cut.jpg").write_bytes((photos / "a" / "0003.jpg").read_bytes()[:900])
    (photos / "notes.txt").write_text("no image")
    found = open_data(str(pack(photos, tmp_path / "out")))
    assert len(found.train) == 30
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "Left out: 1 file with the suffix .txt"
    assert told[-1] == f"2 images cannot be read: {tmp_path / 'out' / 'quarantine.jsonl'}"  # a path is not wrapped
    listed = {Path(line["path"]).name: line["reason"] for line in lines(tmp_path / "out" / "quarantine.jsonl")}
    assert listed.keys() == {"empty.jpg", "cut.jpg"}
    assert "0 bytes" in listed["empty.jpg"]
    assert "truncated" in listed["cut.jpg"]


def test_small_packed_images_live_in_memory(tmp_path):
    labelled_folder(tmp_path / "set")
    data = open_data(str(packed(tmp_path / "set", tmp_path / "out")))
    assert isinstance(data.train.images, InMemory)
    assert len(data.train) == 36
    assert data.can_be_measured


# --- reading them as a run does --------------------------------------------------------------------------------------


def batches(split, start=0, stop=6, rows=slice(0, 8), workers=0):
    made = ViewBatches(split, VIEWS, 8, seed=0, device=torch.device("cpu"), workers=workers)
    return [torch.stack(batch.views) for batch in made.batches(start, stop, lambda n: rows)]


def test_batches_of_shards_depend_on_neither_start_nor_workers_nor_ranks(photos, tmp_path):
    split = open_data(str(packed(photos, tmp_path / "out", shard_size=0.05))).train
    whole = batches(split)
    for found in (batches(split, workers=2), whole[:2] + batches(split, 2)):
        assert all(torch.equal(a, b) for a, b in zip(whole, found, strict=True))
    halves = zip(batches(split, rows=slice(0, 4)), batches(split, rows=slice(4, 8)))
    for one, both in zip(whole, halves, strict=True):
        torch.testing.assert_close(torch.cat(both, 1), one, atol=1e-5, rtol=0)


def test_a_run_on_shards_stopped_in_the_middle_of_an_epoch_and_resumed_ends_the_same(photos, tmp_path, monkeypatch):
    out = str(packed(photos, tmp_path / "out", shard_size=0.05))
    options = {"limit": None, "batch_size": 8, "recipe": "digits", "workers": 0}
    whole = tiny_run(tmp_path / "whole", out, **options)
    assert lines(whole / "metrics.jsonl")[-1]["step"] == 6
    cut = crashed_run(monkeypatch, 5, tmp_path / "cut", out, save_minutes=0, **options)
    assert not (cut / "results.jsonl").exists()
    tiny_run(cut, out, resume=True, **{k: v for k, v in options.items() if k != "recipe"} | {"set": ()})
    assert identical(weights(whole), weights(cut))


def test_an_image_that_rots_in_its_tar_is_skipped_and_named(photos, tmp_path):
    out = packed(photos, tmp_path / "out")
    images = open_data(str(out)).train.images
    (tar,) = out.glob("*.tar")
    rotten = bytearray(tar.read_bytes())
    rotten[images.table.offset[images.rows[4]] + 300] ^= 0x10
    tar.write_bytes(bytes(rotten))
    split = open_data(str(out)).train
    made = ViewBatches(split, VIEWS, 8, seed=0, device=torch.device("cpu"), workers=0)
    skipped = [s for batch in made.batches(0, 9, lambda n: slice(0, n)) for s in batch.skipped]
    assert {s.path for s in skipped} == {split.images.name(4)}
    assert "CRC-32" in skipped[0].reason


def test_tars_without_an_index_are_read_by_a_pattern(tmp_path):
    labelled_folder(tmp_path / "set", width=70, height=66)
    out = packed(tmp_path / "set", tmp_path / "out", shard_size=0.1)
    indexed = open_data(str(out)).train
    last = len(list(out.glob("train-*.tar"))) - 1
    for name in ("index.json", "index.npz"):
        (out / name).unlink()
    found = open_data(f"{out}/train-{{000000..{last:06}}}.tar").train
    assert [found.images.bytes(i) for i in range(len(found))] == [indexed.images.bytes(i) for i in range(len(indexed))]
    assert found.labels.tolist() == indexed.labels.tolist()


@pytest.mark.parametrize(
    ("pattern", "tars"),
    [
        ("x.tar", ["x.tar"]),
        ("x-{8..11}.tar", ["x-8.tar", "x-9.tar", "x-10.tar", "x-11.tar"]),
        ("{a,b}/x-{00..01}.tar", ["a/x-00.tar", "a/x-01.tar", "b/x-00.tar", "b/x-01.tar"]),
    ],
)
def test_a_pattern_stands_for_what_braceexpand_makes_of_it(pattern, tars):
    import braceexpand

    assert expand_braces(pattern) == tars == list(braceexpand.braceexpand(pattern))


@pytest.fixture
def server(tmp_path):
    """A web server on this machine with `tmp_path` as its root, and the list of what was asked of it."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            asked.append(self.path)

    handler = functools.partial(Handler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()


def test_shards_behind_a_url_are_fetched_once_and_compared(photos, tmp_path, server):
    url, asked = server
    out = packed(photos, tmp_path / "out", shard_size=0.1)
    local = open_data(str(out))
    found = open_data(f"{url}/out/", root=tmp_path / "here")
    assert samples_of(found.train.images) == samples_of(local.train.images)
    assert found.fingerprint == local.fingerprint
    tars = [path for path in asked if path.endswith(".tar")]
    open_data(f"{url}/out/", root=tmp_path / "here")
    assert [path for path in asked if path.endswith(".tar")] == tars  # not again
    (out / "index.json").rename(out / "away.json")
    assert open_data(f"{url}/out/", root=tmp_path / "here").fingerprint == local.fingerprint  # also without a network
    (out / "away.json").rename(out / "index.json")
    one = open_data(f"{url}/out/train-000000.tar", root=tmp_path / "elsewhere")
    assert 0 < len(one.train) < 30

    index = json.loads((out / "index.json").read_text())
    tar = out / index["shards"][0]["name"]
    tar.write_bytes(tar.read_bytes()[:-1] + b"x")
    with pytest.raises(BadInput, match="SHA-256 differs"):
        open_data(f"{url}/out/", root=tmp_path / "third")
    with pytest.raises(BadInput, match="cannot be fetched"):
        open_data(f"{url}/nothing/", root=tmp_path / "fourth")


def test_a_url_is_fetched_once_wherever_the_command_runs_and_names_the_data(photos, tmp_path, server, monkeypatch):
    url, asked = server
    packed(photos, tmp_path / "out")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = set()
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        found.add(open_data(f"{url}/out/").name)
    assert found == {"out"}
    assert len([path for path in asked if path.endswith(".tar")]) == 1


def test_after_a_new_packing_the_old_shards_are_fetched_again(photos, tmp_path, server):
    url, _ = server
    packed(photos, tmp_path / "out", shard_size=0.1)
    before = open_data(f"{url}/out/", root=tmp_path / "here")
    assert len({*before.train.images.table.tars}) > 1
    shutil.rmtree(tmp_path / "out")
    packed(photos, tmp_path / "out", shard_size=0.1, resize=40)
    found = open_data(f"{url}/out/", root=tmp_path / "here")
    assert found.fingerprint == open_data(str(tmp_path / "out")).fingerprint != before.fingerprint


def test_what_was_cut_off_on_the_way_is_not_kept(photos, tmp_path, server, monkeypatch):
    url, _ = server
    packed(photos, tmp_path / "out")
    ends = iter([5000, 0])
    monkeypatch.setattr(fetching, "TRIES", 1)
    monkeypatch.setattr(http.client.HTTPResponse, "read1", lambda answer, _: answer.read(next(ends)))
    with pytest.raises(
        BadInput, match=r"train-000000.tar: cannot be fetched \(5,000 of [\d,]+ bytes came\). Try again"
    ):
        open_data(f"{url}/out/train-000000.tar", root=tmp_path / "here")
    assert list((tmp_path / "here").iterdir()) == []


# --- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"resize": 0}, "--resize is 0"),
        ({"quality": 100}, "--quality is 100"),
        ({"shard_size": 0}, "--shard-size is 0"),
    ],
)
def test_numbers_that_do_not_fit_are_refused_before_anything_is_written(photos, tmp_path, options, words):
    with pytest.raises(BadInput, match=words):
        packed(photos, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_full_folder_is_not_written_into_and_a_failed_pack_leaves_nothing(photos, tmp_path):
    with pytest.raises(BadInput, match="already holds something"):
        packed(photos, photos)
    for path in (photos / "a").iterdir():
        path.write_bytes(b"rot")
    with pytest.raises(BadInput, match="12 of 30 images cannot be read"):
        packed(photos, tmp_path / "out")
    assert {p.name for p in tmp_path.iterdir()} == {"photos"}


def test_damaged_shards_are_told_before_training(photos, tmp_path):
    out = packed(photos, tmp_path / "out", shard_size=0.1)
    (out / "train-000001.tar").write_bytes(b"short")
    with pytest.raises(BadInput, match=r"train-000001.tar has 5 bytes, not [\d,]+"):
        open_data(str(out))
    (out / "train-000001.tar").unlink()
    with pytest.raises(BadInput, match=r"train-000001.tar is missing"):
        open_data(str(out))
    (out / "index.npz").write_bytes(b"nothing")
    with pytest.raises(BadInput, match=r"cannot be read"):
        open_data(str(out))
    (out / "index.json").write_text('{"format": "other"}')
    with pytest.raises(BadInput, match=r"format 'other'"):
        open_data(str(out))
    with pytest.raises(BadInput, match=r"no such file"):
        open_data(str(out / "train-{000007..000009}.tar"))
    (tmp_path / "text.tar").write_text("no tar at all" * 100)
    with pytest.raises(BadInput, match="not a readable tar"):
        open_data(str(tmp_path / "text.tar"))
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    with pytest.raises(BadInput, match="no image in 1 tars"):
        open_data(str(tmp_path / "empty.tar"))
