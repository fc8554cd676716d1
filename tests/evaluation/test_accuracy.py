"""Judges: scikit-learn and scipy, cases worked by hand, and how often intervals hold what they are of."""

import json
import math

import numpy as np
import pytest
import torch
from helpers import labelled_folder, lines
from PIL import Image
from scipy.stats import binomtest
from sklearn.metrics import balanced_accuracy_score, confusion_matrix

import mec
from mec.evaluation.accuracy import accuracies, balanced_interval, wilson
from mec.evaluation.features import Features
from mec.evaluation.probing.fewshot import fewshot
from mec.evaluation.probing.knn import knn
from mec.evaluation.results import Confusion, Result, confusion_figure, record
from mec.training.report import closing_table


def uneven(seed=0, n=85, classes=4):
    """Labels most of which are of one class, and guesses that are mostly right."""
    random = np.random.default_rng(seed)
    labels = np.minimum(random.geometric(0.6, n) - 1, classes - 1)
    return np.where(random.random(n) < 0.7, labels, random.integers(0, classes, n)), labels


@pytest.mark.parametrize(("right", "n"), [(0, 5), (5, 5), (3, 7), (40, 85), (539, 540)])
def test_the_interval_of_a_share_is_scipys(right, n):
    judge = binomtest(right, n).proportion_ci(method="wilson")
    assert wilson(100 * right / n, n) == pytest.approx((100 * judge.low, 100 * judge.high), abs=1e-9)


def test_intervals_of_balanced_accuracy_hold_it_as_often_as_they_say():
    counts, true = np.array([60, 20, 8, 4]), np.array([0.9, 0.8, 0.6, 0.7])
    random, held = np.random.default_rng(0), 0
    for _ in range(300):
        low, high = balanced_interval(random.binomial(counts, true), counts)
        held += low <= 100 * true.mean() <= high
    assert 0.92 < held / 300 <= 1


def test_a_class_of_one_image_that_is_right_is_not_certain():
    low, high = balanced_interval(np.array([1, 1]), np.array([1, 1]))
    assert low < 60
    assert high == 100


def test_figures_are_scikit_learns():
    predicted, labels = uneven()
    top_1, balanced = accuracies("knn", predicted, labels, settings={})
    assert (top_1.metric, balanced.metric) == ("top-1", "balanced accuracy")
    assert top_1.value == pytest.approx(100 * np.mean(predicted == labels))
    assert balanced.value == pytest.approx(100 * balanced_accuracy_score(labels, predicted))
    assert top_1.largest_class == pytest.approx(100 * np.bincount(labels).max() / 85)
    assert top_1.images == balanced.images == 85
    assert top_1.interval == wilson(top_1.value, 85)
    matrix = confusion_matrix(labels, predicted)
    assert balanced.interval == balanced_interval(np.diag(matrix), matrix.sum(1))
    assert top_1.confusion.counts.tolist() == confusion_matrix(labels, predicted).tolist()


def test_one_who_always_says_the_largest_class_is_found_out():
    labels = np.array([0] * 90 + [1] * 10)
    top_1, balanced = accuracies("knn", np.zeros(100, int), labels, settings={})
    assert (top_1.value, top_1.largest_class, balanced.value) == (90, 90, 50)
    assert top_1.line() == "knn top-1: 90.0 % (95 %: 82.6 to 94.5), 100 images of test, largest class 90.0 %"


def of_classes(count: int, rows: int = 4) -> Features:
    y = torch.arange(count).repeat(rows)
    noise = torch.randn(len(y), 16, generator=torch.Generator().manual_seed(0))
    return Features(torch.eye(16)[y % 16] * 3 + noise, y)


@pytest.mark.parametrize(("classes", "told"), [(3, False), (9, False), (10, True)])
def test_top_5_is_left_out_where_it_says_nothing(classes, told):
    part = of_classes(classes)
    assert ("top-5" in {r.metric for r in knn(part, part, k=5)}) == told
    assert "top-5" not in {r.metric for r in knn(part, part, k=3)}  # three neighbours vote for three classes


