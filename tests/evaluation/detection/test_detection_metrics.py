"""Average precision against hand-computed cases, a plain restatement of VOC's rule, and pycocotools."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import photographs
import pytest

from mec.errors import BadInput
from mec.evaluation.detection.annotations import Annotations, read_coco, read_voc
from mec.evaluation.detection.metrics import Detections, area_precision, coco_scores, voc_scores
from mec.evaluation.metrics import eleven_point_precision

# pycocotools with numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


@pytest.fixture(autouse=True)
def _no_cache_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def one_class(boxes: list[list[tuple]], difficult: list[list[bool]]) -> Annotations:
    """Photographs of 500 px with objects of class 0, as VOC's files have them (pixels from 1, last one included)."""
    rows = np.array([b for image in boxes for b in image], dtype=np.float32).reshape(-1, 4)
    return Annotations(
        ("car", "dog"), tuple(map(str, range(len(boxes)))), ("",) * len(boxes), np.full((len(boxes), 2), 500),
        np.cumsum([0, *map(len, boxes)]), rows - np.array([1, 1, 0, 0], dtype=np.float32),
        np.zeros(len(rows), dtype=np.int64), np.array([d for image in difficult for d in image], dtype=bool),
    )  # fmt: skip


def found(*rows: tuple) -> Detections:
    """Rows of x0, y0, x1, y1 as VOC's files have them, and a score."""
    table = np.array(rows, dtype=np.float64).reshape(-1, 5)
    return Detections(table[:, :4] - (1, 1, 0, 0), table[:, 4], np.zeros(len(table), dtype=np.int64))


BOX, OTHER = (100, 100, 199, 199), (300, 300, 399, 399)


@pytest.mark.parametrize(
    ("detections", "eleven", "area"),
    [
        # One of two found, by the surer of two detections: precision 1 up to recall 0.5, nothing above it.
        ([found((*BOX, 0.9), (1, 1, 50, 50, 0.5))], 6 / 11, 0.5),
        # The surer one is wrong: precision 1/2 up to recall 0.5.
        ([found((*BOX, 0.5), (1, 1, 50, 50, 0.9))], 0.5 * 6 / 11, 0.25),
        # Both found; the second after a wrong one: 1 up to 0.5, then 2/3.
        ([found((*BOX, 0.9), (1, 1, 50, 50, 0.8), (*OTHER, 0.7))], (6 + 5 * 2 / 3) / 11, 0.5 + 0.5 * 2 / 3),
        # An object is found once: its second detection is wrong.
        ([found((*BOX, 0.9), (*BOX, 0.8), (*OTHER, 0.7))], (6 + 5 * 2 / 3) / 11, 0.5 + 0.5 * 2 / 3),
        ([found()], 0.0, 0.0),
    ],
)
def test_two_objects_by_hand(detections, eleven, area):
    truth = one_class([[BOX, OTHER]], [[False, False]])
    assert voc_scores(truth, detections)["AP50"] == pytest.approx(100 * eleven)
    assert voc_scores(truth, detections, eleven_points=False)["AP50"] == pytest.approx(100 * area)


def test_difficult_objects_count_for_neither_side():
    truth = one_class([[BOX, OTHER]], [[False, True]])
    # Found twice, and not found: no difference; one object is to be found, and is.
    for extra in ([], [(*OTHER, 0.95)], [(*OTHER, 0.95), (*OTHER, 0.93)]):
        assert voc_scores(truth, [found(*extra, (*BOX, 0.9))])["AP50"] == pytest.approx(100)


def test_the_best_object_is_matched_even_if_it_is_taken():
    # The second detection overlaps both objects by more than half, the first one most: it is wrong, though the other
    # object is free.
    truth = one_class([[(100, 100, 199, 199), (100, 130, 199, 229)]], [[False, False]])
    both = (100, 108, 199, 207)
    scores = voc_scores(truth, [found((100, 100, 199, 199, 0.9), (*both, 0.8))], eleven_points=False)
    assert scores["AP50"] == pytest.approx(50)


