"""Data of one's own: VOC's, COCO's and YOLO's layouts with any classes, folders and flaws, from files to results."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import photographs
import pytest
from helpers import lines
from PIL import Image

from mec.cli.main import main
from mec.errors import BadInput
from mec.evaluation.detection.annotations import Annotations, read_coco, read_voc
from mec.evaluation.detection.metrics import Detections, coco_scores
from mec.evaluation.detection.network import Regions
from mec.evaluation.detection.presets import PRESETS, Sizes
from mec.evaluation.detection.protocols import PROTOCOLS
from mec.evaluation.detection.reading import DetectionData, cleaned, read_data, read_yolo, words_about, yolo_names
from mec.networks.backbones import SMALL

VOC07 = PRESETS["voc"]["voc07"]  # as it is, before tests make it tiny
CELLS = {"car": "Red cell", "dog": "White cell", "person": "Platelet"}
TINY = {
    "iterations": 2, "drops": (1,), "warmup": 1, "sizes": Sizes((64,), 64, 96), "seeds": (0,), "batch_size": 2,
    "regions": Regions(anchors=32, before_nms=(200, 100), after_nms=(50, 20), regions=16), "precise": 1,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _tiny(tmp_path, monkeypatch):
    monkeypatch.setitem(SMALL, "resnet10-narrow", {**SMALL["resnet10-tiny"], "channels": (8, 12, 16, 24)})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for table in PRESETS.values():
        for name in table:
            monkeypatch.setitem(table, name, replace(table[name], **TINY))


def own_voc(root: Path, suffix: str = ".png") -> Path:
    """The folder that holds Annotations, ImageSets and JPEGImages, with classes and suffixes of its own."""
    folder = photographs.voc(root / "made") / "VOCdevkit" / "VOC2007"
    for path in (folder / "Annotations").iterdir():
        text = path.read_text()
        for name, own in CELLS.items():
            text = text.replace(f"<name>{name}<", f"<name> {own} <")
        path.write_text(text)
    for path in (folder / "JPEGImages").iterdir():
        Image.open(path).save(path.with_suffix(suffix))
        path.unlink()
    return Path(shutil.move(folder, root / "blood"))


def own_coco(root: Path, *, outlines: bool) -> Path:
    """annotations/first.json and second.json, photographs in pictures/a and pictures/b; ids are words or from 0."""
    photographs.coco(root)
    for split, name, folder in (("train2017", "first", "a"), ("val2017", "second", "b")):
        content = json.loads((root / f"annotations/instances_{split}.json").read_text())
        for number, found in enumerate(content["annotations"]):
            found |= {"id": number, "image_id": f"photo {found['image_id']}"}
            found.pop("area")
            if not outlines:
                del found["segmentation"], found["iscrowd"]
        for image in content["images"]:
            image["id"] = f"photo {image['id']}"
            del image["width"], image["height"]
        (root / "annotations" / f"{name}.json").write_text(json.dumps(content))
        (root / "annotations" / f"instances_{split}.json").unlink()
        (root / "pictures").mkdir(exist_ok=True)
        (root / "images" / split).rename(root / "pictures" / folder)
    return root


def own_yolo(root: Path, export: bool = False) -> Path:
    """images/SPLIT and labels/SPLIT; or SPLIT/images and SPLIT/labels."""
    for split in ("train", "val"):
        parts = [root / (f"{split}/{part}" if export else f"{part}/{split}") for part in ("images", "labels")]
        for part in parts:
            part.mkdir(parents=True)
        for i, scene in enumerate(photographs.SCENES):
            wide, high, objects = scene
            photographs.picture(scene, i).save(parts[0] / f"{i}.jpg", quality=95)
            rows = [
                f"{[*CELLS].index(name)} {(x0 + x1) / 2 / wide} {(y0 + y1) / 2 / high} "
                f"{(x1 - x0) / wide} {(y1 - y0) / high}"
                for name, x0, y0, x1, y1, _ in objects
            ]
            (parts[1] / f"{i}.txt").write_text("\n".join(rows) + "\n")
    (root / "data.yaml").write_text("train: ../train/images\nnc: 3\nnames: ['Red cell', 'White cell', 'Platelet']\n")
    return root


def data(protocol: str, root: Path, **places) -> DetectionData:
    flags = {{"train": "train_split", "test": "test_split"}.get(name, name): value for name, value in places.items()}
    return read_data(PROTOCOLS[protocol](data_root=root, **flags), VOC07)


def objects(found: Annotations) -> list[tuple[str, list[float]]]:
    return [(found.classes[label], box) for label, box in zip(found.labels, found.boxes.tolist())]


def evaluated(protocol: str, root: Path, out: Path, *flags: str) -> int:
    words = ["evaluate", "random:resnet10-narrow", protocol, "--image-size", "64", "--device", "cpu"]
    return main([*words, "--data-root", str(root), "--out", str(out), *flags])


@pytest.mark.parametrize(
    ("protocol", "make", "flags", "name", "rule"),
    [
        ("voc", own_voc, [], "blood", "VOC 2010"),
        ("yolo", own_yolo, [], "yolo", "VOC 2010"),
        (
            "coco", lambda root: own_coco(root, outlines=False),
            ["--train-split", "annotations/first.json", "--test-split", "second", "--train-images", "pictures/a",
             "--test-images", "pictures/b"],
            "coco", "COCO",
        ),
    ],
)  # fmt: skip
def test_a_folder_of_ones_own_trains_by_one_command(protocol, make, flags, name, rule, tmp_path, capsys):
    root = make(tmp_path / protocol)
    assert evaluated(protocol, root, tmp_path / "run", *flags) == 0
    said = capsys.readouterr().out
    assert f"{protocol}, preset small: 4 photographs to train on, 4 to test on" in said
    results = lines(tmp_path / "run" / "results.jsonl")
    assert {(r["data"], r["settings"]["rule"], r["settings"]["preset"]) for r in results} == {(name, rule, "small")}
    assert results[0]["metric"] == ("box AP" if protocol == "coco" else "AP")
    assert results[0]["settings"]["classes"] == 3
    assert len(list(tmp_path.glob(f"run/{protocol}-small/lr-*/detections.png"))) == 1


def test_three_layouts_of_the_same_photographs_have_the_same_objects(tmp_path):
    voc = data("voc", own_voc(tmp_path / "voc")).train
    yolo = data("yolo", own_yolo(tmp_path / "yolo")).train
    roboflow = data("yolo", own_yolo(tmp_path / "export", export=True)).test
    root = own_coco(tmp_path / "coco", outlines=True)
    coco = data(
        "coco", root, train="first", test="second", train_images=Path("pictures/a"), test_images=Path("pictures/b")
    )
    assert voc.classes == ("Platelet", "Red cell", "White cell")  # by name; YOLO's as its file has them
    assert yolo.classes == ("Red cell", "White cell", "Platelet")
    for found in (yolo, roboflow):
        assert [name for name, _ in objects(found)] == [name for name, _ in objects(voc)]
        np.testing.assert_allclose(found.boxes, voc.boxes, atol=1e-4)
    np.testing.assert_allclose(coco.train.boxes, voc.boxes)
    assert coco.masks
    for found in (voc, yolo, coco.train):
        assert found.sizes.tolist() == [[96, 64], [96, 64], [64, 96], [96, 64]]
        assert all(Path(path).is_file() for path in found.paths)


def test_boxes_only_leaves_outlines_aside(tmp_path):
    root = photographs.coco(tmp_path)
    assert data("coco", root, train="train2017", test="val2017").masks
    found = data("coco", root, train="train2017", test="val2017", boxes_only=True)
    assert not found.masks
    assert found.train.points is None
    assert not [words for words in found.told if "without an object" in words]


def test_a_file_of_classes_chooses_and_orders_them_and_what_it_leaves_out_is_told(tmp_path):
    root = own_voc(tmp_path)
    (tmp_path / "names").write_text("White cell\n\nRed cell\n")
    found = data("voc", root, classes=tmp_path / "names")
    assert found.train.classes == found.test.classes == ("White cell", "Red cell")
    assert [name for name, _ in objects(found.train)] == [
        "Red cell",
        "White cell",
        "White cell",
        "Red cell",
        "Red cell",
    ]
    assert any(
        "2 objects of classes that --classes does not name (Platelet), the first: 000002" in w for w in found.told
    )
    (tmp_path / "names").write_text("a\na\n")
    with pytest.raises(BadInput, match="2 names of classes; one a line, each once"):
        data("voc", root, classes=tmp_path / "names")


def test_a_class_of_the_test_alone_is_a_class_too(tmp_path):
    root = own_voc(tmp_path)
    (root / "ImageSets/Main/train.txt").write_text("000000\n000001\n")
    (root / "ImageSets/Main/val.txt").write_text("000002\n")
    found = data("voc", root, train="train", test="val")
    assert found.train.classes == found.test.classes == ("Red cell", "White cell", "Platelet")
    assert objects(found.test)[0][0] == "Platelet"


FLAWS = {  # what is written in place of the first box of a photograph (9 11 56 52), and what is said
    "<xmin>9<": ("<xmin>56<", "boxes of no size"),
    "<xmax>56<": ("<xmax>2<", "boxes with a corner on the wrong side of the other"),
    "<ymin>11<": ("<ymin>nan<", "boxes that are no numbers"),
}


@pytest.mark.parametrize("written", FLAWS)
def test_a_box_that_cannot_be_one_is_left_out_counted_and_told(written, tmp_path):
    root = own_voc(tmp_path)
    other, words = FLAWS[written]
    xml = root / "Annotations" / "000000.xml"
    assert written in xml.read_text()
    xml.write_text(xml.read_text().replace(written, other))
    found = data("voc", root)
    assert objects(found.train)[0][0] == "White cell"  # the other one of the photograph stays
    assert f"  left out: 1 {words}, the first: 000000" in found.told
    assert len(found.train) == 4


def test_boxes_outside_are_left_out_those_that_reach_out_stay_and_fractions_are_read(tmp_path):
    root = own_voc(tmp_path)
    xml = root / "Annotations" / "000000.xml"
    text = (
        xml.read_text()
        .replace("<xmin>9<", "<xmin>-3.5<")
        .replace("<xmin>61<", "<xmin>97<")
        .replace("<xmax>90<", "<xmax>120<")
    )
    xml.write_text(text)
    found = data("voc", root)
    assert found.train.boxes[0].tolist() == [-4.5, 10, 56, 52]
    assert "  left out: 1 boxes beside their photographs, the first: 000000" in found.told
    assert any("1 boxes that reach beyond their photographs and are cut there" in words for words in found.told)
    assert any("1 difficult objects, trained on but not counted" in words for words in found.told)


def test_photographs_that_cannot_be_used_are_left_out_counted_and_told_up_to_a_half(tmp_path):
    root = own_voc(tmp_path)
    (root / "JPEGImages/000001.png").unlink()
    (root / "Annotations/000002.xml").write_text("<annotation><size>")
    found = data("voc", root)
    assert found.train.ids == ("000000", "000003")
    said = "\n".join(found.told)
    assert (
        f"left out: 1 photographs without an annotation that can be read, the first: {root}/Annotations/000002.xml"
        in said
    )
    assert f"left out: 1 photographs that are missing, the first: {root}/JPEGImages/000001.jpg" in said
    (root / "JPEGImages/000003.png").write_bytes(b"nothing")
    with pytest.raises(BadInput, match=r"trainval: 1 of 3 photographs can be used: 1 photographs that are missing"):
        data("voc", root)


def test_a_photograph_of_another_size_is_left_out_and_one_without_a_size_measured(tmp_path):
    root = own_voc(tmp_path)
    for name, written in (("000000", "<width>48</width>"), ("000001", "<width>0</width>")):
        xml = root / "Annotations" / f"{name}.xml"
        xml.write_text(xml.read_text().replace("<width>96</width>", written))
    found = data("voc", root)
    assert found.train.ids == ("000001", "000002", "000003")
    assert found.train.sizes[0].tolist() == [96, 64]
    assert any(
        "another size than annotated" in words and "96 x 64 px, annotated 48 x 64" in words for words in found.told
    )


def test_photographs_without_objects_and_crowds_are_counted(tmp_path):
    scenes = [*photographs.SCENES, (96, 64, [])]
    found = data("coco", photographs.coco(tmp_path, scenes), train="train2017", test="val2017")
    said = "\n".join(found.told)
    assert "1 photographs without an object to train on; 1 crowds, neither trained on nor counted" in said
    assert "train2017: 5 photographs, 7 objects (person 2, car 3, dog 2)" in said


def test_cocos_annotations_that_name_nothing_are_left_out_and_told(tmp_path):
    file = photographs.coco(tmp_path) / "annotations/instances_train2017.json"
    content = json.loads(file.read_text())
    content["annotations"] += [
        {"image_id": 7, "category_id": 1, "bbox": [1, 1, 5, 5]},
        {"image_id": 100, "category_id": 1},
    ]
    content["annotations"][0]["bbox"] = [90, 10, -40, 20]
    file.write_text(json.dumps(content))
    found = data("coco", tmp_path, train="train2017", test="val2017")
    said = "\n".join(found.told)
    assert "left out: 1 annotations of no photograph, the first: number 7" in said
    assert "left out: 1 annotations without a known class or a box, the first: number 8" in said
    assert "left out: 1 boxes with a corner on the wrong side of the other, the first: 100" in said
    assert len(found.train.labels) == 6


def test_yolos_lines_that_are_no_object_are_told_and_outlines_become_boxes(tmp_path):
    root = own_yolo(tmp_path)
    (root / "labels/train/0.txt").write_text(
        "0 0.1 0.25 0.5 0.25 0.5 0.75\n9 .5 .5 .1 .1\n1 0.5 half 0.1 0.1\n-1 .5 .5 .1 .1\n"
    )
    (root / "labels/train/1.txt").unlink()
    found = data("yolo", root)
    assert len(found.train.rows(0)) == 1
    assert found.train.boxes[0] == pytest.approx([9.6, 16, 48, 48])
    said = "\n".join(found.told)
    assert (
        f"left out: 3 lines that are no object of a known class, the first: {root}/labels/train/0.txt, line 2" in said
    )
    assert "1 photographs without an object to train on" in said


def test_yolos_names_come_from_files_of_several_kinds(tmp_path):
    root = own_yolo(tmp_path)
    (root / "data.yaml").write_text("names:\n  0: a\n  1: b\n")
    assert yolo_names(root) == ["a", "b"]
    (root / "data.yaml").unlink()
    with pytest.raises(BadInput, match=r"no names of classes .*--classes FILE"):
        data("yolo", root)
    (root / "obj.names").write_text("x\ny\nz\n")
    assert read_yolo(root, "train").classes == ("x", "y", "z")
    with pytest.raises(BadInput, match=r"no split 'tran' in it \(there: train, val\)"):
        data("yolo", root, train="tran")


def test_splits_are_chosen_by_what_is_there(tmp_path):
    root = own_voc(tmp_path)
    (root / "ImageSets/Main/test.txt").rename(root / "ImageSets/Main/val.txt")
    with pytest.raises(BadInput, match="which split"):  # trainval would hold the photographs of val
        data("voc", root)
    (root / "ImageSets/Main/trainval.txt").rename(root / "ImageSets/Main/train.txt")
    assert data("voc", root).split == "val"
    (root / "ImageSets/Main/train.txt").unlink()
    with pytest.raises(BadInput, match=r"which split\? --train-split takes one of: val"):
        data("voc", root)
    root = own_coco(tmp_path / "coco", outlines=True)
    with pytest.raises(BadInput, match=r"which split\? --train-split takes one of: first, second"):
        data("coco", root)
    with pytest.raises(BadInput, match=r"instances_third\.json.*there: annotations/first\.json, annotations/second"):
        data("coco", root, train="first", test="third")
    with pytest.raises(BadInput, match=r"no such file \(there: nothing\)"):
        data("coco", tmp_path / "empty")


@pytest.mark.parametrize(
    "layout", ["annotations/{}.json", "annotations/instances_{}.json", "{}/_annotations.coco.json"]
)
@pytest.mark.parametrize(("trained", "tested"), [("trainval", "test"), ("train", "valid"), ("train", "val2017")])
def test_cocos_splits_are_found_by_their_usual_names(layout, trained, tested, tmp_path):
    root = own_coco(tmp_path, outlines=False)
    for made, folder, split in (("first", "a", trained), ("second", "b", tested)):
        (root / split).mkdir()
        (root / f"annotations/{made}.json").rename(root / layout.format(split))
        for photograph in (root / "pictures" / folder).iterdir():
            photograph.rename(root / split / photograph.name)
    found = data("coco", root)
    assert (found.split, found.name, len(found.train), len(found.test)) == (tested, root.name, 4, 4)
    assert [words.split(":")[0] for words in found.told if "photographs," in words] == [trained, tested]
    assert not [words for words in found.told if "without an object" in words]  # boxes alone are trained on


def test_an_object_whose_id_is_0_is_found_like_the_others(tmp_path):
    """COCO's own code takes an id of 0 for "none"."""
    root = own_coco(tmp_path, outlines=True)
    truth = data(
        "coco", root, train="first", test="second", test_images=Path("pictures/b"), train_images=Path("pictures/a")
    ).test
    kept = [truth.rows(i)[~truth.ignored[truth.rows(i)]] for i in range(4)]
    detections = [Detections(truth.boxes[rows], np.ones(len(rows)), truth.labels[rows]) for rows in kept]
    assert coco_scores(truth, detections, "bbox")["AP"] == 100


