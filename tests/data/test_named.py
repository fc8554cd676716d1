"""torchvision's sets, each from tiny files in its own layout: images and labels are those that torchvision gives."""

from __future__ import annotations

import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torchvision
from helpers import write_images
from scipy.io import savemat
from transfer_layouts import LAYOUTS, md5

from mec.data.images import Files, InMemory
from mec.data.named import TORCHVISION
from mec.data.opening import open_data
from mec.errors import BadInput


def mnist(root: Path, monkeypatch, kind: str = "MNIST") -> None:
    """Bytes after a header: a magic number with the number of axes, and the axes."""
    for part, count in (("train", 40), ("t10k", 20)):
        images = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        for name, values in (("images-idx3", images), ("labels-idx1", np.arange(count, dtype=np.uint8) % 10)):
            path = root / kind / "raw" / f"{part}-{name}-ubyte"
            path.parent.mkdir(parents=True, exist_ok=True)
            header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
            path.write_bytes(header + values.tobytes())


def fashion_mnist(root: Path, monkeypatch) -> None:
    mnist(root, monkeypatch, "FashionMNIST")


def stl10(root: Path, monkeypatch) -> None:
    """Columns before rows, classes counted from 1, and a part without labels."""
    folder, kind = root / "stl10_binary", torchvision.datasets.STL10
    folder.mkdir()
    for part, count in (("train", 6), ("unlabeled", 5), ("test", 4)):
        random = np.random.default_rng(count)
        random.integers(0, 256, (count, 3, 96, 96), dtype=np.uint8).tofile(folder / f"{part}_X.bin")
        (np.arange(count, dtype=np.uint8) % 3 + 1).tofile(folder / f"{part}_y.bin")
    (folder / "class_names.txt").write_text("airplane\nbird\ncar\n")
    for name in ("train_list", "test_list"):
        monkeypatch.setattr(kind, name, [[file, md5(folder / file)] for file, _ in getattr(kind, name)])


def svhn(root: Path, monkeypatch) -> None:
    """A MATLAB array with the image's number last; the digit 0 has label 10."""
    known = {}
    for part, count in (("train", 12), ("test", 11)):
        x = np.random.default_rng(count).integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        savemat(root / f"{part}_32x32.mat", {"X": x, "y": (np.arange(count, dtype=np.uint8) % 10 + 1)[:, None]})
        known[part] = ["", f"{part}_32x32.mat", md5(root / f"{part}_32x32.mat")]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", known)


def gtsrb(root: Path, monkeypatch) -> None:
    """PPM files of several sizes, in folders of their classes or listed in a CSV file."""
    base = root / "gtsrb"
    for label in (0, 1):
        write_images(base / "GTSRB" / "Training" / f"{label:05}", 3, ".ppm", seed=label, width=30 + label, height=28)
    write_images(base / "GTSRB" / "Final_Test" / "Images", 2, ".ppm", seed=7)
    (base / "GT-final_test.csv").write_text("Filename;ClassId\n0000.ppm;1\n0001.ppm;0\n")


SETS = {**LAYOUTS, **{f.__name__.replace("_", "-"): f for f in (mnist, fashion_mnist, stl10, svhn, gtsrb)}}
FILES = {"food101", "flowers102", "dtd", "pets", "aircraft", "gtsrb"}


@pytest.mark.parametrize("name", TORCHVISION)
def test_images_and_labels_are_those_that_torchvision_gives(tmp_path, monkeypatch, name):
    SETS[name](tmp_path, monkeypatch)
    data, entry = open_data(name, root=tmp_path), TORCHVISION[name]
    for split, keywords in ((data.train, entry.train), (data.test, entry.test)):
        judge = getattr(torchvision.datasets, entry.kind)(root=tmp_path, **keywords)
        assert type(split.images) is (Files if name in FILES else InMemory)
        assert len(split) == len(judge) > 0
        for i, (image, label) in enumerate(judge):
            assert np.array_equal(np.asarray(split.images.read(i)), np.asarray(image.convert("RGB")))
            assert split.labels[i] == label
        assert split.labels.max() < len(data.classes)
    if name not in FILES:
        assert data.typical_size == data.train.images.read(0).size[::-1]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("cifar10", "1a0830d0e96c6b0b"), ("dtd", "ea03ca8d3b73159f"), ("food101", "852fca0a0fb69f19")],
)
def test_the_fingerprints_of_earlier_results_still_hold(tmp_path, monkeypatch, name, expected):
    """Made with commit 387d210."""
    SETS[name](tmp_path, monkeypatch)
    assert open_data(name, root=tmp_path).fingerprint.partition("-")[0] == expected  # contents follow


def test_images_without_a_label_are_known_as_such(tmp_path, monkeypatch):
    stl10(tmp_path, monkeypatch)
    data = open_data("stl10", root=tmp_path)
    assert (len(data.train), len(data.train.labelled())) == (11, 6)
    assert data.classes == ("airplane", "bird", "car")
    (tmp_path / "stl10_binary" / "class_names.txt").unlink()
    assert open_data("stl10", root=tmp_path).classes == ("0", "1", "2")  # none for images without a label


def test_a_set_that_says_nothing_of_its_files_is_refused_in_words(monkeypatch, tmp_path):
    class Textures(list):
        def __init__(self, **_):
            super().__init__([("image", 0)] * 3)

    monkeypatch.setattr(torchvision, "datasets", SimpleNamespace(DTD=Textures))
    with pytest.raises(
        BadInput, match=r"keeps the images of DTD where .* does not look\. Give the folder of its images"
    ):
        open_data("dtd", root=tmp_path)


def test_every_torchvision_set_is_one_that_torchvision_has():
    for name, entry in TORCHVISION.items():
        kind = getattr(torchvision.datasets, entry.kind)
        accepted = kind.__init__.__code__.co_varnames
        assert {*entry.train, *entry.test, "root", "download"} <= set(accepted), name
        assert entry.terms, name


def test_download_states_the_terms_of_use_first(monkeypatch, tmp_path, capsys):
    def offline(**_):
        raise RuntimeError("no network")

    monkeypatch.setattr(torchvision.datasets, "DTD", offline)
    with pytest.raises(BadInput, match=r"torchvision's DTD cannot be read there \(no network\)"):
        open_data("dtd", root=tmp_path, download=True)
    assert "research use only" in capsys.readouterr().out
