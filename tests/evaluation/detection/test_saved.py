"""A detector that is trained, saved, used on new images, and exported: the same detections everywhere."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import photographs
import pytest
import safetensors.torch
import torch
from PIL import Image

import mec
from mec.cli.main import main
from mec.errors import BadInput
from mec.evaluation.detection.batches import Sizes
from mec.evaluation.detection.network import Regions
from mec.evaluation.detection.options import DETECTOR
from mec.evaluation.detection.presets import PRESETS
from mec.evaluation.detection.saved import detect, detector_file, in_original, load_detector
from mec.evaluation.evaluate import evaluate
from mec.evaluation.subject import resolve
from mec.networks.backbones import SMALL

TINY = {
    "iterations": 6, "drops": (5,), "warmup": 2, "sizes": Sizes((64,), 64, 96), "seeds": (0,), "batch_size": 2,
    "regions": Regions(anchors=32, before_nms=(200, 100), after_nms=(50, 20), regions=16, pooled=7), "precise": 2,
}  # fmt: skip
NARROW = {**SMALL["resnet10-tiny"], "channels": (8, 12, 16, 24)}


@pytest.fixture(autouse=True)
def _narrow(monkeypatch, tmp_path):
    monkeypatch.setitem(SMALL, "resnet10-narrow", NARROW)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run with a detector of boxes and one of masks; do not change it."""
    root = tmp_path_factory.mktemp("detectors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SMALL, "resnet10-narrow", NARROW)
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        for protocol in ("voc", "coco"):
            patch.setitem(PRESETS[protocol], "small", replace(PRESETS[protocol]["small"], **TINY))
        photographs.coco(photographs.voc(root / "data"))
        (root / "names").write_text("car\ndog\nperson\n")
        for protocol in ("voc", "coco"):
            options = {"out": root / "run", "image_size": 64, "preset": "small", "device": "cpu", "precision": "fp32"}
            options["classes"] = root / "names"
            evaluate("random:resnet10-narrow", protocol, data_root=root / "data", **options)
    return root


def folder(trained: Path, protocol: str) -> Path:
    return next((trained / "run" / f"{protocol}-small").glob("lr-*"))


def pictures_in(place: Path) -> Path:
    place.mkdir()
    for i, scene in enumerate(photographs.SCENES[:3]):
        photographs.picture(scene, i).save(place / f"{'in' if i else 'an'}-{i}.png")
    return place


@pytest.mark.parametrize("protocol", ["voc", "coco"])
def test_a_loaded_detector_finds_what_the_trained_one_found_and_writes_it_as_coco_has_it(trained, protocol, tmp_path):
    images = pictures_in(tmp_path / "images")
    out = tmp_path / "out" / "found.json"
    every = mec.detect(folder(trained, protocol), images, out=out, device="cpu")
    least = float(np.median(np.concatenate([each.scores for each in every])))
    found = mec.detect(folder(trained, protocol), images, out=out, least_score=least, device="cpu")
    assert 3 < sum(len(each.scores) for each in found) < sum(len(each.scores) for each in every)
    detector, info = load_detector(trained / "run" / f"{protocol}-small")
    assert info.classes == ("car", "dog", "person")
    assert (info.masks, info.backbone, info.test) == (protocol == "coco", "resnet10-narrow", 64)
    state = torch.load(next(folder(trained, protocol).glob("checkpoints/*.pt")), weights_only=True)["detector"]
    weights = detector.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in state.items() if "running" not in name)
    content = json.loads((tmp_path / "out" / "found.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["an-0.png", "in-1.png", "in-2.png"]
    assert (content["images"][2]["width"], content["images"][2]["height"]) == (64, 96)
    assert [c["name"] for c in content["categories"]] == [*info.classes]
    assert len(content["annotations"]) == sum(len(each.scores) for each in found)
    image = Image.open(images / "an-0.png")
    with torch.no_grad():
        result = detector([torch.from_numpy(np.asarray(image.resize((96, 64))).transpose(2, 0, 1).copy())])[0]
    expected = in_original(result, (96, 64), (96, 64))
    kept = expected.scores >= least
    rows = [row for row in content["annotations"] if row["image_id"] == 1]
    boxes = np.array([[x, y, x + w, y + h] for x, y, w, h in (row["bbox"] for row in rows)])
    np.testing.assert_allclose(boxes, expected.boxes[kept], atol=1e-4)
    assert [row["category_id"] - 1 for row in rows] == expected.labels[kept].tolist()
    if protocol == "coco":
        assert [row["segmentation"]["counts"] for row in rows] == [
            mask["counts"] for mask, keep in zip(expected.masks or (), kept) if keep
        ]


def test_the_command_says_what_it_found_draws_it_and_tells_what_it_left_out(trained, tmp_path, capsys):
    images = pictures_in(tmp_path / "images")
    (images / "broken.jpg").write_bytes(b"no picture")
    Image.fromarray(np.full((64, 96), 3000, np.uint16)).save(images / "broken-deep.png")  # nearly black as 8 bits
    words = ["detect", str(folder(trained, "voc")), str(images), "--out", str(tmp_path / "f.json"), "--device", "cpu"]
    assert main([*words, "--pictures", str(tmp_path / "drawn")]) == 0
    said = capsys.readouterr().out
    first = f"{images}/broken-deep.png: values of more than 8 bits"
    assert f"left out: 2 photographs that cannot be read, the first: {first}" in said
    assert "detections in 3 images (car, dog, person)" in said
    drawn = sorted((tmp_path / "drawn").iterdir())
    assert [path.name for path in drawn] == ["an-0.png.png", "in-1.png.png", "in-2.png.png"]
    assert np.asarray(Image.open(drawn[0]).convert("RGB")).std() > 10
    assert main([*words[:2], str(images / "an-0.png"), "--out", str(tmp_path / "g.json")]) == 0
    assert len(json.loads((tmp_path / "g.json").read_text())["images"]) == 1


def test_what_is_no_detector_no_image_and_no_json_is_told(trained, tmp_path):
    images, out = pictures_in(tmp_path / "images"), {"out": tmp_path / "f.json"}
    with pytest.raises(FileNotFoundError, match=r"no detector in it\. `mec evaluate"):
        detect(tmp_path, images, **out)
    with pytest.raises(BadInput, match=r"2 detectors in it, give one: .*coco-small.*voc-small"):
        detect(trained / "run", images, **out)
    with pytest.raises(BadInput, match=r"ends with \.json"):
        detect(folder(trained, "voc"), images, out=tmp_path / "f.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="no image found"):
        detect(folder(trained, "voc"), tmp_path / "empty", **out)
    for path in images.iterdir():
        path.write_bytes(b"")
    with pytest.raises(BadInput, match="0 of 3 photographs can be used: 3 photographs that cannot be read"):
        detect(folder(trained, "voc"), images, **out)
    assert not (tmp_path / "f.json").exists()


def test_a_detectors_file_that_is_cut_off_or_anothers_is_refused(trained, tmp_path):
    file = tmp_path / DETECTOR
    file.write_bytes(detector_file(folder(trained, "voc")).read_bytes()[:5000])
    with pytest.raises(BadInput, match="not a detector that can be read"):
        load_detector(tmp_path)
    safetensors.torch.save_file({"a": torch.zeros(1)}, file)
    with pytest.raises(BadInput, match="not a detector that can be read"):
        load_detector(file)
    with safetensors.safe_open(detector_file(folder(trained, "voc")), framework="pt") as whole:
        known = json.loads(whole.metadata()["mec-detector"])
    tensors = safetensors.torch.load_file(detector_file(folder(trained, "voc")))
    for changed in ({"classes": ["a", "b"]}, {"regions": 3}, {"backbone": "nothing"}, {"masks": True}):
        safetensors.torch.save_file(tensors, file, metadata={"mec-detector": json.dumps({**known, **changed})})
        with pytest.raises(BadInput, match="not a detector that can be read"):
            load_detector(file)


def test_an_encoder_in_memory_leaves_no_detector(trained, tmp_path, monkeypatch):
    monkeypatch.setitem(
        PRESETS["voc"], "small", replace(PRESETS["voc"]["small"], **{**TINY, "iterations": 1, "precise": 1})
    )
    found = resolve("random:resnet10-narrow", device="cpu", image_size=64)
    flags = {"data_root": trained / "data", "out": tmp_path / "run", "preset": "small", "device": "cpu"}
    evaluate((found.encoder, found.transform), "voc", **flags)
    assert list(tmp_path.glob("run/voc-small/lr-*/result.json"))
    assert not list(tmp_path.rglob(DETECTOR))


@pytest.mark.parametrize("protocol", ["voc", "coco"])
def test_a_detector_as_onnx_finds_the_same_in_images_of_other_sizes(trained, protocol, tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    run = shutil.copytree(folder(trained, protocol), tmp_path / "one")
    assert main(["export", str(run), "--to", "onnx"]) == 0
    assert f"{run}/detector.onnx: image uint8 [3, h, w]" in capsys.readouterr().out
    session = onnxruntime.InferenceSession((run / "detector.onnx").read_bytes())
    detector, info = load_detector(run)
    for size in ((64, 80), (70, 96)):
        image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(size[0]))
        with torch.no_grad():
            expected = detector([image])[0]
        found = session.run(None, {"image": image.numpy()})
        assert len(found) == 3 + info.masks
        for one, other in zip(found, expected.values()):
            np.testing.assert_allclose(one, other.numpy(), atol=2e-3)


def test_an_export_that_gives_other_values_leaves_no_file(trained, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    from mec.exports import onnx

    monkeypatch.setattr(onnx, "TOLERANCE", -1.0)
    with pytest.raises(BadInput, match="other values than torch"):
        onnx.export_detector(folder(trained, "voc"), tmp_path / "a.onnx")
    assert list(tmp_path.glob("a.onnx*")) == []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"--to onnx needs onnx and onnxruntime: pip install 'mec-ssl\[onnx\]'"):
        onnx.export_detector(folder(trained, "voc"), tmp_path / "a.onnx")
