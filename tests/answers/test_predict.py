"""From few labels to the class of every image: calibrated, told by cross-validation, saved and loaded."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import digit_images
from sklearn.datasets import load_digits

import mec
from mec.answers import classifying, tuning
from mec.answers.classifying import calibration_error, crossed, fit, folds, linear
from mec.answers.neighbours import nearest, others
from mec.answers.options import Predicting
from mec.answers.pool import gather
from mec.cli.main import main
from mec.errors import BadInput


def blobs(n: int, noise: float, classes: int = 3, e: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Unit rows around the axes, and their class."""
    draw = np.random.default_rng(seed)
    y = draw.integers(classes, size=n)
    x = np.eye(e)[y] + noise * draw.normal(size=(n, e))
    return x / np.linalg.norm(x, axis=1, keepdims=True), y


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("noise", [0.25, 0.5, 0.8])
def test_confidence_is_right_as_often_as_it_says_on_images_that_were_not_seen(noise):
    x, y = blobs(4200, noise)
    model = fit(x[:200], y[:200], 3)
    chance = model.probabilities(x[200:])
    right = chance.argmax(1) == y[200:]
    assert calibration_error(chance.max(1), right) < 5
    assert abs(100 * right.mean() - 100 * (model.predicted == y[:200]).mean()) < 5  # as cross-validation told
    unsure = chance.max(1) < model.unsure
    assert (unsure & ~right).sum() > (~right).sum() / 2
    assert unsure.mean() < 0.75


def test_no_confidence_is_above_what_the_labels_can_support():
    x, y = blobs(400, 0.05)
    for m in (6, 30, 400):
        assert 0.5 < fit(x[:m], y[:m], 3).probabilities(x).max() <= 1 - 1 / (m + 2) + 1e-9


def test_each_logit_of_cross_validation_is_of_a_classifier_that_has_not_seen_the_image():
    x, y = blobs(40, 0.5)
    logits = crossed(x, y, 3, 10.0, 0, None)
    fold = folds(y, 0)
    for number in np.unique(fold):
        assert (np.abs(np.bincount(y[fold == number], minlength=3) - np.bincount(y, minlength=3) / 5) < 1.01).all()
    for i in (0, 17, 39):
        rest = fold != fold[i]
        model = linear(x[rest], y[rest], 3, 10.0)
        assert np.allclose(logits[0, i], x[i] @ model.weight + model.bias)


@pytest.mark.parametrize(("gains", "spreads"), [([0.05] * 40, True), ([4.0, -2.0, *[0.0] * 38], False)])
def test_labels_are_spread_only_where_that_gains_more_than_chance_would(monkeypatch, gains, spreads):
    """Of two gains of the same mean one is every image's, the other a large one and a loss."""
    x, y = blobs(400, 0.3)

    def of_each(x, y, classes, strength, seed, spread):
        logits = np.zeros((4, len(y), classes))
        logits[:, np.arange(len(y)), y] = 1.0 if spread is None else 1.0 + np.array(gains)
        return logits

    monkeypatch.setattr(classifying, "crossed", of_each)
    monkeypatch.setattr(classifying, "calibrated", lambda logits, *_: np.exp(logits - 5))  # the gain in nats
    for unlabelled, expected in (("auto", spreads), ("yes", True), ("no", False)):
        assert fit(x[:40], y[:40], 3, others=x[40:], unlabelled=unlabelled).spread == expected


def test_spreading_comes_to_its_limit_and_helps_where_neighbours_agree():
    x, y = blobs(300, 0.3, seed=1)
    spread = classifying.Spread(x, 3)
    known = np.concatenate([np.flatnonzero(y == c)[:2] for c in range(3)])
    weights = spread.graph.toarray()
    start = np.zeros((300, 3))
    start[known, y[known]] = 1
    reached = start
    for _ in range(500):
        reached = (1 - classifying.STAYS) * weights @ reached + classifying.STAYS * start
    exact = classifying.STAYS * np.linalg.solve(np.eye(300) - (1 - classifying.STAYS) * weights, start)
    assert np.allclose(reached, exact, atol=1e-6)  # the limit as Zhou et al. give it
    with_them, alone = (fit(x[known], y[known], 3, others=x, unlabelled=u) for u in ("yes", "no"))
    accuracy = [float((model.probabilities(x).argmax(1) == y).mean()) for model in (with_them, alone)]
    assert with_them.spread
    assert not alone.spread
    assert accuracy[0] > accuracy[1]


def test_the_calibration_error_is_the_mean_distance_of_bins():
    confidence = np.concatenate([np.full(500, 0.9), np.full(500, 0.6)])
    right = np.concatenate([np.arange(500) < 450, np.arange(500) < 200])
    assert np.isclose(calibration_error(confidence, right), 100 * (0.0 + 0.2) / 2)


