"""Tiny copies of the transfer data sets, in the layout and the annotation formats of the real ones."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import torchvision
from helpers import noise_image
from PIL import Image
from scipy.io import savemat

from mec.evaluation.metrics import VOC_CLASSES


def jpeg(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise_image(seed, 12, 10).save(path)


def write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines))


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def food101(root: Path, monkeypatch) -> None:
    for part, per_class in (("train", 10), ("test", 4)):
        named = {c: [f"{c}/{1000 * len(part) + i}" for i in range(per_class)] for c in ("waffles", "apple_pie")}
        (root / "food-101" / "meta").mkdir(parents=True, exist_ok=True)
        (root / "food-101" / "meta" / f"{part}.json").write_text(json.dumps(named))
        for i, name in enumerate(name for of_class in named.values() for name in of_class):
            jpeg(root / "food-101" / "images" / f"{name}.jpg", i)


def cifar(root: Path, monkeypatch, kind: str, batches: dict[str, int], labels: str, names: str, count: int) -> None:
    """Pickled batches of flat rows, as the originals; their MD5 sums take the place of the known ones."""
    source = getattr(torchvision.datasets, kind)
    folder = root / source.base_folder
    folder.mkdir(parents=True)
    sums = {}
    for i, (name, rows) in enumerate(batches.items()):
        data = np.random.default_rng(i).integers(0, 256, (rows, 3072), dtype=np.uint8)
        pickled = {"data": data, labels: [j % count for j in range(rows)], "batch_label": name}
        if kind == "CIFAR100":
            pickled["coarse_labels"] = [j % 2 for j in range(rows)]
        (folder / name).write_bytes(pickle.dumps(pickled))
        sums[name] = md5(folder / name)
    meta = folder / source.meta["filename"]
    meta.write_bytes(pickle.dumps({names: [f"class{i}" for i in range(count)]}))
    known = [[name, total] for name, total in sums.items()]
    monkeypatch.setattr(source, "train_list", [k for k in known if "test" not in k[0]])
    monkeypatch.setattr(source, "test_list", [k for k in known if "test" in k[0]])
    monkeypatch.setattr(source, "meta", {**source.meta, "md5": md5(meta)})


def cifar10(root: Path, monkeypatch) -> None:
    batches = {**{f"data_batch_{i}": 20 for i in range(1, 6)}, "test_batch": 20}
    cifar(root, monkeypatch, "CIFAR10", batches, "labels", "label_names", 10)


def cifar100(root: Path, monkeypatch) -> None:
    cifar(root, monkeypatch, "CIFAR100", {"train": 300, "test": 100}, "fine_labels", "fine_label_names", 100)


def sun397(root: Path, monkeypatch, lists: str = ".") -> None:
    """Classes below letters, one of them two folders deep; images in no list; partitions 1 and 2."""
    folder = root / "SUN397"
    classes = ["/a/abbey", "/a/apartment_building/outdoor", "/z/zoo"]
    write(folder / "ClassName.txt", classes)
    for c in classes:
        for i in range(13):
            jpeg(Path(f"{folder}{c}/sun_{chr(120 - i)}{i}.jpg"), i)
    for partition, shift in (("01", 0), ("02", 3)):
        for part, rows in (("Training", range(6)), ("Testing", range(6, 10))):
            names = [f"{c}/sun_{chr(120 - i - shift)}{i + shift}.jpg" for c in reversed(classes) for i in rows]
            write(folder / lists / f"{part}_{partition}.txt", names)


def cars(root: Path, monkeypatch) -> None:
    """MATLAB structs; classes count from 1."""
    folder, names = root / "stanford_cars", ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "smart fortwo 2012"]
    (folder / "devkit").mkdir(parents=True)
    cells = np.empty((1, 3), dtype=object)
    cells[0, :] = names
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": cells})
    kind = [(f"bbox_{k}", object) for k in ("x1", "y1", "x2", "y2")] + [("class", object), ("fname", object)]
    for part, rows, path in (
        ("train", 15, folder / "devkit" / "cars_train_annos.mat"),
        ("test", 6, folder / "cars_test_annos_withlabels.mat"),
    ):
        annotations = np.zeros((1, rows), dtype=kind)
        for i in range(rows):
            annotations[0, i] = (1, 1, 9, 9, i % 3 + 1, f"{i + 1:05}.jpg")
            jpeg(folder / f"cars_{part}" / f"{i + 1:05}.jpg", i)
        savemat(path, {"annotations": annotations})


def aircraft(root: Path, monkeypatch) -> None:
    """Variants with spaces and slashes in their names; two variants of one family."""
    data = root / "fgvc-aircraft-2013b" / "data"
    variants = ["737-200", "737-300", "Cessna 172", "F/A-18"]
    write(data / "variants.txt", variants)
    write(data / "families.txt", ["Boeing 737", "Cessna 172", "F/A-18"])
    write(data / "manufacturers.txt", ["Boeing", "Cessna", "McDonnell Douglas"])
    number = 1025794
    fitted: list[str] = []
    for part, rows in (("train", 8), ("val", 4), ("test", 6)):
        lines = []
        for i in range(rows):
            lines.append(f"{number} {variants[i % 4]}")
            jpeg(data / "images" / f"{number}.jpg", number)
            number += 1
        write(data / f"images_variant_{part}.txt", lines)
        write(data / f"images_family_{part}.txt", [line.replace("737-200", "Boeing 737") for line in lines])
        fitted += lines if part != "test" else []
    write(data / "images_variant_trainval.txt", fitted)


def voc2007(root: Path, monkeypatch) -> None:
    """Objects by image: name and whether difficult. Lists in the devkit's padding, and the XML."""
    folder = root / "VOCdevkit" / "VOC2007"
    number = 1
    for part, rows in (("train", 8), ("val", 6), ("test", 8)):
        names, objects = [], []
        for i in range(rows):
            name = f"{number:06}"
            found = [("dog", False)] if i % 2 else [("person", False), ("person", True), ("train", i == 0)]
            if i == 1:
                found.append(("person", True))  # difficult only: 0
            names.append(name)
            objects.append(found)
            jpeg(folder / "JPEGImages" / f"{name}.jpg", number)
            boxes = "".join(
                f"<object><name>{n}</name><pose>Left</pose><difficult>{d:d}</difficult><bndbox><xmin>1</xmin>"
                f"<ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
                for n, d in found
            )
            write(folder / "Annotations" / f"{name}.xml", [f"<annotation><folder>VOC2007</folder>{boxes}</annotation>"])
            number += 1
        main = folder / "ImageSets" / "Main"
        write(main / f"{part}.txt", names)
        for c in VOC_CLASSES:
            said = []
            for found in objects:
                of_class = [difficult for n, difficult in found if n == c]
                said.append(-1 if not of_class else 0 if all(of_class) else 1)
            write(main / f"{c}_{part}.txt", [f"{name} {value:2}" for name, value in zip(names, said)])


