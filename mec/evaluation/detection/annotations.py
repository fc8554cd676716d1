"""Photographs and their objects, in the layouts of VOC and COCO."""

import hashlib
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mec.data.decoding import open_image, read_image
from mec.data.listing import load_cache, save_cache
from mec.errors import MALFORMED, BadInput
from mec.evaluation.metrics import VOC_CLASSES
from mec.runtime.files import read_json, read_text

EMPTY_SIDE = 1e-5  # px: an object thinner than this is dropped
Flaws = Mapping[str, Sequence[str]]  # what was left out, in words -> where


@dataclass(frozen=True)
class Annotations:
    """n photographs and their objects: those of photograph i are rows starts[i] to starts[i + 1] of the flat arrays."""

    classes: tuple[str, ...]
    ids: tuple[str, ...]  # VOC: 000005; COCO: the number
    paths: tuple[str, ...]
    sizes: np.ndarray  # [n, 2] width, height, px
    starts: np.ndarray  # [n + 1]
    boxes: np.ndarray  # [objects, 4] float32 x0, y0, x1, y1, px
    labels: np.ndarray  # [objects], 0 to K - 1
    ignored: np.ndarray  # [objects] bool: VOC's difficult (trained on, not counted), COCO's crowds (neither)
    source: str = ""  # the annotation file, for COCO's evaluation
    category_ids: tuple[int, ...] = ()  # COCO's number of each class
    polygon_starts: np.ndarray | None = None  # [objects + 1] into `point_starts`
    point_starts: np.ndarray | None = None  # [polygons + 1] into `points`
    points: np.ndarray | None = None  # flat x, y, x, y, ...
    order: np.ndarray | None = None  # [objects] which of COCO's annotations, as its file lists them
    flaws: Flaws = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, index: int) -> np.ndarray:
        return np.arange(self.starts[index], self.starts[index + 1])

    def polygons(self, row: int) -> list[np.ndarray]:
        """Of one object: each flat x, y, x, y, ... px."""
        assert self.polygon_starts is not None
        assert self.point_starts is not None
        assert self.points is not None
        span = range(self.polygon_starts[row], self.polygon_starts[row + 1])
        return [self.points[self.point_starts[p] : self.point_starts[p + 1]] for p in span]

    def fingerprint(self) -> str:
        """Of ids, boxes and labels."""
        state = hashlib.sha256("\n".join(self.ids).encode())
        for array in (self.boxes, self.labels, self.ignored):
            state.update(np.ascontiguousarray(array).tobytes())
        return state.hexdigest()[:16]

    def with_rows(self, rows: np.ndarray, starts: np.ndarray) -> "Annotations":
        """With these objects, which lie from photograph to photograph as `starts` says."""
        arrays: dict[str, Any] = {name: getattr(self, name)[rows] for name in ("boxes", "labels", "ignored")}
        if self.order is not None:
            arrays["order"] = self.order[rows]
        if self.polygon_starts is not None:
            arrays |= flat_polygons([self.polygons(row) for row in rows])
        return replace(self, starts=starts, **arrays)

    def take(self, chosen: Sequence[int]) -> "Annotations":
        """The chosen photographs, in that order, with their objects."""
        each = [self.rows(i) for i in chosen]
        rows = np.concatenate([*each, np.zeros(0, dtype=np.int64)]).astype(np.int64)
        ids, paths = (tuple(names[i] for i in chosen) for names in (self.ids, self.paths))
        found = self.with_rows(rows, np.cumsum([0, *map(len, each)]))
        return replace(found, ids=ids, paths=paths, sizes=self.sizes[list(chosen)])

    def with_objects(self) -> np.ndarray:
        """Numbers of the photographs that are trained on: those with an object that `example` keeps."""
        sizes = np.repeat(self.sizes, np.diff(self.starts), axis=0)
        before = np.cumsum([0, *self.trainable(np.arange(len(sizes)), sizes)])  # such objects in front of each row
        return np.flatnonzero(np.diff(before[self.starts]))

    def crowds(self) -> np.ndarray:
        """Objects that are not trained on: COCO's crowds. VOC's difficult ones are."""
        return self.ignored if self.category_ids else np.zeros_like(self.ignored)

    def without_polygons(self) -> np.ndarray:
        """Objects that are no crowds and have no polygon where polygons are given: masks cannot be learned of them."""
        if self.polygon_starts is None:
            return np.zeros_like(self.ignored)
        return ~self.crowds() & (np.diff(self.polygon_starts) == 0)

    def trainable(self, rows: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Which objects are trained on: no crowds, with a polygon where polygons are given, and not empty.

        Args:
            rows: of the objects.
            sizes: [rows, 2] or [2], width and height of their photographs; what is outside does not count."""
        corners = self.boxes[rows].reshape(-1, 2, 2).clip(0, np.broadcast_to(sizes, (len(rows), 2))[:, None])
        kept = (corners[:, 1] - corners[:, 0] > EMPTY_SIDE).all(1) & ~self.crowds()[rows]
        if self.polygon_starts is None:
            return kept
        return kept & (self.polygon_starts[rows + 1] > self.polygon_starts[rows])

    def largest_objects(self, count: int) -> "Annotations":
        """The photographs whose median box is largest: for a look on little data, where small objects say little."""
        usable = self.with_objects()
        areas = (self.boxes[:, 2:] - self.boxes[:, :2]).prod(1)
        objects = [(i, self.rows(i)) for i in usable]
        medians = [np.median(areas[rows][self.trainable(rows, self.sizes[i])]) for i, rows in objects]
        return self.take(sorted(usable[np.argsort(medians, kind="stable")[::-1][:count]].tolist()))


def read_image_at(annotations: Annotations, index: int) -> Image.Image:
    """Upright, or as stored where the annotation gives the size of that.
    Raises BadInput: it cannot be read, or its size is not the annotated one."""
    path = annotations.paths[index]
    try:
        image = read_image(path)
    except (OSError, ValueError, SyntaxError) as error:
        raise BadInput(f"{path}: cannot be read ({error}).") from error
    if image.size != tuple(annotations.sizes[index]):
        wide, high = annotations.sizes[index]
        if image.size == (high, wide):  # turned upright, against its annotation
            with open_image(path) as stored:
                return stored.convert("RGB")
        raise BadInput(f"{path}: is {image.width} x {image.height} px, its annotation says {wide} x {high}.")
    return image


Object = tuple[str, tuple[float, ...], bool]  # class, box, whether it is ignored
Photograph = tuple[str, str, tuple[int, int], list[Object]]  # id, path, (width, height) and objects


def from_photographs(rows: Sequence[Photograph], classes: Sequence[str], flaws: Flaws) -> Annotations:
    objects = [found for *_, several in rows for found in several]
    number = {name: i for i, name in enumerate(classes)}
    return Annotations(
        tuple(classes), tuple(row[0] for row in rows), tuple(row[1] for row in rows),
        np.array([row[2] for row in rows]).reshape(-1, 2), np.cumsum([0, *(len(row[3]) for row in rows)]),
        np.array([box for _, box, _ in objects], dtype=np.float32).reshape(-1, 4),
        np.array([number[name] for name, *_ in objects], dtype=np.int64),
        np.array([ignored for *_, ignored in objects], dtype=bool), flaws=flaws,
    )  # fmt: skip


def read_voc(root: Path, splits: Sequence[tuple[int | None, str]]) -> Annotations:
    """VOC's objects of splits such as (2007, "trainval"): ROOT[/VOCdevkit]/VOC2007/Annotations, ImageSets, JPEGImages.
    Without a year the root itself holds these folders; photographs have any suffix, and annotations that cannot be read
    are left out. Classes are VOC's 20 where no other has an object, else those of the objects, sorted. Boxes become x0,
    y0 = xmin - 1, ymin - 1 and x1, y1 = xmax, ymax.
    Raises BadInput: a folder or file is missing or cannot be read; says which, and what is there."""
    rows: list[Photograph] = []
    flaws: dict[str, list[str]] = {}
    for year, split in splits:
        folder = voc_folder(root, year)
        listing = folder / "ImageSets" / "Main" / f"{split}.txt"
        if not listing.exists():
            known = ", ".join(sorted(p.stem for p in listing.parent.glob("*.txt") if "_" not in p.stem))
            raise BadInput(f"{listing}: no such split. There: {known or 'none'}.")
        photographs = folder / "JPEGImages"
        stored = {p.stem: p for p in photographs.glob("*")} if year is None else {}
        for name in filter(None, map(str.strip, read_text(listing).splitlines())):
            file = folder / "Annotations" / f"{name}.xml"
            try:
                size, objects = _voc_objects(file, measured=year is not None)
            except (*MALFORMED, OSError, ElementTree.ParseError) as error:
                if year is not None:
                    raise BadInput(f"{file}: not a VOC annotation that can be read ({error}).") from error
                flaws.setdefault("photographs without an annotation that can be read", []).append(f"{file}: {error}")
                continue
            rows.append((name, str(stored.get(name, photographs / f"{name}.jpg")), size, objects))
    if not rows:
        named = ", ".join(f"{year} {split}" if year else split for year, split in splits)
        raise BadInput(f"{root}: its splits {named} name no photograph with an annotation that can be read.")
    names = {name for *_, objects in rows for name, *_ in objects}
    return from_photographs(rows, VOC_CLASSES if names <= {*VOC_CLASSES} else sorted(names), flaws)


def _voc_objects(file: Path, *, measured: bool) -> tuple[tuple[int, int], list[Object]]:
    """Width and height (0 where it has none and `measured` does not want them), and the objects."""
    top = ElementTree.parse(file).getroot()
    sides = (_text(top, f"size/{side}") if measured else top.findtext(f"size/{side}") for side in ("width", "height"))
    width, height = (int(float(side or 0)) for side in sides)
    objects: list[Object] = []
    for found in top.findall("object"):
        x0, y0, x1, y1 = (float(_text(found, f"bndbox/{k}")) for k in ("xmin", "ymin", "xmax", "ymax"))
        difficult = found.findtext("difficult", "0").strip() == "1"
        objects.append((_text(found, "name"), (x0 - 1, y0 - 1, x1, y1), difficult))
    return (width, height), objects


def voc_folder(root: Path, year: int | None) -> Path:
    """VOC's files of a year, refused where they are not there; without one the root."""
    if year is None:
        return root
    for folder in (root / "VOCdevkit" / f"VOC{year}", root / f"VOC{year}"):
        if folder.is_dir():
            return folder
    there = ", ".join(sorted(p.name for p in root.iterdir())[:5]) if root.is_dir() else "no such folder"
    raise BadInput(
        f"{root}: no VOCdevkit/VOC{year} in it (there: {there or 'nothing'}). --data-root names the folder that holds "
        f"VOCdevkit/VOC{year}/JPEGImages, Annotations and ImageSets; for data of your own, these three themselves."
    )


def _text(node: ElementTree.Element, path: str) -> str:
    found = node.findtext(path)
    if found is None:
        raise ValueError(f"no <{path}>")
    return found.strip()


def read_coco(root: Path, split: str, images: str | Path | None = None) -> Annotations:
    """COCO's objects of a split such as "train2017": ROOT/annotations/instances_SPLIT.json and ROOT[/images]/SPLIT/.
    The split may also be a file of annotations, from the root on; photographs are looked for in `images`, in the
    split's folders, beside the file, in ROOT/images and in ROOT. Annotations without a known image, a known class or a
    box are left out. Read once, then from flat arrays in the cache folder ($XDG_CACHE_HOME, ~/.cache) for as long as
    the file stays the same.
    Raises BadInput: the file is missing or not COCO's format."""
    usual = root / "annotations" / f"instances_{split}.json"
    others = (root / "annotations" / f"{split}.json", root / split / "_annotations.coco.json", root / split)
    file = next((path for path in (usual, *others) if path.is_file()), usual)
    if not file.is_file():
        known = sorted(str(p.relative_to(root)) for p in [*root.glob("*.json"), *root.glob("*/*.json")])
        raise BadInput(
            f"{file}: no such file (there: {', '.join(known) or 'nothing'}). --data-root names the folder that holds "
            f"annotations/instances_{split}.json and images/{split}/; --train-split and --test-split name another "
            "split, or its file of annotations."
        )
    stat = file.stat()
    known_by = f"3 {file.resolve()} {stat.st_size} {stat.st_mtime_ns}"  # 3: the format of the arrays
    flaws: dict[str, list[str]] = {}
    arrays = load_cache(known_by, "coco")
    if arrays is None:
        arrays, flaws = _coco_arrays(file)
        if not flaws:  # which are told each time
            save_cache(known_by, "coco", **arrays)
    folders = [root / images] if images else [root / "images" / split, root / split, file.parent, root / "images", root]
    classes, ids, names = (tuple(map(str, arrays.pop(key))) for key in ("classes", "ids", "names"))
    folder = next((f for f in folders if names and (f / names[0]).is_file()), folders[0])
    paths, numbers = tuple(str(folder / name) for name in names), tuple(map(int, arrays.pop("category_ids")))
    return Annotations(classes, ids, paths, flaws=flaws, source=str(file), category_ids=numbers, **arrays)


def _coco_arrays(file: Path) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    flaws: dict[str, list[str]] = {}
    content = read_json(file, dict)
    try:
        categories = sorted(content["categories"], key=lambda c: c["id"])
        images = sorted(content["images"], key=lambda image: image["id"])
        by_image: dict[int, list[tuple[int, dict[str, Any]]]] = {image["id"]: [] for image in images}
        number = {c["id"]: i for i, c in enumerate(categories)}
        for place, found in enumerate(content["annotations"]):
            if found.get("image_id") not in by_image:
                flaws.setdefault("annotations of no photograph", []).append(f"number {place}")
            elif found.get("category_id") not in number or len(found.get("bbox") or ()) != 4:
                flaws.setdefault("annotations without a known class or a box", []).append(f"number {place}")
            else:
                by_image[found["image_id"]].append((place, found))
        if content["annotations"] and not any(by_image.values()):
            raise ValueError(f"none of its {len(content['annotations'])} annotations has an image, a class and a box")
        rows = [row for image in images for row in by_image[image["id"]]]
        boxes = [(x, y, x + w, y + h) for x, y, w, h in (found["bbox"] for _, found in rows)]
        shapes = [found.get("segmentation") for _, found in rows]  # crowds' are run lengths
        polygons = [[p for p in s if len(p) >= 6 and len(p) % 2 == 0] if isinstance(s, list) else [] for s in shapes]
        arrays = {
            "classes": np.array([str(c["name"]) for c in categories]),
            "category_ids": np.array([c["id"] for c in categories], dtype=np.int64),
            "ids": np.array([image["id"] for image in images]),
            "names": np.array([str(image["file_name"]) for image in images]),
            "sizes": np.array([(image.get("width", 0), image.get("height", 0)) for image in images]).reshape(-1, 2),
            "order": np.array([place for place, _ in rows], dtype=np.int64),
            "starts": np.cumsum([0, *(len(by_image[image["id"]]) for image in images)]),
            "boxes": np.array(boxes, dtype=np.float32).reshape(-1, 4),
            "labels": np.array([number[found["category_id"]] for _, found in rows], dtype=np.int64),
            "ignored": np.array([bool(found.get("iscrowd", 0)) for _, found in rows], dtype=bool),
            **flat_polygons([[np.asarray(p, dtype=np.float32) for p in several] for several in polygons]),
        }
        if mixed := [name for name, array in arrays.items() if array.dtype == object]:
            raise ValueError(f"{mixed[0]} of several kinds")
        return arrays, flaws
    except MALFORMED as error:
        raise BadInput(f"{file}: not COCO's instances format ({type(error).__name__}: {error}).") from error


def flat_polygons(shapes: Sequence[Sequence[np.ndarray]]) -> dict[str, Any]:
    """The polygons of each object as `Annotations` keeps them."""
    points = [polygon for shape in shapes for polygon in shape]
    starts = {"polygon_starts": np.cumsum([0, *map(len, shapes)]), "point_starts": np.cumsum([0, *map(len, points)])}
    return {**starts, "points": np.concatenate([*points, np.zeros(0, dtype=np.float32)])}
