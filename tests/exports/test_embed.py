"""Features in files of four kinds: the same rows in each, in flat memory, resumed where they stopped."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import lines, noise_image, small_subject, write_images

import mec
from mec.cli.main import main
from mec.errors import BadInput
from mec.exports import embed as embedding
from mec.exports.rows import WRITERS


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Thirty images in two folders, one whose name has a comma and a quote, and one that cannot be read."""
    folder = tmp_path_factory.mktemp("embed") / "set"
    write_images(folder / "a", 15)
    write_images(folder / "b", 14, seed=2)
    noise_image(99).save(folder / "b" / 'odd, "name".png')
    (folder / "a" / "rot.png").write_bytes(b"rot")
    return folder


def read(out: Path) -> SimpleNamespace:
    """Paths, labels and features of a file that `embed` wrote, by readers of other projects."""
    if out.suffix == ".parquet":
        table = pd.read_parquet(out)
        labels = table["label"].tolist() if "label" in table else None
        return SimpleNamespace(paths=table["path"].tolist(), labels=labels, x=np.stack(table["features"]))
    if out.suffix == ".npz":
        found = np.load(out)
        labels = found["labels"].tolist() if "labels" in found else None
        return SimpleNamespace(paths=found["paths"].tolist(), labels=labels, x=found["features"])
    table = pd.read_csv(out if out.suffix == ".csv" else out.with_suffix(".paths.csv"), keep_default_na=False)
    labels = table["label"].tolist() if "label" in table else None
    x = table.filter(regex=r"^f\d+$").to_numpy(np.float32) if out.suffix == ".csv" else np.load(out)
    return SimpleNamespace(paths=table["path"].tolist(), labels=labels, x=x)


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("labels", [None, "folders"])
def test_each_kind_of_file_holds_what_features_gives(images, tmp_path, suffix, labels):
    out = mec.embed("random:resnet10-tiny", images, out=tmp_path / f"x{suffix}", labels=labels)
    wanted = mec.features("random:resnet10-tiny", images, labels=labels)
    found = read(out)
    assert found.paths == list(wanted.names)
    assert found.x.dtype == np.float32
    assert np.array_equal(found.x, wanted.x.numpy())
    assert found.labels == (None if labels is None else [Path(name).parent.name for name in found.paths])
    assert [Path(line["path"]).name for line in lines(tmp_path / "x.skipped.jsonl")] == ["rot.png"]
    beside = {"x.paths.csv"} if suffix == ".npy" else set()
    assert {path.name for path in tmp_path.iterdir() if path.name[0] != "."} == {
        f"x{suffix}", "x.skipped.jsonl", *beside
    }  # fmt: skip


def test_several_files_and_lists_from_the_command_line(images, tmp_path):
    chosen = sorted((images / "a").glob("000*.png"))
    (tmp_path / "list.csv").write_text("path,label\n" + "\n".join(f"{p},{i % 2}" for i, p in enumerate(chosen)))
    for given, out in ((chosen, "files.csv"), ([tmp_path / "list.csv"], "listed.csv"), (chosen[:1], "one.csv")):
        assert main(["embed", "pixels", *map(str, given), "--out", str(tmp_path / out)]) == 0
    files, listed, one = (read(tmp_path / f"{name}.csv") for name in ("files", "listed", "one"))
    assert np.array_equal(files.x, listed.x)
    assert np.array_equal(files.x[:1], one.x)
    assert [str(label) for label in listed.labels] == [str(i % 2) for i in range(10)]
    assert files.paths == [str(path) for path in chosen]


@pytest.mark.parametrize(
    ("out", "words"),
    [("x.npzz", r"ends with \.npz, \.npy, \.parquet, \.csv"), ("x", "ends with"), ("folder.npz", "a folder")],
)
def test_a_bad_output_is_refused_before_anything_is_read(images, tmp_path, monkeypatch, out, words):
    (tmp_path / "folder.npz").mkdir()
    monkeypatch.setattr(embedding, "resolve", lambda *_, **__: pytest.fail("it has begun"))
    with pytest.raises(BadInput, match=words):
        mec.embed("pixels", images, out=tmp_path / out)