def test_likeness_is_the_largest_cosine_and_leaves_itself_out():
    x, _ = blobs(50, 0.5)
    cosines = x @ x.T
    assert np.allclose(nearest(x[:9], x, 1)[0][:, 0], cosines[:, :9].max(1))
    np.fill_diagonal(cosines, -1)
    assert np.allclose(others(x, 1)[0][:, 0], cosines.max(1))


def test_two_classes_one_of_them_rare_and_one_that_is_absent():
    x, y = blobs(60, 0.2, classes=2)
    model = fit(x, y, 3)
    assert (model.probabilities(x).argmax(1) == y).mean() > 0.95
    few = np.r_[np.flatnonzero(y == 0)[:9], np.flatnonzero(y == 1)[:1]]
    chance = fit(x[few], y[few], 2).probabilities(x)
    assert np.allclose(chance.sum(1), 1)
    assert (chance.argmax(1)[y == 0] == 0).all()


@pytest.fixture
def digits(tmp_path: Path, finished: Path) -> tuple[Path, Path, np.ndarray]:
    """A run, a folder of 200 digits, and what each is."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for i, image in enumerate(digit_images(200)):
        image.save(folder / f"{i:04}.png")
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run", folder, load_digits().target[:200]


def test_select_label_predict_load_from_the_command_line(digits, tmp_path, capsys):
    run, folder, y = digits
    picked = tmp_path / "picked.csv"
    assert main(["select", str(run), str(folder), "--n", "30", "--out", str(picked)]) == 0
    chosen = rows(picked)
    assert len(chosen) == len({row["path"] for row in chosen}) == 30
    assert {row["label"] for row in chosen} == {""}
    labels = tmp_path / "labels.csv"
    labels.write_text("path,label\n" + "".join(f"{row['path']},d{y[int(row['path'][:4])]}\n" for row in chosen))
    more = mec.select(run, folder, out=tmp_path / "more.csv", n=20, labels=labels)
    assert not {*more} & {row["path"] for row in chosen}
    out = tmp_path / "predictions.csv"
    capsys.readouterr()
    assert main(["predict", str(run), str(folder), "--labels", str(labels), "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert (
        told.index("top-1") < told.index("balanced accuracy") < told.index("calibration error") < told.index(str(out))
    )
    found = rows(out)
    assert [row["path"] for row in found] == sorted(path.name for path in folder.iterdir())
    right = [row["label"] == f"d{y[int(row['path'][:4])]}" for row in found if not row["given"]]
    assert len(right) == 170
    assert np.mean(right) > 0.5  # chance: 0.1; the encoder took six steps
    for row in found:
        three = [float(row[k]) for k in ("confidence", "second_confidence", "third_confidence")]
        assert three == sorted(three, reverse=True)
        assert sum(three) <= 1.0002
    classifier = mec.load_classifier(tmp_path / "predictions")
    shutil.rmtree(run)  # it carries its encoder
    for (name, label, confidence), row in zip(classifier(folder), found):
        assert (name, label) == (row["path"], row["label"])
        assert abs(confidence - float(row["confidence"])) < 1e-3
    about = json.loads((tmp_path / "predictions" / "classifier.json").read_text())
    assert about["labels"] == 30
    assert {one["metric"] for one in about["cross-validation"]} == {"top-1", "balanced accuracy", "calibration error"}


def test_an_image_of_another_kind_is_flagged_as_unlike(digits, tmp_path, photographs):
    run, folder, y = digits
    photographs[0].save(folder / "flower.jpg")
    labels = tmp_path / "labels.csv"
    labels.write_text("path,label\n" + "".join(f"{i:04}.png,{y[i]}\n" for i in range(150)))
    mec.predict(run, folder, labels=labels, out=tmp_path / "p.csv")
    flags = {row["path"]: row["flags"] for row in rows(tmp_path / "p.csv")}
    assert "unlike" in flags["flower.jpg"]
    assert np.mean(["unlike" in flags[f"{i:04}.png"] for i in range(150, 200)]) < 0.3


def test_a_classifier_that_was_changed_is_refused(digits, tmp_path):
    run, folder, y = digits
    labels = tmp_path / "labels.csv"
    labels.write_text("path,label\n" + "".join(f"{i:04}.png,{y[i]}\n" for i in range(40)))
    mec.predict(run, folder, labels=labels, out=tmp_path / "p.csv", unlabelled="no")
    with pytest.raises(BadInput, match=r"features are \[2, 3\]"):
        mec.load_classifier(tmp_path / "p").probabilities(np.zeros((2, 3)))
    whole = (tmp_path / "p" / "classifier.safetensors").read_bytes()
    for broken in (whole[:-9], whole[:40], b"", b"\x80\x04."):
        (tmp_path / "p" / "classifier.safetensors").write_bytes(broken)
        with pytest.raises(BadInput, match=r"classifier\.safetensors: not a classifier that mec wrote"):
            mec.load_classifier(tmp_path / "p")
    (tmp_path / "p" / "classifier.safetensors").write_bytes(whole)
    encoder = tmp_path / "p" / "encoder.safetensors"
    encoder.write_bytes(encoder.read_bytes()[:-1] + b"\x01")
    with pytest.raises(BadInput, match="not the encoder that the classifier was fitted on"):
        mec.load_classifier(tmp_path / "p")
    with pytest.raises(FileNotFoundError, match=r"no classifier\.safetensors in it"):
        mec.load_classifier(tmp_path)


@pytest.mark.parametrize(
    ("changes", "text", "words"),
    [
        ({"out": "p.txt"}, "0000.png,a\n", r"p\.txt: its name ends with \.csv"),
        ({}, "0000.png,a\n0001.png,a\n0002.png,a\n0003.png,a\n", "4 labels of 1 classes: at least 4 labels, of two"),
        ({}, "0000.png,a\n0001.png,b\n", "2 labels of 2 classes"),
        ({"unlabelled": "maybe"}, "", "--unlabelled is 'maybe'"),
        ({"classifier": "scans/0000.png"}, "0000.png,a\n", "a file lies there"),
    ],
)
def test_what_does_not_fit_is_told(digits, tmp_path, monkeypatch, changes, text, words):
    run, folder, _ = digits
    monkeypatch.chdir(tmp_path)
    Path("labels.csv").write_text("path,label\n" + text)
    with pytest.raises(BadInput, match=words):
        mec.predict(run, folder, **{"labels": "labels.csv", "out": "p.csv"} | changes)
    assert not Path("p.csv").exists()


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(tuning, "FEW", replace(tuning.FEW, steps=3, batch_size=8, base_lr=0.1))


def labels_of(y: np.ndarray, path: Path, n: int = 40) -> Path:
    path.write_text("path,label\n" + "".join(f"{i:04}.png,{y[i]}\n" for i in range(n)))
    return path


def test_a_fine_tuned_classifier_has_an_encoder_of_its_own_and_names_images_by_it(digits, tmp_path, capsys, quick):
    run, images, y = digits
    labels = labels_of(y, tmp_path / "labels.csv")
    before = (run / "encoder.safetensors").read_bytes()
    out = tmp_path / "tuned.csv"
    found = mec.predict(run, images, labels=labels, out=out, finetune=True)
    told = capsys.readouterr().out
    assert told.count("fine-tuned: predict top-1:") == 1
    assert "Fitted on 40 labelled images, by a fine-tuned encoder." in told
    assert told.index("predict top-1:") < told.index("fine-tuned:")
    assert (run / "encoder.safetensors").read_bytes() == before
    own, _ = mec.load_encoder(out.with_suffix(""))
    start, _ = mec.load_encoder(run)
    assert any(not torch.equal(a, b) for a, b in zip(own.parameters(), start.parameters()))
    again = mec.load_classifier(out.with_suffix(""))(images)
    assert [row[:2] for row in again] == [row[:2] for row in found]
    assert np.allclose([row[2] for row in again], [row[2] for row in found], atol=1e-3)
    assert json.loads((out.with_suffix("") / "classifier.json").read_text())["fine-tuned"] is True


def test_what_is_told_of_fine_tuning_is_of_images_that_it_was_not_given(digits, tmp_path, monkeypatch, quick):
    given = []

    def spied(subject, part, *rest, **options):
        given.append({part.images.name(i) for i in range(len(part))})
        return finetuned(subject, part, *rest, **options)

    finetuned = tuning.finetuned
    monkeypatch.setattr(tuning, "finetuned", spied)
    run, images, y = digits
    labels = labels_of(y, tmp_path / "labels.csv")
    pool = gather(run, images, Predicting(labels=labels, out="x.csv"), labels)
    known = np.flatnonzero(pool.y >= 0)
    _, fitted = tuning.tuned(pool, seed=0)
    everything = {pool.source.split.images.name(i) for i in known}
    assert given[-1] == everything
    for number, part in enumerate(given[:-1]):
        held_out = folds(pool.y[known], 0) == number
        assert part == {pool.source.split.images.name(i) for i in known[~held_out]}
    assert fitted.predicted.shape == (1, len(known))
