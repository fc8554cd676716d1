"""Small VOC and COCO folders of coloured rectangles on grey noise, in the standard layouts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"car": (220, 40, 40), "dog": (40, 40, 220), "person": (40, 200, 40)}
CATEGORIES = {3: "car", 18: "dog", 1: "person"}  # COCO's own numbers

# A scene: width, height, and objects (name, x0, y0, x1, y1, ignored), px.
Scene = tuple[int, int, list[tuple[str, float, float, float, float, bool]]]
SCENES: list[Scene] = [
    (96, 64, [("car", 8, 10, 56, 52, False), ("dog", 60, 20, 90, 60, False)]),
    (96, 64, [("dog", 20, 8, 80, 58, False), ("car", 2, 2, 18, 18, True)]),
    (64, 96, [("person", 10, 20, 50, 90, False)]),
    (96, 64, [("person", 30, 4, 62, 60, False), ("car", 64, 30, 94, 60, False)]),
]


def picture(scene: Scene, seed: int) -> Image.Image:
    width, height, objects = scene
    pixels = np.random.default_rng(seed).integers(90, 150, (height, width, 3), dtype=np.uint8)
    for name, x0, y0, x1, y1, _ in objects:
        pixels[int(y0) : int(y1), int(x0) : int(x1)] = COLOURS[name]
    return Image.fromarray(pixels)


def voc(root: Path, scenes: list[Scene] = SCENES, year: int = 2007, splits=("trainval", "test")) -> Path:
    """ROOT/VOCdevkit/VOC2007; ignored objects are difficult ones."""
    folder = root / "VOCdevkit" / f"VOC{year}"
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    names = [f"{i:06}" for i in range(len(scenes))]
    for i, (name, scene) in enumerate(zip(names, scenes)):
        picture(scene, i).save(folder / "JPEGImages" / f"{name}.jpg", quality=95)
        objects = "".join(
            f"<object><name>{word}</name><difficult>{int(hard)}</difficult><bndbox><xmin>{x0 + 1:g}</xmin>"
            f"<ymin>{y0 + 1:g}</ymin><xmax>{x1:g}</xmax><ymax>{y1:g}</ymax></bndbox></object>"
            for word, x0, y0, x1, y1, hard in scene[2]
        )
        size = f"<size><width>{scene[0]}</width><height>{scene[1]}</height><depth>3</depth></size>"
        (folder / "Annotations" / f"{name}.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    for split in splits:
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names) + "\n")
    return root


def coco(root: Path, scenes: list[Scene] = SCENES, splits=("train2017", "val2017")) -> Path:
    """ROOT/annotations and ROOT/images; ignored objects are crowds, as run lengths; others are polygons."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    numbers = {name: number for number, name in CATEGORIES.items()}
    for split in splits:
        folder = root / "images" / split
        folder.mkdir(parents=True, exist_ok=True)
        images, annotations = [], []
        for i, scene in enumerate(scenes):
            width, height, objects = scene
            picture(scene, i).save(folder / f"{i:012}.jpg", quality=95)
            images.append({"id": 100 + i, "file_name": f"{i:012}.jpg", "width": width, "height": height})
            for name, x0, y0, x1, y1, crowd in objects:
                corners: object = [[x0, y0, x1, y0, x1, y1, x0, y1]]
                if crowd:
                    inside = np.zeros((height, width), dtype=np.uint8)
                    inside[int(y0) : int(y1), int(x0) : int(x1)] = 1
                    flat = inside.T.ravel()
                    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [0]])))
                    corners = {"size": [height, width], "counts": np.diff([0, *edges, len(flat)]).tolist()}
                annotations.append(
                    {
                        "id": len(annotations) + 1, "image_id": 100 + i, "category_id": numbers[name],
                        "bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0),
                        "segmentation": corners, "iscrowd": int(crowd),
                    }
                )  # fmt: skip
        content = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": number, "name": name} for number, name in sorted(CATEGORIES.items())],
        }
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root