def test_without_pyarrow_a_parquet_is_refused_with_the_way_to_it(images, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"mec-ssl\[parquet\]"):
        mec.embed("pixels", images, out=tmp_path / "x.parquet")


def test_a_disk_without_room_is_told_before_the_encoder_runs(images, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    monkeypatch.setattr(embedding, "stored", lambda *_, **__: pytest.fail("it has begun"))
    with pytest.raises(BadInput, match=r"30 images of 3072 features need 737,280 bytes.*1,000 are free"):
        mec.embed("pixels", images, out=tmp_path / "x.npy")


def test_a_stop_costs_no_batch_that_was_done(images, tmp_path, monkeypatch, capsys):
    whole = read(mec.embed("pixels", images, out=tmp_path / "whole.npy", batch_size=8))
    out, batches, seen = tmp_path / "x.npy", embedding.Extraction.encoded, []

    def stopping(self, images, size, after):
        for number, found in enumerate(batches(self, images, size)):
            if number == after:
                raise KeyboardInterrupt
            seen.append(len(found[0]))
            yield found

    with monkeypatch.context() as patch:
        patch.setattr(embedding.Extraction, "encoded", lambda *a: stopping(*a, after=2))
        with pytest.raises(KeyboardInterrupt):
            mec.embed("pixels", images, out=out, batch_size=8)
        assert not out.exists()
        patch.setattr(embedding.Extraction, "encoded", lambda *a: stopping(*a, after=99))
        mec.embed("pixels", images, out=out, batch_size=8)
    assert sum(seen) == 30
    assert "resumed after 16 of 30 images" in capsys.readouterr().out
    assert np.array_equal(read(out).x, whole.x)
    assert not (tmp_path / "x.npy.unfinished").exists()


def test_what_is_unfinished_of_other_images_is_not_used(images, tmp_path, monkeypatch):
    out, encoded = tmp_path / "x.npy", embedding.Extraction.encoded
    with monkeypatch.context() as patch:
        patch.setattr(embedding, "mended", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            mec.embed("pixels", images, out=out)
    rows = []
    monkeypatch.setattr(embedding.Extraction, "encoded", lambda *a: (rows.append(len(f[0])) or f for f in encoded(*a)))
    mec.embed("pixels", images / "a", out=out)
    assert sum(rows) == 15
    assert len(np.load(out)) == 15


def test_images_that_fail_once_are_read_again_and_keep_their_place(images, tmp_path, monkeypatch):
    whole = read(mec.embed("pixels", images, out=tmp_path / "whole.npy"))
    read_once, failed = mec.data.images.Files.read, set()

    def flaky(self, index):
        name = self.paths[index]
        if name.endswith(("a/0003.png", "b/0007.png")) and name not in failed:
            failed.add(name)
            raise OSError("the network is away")
        return read_once(self, index)

    monkeypatch.setattr(mec.data.images.Files, "read", flaky)
    found = read(mec.embed("pixels", images, out=tmp_path / "x.npy"))
    assert len(failed) == 2
    assert found.paths == whole.paths
    assert np.array_equal(found.x, whole.x)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_an_encoder_that_gives_nan_leaves_no_file(images, tmp_path, monkeypatch, value):
    subject = small_subject(tmp_path)
    with torch.no_grad():
        subject.encoder[1].bias.fill_(value)
    monkeypatch.setattr(embedding, "resolve", lambda *_, **__: subject)
    with pytest.raises(BadInput, match="the features of 30 of 30 images are not finite"):
        mec.embed("any", images, out=tmp_path / "x.npz")
    assert not (tmp_path / "x.npz").exists()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_features(tmp_path):
    """Names and the table of tars cost some bytes an image, the features (1 KiB an image) none."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    from embed_memory import peak

    few, many = (peak(tmp_path, count) for count in (4_000, 20_000))
    assert np.load(tmp_path / "20000.npy", mmap_mode="r").shape == (20_000, 256)
    assert (many - few) / 16_000 < 700