def test_overlap_counts_the_last_pixel_and_has_to_be_more_than_the_threshold():
    # 100 x 100 px against its upper 50 rows: 5000 / 10000, exactly a half, is no hit; one row more is.
    truth = one_class([[(1, 1, 100, 100)]], [[False]])
    assert voc_scores(truth, [found((1, 1, 100, 50, 0.9))])["AP50"] == 0
    assert voc_scores(truth, [found((1, 1, 100, 51, 0.9))])["AP50"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("objects", "right", "expected"),
    [
        (10, 3, 27.27), (10, 6, 54.55), (10, 7, 63.64), (10, 4, 45.45), (10, 10, 100),
        # 3, 6 and 7 tenths of other numbers: the reference asks for recalls of k times the float 0.1, a float more
        (20, 6, 27.27), (30, 9, 27.27), (20, 12, 54.55), (5, 3, 54.55), (30, 21, 63.64), (20, 7, 36.36),
    ],
)  # fmt: skip
def test_objects_of_which_some_are_found_score_as_detectron2_scores_them(objects, right, expected):
    places = [(20 * i + 1, 1, 20 * i + 10, 10) for i in range(objects)]
    truth = one_class([places], [[False] * objects])
    scores = voc_scores(truth, [found(*((*place, 0.9 - i / 100) for i, place in enumerate(places[:right])))])
    assert scores["AP50"] == pytest.approx(expected, abs=0.005)


def test_recalls_at_exact_tenths_count_only_where_their_float_reaches_the_tenth():
    # recall 0.3, whose float is smaller than 3 * 0.1
    assert eleven_point_precision(np.array([0.1, 0.2, 0.3]), np.ones(3)) == pytest.approx(3 / 11)
    assert area_precision(np.array([0.1, 0.2, 0.3]), np.ones(3)) == pytest.approx(0.3)


def plain_voc(truth: Annotations, detections: list[Detections], threshold: float, eleven: bool) -> float:
    """The rule in words, detection by detection, class by class."""
    precisions = []
    for label in range(len(truth.classes)):
        objects = {
            i: [
                [*(truth.boxes[r].astype(float) + np.array([1, 1, 0, 0])), bool(truth.ignored[r]), False]
                for r in truth.rows(i)
                if truth.labels[r] == label
            ]
            for i in range(len(truth))
        }
        positives = sum(not o[4] for each in objects.values() for o in each)
        if not positives:
            continue
        listed = [
            (
                float(f"{d.scores[j]:.3f}"),
                i,
                [float(f"{v:.1f}") for v in d.boxes[j].astype(float) + np.array([1, 1, 0, 0])],
            )
            for i, d in enumerate(detections)
            for j in range(len(d.labels))
            if d.labels[j] == label
        ]
        listed.sort(key=lambda entry: -entry[0])
        hits = misses = 0
        curve = []
        for _, i, (x0, y0, x1, y1) in listed:
            best, which = -1.0, None
            for o in objects[i]:
                w = min(x1, o[2]) - max(x0, o[0]) + 1
                h = min(y1, o[3]) - max(y0, o[1]) + 1
                if w <= 0 or h <= 0:
                    overlap = 0.0
                else:
                    union = (x1 - x0 + 1) * (y1 - y0 + 1) + (o[2] - o[0] + 1) * (o[3] - o[1] + 1) - w * h
                    overlap = w * h / union
                if overlap > best:
                    best, which = overlap, o
            if which is not None and best > threshold:
                if not which[4]:
                    if which[5]:
                        misses += 1
                    else:
                        hits += 1
                        which[5] = True
            else:
                misses += 1
            if hits + misses:
                curve.append((hits / positives, hits / (hits + misses)))
        if eleven:
            precisions.append(sum(max([p for r, p in curve if r >= k * 0.1], default=0.0) for k in range(11)) / 11)
        else:
            total, last = 0.0, 0.0
            for n, (r, _) in enumerate(curve):
                total += (r - last) * max(p for _, p in curve[n:])
                last = r
            precisions.append(total)
    return 100 * sum(precisions) / len(precisions)


