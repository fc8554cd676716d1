"""Features on disk: found again, never stale, made in pieces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import labelled_folder, write_images
from torch import nn
from torchvision.transforms import v2

from mec.data.opening import open_data
from mec.evaluation import cache
from mec.evaluation.cache import cached, feature_key
from mec.evaluation.features import extract
from mec.evaluation.probing.knn import knn

TO_FLOAT = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])


class Counting(nn.Module):
    """Mean colours times a weight; counts the images it saw, and may stop after some."""

    def __init__(self, weight: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))
        self.seen, self.most = 0, 10**9

    def forward(self, x):
        if self.seen + len(x) > self.most:
            raise KeyboardInterrupt
        self.seen += len(x)
        return self.weight * x.mean((2, 3))


@pytest.fixture
def split(tmp_path):
    write_images(tmp_path / "photos", 30, width=70, height=66)
    return open_data(str(tmp_path / "photos")).train


def features(network, split, tmp_path, transform=TO_FLOAT, **options):
    return extract(network, split, transform, cache=tmp_path / "cache", **options).x


def test_features_are_extracted_once_and_are_those_without_a_cache(split, tmp_path):
    network = Counting()
    expected = extract(Counting(), split, TO_FLOAT).x
    for _ in range(2):
        assert torch.equal(features(network, split, tmp_path, batch_size=8), expected)
    assert network.seen == 30
    again = Counting()  # another process with the same weights
    assert torch.equal(features(again, split, tmp_path), expected)
    assert again.seen == 0


def test_other_weights_transforms_images_and_versions_are_never_served_from_the_cache(split, tmp_path, monkeypatch):
    def seen(network, split=split, transform=TO_FLOAT) -> bool:
        found = features(network, split, tmp_path, transform)
        assert torch.equal(found, extract(network, split, transform).x)
        return network.seen > len(split)

    assert seen(Counting())
    assert not seen(Counting())
    assert seen(Counting(2.0))
    assert seen(Counting(), transform=v2.Compose([*TO_FLOAT.transforms, v2.Resize(20, antialias=True)]))
    assert seen(Counting(), split=split.take(np.arange(1, 30)))
    assert seen(Counting(), split=split.take(np.arange(29, -1, -1)))
    path = Path(split.images.paths[3])
    before = path.stat()
    content = path.read_bytes()
    path.write_bytes(Path(split.images.paths[4]).read_bytes()[: len(content)].ljust(len(content), b"\0"))
    assert path.stat().st_size == before.st_size  # another image of the same name and size
    assert seen(Counting())
    monkeypatch.setattr(cache, "__version__", "another")
    assert seen(Counting())


def test_the_structure_of_a_network_counts_where_its_tensors_are_the_same(split, tmp_path):
    """A stride is no tensor: two networks with equal weights may give other features."""
    for stride in (1, 2):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 2, 3, stride=stride), nn.AdaptiveMaxPool2d(1), nn.Flatten()).eval()
        assert torch.equal(features(network, split, tmp_path), extract(network, split, TO_FLOAT).x)
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 2


def test_images_in_memory_are_told_apart_by_their_pixels(tmp_path):
    split = open_data("digits").test.take(np.arange(20))
    first = features(Counting(), split, tmp_path)
    split.images.pixels[7, 0, 3, 3] += 1
    assert not torch.equal(features(Counting(), split, tmp_path), first)


def test_what_cannot_be_told_apart_is_not_cached(tmp_path):
    digits = open_data("digits").test.take(np.arange(20))
    assert feature_key(Counting(), digits.images, lambda x: x.float(), "cpu") is None  # says nothing of what it does
    for _ in range(2):
        network = Counting()
        features(network, digits, tmp_path, transform=lambda x: x.float())
        assert network.seen == 20


@pytest.mark.parametrize("stop", [3, 8, 17, 29])
@pytest.mark.parametrize("note", [1, 10**9], ids=["noted each batch", "noted at the end"])
def test_extraction_goes_on_where_it_stopped(split, tmp_path, monkeypatch, stop, note):
    monkeypatch.setattr(cache, "NOTE_EVERY", note)
    expected = extract(Counting(), split, TO_FLOAT).x
    network = Counting()
    network.most = stop
    with pytest.raises(KeyboardInterrupt):
        features(network, split, tmp_path, batch_size=4)
    assert not list((tmp_path / "cache").glob("*.npy"))
    rest = Counting()
    assert torch.equal(features(rest, split, tmp_path, batch_size=4), expected)
    assert network.seen + rest.seen == 30  # none twice


def test_rows_that_may_not_be_on_disk_are_made_again(split, tmp_path):
    """After a power failure the file can be longer or shorter than what was noted."""
    key, expected = "k", torch.arange(60.0).reshape(20, 3)

    def until(stop):
        def batches(start, size):
            for i in range(start, stop, 4):
                yield expected[i : i + 4]
            if stop < 20:
                raise KeyboardInterrupt

        return batches

    for spoil in (lambda b: b + b"\0" * 24, lambda b: b[:-40], lambda b: b""):
        with pytest.raises(KeyboardInterrupt):
            cached(tmp_path, key, 20, until(12))
        part = tmp_path / f"{key}.part"
        part.write_bytes(spoil(part.read_bytes()))
        assert torch.equal(cached(tmp_path, key, 20, until(20)), expected)
        (tmp_path / f"{key}.npy").unlink()


def test_a_damaged_file_is_made_anew(split, tmp_path):
    expected = features(Counting(), split, tmp_path)
    (path,) = (tmp_path / "cache").glob("*.npy")
    for content in (b"", path.read_bytes()[:-7], b"no array"):
        path.write_bytes(content)
        assert torch.equal(features(Counting(), split, tmp_path), expected)


def test_large_features_are_mapped_from_disk_and_give_the_same_figures(tmp_path, monkeypatch):
    data = open_data("digits")
    encoder = nn.Flatten()

    def both():
        return [
            extract(encoder, split, TO_FLOAT, cache=tmp_path / "cache") for split in (data.train, data.test)
        ]  # fmt: skip

    plain = knn(*both(), k=[10, 20])
    monkeypatch.setattr(cache, "MAP_ABOVE", 1000)
    with pytest.MonkeyPatch.context() as patch:
        asked = []
        real = np.load
        patch.setattr(np, "load", lambda path, **options: asked.append(options["mmap_mode"]) or real(path, **options))
        train, test = both()
    assert asked == ["c", "c"]
    train.x[0, 0] = 9  # a copy of the page: the file keeps what it has
    assert real_first(tmp_path) != 9
    train, test = both()
    assert [r.value for r in knn(train, test, k=[10, 20])] == [r.value for r in plain]


def real_first(tmp_path) -> float:
    return max(float(np.load(path)[0, 0]) for path in (tmp_path / "cache").glob("*.npy"))


def test_the_labels_of_cached_features_are_those_of_now(tmp_path):
    labelled_folder(tmp_path / "set", width=70, height=70)
    split = open_data(str(tmp_path / "set")).train
    extract(Counting(), split, TO_FLOAT, cache=tmp_path / "cache")
    split.labels[:] = split.labels[::-1].copy()
    network = Counting()
    assert extract(network, split, TO_FLOAT, cache=tmp_path / "cache").y.tolist() == split.labels.tolist()
    assert network.seen == 0
