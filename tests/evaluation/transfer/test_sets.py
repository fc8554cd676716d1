"""The eleven transfer sets, each on a tiny copy in its own layout, with what is odd in it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from transfer_layouts import LAYOUTS

from mec.data.dataset import Split
from mec.data.images import Files, InMemory
from mec.data.named import TORCHVISION
from mec.errors import BadInput
from mec.evaluation.transfer.sets import TRANSFER_SETS, VOC_CLASSES, Choices, Parts, names_of, open_set, require_sets


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Make a tiny copy and open it."""

    def open_(name: str, **choices) -> Parts:
        if not any(tmp_path.iterdir()):
            LAYOUTS[name](tmp_path, monkeypatch)
        return open_set(name, tmp_path, Choices(**choices))

    return open_


def paths(split: Split, root: Path) -> list[str]:
    assert isinstance(split.images, Files)
    return [os.path.relpath(p, root) for p in split.images.paths]


def sizes(parts: Parts) -> tuple[int, int, int]:
    return len(parts.fit), len(parts.held_out), len(parts.test)


@pytest.mark.parametrize("name", TRANSFER_SETS)
def test_parts_do_not_overlap_hold_every_class_and_are_the_same_every_time(opened, tmp_path, name):
    parts = opened(name)
    assert parts.name == name
    for split in (parts.fit, parts.held_out, parts.test):
        assert split.images.read(0).mode == "RGB"
        assert split.images.read(len(split) - 1).mode == "RGB"
    if isinstance(parts.fit.images, Files):
        seen = [p for split in (parts.fit, parts.held_out, parts.test) for p in paths(split, tmp_path)]
        assert len(seen) == len(set(seen))
    if name != "voc2007":
        assert set(parts.fit.labels) == set(parts.test.labels) == set(range(len(parts.classes)))
    again = opened(name)
    assert (again.fingerprint, again.drawn) == (parts.fingerprint, parts.drawn)
    assert len(parts.together()) == len(parts.fit) + len(parts.held_out)
    assert np.array_equal(parts.together().labels[len(parts.fit) :], parts.held_out.labels)
    if parts.drawn:
        assert opened(name, seed=1).fingerprint != parts.fingerprint


@pytest.mark.parametrize(
    ("name", "metric"),
    [("food101", "top-1"), ("cifar10", "top-1"), ("cifar100", "top-1"), ("sun397", "top-1"), ("cars", "top-1"),
     ("aircraft", "mean per class"), ("voc2007", "11-point mAP"), ("dtd", "top-1"), ("pets", "mean per class"),
     ("caltech101", "mean per class"), ("flowers102", "mean per class")],
)  # fmt: skip
def test_each_set_has_the_metric_of_the_table(name, metric):
    assert TRANSFER_SETS[name].metric == metric


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("food101", (68_175, 7_575)), ("cifar10", (45_000, 5_000)), ("cifar100", (44_933, 5_067)),
     ("sun397", (15_880, 3_970)), ("cars", (6_494, 1_650)), ("pets", (2_940, 740)), ("caltech101", (2_550, 510))],
)  # fmt: skip
def test_held_out_parts_have_the_published_sizes_at_full_size(name, sizes):
    from mec.evaluation.transfer.sets import TRANSFER_SETS, transfer_parts

    n = sum(sizes)
    labels = np.arange(n) % 102
    split = (Split(InMemory(torch.zeros(n, 3, 1, 1, dtype=torch.uint8)), labels), tuple(map(str, range(102))))
    parts = transfer_parts(name, Path("."), ([split, split], {}), Choices())
    assert (len(parts.fit), len(parts.held_out)) == sizes
    assert n == TRANSFER_SETS[name].held_out[1]
    assert name in TRANSFER_SETS
    counts = np.bincount(parts.held_out.labels)
    assert counts.max() - counts.min() <= 1 + n % 102  # in proportion


def test_food101_labels_are_ranks_of_the_sorted_names(opened, tmp_path):
    parts = opened("food101")
    assert sizes(parts) == (18, 2, 8)
    assert parts.classes == ("apple_pie", "waffles")
    for split in (parts.fit, parts.held_out, parts.test):
        assert all(parts.classes[y] == Path(p).parent.name for p, y in zip(paths(split, tmp_path), split.labels))


@pytest.mark.parametrize(("name", "kind", "count"), [("cifar10", "CIFAR10", 10), ("cifar100", "CIFAR100", 100)])
def test_cifar_pixels_and_fine_labels_are_torchvisions(opened, tmp_path, name, kind, count):
    parts = opened(name)
    source = getattr(torchvision.datasets, kind)(tmp_path, train=False)
    assert len(parts.classes) == count
    for i in (0, 7, len(source) - 1):
        image, label = source[i]
        assert np.array_equal(np.asarray(image), np.asarray(parts.test.images.read(i)))
        assert label == parts.test.labels[i]