def jittered(truth: Annotations, seed: int, shift: float = 0.12, scale: float = 1.0) -> list[Detections]:
    """Objects with moved corners, scores at random, some left out, some twice, some made up."""
    draw = np.random.default_rng(seed)
    out = []
    for i in range(len(truth)):
        rows = draw.permutation(np.repeat(truth.rows(i), draw.integers(0, 3, len(truth.rows(i)))))
        boxes = truth.boxes[rows].astype(np.float64) * scale
        sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
        boxes = boxes + draw.normal(0, shift, boxes.shape) * sides
        wrong = draw.random((2, 2)) * truth.sizes[i] / 2
        boxes = np.concatenate([boxes, np.concatenate([wrong, wrong + truth.sizes[i] / 3], 1)])
        boxes = np.clip(boxes, 0, np.tile(truth.sizes[i], 2))
        boxes = np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:] - 1), boxes[:, 2:]], 1)
        labels = np.concatenate([truth.labels[rows], draw.integers(0, len(truth.classes), 2)])
        out.append(Detections(boxes.astype(np.float32), draw.random(len(boxes)).astype(np.float32), labels))
    return out


def crowded_annotations(seed: int, photos: int = 12, classes: int = 4) -> Annotations:
    draw = np.random.default_rng(seed)
    counts = draw.integers(0, 7, photos)
    corners = draw.uniform(0, 200, (counts.sum(), 2)).round()
    boxes = np.concatenate([corners, corners + draw.uniform(20, 150, corners.shape).round()], 1).astype(np.float32)
    return Annotations(
        tuple("abcd"[:classes]), tuple(map(str, range(photos))), ("",) * photos, np.full((photos, 2), 400),
        np.cumsum([0, *counts]), boxes, draw.integers(0, classes, len(boxes)), draw.random(len(boxes)) < 0.2,
    )  # fmt: skip


@pytest.mark.parametrize("eleven", [True, False])
@pytest.mark.parametrize("seed", [0, 1])
def test_voc_is_its_rule_in_plain_words(seed, eleven):
    truth = crowded_annotations(seed)
    detections = jittered(truth, seed + 10)
    scores = voc_scores(truth, detections, eleven_points=eleven)
    each = [plain_voc(truth, detections, 0.5 + 0.05 * k, eleven) for k in range(10)]
    assert scores == pytest.approx({"AP": float(np.mean(each)), "AP50": each[0], "AP75": each[5]})
    assert 5 < scores["AP"] < scores["AP50"] < 95


def as_detections(truth: Annotations, masks=None) -> list[Detections]:
    """The objects that are to be found, as if they were found."""
    out = []
    for i in range(len(truth)):
        rows = truth.rows(i)[~truth.crowds()[truth.rows(i)]]
        coded = None if masks is None else [masks(i, row) for row in rows]
        out.append(Detections(truth.boxes[rows], np.ones(len(rows)), truth.labels[rows], coded))
    return out


def polygon_masks(truth: Annotations):
    from pycocotools import mask

    def coded(i: int, row: int):
        wide, high = truth.sizes[i].tolist()
        one = mask.merge(mask.frPyObjects([p.tolist() for p in truth.polygons(row)], high, wide))
        return {"size": one["size"], "counts": one["counts"].decode()}

    return coded


def test_objects_fed_as_detections_give_100(tmp_path):
    truth = read_voc(photographs.voc(tmp_path / "voc"), [(2007, "test")])
    assert voc_scores(truth, as_detections(truth)) == {"AP": 100, "AP50": 100, "AP75": 100}
    truth = read_coco(photographs.coco(tmp_path / "coco"), "val2017")
    detections = as_detections(truth, polygon_masks(truth))
    for kind in ("bbox", "segm"):
        assert set(coco_scores(truth, detections, kind).values()) == {100}