def test_benchmarks_keep_all_their_objects_and_their_name(tmp_path):
    """A box of one pixel is an object in VOC, whose last pixel counts; full test sets are called by their names."""
    root = photographs.voc(tmp_path / "any")
    xml = root / "VOCdevkit/VOC2007/Annotations/000000.xml"
    xml.write_text(xml.read_text().replace("<xmin>9<", "<xmin>56<"))
    found = read_voc(root, [(2007, "test")])
    assert len(cleaned(found).labels) == len(found.labels) == 7
    assert data("voc", root).name == "any"
    listing = root / "VOCdevkit/VOC2007/ImageSets/Main/test.txt"
    listing.write_text("000001\n" * 4_952)
    assert (data("voc", root).name, data("voc", root).rule) == ("VOC2007", "VOC 2007")
    root = photographs.coco(tmp_path / "coco")
    assert len(cleaned(read_coco(root, "train2017")).labels) == 7


@pytest.mark.samples
def test_blood_cells_are_read_from_their_own_folder(samples):
    found = data("voc", samples / "samples" / "bccd")
    assert (found.name, found.split, found.train.classes) == ("bccd", "test", ("Platelets", "RBC", "WBC"))
    assert (len(found.train), len(found.test)) == (292, 72)
    assert "  left out: 2 boxes of no size, the first: BloodImage_00338" in found.told
    assert next(words_about(found.test, "test")) == "test: 72 photographs, 945 objects (Platelets 69, RBC 805, WBC 71)"
