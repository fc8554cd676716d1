"""`mec.evaluate` and `mec.features`: the figures and lines of the command, from Python."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from helpers import as_stored, digit_images, identical, labelled_folder, stored_in, write_images
from PIL import Image

from mec.cli.main import main
from mec.data.opening import open_data
from mec.errors import BadInput
from mec.evaluation.evaluate import evaluate, features
from mec.evaluation.features import Features
from mec.evaluation.protocols import PROTOCOLS
from mec.evaluation.subject import resolve
from mec.networks.encoder_file import load_encoder
from mec.runtime.files import file_hash

# --- evaluate ----------------------------------------------------------------------------------------------------


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """The finished run's encoder, in a folder of its own."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "encoder.safetensors").write_bytes((finished / "encoder.safetensors").read_bytes())
    return tmp_path / "run"


CALLS = [
    ("knn", {"k": 5}, "--k 5"),
    ("knn", {"k": [1, 20], "temperature": 0.2}, "--k 1,20 --temperature 0.2"),
    ("fewshot", {"labels_per_class": (1, 3), "draws": 3, "seed": 4}, "--labels-per-class 1,3 --draws 3 --seed 4"),
    ("linear", {}, ""),
    ("linear", {"preset": "paper", "epochs": 2, "crop": 0.5}, "--preset paper --epochs 2 --crop 0.5"),
    ("finetune", {"steps": 2, "weight_decay": 1e-5}, "--steps 2 --weight-decay 1e-5"),
    ("semi", {"labels": "10%", "epochs": 2, "batch_size": 32}, "--labels 10% --epochs 2 --batch-size 32"),
]


