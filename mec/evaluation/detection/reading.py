"""What a detector is trained and tested on: VOC, COCO, or data of one's own in their layouts or as YOLO's text files.

Data of one's own may have any classes, folders and flaws: what cannot be used is left out, counted and told.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mec.data.decoding import SUFFIXES, read_image
from mec.errors import MALFORMED, BadInput
from mec.evaluation.detection.annotations import Annotations, Flaws, Photograph, from_photographs, read_coco, read_voc
from mec.evaluation.detection.presets import Preset
from mec.runtime.files import first_line, missing, read_text

MOST_LOST = 0.5  # of the photographs of a split; where more are lost, the folder is another one
PUBLISHED = {"VOC2007": 4_952, "COCO2017": 5_000}  # test photographs


@dataclass(frozen=True)
class DetectionData:
    train: Annotations
    test: Annotations
    name: str  # as results call it
    split: str  # tested on
    rule: str  # of average precision: "COCO", "VOC 2007" (11 points) or "VOC 2010" (the area)
    masks: bool
    told: tuple[str, ...]  # what there is and what was left out, in words


def read_data(options: Any, preset: Preset) -> DetectionData:
    """What is trained on and what is tested on; options: a `protocols.Detection`.
    Raises BadInput: something is not there or cannot be read; for data of one's own: if nothing, or little, is left."""
    protocol, root, own = options.word, Path(options.data_root), options.own()
    lists = [path.stem for path in (root / "ImageSets" / "Main").glob("*.txt")]
    there = coco_splits(root) if protocol == "coco" else yolo_splits(root) if protocol == "yolo" else lists
    splits = chosen_splits(options, sorted(there)) if own else (preset.train, preset.test)
    names = ", ".join(splits[0]), splits[1]
    listed = class_names(Path(options.classes)) if options.classes else None

    def read(names: Sequence[str], images: str | Path | None) -> Annotations:
        if protocol == "coco":
            return read_coco(root, names[0], images)
        if protocol == "yolo":
            return read_yolo(root, names[0], listed)
        return read_voc(root, [(None, name) if own else (int(name[:4]), name[5:]) for name in names])

    parts = [read(splits[0], getattr(options, "train_images", None))]
    if preset.photographs is None:
        parts.append(read((splits[1],), getattr(options, "test_images", None)))
    classes = listed or tuple(dict.fromkeys(name for part in parts for name in part.classes))
    found: list[Annotations] = []
    notes: list[str] = []
    for part, split in zip(parts, names):
        part = with_classes(part, classes)
        if own:
            part = with_photographs(part, split)
        else:
            missing(map(Path, part.paths), f"photographs of {split}")
        found.append(cleaned(part, thinnest=1.0 if own and protocol == "voc" else 0.0))
    masks = protocol == "coco" and not getattr(options, "boxes_only", False)
    lacking = [part.source for part in found if (part.without_polygons() | part.ignored).all()]
    if masks and lacking:
        notes.append(
            f"No object of {lacking[0]} has a polygon (they have boxes alone, or masks as run lengths): boxes alone "
            'are learned, by Faster R-CNN. Masks are learned from outlines: "segmentation": [[x, y, x, y, ...]].'
        )
        masks = False
    if not masks:
        none: dict[str, Any] = dict.fromkeys(("polygon_starts", "point_starts", "points"))
        found = [replace(part, **none) for part in found]
    elif lost := found[0].without_polygons().sum():
        notes.append(f"{lost:,} objects have no polygon and are not trained on.")
    told = [words for part, split in zip(found, names) for words in words_about(part, split)]
    if preset.photographs is not None:
        found = [found[0].largest_objects(preset.photographs)] * 2
    known = {"coco": "COCO2017"}.get(protocol, "VOC2007")
    name = known if not own and len(found[1]) == PUBLISHED[known] else root.resolve().name
    rule = "COCO" if protocol == "coco" else "VOC 2010" if own else "VOC 2007"
    split = splits[1] if preset.photographs is None else "train"
    return DetectionData(found[0], found[1], name, split, rule, masks, (*told, *notes))