def judged_by_pycocotools(truth: Annotations, detections: list[Detections], kind: str) -> np.ndarray:
    """pycocotools' own summary: twelve figures."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rows = []
    for name, d in zip(truth.ids, detections):
        for n in range(len(d.scores)):
            x0, y0, x1, y1 = d.boxes[n].tolist()
            row = {"image_id": int(name), "category_id": truth.category_ids[d.labels[n]], "score": float(d.scores[n])}
            rows.append(
                row | ({"bbox": [x0, y0, x1 - x0, y1 - y0]} if kind == "bbox" else {"segmentation": d.masks[n]})
            )
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO(truth.source)
        judge = COCOeval(reference, reference.loadRes(rows), kind)
        judge.params.imgIds = [int(name) for name in truth.ids]
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return 100 * judge.stats


def with_box_masks(truth: Annotations, detections: list[Detections]) -> list[Detections]:
    """Every detection's mask is its box without a corner."""
    from pycocotools import mask

    out = []
    for (wide, high), d in zip(truth.sizes.tolist(), detections):
        masks = []
        for x0, y0, x1, y1 in d.boxes.tolist():
            inside = np.zeros((high, wide), dtype=np.uint8, order="F")
            inside[int(y0) : int(y1) + 1, int(x0) : int(x1) + 1] = 1
            inside[int(y0) : int((y0 + y1) / 2), int(x0) : int((x0 + x1) / 2)] = 0
            code = mask.encode(inside)
            masks.append({"size": code["size"], "counts": code["counts"].decode()})
        out.append(replace(d, masks=masks))
    return out


@pytest.mark.samples
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_coco_is_what_pycocotools_gives(samples, kind):
    truth = read_coco(samples / "samples" / "coco_tiny38", "train2017")
    assert truth.ignored.any()  # crowds, which are ignored
    detections = with_box_masks(truth, jittered(truth, 3))
    scores, reference = coco_scores(truth, detections, kind), judged_by_pycocotools(truth, detections, kind)
    assert [scores["AP"], scores["AP50"], scores["AP75"]] == pytest.approx(reference[:3], abs=1e-6)
    assert 5 < scores["AP50"] < 95
    assert scores["AP50 medium and large"] > scores["AP50"]  # moved by a share of their size, small ones still lose


@pytest.mark.samples
def test_samples_fed_as_detections_give_100(samples):
    truth = read_voc(samples / "samples" / "voc2007_mini", [(2007, "trainval")])
    assert truth.ignored.any()
    assert voc_scores(truth, as_detections(truth))["AP"] == 100
    truth = read_coco(samples / "samples" / "coco_tiny38", "val2017")
    detections = as_detections(truth, polygon_masks(truth))
    for kind in ("bbox", "segm"):
        assert coco_scores(truth, detections, kind)["AP"] == pytest.approx(100)


def test_a_detection_on_a_crowd_is_not_held_against_anyone(tmp_path):
    truth = read_coco(photographs.coco(tmp_path), "val2017")
    detections = as_detections(truth)
    on_crowd = Detections(truth.boxes[truth.ignored], np.array([1.5]), truth.labels[truth.ignored])
    rows = (np.concatenate([getattr(on_crowd, k), getattr(detections[1], k)]) for k in ("boxes", "scores", "labels"))
    detections[1] = Detections(*rows)
    assert coco_scores(truth, detections, "bbox")["AP"] == 100
    detections[0] = Detections(*(np.concatenate([getattr(on_crowd, k), getattr(detections[0], k)])
                                 for k in ("boxes", "scores", "labels")))  # fmt: skip
    assert coco_scores(truth, detections, "bbox")["AP"] < 100


def test_no_detection_is_no_precision(tmp_path):
    truth = read_coco(photographs.coco(tmp_path), "val2017")
    nothing = [Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, dtype=np.int64))] * len(truth)
    assert set(coco_scores(truth, nothing, "segm").values()) == {0}
    with pytest.raises(BadInput, match="detections of 1 photographs for 4"):
        coco_scores(truth, nothing[:1], "bbox")
    with pytest.raises(BadInput, match="no object to find"):
        voc_scores(one_class([[BOX]], [[True]]), nothing[:1])


def test_the_package_that_is_missing_is_named(monkeypatch, tmp_path):
    import sys

    truth = read_coco(photographs.coco(Path(tmp_path)), "val2017")
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(BadInput, match=r"pip install 'mec-ssl\[detection\]'"):
        coco_scores(truth, as_detections(truth), "bbox")