def test_sun397_takes_partition_one_of_the_lists_and_nothing_else(opened, tmp_path):
    parts = opened("sun397")
    assert sizes(parts) == (14, 4, 12)
    listed = {f"SUN397{line}" for line in (tmp_path / "SUN397" / "Training_01.txt").read_text().split()}
    assert {*paths(parts.fit, tmp_path), *paths(parts.held_out, tmp_path)} == listed
    assert {f"SUN397{line}" for line in (tmp_path / "SUN397" / "Testing_01.txt").read_text().split()} == set(
        paths(parts.test, tmp_path)
    )
    assert paths(parts.test, tmp_path) == sorted(paths(parts.test, tmp_path))  # not the file system's order
    deep = [y for p, y in zip(paths(parts.test, tmp_path), parts.test.labels) if "apartment_building/outdoor" in p]
    assert deep == [1] * 4


def test_sun397_lists_may_lie_in_the_folder_that_they_are_packed_in(tmp_path, monkeypatch):
    LAYOUTS["sun397"](tmp_path, monkeypatch, lists="Partitions")
    require_sets(["sun397"], tmp_path)
    assert sizes(open_set("sun397", tmp_path, Choices())) == (14, 4, 12)


def test_cars_count_their_classes_from_zero_here(opened, tmp_path):
    parts = opened("cars")
    assert sizes(parts) == (12, 3, 6)
    assert parts.classes[0] == "AM General Hummer SUV 2000"
    assert parts.test.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert paths(parts.test, tmp_path)[0] == "stanford_cars/cars_test/00001.jpg"


def test_aircraft_are_told_apart_by_variant_with_the_official_validation_set(opened, tmp_path):
    parts = opened("aircraft")
    assert sizes(parts) == (8, 4, 6)
    assert parts.classes == ("737-200", "737-300", "Cessna 172", "F/A-18")
    assert parts.held_out.labels.tolist() == [0, 1, 2, 3]


def test_voc2007_labels_say_present_absent_and_only_difficult(opened):
    parts = opened("voc2007")
    assert sizes(parts) == (8, 6, 8)
    dog, person, train = (VOC_CLASSES.index(n) for n in ("dog", "person", "train"))
    assert parts.test.labels[:, dog].tolist() == [-1, 1] * 4
    assert parts.test.labels[:, person].tolist() == [1, 0, 1, -1, 1, -1, 1, -1]  # one difficult and one not: present
    assert parts.test.labels[:, train].tolist() == [0, -1, 1, -1, 1, -1, 1, -1]
    absent = opened("voc2007", difficult_as_absent=True)
    assert absent.test.labels[:, person].tolist() == [1, -1, 1, -1, 1, -1, 1, -1]
    assert absent.fingerprint != parts.fingerprint


def listed(root: Path, part: str) -> list[list[int]]:
    """The labels as VOC's lists of each class have them."""
    paths = [root / f"VOCdevkit/VOC2007/ImageSets/Main/{name}_{part}.txt" for name in VOC_CLASSES]
    return np.array([[int(line.split()[1]) for line in path.read_text().splitlines()] for path in paths]).T.tolist()


def test_voc2007_lists_and_xml_say_the_same(opened, tmp_path):
    assert opened("voc2007").test.labels.tolist() == listed(tmp_path, "test")


@pytest.mark.samples
def test_voc2007_of_the_samples_is_read_as_torchvision_reads_it(samples):
    root = samples / "samples" / "voc2007_mini"
    require_sets(["voc2007"], root)
    parts = open_set("voc2007", root, Choices())
    assert sizes(parts) == (3, 3, 7)
    for split, part in ((parts.fit, "train"), (parts.held_out, "val"), (parts.test, "test")):
        source = torchvision.datasets.VOCDetection(root, year="2007", image_set=part)
        for i, (image, target) in enumerate(source):
            assert np.array_equal(np.asarray(image), np.asarray(split.images.read(i)))
            objects = target["annotation"]["object"]
            easy = {o["name"] for o in objects if o["difficult"] == "0"}
            hard = {o["name"] for o in objects} - easy
            expected = [1 if c in easy else 0 if c in hard else -1 for c in VOC_CLASSES]
            assert split.labels[i].tolist() == expected
        assert split.labels.tolist() == listed(root, part)


def test_dtd_takes_partition_one(opened, tmp_path):
    parts = opened("dtd")
    assert sizes(parts) == (8, 8, 8)
    listed = (tmp_path / "dtd" / "dtd" / "labels" / "test1.txt").read_text().split()
    assert [p.removeprefix("dtd/dtd/images/") for p in paths(parts.test, tmp_path)] == listed
    assert [parts.classes[y] for y in parts.test.labels] == [name.split("/")[0] for name in listed]