def chosen_splits(options: Any, there: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """The splits asked for, or the usual ones of those that are there."""
    tests = [name for name in ("test", "val", "valid", "validation", "val2017") if name in there]
    whole = "trainval" if tests[:1] == ["test"] else "train"
    trains = [name for name in (whole, "train", "train2017") if name in there]
    train, test = options.train_split, options.test_split
    for asked, usual, flag in ((train, trains, "--train-split"), (test, tests, "--test-split")):
        if not asked and not usual:
            known = ", ".join(there) or "none is there"
            raise BadInput(f"{options.data_root}: which split? {flag} takes one of: {known}.")
    return (train or trains[0],), test or tests[0]


def coco_splits(root: Path) -> list[str]:
    """Of annotations/instances_SPLIT.json, annotations/SPLIT.json and SPLIT/_annotations.coco.json."""
    names = [path.stem.removeprefix("instances_") for path in root.glob("annotations/*.json")]
    return [*names, *(path.parent.name for path in root.glob("*/_annotations.coco.json"))]


def yolo_splits(root: Path) -> dict[str, tuple[Path, Path]]:
    """Splits -> folders of photographs and of labels: images/SPLIT and labels/SPLIT, or SPLIT/images, SPLIT/labels."""
    found = {p.name: (p, root / "labels" / p.name) for p in sorted(root.glob("images/*")) if p.is_dir()}
    return found or {p.parent.name: (p, p.parent / "labels") for p in sorted(root.glob("*/images")) if p.is_dir()}


def read_yolo(root: Path, split: str, classes: Sequence[str] | None = None) -> Annotations:
    """YOLO's text files, a line an object: CLASS CX CY W H as shares of the photograph; or CLASS X Y X Y ..., outlines.
    Names of classes are those given, or of a .yaml file's `names`, of classes.txt or a .names file.
    Raises BadInput: no such split, or no names."""
    places = yolo_splits(root)
    if split not in places:
        there = f"no split {split!r} in it (there: {', '.join(places) or 'none'})"
        raise BadInput(f"{root}: {there}: images/SPLIT/*.jpg with labels/SPLIT/*.txt, or SPLIT/images, SPLIT/labels.")
    classes = classes or yolo_names(root)
    rows: list[Photograph] = []
    flaws: dict[str, list[str]] = {}
    for path in sorted(p for p in places[split][0].iterdir() if p.suffix.lower() in SUFFIXES):
        file, objects = places[split][1] / f"{path.stem}.txt", []
        try:
            width, height = read_image(path).size
            lines = read_text(file).splitlines() if file.is_file() else []
        except (OSError, ValueError, SyntaxError) as error:
            flaws.setdefault("photographs that cannot be read", []).append(f"{path}: {first_line(error)}")
            continue
        for number, line in enumerate(lines, start=1):
            try:
                label, box = yolo_object(line, width, height)
                objects.append(([*classes][label], box, False))
            except MALFORMED:
                if line.strip():
                    flaws.setdefault("lines that are no object of a known class", []).append(f"{file}, line {number}")
        rows.append((path.stem, str(path), (width, height), objects))
    return from_photographs(rows, classes, flaws)


def yolo_object(line: str, width: int, height: int) -> tuple[int, tuple[float, ...]]:
    """
    >>> yolo_object("2 0.5 0.5 0.25 0.125", 100, 200), yolo_object("0 0.125 0.25 0.5 0.25 0.5 0.75", 8, 8)
    ((2, (37.5, 87.5, 62.5, 112.5)), (0, (1.0, 2.0, 4.0, 6.0)))"""
    first, *rest = line.split()
    x, y = (np.array(rest[i::2], dtype=np.float64) for i in (0, 1))
    if int(first) < 0 or len(x) < 2:
        raise ValueError(line)
    low, high = (x.min(), y.min()), (x.max(), y.max())
    if len(x) == len(y) == 2:  # a centre, and width and height
        low, high = (x[0] - x[1] / 2, y[0] - y[1] / 2), (x[0] + x[1] / 2, y[0] + y[1] / 2)
    return int(first), tuple(float(share) * side for share, side in zip((*low, *high), (width, height) * 2))


def yolo_names(root: Path) -> list[str]:
    for path in (*root.glob("*.yaml"), *root.glob("*.yml")):
        import yaml

        try:
            names = yaml.safe_load(read_text(path))["names"]
        except (*MALFORMED, yaml.YAMLError):
            continue
        return [str(name) for name in (names.values() if isinstance(names, dict) else names)]
    for path in (root / "classes.txt", *root.glob("*.names"), *root.glob("*/classes.txt")):
        if path.is_file():
            return class_names(path)
    raise BadInput(f"{root}: no names of classes (data.yaml with `names`, or classes.txt); --classes FILE gives them.")


def class_names(path: Path) -> list[str]:
    names = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not names or len({*names}) < len(names):
        raise BadInput(f"{path}: {len(names)} names of classes; one a line, each once, is wanted.")
    return names


def with_flaws(annotations: Annotations, found: Flaws) -> Annotations:
    flaws = {**annotations.flaws, **{words: where for words, where in found.items() if where}}
    return replace(annotations, flaws=flaws)


def kept_rows(annotations: Annotations, kept: np.ndarray) -> Annotations:
    """Of the objects those that are kept [objects]."""
    starts = np.cumsum([0, *kept])[annotations.starts]
    return annotations if kept.all() else annotations.with_rows(np.flatnonzero(kept), starts)


def photographs_of(annotations: Annotations) -> np.ndarray:
    """The photograph's number of each object."""
    return np.repeat(np.arange(len(annotations)), np.diff(annotations.starts))


def with_classes(annotations: Annotations, classes: Sequence[str]) -> Annotations:
    """Labels as numbers of these classes; objects of others are left out."""
    if annotations.classes == tuple(classes):
        return annotations
    number = {name: i for i, name in enumerate(classes)}
    labels = np.array([number.get(name, -1) for name in annotations.classes], np.int64)[annotations.labels]
    others = [annotations.classes[label] for label in np.unique(annotations.labels[labels < 0])]
    words = f"objects of classes that --classes does not name ({', '.join(others)})"
    found = with_flaws(annotations, {words: [annotations.ids[i] for i in photographs_of(annotations)[labels < 0]]})
    numbers = tuple(range(1, len(classes) + 1)) if annotations.category_ids else ()
    return kept_rows(replace(found, classes=tuple(classes), labels=labels, category_ids=numbers), labels >= 0)


def with_photographs(annotations: Annotations, split: str) -> Annotations:
    """Without photographs that are missing, cannot be read, or are of another size than annotated; each is decoded."""

    def looked_at(path: str) -> tuple[int, int] | str:
        try:
            return read_image(path).size
        except (OSError, ValueError, SyntaxError) as error:
            return f"{path}: {first_line(error)}" if Path(path).exists() else path

    with ThreadPoolExecutor(4) as pool:
        sizes = [*pool.map(looked_at, annotations.paths)]
    kept, seen = [], annotations.sizes.copy()
    lost: dict[str, list[str]] = {}
    for i, (size, path) in enumerate(zip(sizes, annotations.paths)):
        said = tuple(seen[i].tolist())
        if isinstance(size, str):
            reason = "that are missing" if size == path else "that cannot be read"
            lost.setdefault(f"photographs {reason}", []).append(size)
        elif min(said) > 0 and said not in (size, size[::-1]):
            words = "photographs of another size than annotated"
            lost.setdefault(words, []).append(f"{path}: {size[0]} x {size[1]} px, annotated {said[0]} x {said[1]}")
        else:
            kept.append(i)
            seen[i] = size if min(said) < 1 else said
    if len(kept) < max(1, len(sizes) * (1 - MOST_LOST)):
        words = "; ".join(f"{len(where)} {reason}, the first is {where[0]}" for reason, where in lost.items())
        raise BadInput(f"{split}: {len(kept)} of {len(sizes)} photographs can be used: {words or 'there is none'}.")
    annotations = with_flaws(replace(annotations, sizes=seen), lost)
    return annotations.take(kept) if lost else annotations


def cleaned(annotations: Annotations, thinnest: float = 0.0) -> Annotations:
    """Without objects that cannot be one; `thinnest` px is a side of no size (VOC counts the last pixel)."""
    of = photographs_of(annotations)
    low, high = annotations.boxes[:, :2], annotations.boxes[:, 2:]
    sides, finite = (high - low).min(1) - thinnest, np.isfinite(annotations.boxes).all(1)
    reasons = {
        "boxes that are no numbers": ~finite,
        "boxes with a corner on the wrong side of the other": finite & (sides < 0),
        "boxes of no size": sides == 0,
        "boxes beside their photographs": finite & ((low >= annotations.sizes[of]) | (high <= 0)).any(1),
    }
    flaws = {words: [annotations.ids[i] for i in of[rows]] for words, rows in reasons.items()}
    annotations = with_flaws(annotations, flaws)
    return kept_rows(annotations, ~np.logical_or.reduce([*reasons.values()]))


def words_about(annotations: Annotations, split: str) -> Iterator[str]:
    """What a split has, and what was left out of it."""
    counts: Mapping[int, int] = Counter(annotations.labels.tolist())
    few = ", ".join(f"{name} {counts.get(label, 0):,}" for label, name in enumerate(annotations.classes[:20]))
    more = ", ..." if len(annotations.classes) > 20 else ""
    yield f"{split}: {len(annotations):,} photographs, {len(annotations.labels):,} objects ({few}{more})"
    low, high = annotations.boxes[:, :2], annotations.boxes[:, 2:]
    beyond = ((low < -1e-3) | (high > annotations.sizes[photographs_of(annotations)] + 1e-3)).any(1)
    notes = {
        "photographs without an object to train on": len(annotations) - len(annotations.with_objects()),
        "crowds, neither trained on nor counted": annotations.crowds().sum(),
        "difficult objects, trained on but not counted": (annotations.ignored & ~annotations.crowds()).sum(),
        "boxes that reach beyond their photographs and are cut there": beyond.sum(),
    }
    if said := [f"{number:,} {words}" for words, number in notes.items() if number]:
        yield f"  among them {'; '.join(said)}"
    for words, where in annotations.flaws.items():
        yield f"  left out: {len(where):,} {words}, the first: {where[0]}"
