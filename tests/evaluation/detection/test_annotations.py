"""VOC and COCO in their layouts: coordinates, rules, sizes, and batches that are functions of seed and iteration."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import photographs
import pytest
import torch

from mec.errors import BadInput
from mec.evaluation.detection.annotations import read_coco, read_voc
from mec.evaluation.detection.batches import (
    Sizes,
    TestImages,
    TrainingBatches,
    example,
    grouped_batches,
    resized,
    training_loader,
)

SMALL = Sizes((48, 64), 64, 96)


@pytest.fixture(autouse=True)
def _no_cache_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_voc_boxes_begin_one_pixel_before_their_first(tmp_path):
    found = read_voc(photographs.voc(tmp_path), [(2007, "trainval")])
    assert found.boxes[0].tolist() == [8, 10, 56, 52]  # written as 9 11 56 52
    assert [found.classes[label] for label in found.labels[:2]] == ["car", "dog"]
    assert found.ignored.tolist() == [False, False, False, True, False, False, False]
    image, target = example(found, 1, 64, 1333, mirrored=False)
    assert len(target["boxes"]) == 2  # difficult objects are trained on
    box = target["boxes"][0].int().tolist()
    assert image[2, box[1] + 3 : box[3] - 3, box[0] + 3 : box[2] - 3].float().mean() > 200  # it is blue inside


def test_voc0712_is_both_years(tmp_path):
    photographs.voc(photographs.voc(tmp_path), photographs.SCENES[:2], year=2012)
    assert len(read_voc(tmp_path, [(2007, "trainval"), (2012, "trainval")])) == 6


def test_coco_numbers_categories_from_zero_and_leaves_crowds_out(tmp_path):
    found = read_coco(photographs.coco(tmp_path), "train2017")
    assert (found.classes, found.category_ids) == (("person", "car", "dog"), (1, 3, 18))
    assert found.ids == ("100", "101", "102", "103")
    _, target = example(found, 1, 64, 1333, mirrored=False)
    assert [found.classes[label] for label in target["labels"]] == ["dog"]  # the car is a crowd
    assert len(target["polygons"]) == 1


def test_photographs_without_a_trainable_object_are_left_out(tmp_path):
    scenes = [*photographs.SCENES, (96, 64, []), (96, 64, [("car", 4.0, 4.0, 40.0, 40.0, True)]), (96, 64, [])]
    found = read_coco(photographs.coco(tmp_path, scenes), "train2017")
    assert found.with_objects().tolist() == [0, 1, 2, 3]
    drawn = {int(i) for batch in _some_batches(found, 6, batch_size=2) for i in batch}
    assert drawn == {0, 1, 2, 3}


def test_an_object_without_polygons_or_extent_is_not_trained_on_and_alone_not_looked_for(tmp_path):
    """Which photographs are looked at, and what is then seen in them, is one decision."""
    file = photographs.coco(tmp_path) / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    objects = content["annotations"]
    objects[0].pop("segmentation")  # one of two in the first photograph
    objects[2]["segmentation"] = {"size": [64, 96], "counts": "run lengths"}  # beside a crowd in the second
    objects[4]["bbox"][2] = 0.0  # alone in the third
    objects[5]["bbox"] = [200.0, 10.0, 5.0, 5.0]  # outside, in the fourth
    file.write_text(json.dumps(content))
    found = read_coco(tmp_path, "train2017")
    seen = [len(example(found, i, 64, 96, mirrored=False)[1]["labels"]) for i in range(4)]
    assert seen == [1, 0, 0, 1]
    assert found.with_objects().tolist() == [0, 3]
    assert found.without_polygons().nonzero()[0].tolist() == [0, 2]
    assert len(found.largest_objects(4)) == 2


def _some_batches(found, count: int, batch_size: int):
    data = TrainingBatches(found, SMALL, seed=0)
    asked = []
    data.__class__ = type("Heard", (TrainingBatches,), {"__getitem__": lambda self, a: asked.append(a[2]) or []})
    list(training_loader(data, batch_size, 0, count, slice(0, batch_size), 0))
    return asked


def test_the_second_reading_is_from_flat_arrays_and_the_same(tmp_path, monkeypatch):
    root = photographs.coco(tmp_path / "coco")
    first = read_coco(root, "train2017")
    monkeypatch.setattr(json, "load", None)  # would fail
    second = read_coco(root, "train2017")
    assert first.fingerprint() == second.fingerprint()
    assert [p.tolist() for p in first.polygons(1)] == [p.tolist() for p in second.polygons(1)]
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    photographs.coco(root, photographs.SCENES[:3])  # another file of that name
    assert len(read_coco(root, "train2017")) == 3


def test_nothing_is_written_beside_the_data(tmp_path):
    root = photographs.coco(tmp_path / "coco")
    before = sorted(root.rglob("*"))
    read_coco(root, "train2017")
    assert sorted(root.rglob("*")) == before


def test_a_cut_off_cache_is_read_again(tmp_path):
    root = photographs.coco(tmp_path / "coco")
    first = read_coco(root, "train2017")
    (file,) = (tmp_path / "cache" / "mec").iterdir()
    file.write_bytes(file.read_bytes()[:200])
    assert read_coco(root, "train2017").fingerprint() == first.fingerprint()


@pytest.mark.parametrize(
    ("size", "shorter", "most", "expected"),
    [
        ((500, 375), 800, 1333, (1067, 800)),
        ((375, 500), 480, 1333, (480, 640)),
        ((1000, 200), 800, 1333, (1333, 267)),
        ((640, 427), 640, 1333, (959, 640)),  # 959.25
        ((558, 333), 800, 1333, (1333, 795)),  # 795.5 of the sizes, but 795.4999 after two factors, as in detectron2
        ((333, 558), 800, 1333, (795, 1333)),
    ],
)
def test_sizes_are_rounded_and_bounded(size, shorter, most, expected):
    assert resized(*size, shorter, most) == expected


def test_mirroring_moves_boxes_and_polygons_with_the_pixels(tmp_path):
    found = read_coco(photographs.coco(tmp_path), "train2017")
    for mirrored in (False, True):
        image, target = example(found, 0, 128, 1333, mirrored)
        assert image.shape == (3, 128, 192)
        box = target["boxes"][0].tolist()
        assert box == pytest.approx([192 - 112, 20, 192 - 16, 104] if mirrored else [16, 20, 112, 104])
        x, y = target["polygons"][0][0].reshape(-1, 2).T
        assert [x.min(), y.min(), x.max(), y.max()] == pytest.approx(box)
        x0, y0, x1, y1 = (int(v) for v in box)
        inside = image[:, y0 + 5 : y1 - 5, x0 + 5 : x1 - 5].float()
        assert inside[0].mean() > 180 > 80 > inside[2].mean()  # red


def test_batches_are_of_one_shape_and_take_every_photograph_once_an_epoch():
    wide = np.array([True] * 12 + [False] * 6)
    batches = grouped_batches(wide, 3, seed=0)
    first = [next(batches) for _ in range(6)]
    assert all(len(set(wide[batch].tolist())) == 1 for batch in first)
    assert sorted(np.concatenate(first).tolist()) == list(range(18))
    second = [next(batches) for _ in range(6)]
    assert sorted(np.concatenate(second).tolist()) == list(range(18))
    assert np.concatenate(first).tolist() != np.concatenate(second).tolist()


def test_a_batch_is_a_function_of_seed_and_iteration(tmp_path):
    found = read_voc(photographs.voc(tmp_path), [(2007, "trainval")])

    def batches(start: int, share: slice = slice(0, 2), seed: int = 0):
        data = TrainingBatches(found, SMALL, seed)
        return list(training_loader(data, 2, start, 5, share, 0))

    whole = batches(0)
    for a, b in zip(whole[3:], batches(3), strict=True):
        for (image, target, number), (other, same, again) in zip(a, b, strict=True):
            assert torch.equal(image, other)
            assert torch.equal(target["boxes"], same["boxes"])
            assert number == again
    halves = [batches(0, part) for part in (slice(0, 1), slice(1, 2))]  # two ranks
    for a, b, c in zip(whole, *halves, strict=True):
        assert [number for *_, number in a] == [b[0][2], c[0][2]]
        assert torch.equal(a[1][0], c[0][0])
    assert [n for *_, n in batches(0, seed=1)[0]] != [n for *_, n in whole[0]]
    seen = {min(image.shape[1:]) for batch in whole for image, _, _ in batch}
    assert seen == {48, 64}


def test_the_largest_median_box_decides_which_are_kept(tmp_path):
    found = read_coco(photographs.coco(tmp_path), "train2017").largest_objects(2)
    assert found.ids == ("101", "102")  # 60 x 50 (its crowd does not count) and 40 x 70
    assert found.boxes[found.rows(1)].tolist() == [[10, 20, 50, 90]]
    assert found.polygons(2)[0].tolist() == [10, 20, 50, 20, 50, 90, 10, 90]
    assert found.take([1]).ids == ("102",)


def test_test_images_keep_their_order_and_size(tmp_path):
    images = TestImages(read_voc(photographs.voc(tmp_path), [(2007, "test")]), SMALL)
    assert [tuple(images[i].shape[1:]) for i in range(4)] == [(64, 96), (64, 96), (96, 64), (64, 96)]


def test_bad_input_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"no VOCdevkit/VOC2007 in it .*no such folder.*JPEGImages"):
        read_voc(tmp_path / "nowhere", [(2007, "trainval")])
    root = photographs.voc(tmp_path)
    with pytest.raises(BadInput, match=r"vall\.txt: no such split. There: test, trainval"):
        read_voc(root, [(2007, "vall")])
    with pytest.raises(BadInput, match=r"instances_train2017\.json: no such file .*annotations/instances_train2017"):
        read_coco(root, "train2017")
    folder = root / "VOCdevkit" / "VOC2007"
    xml = folder / "Annotations" / "000000.xml"
    whole = xml.read_text()
    xml.write_text(whole.replace("car", "cart"))
    assert read_voc(root, [(2007, "test")]).classes == ("car", "cart", "dog", "person")  # no longer VOC's 20
    for text in (whole[:90], whole.replace("xmin", "x"), whole.replace("96", "wide")):
        xml.write_text(text)
        with pytest.raises(BadInput, match=r"000000\.xml: not a VOC annotation that can be read"):
            read_voc(root, [(2007, "test")])
    xml.write_text(whole.replace("<width>96", "<width>97"))
    with pytest.raises(BadInput, match="is 96 x 64 px, its annotation says 97 x 64"):
        example(read_voc(root, [(2007, "test")]), 0, 64, 1333, mirrored=False)
    xml.write_text(whole)
    (folder / "JPEGImages" / "000000.jpg").write_bytes(b"no photograph")
    with pytest.raises(BadInput, match=r"000000\.jpg: cannot be read"):
        TestImages(read_voc(root, [(2007, "test")]), SMALL)[0]


@pytest.mark.parametrize("text", ["{}", "[", '{"images": [], "annotations": [{}], "categories": []}'])
def test_a_file_that_is_not_cocos_is_refused(tmp_path, text):
    file = photographs.coco(tmp_path) / "annotations" / "instances_train2017.json"
    file.write_text(text)
    with pytest.raises(BadInput, match=r"instances_train2017\.json: not (COCO's instances format|valid JSON)"):
        read_coco(tmp_path, "train2017")


@pytest.mark.samples
def test_the_samples_are_read(samples):
    root = samples / "samples"
    assert len(read_voc(root / "voc2007_mini", [(2007, "trainval")])) == 6
    found = read_coco(root / "coco_tiny38", "train2017")
    assert (len(found), len(found.labels), len(found.classes), int(found.ignored.sum())) == (32, 288, 80, 4)
    assert len(found.largest_objects(8)) == 8
    assert all(Path(path).exists() for path in found.paths)
