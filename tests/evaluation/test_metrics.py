"""Metrics against cases worked by hand, scikit-learn, and pycocotools."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, precision_recall_curve, top_k_accuracy_score

from mec.errors import BadInput
from mec.evaluation.metrics import METRICS, average_precision_11, mean_average_precision_11, mean_per_class, top_k


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


def test_top_k_of_a_case_worked_by_hand():
    scores = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.4, 0.4, 0.2], [0.3, 0.3, 0.4]])
    labels = np.array([0, 1, 1, 0])
    # Ranks of the label: first; second; second (an equal score, higher class); second.
    assert top_k(scores, labels) == 25.0
    assert top_k(scores, labels, k=2) == 100.0


@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k_is_that_of_scikit_learn(random, k):
    scores, labels = random.normal(size=(200, 9)), random.integers(0, 9, 200)
    assert top_k(scores, labels, k) == pytest.approx(100 * top_k_accuracy_score(labels, scores, k=k))


def test_mean_per_class_weighs_a_rare_class_as_much_as_a_frequent_one():
    scores = np.eye(3)[[0, 0, 0, 0, 1, 0, 2, 2]]
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 1])  # shares right: 4/4, 1/3, 1/1
    assert mean_per_class(scores, labels) == pytest.approx(100 * (1 + 1 / 3 + 1) / 3)
    assert top_k(scores, labels) == 75.0


def test_mean_per_class_is_scikit_learns_balanced_accuracy(random):
    scores, labels = random.normal(size=(300, 7)), random.choice(7, 300, p=[0.5, 0.2, 0.1, 0.1, 0.05, 0.03, 0.02])
    assert mean_per_class(scores, labels) == pytest.approx(100 * balanced_accuracy_score(labels, scores.argmax(1)))


def test_11_point_precision_of_a_case_worked_by_hand():
    labels = np.array([1, -1, 1, -1, 1])
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    # Recall 1/3 at precision 1, 2/3 at 2/3, 1 at 3/5: recall 0 to 0.3, 0.4 to 0.6, 0.7 to 1.
    assert average_precision_11(scores, labels) == pytest.approx((4 * 1 + 3 * 2 / 3 + 4 * 3 / 5) / 11)


def test_a_difficult_image_counts_neither_for_nor_against():
    labels = np.array([1, -1, 1, -1, 1])
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    with_difficult = average_precision_11(np.append(scores, [0.95, 0.1]), np.append(labels, [0, 0]))
    assert with_difficult == average_precision_11(scores, labels)
    as_absent = average_precision_11(np.append(scores, [0.95, 0.1]), np.append(labels, [-1, -1]))
    assert as_absent < with_difficult


def test_equal_scores_are_one_operating_point():
    """Whatever the order of the rows: the precision is that of all rows that share the score."""
    scores = np.array([0.9, 0.5, 0.5, 0.5])
    for labels in ([-1, 1, -1, 1], [-1, 1, 1, -1], [-1, -1, 1, 1]):
        assert average_precision_11(scores, np.array(labels)) == pytest.approx(0.5)


def test_the_point_of_recall_zero_and_precision_one_is_not_counted():
    """scikit-learn's curve ends with it; the best precision here is a half at every recall."""
    assert average_precision_11(np.array([0.9, 0.1]), np.array([-1, 1])) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("found", "positives", "met"),
    [
        (3, 10, 3), (6, 10, 6), (7, 10, 7),  # a recall of 3, 6 and 7 tenths lies below the floats 3, 6 and 7 * 0.1
        (6, 20, 3), (9, 15, 6), (12, 20, 6), (21, 30, 7), (70, 100, 7),  # whatever they are shares of
        (1, 10, 2), (5, 10, 6), (8, 10, 9), (10, 10, 11), (31, 100, 4),  # the other tenths are met, and what is above
    ],
)  # fmt: skip
def test_a_recall_of_exactly_3_6_or_7_tenths_misses_that_point_as_in_the_reference(found, positives, met):
    labels = np.array([1] * found + [-1] * 5 + [1] * (positives - found))  # precision 1, then at most positives / all
    rest = positives / (positives + 5) if found < positives else 0.0
    assert average_precision_11(-np.arange(float(len(labels))), labels) == pytest.approx((met + (11 - met) * rest) / 11)


def test_11_point_precision_is_that_of_scikit_learns_curve(random):
    for _ in range(20):
        scores, labels = random.integers(0, 12, 60) / 12, random.choice([-1, 1], 60, p=[0.7, 0.3])
        precision, recall, _ = precision_recall_curve(labels > 0, scores)
        precision, recall = precision[:-1], recall[:-1]  # the added point
        points = [precision[recall >= 0.1 * i].max(initial=0) for i in range(11)]
        assert average_precision_11(scores, labels) == pytest.approx(np.mean(points))


def test_11_point_precision_is_that_of_pycocotools_with_difficult_images_ignored(random):
    """An image is a detection of the whole image; present is an object, difficult one that is to be ignored."""
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    n, positives = 80, 13  # 13 positives never reach a tenth of recall exactly
    labels = random.permutation(np.array([1] * positives + [0] * 9 + [-1] * (n - positives - 9)))
    scores = random.permutation(n) / n + 0.3 * (labels > 0) + 1e-3 * random.random(n)
    box = [0.0, 0.0, 10.0, 10.0]
    annotations = [
        {"id": i + 1, "image_id": i + 1, "category_id": 1, "bbox": box, "area": 100.0, "iscrowd": int(label == 0)}
        for i, label in enumerate(labels)
        if label >= 0
    ]
    truth = COCO()
    truth.dataset = {
        "info": {}, "images": [{"id": i + 1} for i in range(n)], "annotations": annotations, "categories": [{"id": 1}]
    }  # fmt: skip
    truth.createIndex()
    found = [{"image_id": i + 1, "category_id": 1, "bbox": box, "score": float(s)} for i, s in enumerate(scores)]
    judge = COCOeval(truth, truth.loadRes(found), "bbox")
    judge.params.recThrs, judge.params.iouThrs = np.linspace(0, 1, 11), np.array([0.5])
    judge.evaluate()
    judge.accumulate()
    expected = judge.eval["precision"][0, :, 0, 0, -1].mean()
    assert average_precision_11(scores, labels) == pytest.approx(expected, abs=1e-9)


def test_the_mean_over_classes_leaves_out_classes_without_a_positive_image():
    scores = np.array([[0.9, 0.1, 0.2], [0.2, 0.8, 0.3], [0.1, 0.7, 0.4]])
    labels = np.array([[1, -1, -1], [-1, -1, -1], [-1, 1, -1]])
    assert mean_average_precision_11(scores, labels) == pytest.approx(100 * (1 + 0.5) / 2)
    assert np.isnan(mean_average_precision_11(scores[:, 2:], labels[:, 2:]))


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_shapes_that_do_not_fit_are_named(metric):
    with pytest.raises(BadInput, match=r"scores are \[4, 3\], labels \[5\]"):
        metric(np.zeros((4, 3)), np.zeros(5, dtype=int))