def test_pets_are_told_apart_by_breed_not_species(opened):
    parts = opened("pets")
    assert sizes(parts) == (24, 6, 15)
    assert parts.classes == ("Abyssinian", "American Bulldog", "Yorkshire Terrier")
    assert parts.test.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5


@pytest.mark.parametrize(("background", "classes", "test"), [(True, 3, 3 + 6 + 1), (False, 2, 6 + 1)])
def test_caltech101_draws_thirty_distinct_images_a_class_and_tests_on_the_rest(opened, background, classes, test):
    parts = opened("caltech101", background=background)
    assert sizes(parts) == (classes * 25, classes * 5, test)
    assert np.bincount(parts.together().labels).tolist() == [30] * classes
    assert np.bincount(parts.held_out.labels).tolist() == [5] * classes
    assert ("BACKGROUND_Google" in parts.classes) == background
    assert len(set(parts.drawn["train"])) == 30 * classes


def test_caltech101_with_too_few_images_asks_whether_the_copy_is_whole(opened, tmp_path):
    opened("caltech101")
    (tmp_path / "caltech101" / "101_ObjectCategories" / "car_side" / "image_0031.jpg").unlink()
    with pytest.raises(BadInput, match=r"car_side has 30 images: 30 are drawn to train on"):
        opened("caltech101")


def test_flowers102_trains_on_the_small_lists_and_tests_on_the_large_one(opened, tmp_path):
    parts = opened("flowers102")
    assert sizes(parts) == (102, 102, 306)
    numbers = [int(p[-9:-4]) for p in paths(parts.fit, tmp_path)]
    assert parts.fit.labels.tolist() == [(n - 1) % 102 for n in numbers]


def test_an_image_that_a_list_names_and_the_disk_lacks_is_named(opened, tmp_path):
    opened("dtd")
    (tmp_path / "dtd" / "dtd" / "images" / "woven" / "woven_0003.jpg").unlink()
    with pytest.raises(BadInput, match=r"1 images named by the lists are not there, among them .*woven_0003\.jpg"):
        opened("dtd")


# --- what is not there -------------------------------------------------------------------------------------------


def test_one_message_says_which_sets_are_absent_where_they_belong_and_how_to_get_them(tmp_path, monkeypatch):
    LAYOUTS["dtd"](tmp_path, monkeypatch)
    LAYOUTS["cifar10"](tmp_path, monkeypatch)
    with pytest.raises(BadInput) as caught:
        require_sets(names_of("all"), tmp_path)
    text = str(caught.value)
    assert "9 data sets are not there" in text
    for name in TRANSFER_SETS:
        assert (f"  {name}: expected in {tmp_path}" in text) == (name not in ("dtd", "cifar10"))
    assert f"{tmp_path / 'stanford_cars' / 'devkit' / 'cars_train_annos.mat'}" in text
    assert "nothing can fetch it" in text
    assert "Partitions.zip" in text
    assert "--download fetches it" in text
    assert "give cifar10,dtd as their name" in text


def test_every_set_that_can_be_fetched_has_terms():
    fetched = {name for name, entry in TRANSFER_SETS.items() if entry.fetched}
    assert fetched <= TORCHVISION.keys() | {name for name, entry in TRANSFER_SETS.items() if entry.terms}


def test_download_fetches_what_can_be_fetched_and_says_what_went_wrong(tmp_path, monkeypatch, capsys):
    asked = []

    def fetch(self, *arguments, **keywords):
        asked.append(type(self).__name__)
        raise OSError("HTTP Error 404: Not Found")

    monkeypatch.setattr(torchvision.datasets.DTD, "_download", fetch)
    monkeypatch.setattr(torchvision.datasets.Food101, "_download", lambda self: LAYOUTS["food101"](tmp_path, None))
    with pytest.raises(BadInput) as caught:
        require_sets(["food101", "cars", "dtd"], tmp_path, download=True)
    assert asked == ["DTD"]
    assert "dtd: research use only. See docs/data.md" in capsys.readouterr().out
    assert "2 data sets are not there" in str(caught.value)
    assert "(tried: HTTP Error 404: Not Found)" in str(caught.value)
    assert json.loads((tmp_path / "food-101" / "meta" / "test.json").read_text())


def test_nothing_is_fetched_unless_asked_for(tmp_path, monkeypatch):
    def fetch(self):
        raise AssertionError("went to the network")

    monkeypatch.setattr(torchvision.datasets.DTD, "_download", fetch)
    with pytest.raises(BadInput, match="1 data set is not there"):
        require_sets(["dtd"], tmp_path)


def test_a_misspelt_name_gets_the_nearest(tmp_path):
    with pytest.raises(BadInput, match=r"'food-101' is no transfer data set. Did you mean 'food101'\?"):
        names_of("cifar10,food-101")
