"""Parts of a folder by their names: what is trained on, what is measured on, what is chosen by; and what is said."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
import torch
from helpers import labelled_folder, lines, noise_image, small_subject, tiny_run, write_images
from PIL import Image

from mec.cli.main import main
from mec.data.opening import open_data
from mec.data.pack import pack
from mec.errors import BadInput
from mec.evaluation.evaluate import evaluate
from mec.evaluation.features import Features
from mec.evaluation.probing.linear import linear
from mec.evaluation.probing.protocols import Knn, LinearProbe
from mec.training.run import read_settings

SMALL_RUN = {"limit": None, "batch_size": 8, "recipe": "digits", "epochs": 1, "workers": 0}


@pytest.mark.parametrize("odd", ["train", "Train", "training", "test"])
def test_a_class_that_is_called_as_a_part_is_a_class(tmp_path, odd):
    for i, name in enumerate(("aeroplane", "car", odd)):
        write_images(tmp_path / name, 4, seed=i)
    found = open_data(str(tmp_path))
    assert len(found.train) == 12
    assert not found.can_be_measured
    told = [f"{odd}/ lies beside aeroplane/, car/"] if odd.lower() != "test" else []
    assert [words[: len(sure)] for words, sure in zip(found.words(), told, strict=True)] == told


def test_folders_beside_the_parts_are_left_out_and_counted(tmp_path):
    labelled_folder(tmp_path)
    write_images(tmp_path / "unlabelled", 5, seed=90)
    write_images(tmp_path, 2, seed=91)
    (tmp_path / "annotations").mkdir()
    found = open_data(str(tmp_path))
    assert (len(found.train), len(found.test)) == (36, 18)
    (line,) = found.words()
    assert line == "Left out: 5 images in unlabelled/, which is no part, 2 images beside train/, in no part"


@pytest.mark.parametrize(
    ("train", "test"), [("Train", "Test"), ("Training", "Testing"), ("train", "Validation"), ("TRAIN", "valid")]
)
def test_parts_are_known_by_other_names_too(tmp_path, train, test):
    labelled_folder(tmp_path, test_name=test)
    (tmp_path / "train").rename(tmp_path / train)
    found = open_data(str(tmp_path))
    assert (len(found.train), len(found.test), found.split) == (36, 18, test)
    assert found.train.labels.tolist() == [0] * 12 + [1] * 12 + [2] * 12
    assert open_data(str(tmp_path), split=test.lower()).split == test
    assert open_data(str(tmp_path), split="val" if test[0] in "vV" else "test").split == test


@pytest.fixture
def three_parts(tmp_path):
    labelled_folder(tmp_path / "set", test_name="validation", test=5)
    labelled_folder(tmp_path / "set", test_name="test", test=3)
    return tmp_path / "set"


def test_with_both_the_test_images_are_reported_on_and_the_others_chosen_by(three_parts, tmp_path):
    for data in (three_parts, pack(three_parts, tmp_path / "packed", quiet=True)):
        found = open_data(str(data))
        assert (found.split, len(found.test), len(found.validation)) == ("test", 9, 15)
        other = open_data(str(data), split="validation")
        assert (other.split, len(other.test), other.validation) == ("validation", 15, None)
        assert open_data(str(data), split="Val").split == "validation"  # by what it is for
        with pytest.raises(BadInput, match=r"no part 'dev' to measure on\. There: validation, test"):
            open_data(str(data), split="dev")


def test_a_part_that_a_named_set_lacks_is_refused():
    with pytest.raises(BadInput, match="digits has no part 'val'"):
        open_data("digits", split="val")


def test_results_name_the_folder_that_was_measured_on(three_parts, tmp_path):
    subject = small_subject(tmp_path)
    knn = Knn(data=str(three_parts), split="validation", k=[1])
    assert {result.split for result in knn.measure(subject)} == {"validation"}
    assert ", 15 images of validation" in knn.measure(subject)[0].line()
    assert {result.split for result in Knn(data=str(three_parts), k=[1]).measure(subject)} == {"test"}


def test_a_run_stores_and_shows_what_its_table_was_measured_on(tmp_path, capsys):
    labelled_folder(tmp_path / "set", test_name="val")
    run = tiny_run(tmp_path / "run", str(tmp_path / "set"), **SMALL_RUN, evaluate=True, quiet=False)
    assert {line["split"] for line in lines(run / "results.jsonl")} == {read_settings(run).split} == {"val"}
    shown = capsys.readouterr().out
    assert "on 18 of val/" in " ".join(shown.split())
    assert "held-out images (val), %" in shown


def test_a_run_may_be_measured_on_another_part_and_keeps_what_was_told(three_parts, tmp_path, quick_report, capsys):
    write_images(three_parts / "train" / "rare", 2, seed=95)
    out = tmp_path / "run"
    words = ["pretrain", str(three_parts), "--split", "validation", "--epochs", "1", "--batch-size", "8"]
    assert main([*words, "--out", str(out), "--set", "views.size=8", "--workers", "0"]) == 0
    found = lines(out / "results.jsonl")
    assert {(line["split"], line["images"]) for line in found} == {("validation", 15)}
    told = ["validation/ has no image of classes that are trained on, and not measured: rare (2)"]
    assert read_settings(out).told == told
    assert all(line["told"] == told for line in found)
    assert " knn " + str(three_parts) + " --split validation" in capsys.readouterr().out  # the command to go on with


def test_the_best_epoch_is_chosen_on_validation_images(three_parts, tmp_path, monkeypatch):
    from mec.evaluation.probing import probe

    figures = iter([10.0, 50.0, 30.0, 60.0, 60.0, 20.0])  # an epoch: top-1, top-5 on test, top-1 on validation
    monkeypatch.setattr(probe, "top_k", lambda *_: next(figures))
    run = LinearProbe(data=str(three_parts), preset="paper", epochs=2, batch_size=8)
    best = [r for r in run.measure(small_subject(tmp_path)) if r.settings["epoch"] == "best" and r.metric == "top-1"]
    assert [(r.value, r.settings["epochs_done"], r.split) for r in best] == [(10.0, 1, "test")]
    assert best[0].settings["epoch_chosen_on"] == "validation"


def test_the_penalty_of_the_fast_probe_is_chosen_on_validation_images():
    """Training rows say one thing of a weak direction, validation rows another: the penalty follows the latter."""
    random = np.random.default_rng(0)
    y = np.arange(60) % 2
    x = np.stack([y + random.normal(0, 2, 60), *random.normal(0, 1, (40, 60))], 1).astype(np.float32)
    train = Features(torch.from_numpy(x), torch.from_numpy(y))
    chosen = {
        name: linear(train, train, validation=Features(train.x[rows], train.y[rows] if sign else 1 - train.y[rows]))
        for name, rows, sign in (("same", slice(None), True), ("turned", slice(None), False))
    }
    assert chosen["same"][0].settings["C"] == 1.0  # the least penalty fits the training rows best
    assert chosen["turned"][0].settings["C"] == 0.001
    assert chosen["same"][0].settings["C_chosen_on"] == "validation"
    assert "C_chosen_on" not in linear(train, train)[0].settings


def test_the_fast_probe_gets_the_validation_part(three_parts, tmp_path):
    assert (
        LinearProbe(data=str(three_parts)).measure(small_subject(tmp_path))[0].settings["C_chosen_on"] == "validation"
    )


# --- classes in one part only ----------------------------------------------------------------------------------------


def test_test_images_of_a_class_that_training_lacks_count_as_wrong_and_are_told(tmp_path):
    labelled_folder(tmp_path, classes="bcd")
    write_images(tmp_path / "val" / "a", 5)  # sorted before the others: their numbers stay
    found = open_data(str(tmp_path))
    assert found.classes == ("b", "c", "d", "a")
    assert np.bincount(found.test.labels).tolist() == [6, 6, 6, 5]
    assert found.words() == ["val/ has images of classes without one to train on, which count as wrong: a (5)"]


FOREIGN = "val/ has images of classes without one to train on, which count as wrong: "


@pytest.mark.parametrize("kind", ["packed", "tars", "limit", "unreadable", "many"])
def test_a_class_without_images_to_train_on_is_told_whatever_it_comes_from(tmp_path, kind):
    """By the layout of what was packed, by labels in tars, since a limit took none, since none can be read."""
    data = labelled_folder(tmp_path / "set", train=20)
    write_images(data / "val" / "rare", 4, seed=90)
    write_images(data / "train" / "rare", 1 if kind in ("limit", "unreadable") else 0, seed=91)
    if kind == "unreadable":
        (data / "train" / "rare" / "0000.png").write_bytes(b"rot")
    if kind == "many":
        for i in range(7):
            write_images(data / "val" / f"s{i}", 1, seed=92 + i)
    if kind in ("packed", "tars"):
        data = pack(data, tmp_path / "packed", quiet=True)
    name = "3" if kind == "tars" else "rare"  # labels in tars are numbers
    found = open_data(str(data / "*.tar" if kind == "tars" else data), limit=9 if kind == "limit" else None)
    assert len({*found.train.labels.tolist()}) == 3
    more = ", s0 (1), s1 (1), s2 (1), s3 (1) and 3 more" if kind == "many" else ""
    assert found.words()[-1] == FOREIGN + f"{name} (4){more}"


def test_a_class_whose_held_out_images_cannot_be_read_is_told(tmp_path):
    data = labelled_folder(tmp_path / "set", train=20)
    write_images(data / "train" / "rare", 4, seed=90)
    for path in write_images(data / "val" / "rare", 2, seed=91):
        path.write_bytes(b"rot")
    left_out, told = open_data(str(data)).words()
    assert left_out == "Left out: 2 images that cannot be read"
    assert told == "val/ has no image of classes that are trained on, and not measured: rare (4)"


@pytest.mark.parametrize("kind", ["folder", "symlinks", "hard links"])
def test_held_out_images_that_are_links_to_training_images_are_told(tmp_path, kind):
    data = labelled_folder(tmp_path / "set")
    assert open_data(str(data)).words() == []
    if kind == "folder":
        shutil.rmtree(data / "val")
        (data / "val").symlink_to("train")
    for path in () if kind == "folder" else [*(data / "val" / "b").iterdir()][:4]:
        path.unlink()
        trained = data / "train" / "b" / path.name
        os.link(trained, path) if kind == "hard links" else path.symlink_to(trained)
    number = 36 if kind == "folder" else 4
    assert open_data(str(data)).words() == [f"val/: {number} images are, by links, trained on too (train/)"]


@pytest.mark.parametrize("layout", ["set/{part}/{name}", "{name}/{part}"])
def test_parts_inside_of_folders_are_told(tmp_path, layout):
    for i, (part, name) in enumerate([("train", "a"), ("train", "b"), ("val", "a"), ("val", "b")]):
        write_images(tmp_path / layout.format(part=part, name=name), 3, seed=i)
    found = open_data(str(tmp_path))
    assert (len(found.train), found.can_be_measured) == (12, False)
    (told,) = found.words()
    inside = "set/" if layout.startswith("set") else "a/, b/"
    assert told.startswith(f"{inside}: parts lie inside (train/, val/), and images of all of them are trained on.")


def test_all_protocols_on_features_count_foreign_images_as_wrong(tmp_path):
    """Two classes that are told apart by their colour, and as many images of a third: half is right."""
    for part, each in (("train", {"a": 12, "b": 12}), ("val", {"a": 4, "b": 4, "c": 8})):
        for (name, count), colour in zip(each.items(), ("red", "blue", "red")):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(count):
                image = Image.blend(noise_image(i), Image.new("RGB", (8, 8), colour), 0.8)
                image.save(tmp_path / part / name / f"{i}.png")
    for protocol in ("knn", "fewshot", "linear"):
        found = evaluate("pixels", protocol, str(tmp_path), out=tmp_path / "out")
        assert next(result.value for result in found if result.metric == "top-1") == pytest.approx(50), protocol


def test_a_class_without_held_out_images_is_told(tmp_path):
    labelled_folder(tmp_path)
    write_images(tmp_path / "train" / "rare", 4)
    (line,) = open_data(str(tmp_path)).words()
    assert line == "val/ has no image of classes that are trained on, and not measured: rare (4)"


def test_held_out_images_without_a_class_or_with_other_classes_are_told(tmp_path):
    labelled_folder(tmp_path / "set")
    write_images(tmp_path / "set" / "val", 2, seed=80)
    assert open_data(str(tmp_path / "set")).words() == ["2 images in val/ lie in no class: they are not measured on."]
    for name in "ab":
        write_images(tmp_path / "other" / "train" / name, 3)
    write_images(tmp_path / "other" / "val" / "x", 3)
    found = open_data(str(tmp_path / "other"))
    assert not found.can_be_measured
    assert found.words() == ["val/ has no class of train/ (x): nothing can be measured on it."]


def test_held_out_parts_that_are_not_measured_on_are_named(tmp_path, three_parts):
    assert three_parts_words(tmp_path) == []
    labelled_folder(tmp_path / "more", test_name="testing", test=4)
    (tmp_path / "more" / "testing").rename(tmp_path / "set" / "testing")
    (told,) = three_parts_words(tmp_path)
    assert told.startswith(
        "Several held-out parts: measured on test, settings chosen on validation, not on testing (12 "
    )
    assert three_parts_words(tmp_path, split="testing") == []


def three_parts_words(folder, **options) -> list[str]:
    return open_data(str(folder / "set"), **options).words()


def test_a_stray_size_among_small_images_is_told_and_kept_with_the_results(tmp_path, monkeypatch):
    monkeypatch.setattr("mec.data.dataset.sample_sizes", lambda images: [(8, 8)])
    labelled_folder(tmp_path / "set")
    noise_image(5, width=9).save(tmp_path / "set" / "train" / "a" / "odd.png")
    data = open_data(str(tmp_path / "set"))
    assert data.train.images.pixels.shape[1:] == (3, 8, 8)
    (told,) = data.words()
    assert told == f"1 image of another size made 8 x 8 px, as the others are: {tmp_path}/set/train/a/odd.png"
    (result, *_) = evaluate("pixels", "knn", str(tmp_path / "set"), out=tmp_path / "out")
    assert result.told == (told,)
    assert lines(tmp_path / "out" / "results.jsonl")[0]["told"] == [told]