def dtd(root: Path, monkeypatch) -> None:
    """Ten partitions; the second differs from the first."""
    folder, classes = root / "dtd" / "dtd", ["banded", "woven"]
    paths = [f"{c}/{c}_{i:04}.jpg" for i in range(12) for c in classes]
    for i, path in enumerate(paths):
        jpeg(folder / "images" / path, i)
    for partition in (1, 2):
        shifted = paths[partition * 2 - 2 :] + paths[: partition * 2 - 2]
        for part, rows in (("train", slice(0, 8)), ("val", slice(8, 16)), ("test", slice(16, 24))):
            write(folder / "labels" / f"{part}{partition}.txt", shifted[rows])


def pets(root: Path, monkeypatch) -> None:
    """Cats' breeds begin with a capital; one file called .jpg is a PNG with transparency, as in the original."""
    folder = root / "oxford-iiit-pet"
    breeds = [("Abyssinian", 1, 1), ("american_bulldog", 2, 2), ("yorkshire_terrier", 3, 2)]
    for part, rows in (("trainval", range(1, 11)), ("test", range(100, 105))):
        lines = []
        for breed, number, species in breeds:
            for i in rows:
                jpeg(folder / "images" / f"{breed}_{i}.jpg", i)
                lines.append(f"{breed}_{i} {number} {species} 1")
        write(folder / "annotations" / f"{part}.txt", lines)
    noise_image(3).convert("RGBA").save(folder / "images" / "Abyssinian_1.jpg", format="PNG")


def caltech101(root: Path, monkeypatch) -> None:
    """A background folder with a file that is no image, classes of different sizes, and grey images."""
    folder = root / "caltech101" / "101_ObjectCategories"
    for name, count in (("BACKGROUND_Google", 33), ("Faces", 36), ("car_side", 31)):
        for i in range(1, count + 1):
            jpeg(folder / name / f"image_{i:04}.jpg", i)
    Image.new("L", (9, 9), 100).save(folder / "car_side" / "image_0001.jpg")
    (folder / "BACKGROUND_Google" / "tmp").write_text("")


def flowers102(root: Path, monkeypatch) -> None:
    """Labels by image number, counted from 1; the lists of numbers are in no order of classes."""
    folder = root / "flowers-102"
    labels = np.tile(np.arange(1, 103), 5)
    for i in range(len(labels)):
        jpeg(folder / "jpg" / f"image_{i + 1:05}.jpg", i)
    savemat(folder / "imagelabels.mat", {"labels": labels[None].astype(np.uint8)})
    numbers = np.random.default_rng(0).permutation(np.arange(1, 103))
    ids = {"trnid": numbers, "valid": numbers + 102, "tstid": np.arange(205, 511)}
    savemat(folder / "setid.mat", {name: values[None].astype(np.uint16) for name, values in ids.items()})
    known = torchvision.datasets.Flowers102._file_dict
    monkeypatch.setattr(
        torchvision.datasets.Flowers102,
        "_file_dict",
        {**known, "label": ("imagelabels.mat", md5(folder / "imagelabels.mat")),
         "setid": ("setid.mat", md5(folder / "setid.mat"))},
    )  # fmt: skip


LAYOUTS = {f.__name__: f for f in (food101, cifar10, cifar100, sun397, cars, aircraft, voc2007, dtd, pets, caltech101,
                                   flowers102)}  # fmt: skip