def test_neighbours_above_the_number_of_images_are_left_out():
    part = of_classes(3)
    assert [r.settings["k"] for r in knn(part, part, k=[5, 12, 13, 200]) if r.metric == "top-1"] == [5, 12]
    assert [r.settings["k"] for r in knn(part, part, k=20) if r.metric == "top-1"] == [12]  # never none


def test_draws_that_take_every_image_are_one():
    part = of_classes(3, rows=2)
    assert {(r.n, r.spread, r.settings["draws"]) for r in fewshot(part, part, labels_per_class=[2])} == {(1, None, 1)}
    assert {r.n for r in fewshot(part, part, labels_per_class=[1], draws=3)} == {3}


def test_a_class_that_was_never_trained_on_counts_as_wrong_and_has_its_row():
    labels = np.array([0, 1, 2, 2])
    top_1, balanced = accuracies("knn", np.array([0, 1, 0, 1]), labels, settings={})
    assert (top_1.value, balanced.value) == (50, pytest.approx(200 / 3))
    told = top_1.confusion.named(["a", "b", "c", "d"]).record()
    assert told["recall"] == [100, 100, 0, None]
    assert told["precision"] == [50, 50, None, None]
    assert told["matrix"][2] == [1, 1, 0, 0]


@pytest.mark.parametrize("count", [2, 12, 60])
def test_a_confusion_matrix_is_drawn_whole_whatever_its_classes_are_called(tmp_path, count):
    names = [f"class number {i} with a name that is long" for i in range(count)]
    labels = np.arange(count).repeat(3)
    confusion = Confusion.of(labels[::-1].copy(), labels, names)
    figure = confusion_figure(confusion, "knn top-1: 50 %")
    figure.draw_without_rendering()
    box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert box.x0 > -0.05
    assert box.y0 > -0.05
    assert box.x1 < width + 0.05
    assert box.y1 < height + 0.05


def test_evaluate_keeps_figures_by_class_with_the_classes_names(tmp_path, capsys):
    data = labelled_folder(tmp_path / "data", train=6, test=3, classes="abcd")
    mec.evaluate("pixels", "knn", data, k=[3, 100], out=tmp_path / "out")
    assert "k 100: left out, there are 24 training images." in capsys.readouterr().err
    assert {line["settings"]["k"] for line in lines(tmp_path / "out" / "results.jsonl")} == {3}
    (path,) = (tmp_path / "out" / "confusion").glob("*.json")
    stored = json.loads(path.read_text())
    assert (stored["classes"], stored["images"]) == (["a", "b", "c", "d"], [3] * 4)
    assert np.trace(stored["matrix"]) / 12 * 100 == pytest.approx(stored["value"])
    with Image.open(path.with_suffix(".png")) as picture:
        assert min(picture.size) > 200


def test_what_is_stored_has_numbers_and_no_matrix(tmp_path):
    record(tmp_path, accuracies("linear-fast", *uneven(), settings={}))
    top_1, _ = lines(tmp_path / "results.jsonl")
    assert "confusion" not in top_1
    assert top_1["interval"] == pytest.approx(wilson(top_1["value"], 85))
    assert math.isclose(top_1["largest_class"], top_1["largest_class"])


def test_the_closing_table_shows_balanced_accuracy_where_classes_differ(capsys):
    class Images:
        name, split, classes = "cells", "test", tuple("abcd")

    def columns(labels) -> tuple[list[str], str]:
        found = accuracies("knn", np.zeros_like(labels), labels, settings={"k": 20})
        table = closing_table([Result(**{**vars(r), "encoder": "mec-joint"}) for r in found], Images)
        return [column.header for column in table.columns], str(table.caption)

    assert columns(np.arange(4).repeat(5))[0] == ["features", "k-NN (20)"]
    headers, caption = columns(np.array([0] * 17 + [1, 2, 3]))
    assert headers == ["features", "k-NN (20)", "k-NN (20), balanced"]
    assert "20 images, the largest class is 85.0 %" in caption
    assert "k-NN (20) 64.0 to 94.8" in caption