@pytest.mark.parametrize(
    ("protocol", "flags", "typed"), CALLS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_call_gives_and_stores_what_the_command_stores(run, tmp_path, protocol, flags, typed):
    words = ["evaluate", str(run), protocol, "digits", "--limit", "100", *typed.split()]
    assert main([*words, "--out", str(tmp_path / "typed")]) == 0
    results = evaluate(run, protocol, "digits", limit=100, **flags)
    assert stored_in(run) == stored_in(tmp_path / "typed") == as_stored(results)
    assert {result.checkpoint for result in results} == {file_hash(run / "encoder.safetensors")}


@pytest.mark.parametrize(("protocol", "flags"), [(call[0], call[1]) for call in CALLS])
def test_an_encoder_in_memory_gives_the_figures_of_its_file_and_leaves_no_trace(
    run, tmp_path, monkeypatch, protocol, flags
):
    monkeypatch.chdir(tmp_path)
    encoder, transform = load_encoder(run)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    encoder.train()
    files = sorted(tmp_path.rglob("*"))
    found = evaluate((encoder, transform), protocol, "digits", limit=100, device="cpu", **flags)
    assert sorted(tmp_path.rglob("*")) == files
    assert identical(encoder.state_dict(), before)
    assert encoder.training
    assert {result.encoder for result in found} == {type(encoder).__name__}
    of_file = evaluate(run, protocol, "digits", limit=100, device="cpu", **flags)
    assert [r.value for r in found] == [r.value for r in of_file]
    assert [r.settings for r in found] == [r.settings for r in of_file]
    evaluate((encoder, transform), protocol, "digits", limit=100, out=tmp_path / "kept", **flags)
    assert [line["value"] for line in stored_in(tmp_path / "kept")] == [r.value for r in found]


def test_features_of_any_kind_are_measured_without_an_encoder(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = open_data("digits")
    parts = tuple(features(run, part) for part in (data.train, data.test))
    for protocol in ("knn", "fewshot", "linear"):
        found = evaluate(parts, protocol)
        expected = evaluate(run, protocol, "digits", out=tmp_path / "out")
        assert [(r.value, r.settings) for r in found] == [(r.value, r.settings) for r in expected]
        assert {(r.encoder, r.data, r.checkpoint) for r in found} == {("features", "", "")}
    assert not (run / "results.jsonl").exists()
    named = evaluate(parts, "knn", "my table", k=1, out=tmp_path / "kept")
    assert stored_in(tmp_path / "kept") == as_stored(named)
    assert named[0].data == "my table"
    with pytest.raises(BadInput, match="features can be measured by fewshot, knn, linear; the other protocols need an"):
        evaluate(parts, "sot", data_root="x")
    with pytest.raises(BadInput, match="--preset paper trains on images; features take --preset fast"):
        evaluate(parts, "linear", preset="paper")


def test_data_may_be_what_was_opened(run, tmp_path):
    root = labelled_folder(tmp_path / "labelled", classes="ab")
    for data, limit in ((str(root), None), (str(root), 10), ("digits", 300)):
        by_name = evaluate(run, "knn", data, k=1, limit=limit)
        opened = evaluate(run, "knn", open_data(data), k=1, limit=limit)
        assert [(r.value, r.data, r.settings) for r in opened] == [(r.value, r.data, r.settings) for r in by_name]
    write_images(tmp_path / "plain", 4)
    with pytest.raises(BadInput, match="plain has no labels to measure with"):
        evaluate(run, "knn", open_data(str(tmp_path / "plain")))


@pytest.mark.parametrize("kind", ["timm-like", "v1", "v2"])
def test_a_transform_tells_size_and_normalisation_and_may_take_pil_images_alone(tmp_path, kind):
    t1, t2 = torchvision.transforms, torchvision.transforms.v2
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    transform = {
        "timm-like": lambda image: t1.functional.normalize(t1.functional.to_tensor(image.resize((16, 16))), mean, std),
        "v1": t1.Compose([t1.Resize(16), t1.ToTensor(), t1.Normalize(mean, std)]),
        "v2": t2.Compose([t2.ToImage(), t2.Resize(16), t2.ToDtype(torch.float32, scale=True), t2.Normalize(mean, std)]),
    }[kind]
    encoder = torch.nn.Sequential(torch.nn.AvgPool2d(8), torch.nn.Flatten())
    subject = resolve((encoder, transform), device="cpu", out=tmp_path)
    assert (subject.info.image_size, subject.info.feature_size) == (16, 12)
    assert (subject.info.mean, subject.info.std) == (tuple(mean), tuple(std))
    images = open_data("digits").train.take(np.arange(3))
    judge = torch.stack([encoder(transform(images.images.read(i))[None])[0] for i in range(3)])
    torch.testing.assert_close(subject.features(images).x, judge, atol=1e-6, rtol=1e-5)
    with pytest.raises(BadInput, match="--image-size is 32, but the transform makes images of 16 px"):
        evaluate((encoder, transform), "knn", "digits", image_size=32)
    with pytest.raises(
        BadInput, match=r"the transform turned a PIL image into \[3\]: it has to give a tensor \[3, s, s\]"
    ):
        evaluate((encoder, lambda image: torch.zeros(3)), "knn", "digits")


@pytest.mark.parametrize(
    ("call", "error", "expected"),
    [
        (("knnn", "digits"), BadInput, "no protocol 'knnn'. Did you mean 'knn'?"),
        (("knn", "digits", {"kk": 3}), TypeError, r"knn\(\) takes no 'kk'. Did you mean 'k'"),
        (("knn",), TypeError, r"evaluate\(..., 'knn'\) needs data"),
        (("semi", "digits"), TypeError, r"evaluate\(..., 'semi'\) needs labels"),
        (("sot", "otb/"), TypeError, "takes no data: data_root=DIR"),
        (("sot",), TypeError, "needs data_root"),
        (("knn", "digits", {"k": 0}), BadInput, "--k is 0: a whole number, at least 1"),
        (("transfer", "dtdd", {"data_root": "x"}), BadInput, "'dtdd' is no transfer data set. Did you mean 'dtd'?"),
        (("knn", "nowhere"), BadInput, "nowhere: no such folder"),
    ],
)
def test_what_does_not_fit_is_told_with_the_nearest_word(run, call, error, expected):
    flags = call[-1] if isinstance(call[-1], dict) else {}
    with pytest.raises(error, match=expected):
        evaluate(run, *[part for part in call if part is not flags], **flags)
    assert not (run / "results.jsonl").exists()


def test_its_docstring_lists_every_protocol():
    assert all(f"\n      {word} " in str(evaluate.__doc__) for word in PROTOCOLS)


# --- features ----------------------------------------------------------------------------------------------------


def test_features_of_a_folder_paths_and_pil_images_are_those_of_the_encoder(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "scans"
    for i, image in enumerate(digit_images(6)):
        path = folder / ("deep" if i % 2 else ".") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    names = ["0.png", "2.png", "4.png", "deep/1.png", "deep/3.png", "deep/5.png"]
    paths = [folder / name for name in names]
    encoder, transform = load_encoder(run)
    with torch.no_grad():
        judge = encoder(torch.stack([transform(Image.open(path)) for path in paths]))
    for images, expected in ((folder, names), (str(folder), names), (paths, [*map(str, paths)])):
        found = features(run, images, batch_size=4)
        torch.testing.assert_close(found.x, judge, atol=1e-5, rtol=1e-5)
        assert found.names == tuple(expected)
        assert found.y.tolist() == [-1] * 6
    of_images = features((encoder, transform), [Image.open(path) for path in reversed(paths)])
    torch.testing.assert_close(of_images.x, judge.flip(0), atol=1e-5, rtol=1e-5)
    assert of_images.names == tuple(f"image {i}" for i in range(6))
    torch.testing.assert_close(features(run, paths[3]).x, judge[3:4], atol=1e-5, rtol=1e-5)
    assert sorted(os.listdir(run)) == ["encoder.safetensors"]


def test_features_of_a_part_have_its_labels(run):
    digits = open_data("digits", limit=50)
    found = features(run, digits.train)
    assert found.y.tolist() == digits.train.labels.tolist()
    assert isinstance(found, Features)
    assert len(found.names) == len(found.x) == 50


def test_images_that_cannot_be_read_have_no_row_and_are_named(run, tmp_path):
    paths = write_images(tmp_path / "photos", 8)
    paths[2].write_bytes(b"nothing")
    for images in (tmp_path / "photos", paths):
        found = features(run, images)
        assert [Path(name).name for name in found.names] == [p.name for p in paths if p != paths[2]]
        assert len(found.x) == 7
        assert [Path(skipped.path).name for skipped in found.skipped] == ["0002.png"]


def test_what_is_no_image_is_told(run, tmp_path):
    (tmp_path / "empty").mkdir()
    for images, error, expected in (
        ("nowhere", FileNotFoundError, r"no such folder or image. Of a data set .*open_data\('nowhere'\).train"),
        (tmp_path / "empty", BadInput, "no image found"),
        ([], BadInput, "not empty"),
        ([1, 2], BadInput, "a list of paths or of PIL images"),
        (open_data("digits"), BadInput, "digits has parts: give one of them, for example data.train"),
    ):
        with pytest.raises(error, match=expected):
            features(run, images)
