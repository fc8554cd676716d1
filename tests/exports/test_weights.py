"""Weights for other tools: the printed lines are typed as they are, and give the features of the encoder."""

from __future__ import annotations

import functools
import io
import json
import pickle
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
import yaml
from helpers import tiny_run
from PIL import Image, ImageOps
from torch import nn

import mec
from mec.answers.classifier import Classifier, save_classifier
from mec.answers.classifying import Fitted
from mec.errors import BadInput
from mec.evaluation.subject import resolve
from mec.exports import weights
from mec.exports.export import export
from mec.networks.backbones import build_encoder
from mec.networks.encoder_file import EncoderInfo, probe, read_info, save_encoder

pytestmark = pytest.mark.usefixtures("blank_networks")
DRAWN = {name: getattr(nn.init, name) for name in ("kaiming_normal_", "kaiming_uniform_")}


def run_with(folder: Path, backbone: str, size: int) -> tuple[Path, nn.Module]:
    """A run folder whose encoder has statistics of its own, as if it had been trained."""
    encoder, info = trained(backbone, size)
    folder.mkdir(parents=True, exist_ok=True)
    save_encoder(folder / "encoder.safetensors", encoder, info)
    return folder, encoder


@functools.cache
def trained(backbone: str, size: int) -> tuple[nn.Module, EncoderInfo]:
    torch.manual_seed(0)
    with mock.patch.multiple(nn.init, **DRAWN):
        encoder = build_encoder(backbone, size).train()
    with torch.no_grad():
        for norm in (m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.weight.uniform_(0.5, 1.5)  # the last of a block starts at 0, and would hide what is before it
        for _ in range(2):
            encoder(torch.randn(8, 3, size, size))
    encoder.eval()
    info = EncoderInfo(
        backbone=backbone, feature_size=encoder.num_features, image_size=size,
        small_stem=size < 64, interpolation="bicubic", mean=(0.5,) * 3,
        std=(0.2,) * 3, method="mec-joint", recipe="auto", data="photos", data_fingerprint="", steps=1,
        probe=probe(encoder, size),
    )  # fmt: skip
    return encoder, info


def printed_lines(text: str) -> str:
    return "\n".join(line.removeprefix("    ") for line in text.splitlines() if line.startswith("    "))


def features_by_printed_lines(text: str, size: int) -> torch.Tensor:
    names: dict = {}
    exec(printed_lines(text), names)
    return features(names["model"], size)


@torch.no_grad()
def features(model: nn.Module, size: int) -> torch.Tensor:
    return model.eval()(torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(3)))


EXPORTED = [
    ("timm", "resnet18", 64),
    ("timm", "resnet10-tiny", 64),
    ("timm", "resnet10-tiny", 16),
    ("timm", "resnet10-fast", 32),  # keeps its max-pool
    ("timm", "resnet26d", 32),  # a stem of three convolutions: only its first changes
    ("timm", "vit_tiny_patch16_224", 32),
    ("timm", "convnext_atto", 64),
    ("torchvision", "resnet18", 64),
    ("torchvision", "resnet18", 32),
    ("torchvision", "resnet10", 32),
    pytest.param("torchvision", "resnet50", 64, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("tool", "backbone", "size"), EXPORTED)
def test_the_printed_lines_build_the_same_encoder(tool, backbone, size, tmp_path, capsys):
    run, encoder = run_with(tmp_path / "run", backbone, size)
    out = export(run, tool)
    text = capsys.readouterr().out
    assert out.exists()
    assert str(out) in text
    expected = features(encoder, size)
    assert expected.std() > 1e-3
    torch.testing.assert_close(features_by_printed_lines(text, size), expected, atol=1e-5, rtol=1e-4)


def test_timm_loads_a_file_for_64_px_by_its_plain_call(tmp_path):
    run, encoder = run_with(tmp_path / "run", "resnet18", 64)
    out = export(run, "timm", out=tmp_path / "weights" / "mine.safetensors")
    model = timm.create_model("resnet18", num_classes=0, checkpoint_path=str(out))
    torch.testing.assert_close(features(model, 64), features(encoder, 64))


def test_torchvision_loads_a_file_with_its_last_layer_taken_off(tmp_path):
    run, encoder = run_with(tmp_path / "run", "resnet18", 64)
    out = export(run, "torchvision")
    model = torchvision.models.resnet18()
    model.fc = nn.Identity()
    assert model.load_state_dict(torch.load(out, weights_only=True), strict=True)
    torch.testing.assert_close(features(model, 64), features(encoder, 64))


def test_a_small_stem_takes_two_more_lines(tmp_path, capsys):
    run, _ = run_with(tmp_path / "run", "resnet18", 32)
    export(run, "torchvision")
    printed = printed_lines(capsys.readouterr().out).splitlines()
    assert printed[3:5] == [
        "model.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)",
        "model.maxpool = torch.nn.Identity()",
    ]


def test_a_run_is_exported_with_the_features_that_load_encoder_gives(finished, tmp_path, capsys):
    encoder, _ = mec.load_encoder(finished)
    export(finished, "timm", out=tmp_path / "out.safetensors")
    found = features_by_printed_lines(capsys.readouterr().out, 8)
    torch.testing.assert_close(found, features(encoder, 8), atol=1e-5, rtol=1e-4)


def test_it_does_not_say_done_when_the_other_tool_gives_other_features(tmp_path, monkeypatch, capsys):
    run, _ = run_with(tmp_path / "run", "resnet18", 64)
    save = torch.save

    def scaled(weights, path):
        save({**weights, "conv1.weight": weights["conv1.weight"].flip(0)}, path)

    monkeypatch.setattr(weights.torch, "save", scaled)
    with pytest.raises(RuntimeError, match="features that differ"):
        export(run, "torchvision")
    assert "loads with" not in capsys.readouterr().out


def test_what_torchvision_does_not_have_is_refused_with_what_it_has(finished):
    with pytest.raises(BadInput, match=r"no 'resnet10-fast'.*resnet18.*--to timm"):
        export(finished, "torchvision")
    assert not list(finished.glob("encoder-*"))


def test_a_module_of_ones_own_has_no_name_there(tmp_path):
    run = tiny_run(tmp_path / "run", encoder=nn.Sequential(nn.Flatten(), nn.Linear(192, 8)), epochs=1)
    with pytest.raises(BadInput, match="module of your own"):
        export(run, "timm")


def test_the_encoder_itself_is_never_written_over(finished):
    before = (finished / "encoder.safetensors").read_bytes()
    with pytest.raises(BadInput, match="that is the encoder itself"):
        export(finished, "timm", out=finished / "encoder.safetensors")
    assert (finished / "encoder.safetensors").read_bytes() == before


def test_weights_are_written_without_the_projectors(finished, tmp_path):
    out = export(finished, "timm", out=tmp_path / "out.safetensors")
    shape = {"layers": (1, 1, 1, 1), "channels": (32, 64, 128, 256)}
    assert set(safetensors.torch.load_file(out)) == set(
        timm.create_model("resnet18", num_classes=0, **shape).state_dict()
    )


def test_an_encoder_as_onnx_gives_the_same_features(finished, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    out = export(finished, "onnx", out=tmp_path / "a.onnx")
    encoder, _ = mec.load_encoder(finished)
    images = torch.randn(5, 3, 8, 8)
    (found,) = onnxruntime.InferenceSession(out.read_bytes()).run(None, {"images": images.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found, encoder(images).numpy(), atol=1e-4)


@pytest.mark.parametrize(("side", "interpolation"), [(32, "bilinear"), (64, "bicubic"), (96, "bilinear")])
@pytest.mark.parametrize("size", [(300, 200), (101, 333), (40, 30)])
def test_onnx_from_pixels_does_as_the_transform_does(side, interpolation, size, photographs, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    run, encoder = run_with(tmp_path / "run", "resnet10-tiny", side)
    info = replace(read_info(run), interpolation=interpolation)
    save_encoder(run / "encoder.safetensors", encoder, info)
    _, transform = mec.load_encoder(run)
    images = [photo.resize(size) for photo in photographs]
    with torch.no_grad():
        expected = encoder(torch.stack([transform(image) for image in images])).numpy()
    session = onnxruntime.InferenceSession(export(run, "onnx", pixels=True, out=tmp_path / "a.onnx").read_bytes())
    pixels = np.stack([np.asarray(image).transpose(2, 0, 1) for image in images])
    (found,) = session.run(None, {"images": pixels})
    assert np.abs(found - expected).max() < 2e-3 * np.abs(expected).max()  # single pixels are rounded another way
    with pytest.raises(BadInput, match="--pixels is for --to onnx, and --to is timm"):
        export(run, "timm", pixels=True)


def test_a_classifier_as_onnx_gives_its_probabilities_and_its_classes(finished, photographs, tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    subject, random = resolve(finished), np.random.default_rng(0)
    size, classes = 256, ("red, round", "weiß", "[c]")
    fitted = Fitted(random.normal(size=(size, 3)), random.normal(size=3), temperature=0.3, doubt=0.06)
    classifier = Classifier(fitted, classes, random.normal(size=(4, size)), unlike=0.1)
    save_classifier(tmp_path / "named", classifier, subject, {})
    out = export(tmp_path / "named", "onnx")
    assert out == tmp_path / "named" / "classifier.onnx"
    assert "columns of probabilities: red, round, weiß, [c]" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(out.read_bytes())
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == [*classes]
    _, transform = mec.load_encoder(finished)
    images = torch.stack([transform(photo) for photo in (*photographs, photographs[0].rotate(90))])
    chance, features = session.run(None, {"images": images.numpy()})
    expected = mec.features(finished, [*photographs, photographs[0].rotate(90)]).x.numpy()
    np.testing.assert_allclose(features, expected, atol=1e-4)
    np.testing.assert_allclose(chance, mec.load_classifier(tmp_path / "named").probabilities(expected), atol=1e-5)
    whole = export(tmp_path / "named", "onnx", pixels=True, out=tmp_path / "whole.onnx")
    pixels = np.asarray(photographs[0]).transpose(2, 0, 1)[None]
    named, _ = onnxruntime.InferenceSession(whole.read_bytes()).run(None, {"images": pixels})
    np.testing.assert_allclose(named, chance[:1], atol=0.02)
    assert export(tmp_path / "named" / "encoder.safetensors", "onnx").name == "encoder-onnx.onnx"  # the encoder alone


# --- detectron2 --------------------------------------------------------------------------------------------------


def r50_c4_names() -> set[str]:
    """What detectron2's R50 reads from a file, by the rules of the specification: stem, res2 ... res5, shortcuts."""
    norm = ("weight", "bias", "running_mean", "running_var")
    layers = ["stem.conv1"]
    for stage, blocks in zip((2, 3, 4, 5), (3, 4, 6, 3)):
        for block in range(blocks):
            layers += [f"res{stage}.{block}.conv{n}" for n in (1, 2, 3)]
        layers.append(f"res{stage}.0.shortcut")
    return {f"{layer}.weight" for layer in layers} | {f"{layer}.norm.{n}" for layer in layers for n in norm}


class Arrays(pickle.Unpickler):
    """Reads plain values and arrays of numpy, and runs nothing else."""

    def find_class(self, module: str, name: str):
        assert module.split(".")[0] == "numpy", f"{module}.{name} in the file"
        assert name in ("_reconstruct", "_frombuffer", "ndarray", "dtype", "scalar"), f"{module}.{name} in the file"
        return super().find_class(module, name)


@pytest.mark.slow
def test_the_detectron2_file_has_every_tensor_of_its_r50_c4_model(tmp_path, capsys):
    run, encoder = run_with(tmp_path / "run", "resnet50", 64)
    out = export(run, "detectron2")
    assert out.name == "encoder-detectron2.pkl"
    content = Arrays(io.BytesIO(out.read_bytes())).load()
    assert set(content) == {"model", "__author__", "matching_heuristics"}
    assert content["matching_heuristics"] is True
    names = {name for name in content["model"] if not name.endswith("num_batches_tracked")}
    assert names == r50_c4_names()
    assert len(names) == 53 * 5
    for ours, theirs in (
        ("conv1.weight", "stem.conv1.weight"),
        ("bn1.running_var", "stem.conv1.norm.running_var"),
        ("layer2.3.bn2.bias", "res3.3.conv2.norm.bias"),
        ("layer4.0.downsample.0.weight", "res5.0.shortcut.weight"),
        ("layer4.0.downsample.1.running_mean", "res5.0.shortcut.norm.running_mean"),
    ):
        assert np.array_equal(content["model"][theirs], encoder.state_dict()[ours].numpy())
    printed = capsys.readouterr().out
    for kind in ("voc0712", "coco"):
        assert str(tmp_path / "run" / f"encoder-detectron2-{kind}.yaml") in printed


def test_the_settings_that_go_with_it_are_the_protocols(tmp_path):
    run, _ = run_with(tmp_path / "run", "resnet50", 64)
    out = export(run, "detectron2")
    found = {kind: yaml.safe_load(out.with_name(f"{out.stem}-{kind}.yaml").read_text()) for kind in ("voc0712", "coco")}
    model = found["voc0712"]["MODEL"]
    assert model["WEIGHTS"] == str(out)
    assert (model["RESNETS"]["DEPTH"], model["RESNETS"]["NORM"]) == (50, "SyncBN")
    assert (model["RESNETS"]["STRIDE_IN_1X1"], model["BACKBONE"]["FREEZE_AT"], model["MASK_ON"]) == (False, 0, False)
    assert model["PIXEL_MEAN"] == pytest.approx([127.5] * 3)  # of this run: 0.5
    assert model["PIXEL_STD"] == pytest.approx([51] * 3)
    assert (found["voc0712"]["SOLVER"]["MAX_ITER"], found["coco"]["SOLVER"]["MAX_ITER"]) == (24_000, 90_000)
    assert (found["coco"]["MODEL"]["MASK_ON"], found["coco"]["MODEL"]["ROI_HEADS"]["NUM_CLASSES"]) == (True, 80)
    assert found["coco"]["INPUT"]["FORMAT"] == "RGB"


def test_the_settings_find_the_weights_from_any_folder(tmp_path, monkeypatch):
    run_with(tmp_path / 'a "run"', "resnet50", 64)
    monkeypatch.chdir(tmp_path)
    out = export('a "run"', "detectron2", out="here.pkl")
    found = yaml.safe_load((tmp_path / "here-coco.yaml").read_text())
    assert found["MODEL"]["WEIGHTS"] == str(tmp_path / out)


def test_what_detectron2_has_no_network_for_is_refused(finished):
    with pytest.raises(BadInput, match=r"no resnet10-fast with the stem for small images .*resnet50"):
        export(finished, "detectron2")


def test_a_resnet18_is_refused_whose_last_stage_detectron2_s_heads_would_not_take(tmp_path):
    run, _ = run_with(tmp_path / "run", "resnet18", 64)
    with pytest.raises(BadInput, match=r"no resnet18 \(it has resnet50"):
        export(run, "detectron2")


@pytest.fixture
def pictures(tmp_path, photographs) -> list[Path]:
    """Real photographs as files: one upright, one that its EXIF turns, one of other proportions, one grey."""
    folder = tmp_path / "photos"
    folder.mkdir()
    first, second = photographs
    first.save(folder / "a.png")
    exif = first.getexif()
    exif[0x0112] = 6
    second.save(folder / "b.jpg", quality=95, exif=exif)
    first.crop((0, 0, 640, 150)).save(folder / "c.png")
    second.convert("L").save(folder / "d.png")
    return sorted(folder.iterdir())


EVERY_WAY = [
    ("timm", "resnet10-tiny", 64, "bicubic"),
    ("timm", "resnet10-fast", 32, "bilinear"),
    ("torchvision", "resnet18", 64, "bilinear"),
]


def test_lines_of_an_encoder_of_deep_values_say_how_they_are_scaled(tmp_path, capsys):
    run, encoder = run_with(tmp_path / "run", "resnet10-fast", 32)
    save_encoder(run / "encoder.safetensors", encoder, replace(read_info(run), value_range=(-30.0, -5.0)))
    export(run, "timm")
    assert "-30 becomes 0 and -5 255 first" in capsys.readouterr().out


@pytest.mark.parametrize(("tool", "backbone", "size", "interpolation"), EVERY_WAY)
def test_pictures_give_the_same_features_by_embed_by_the_file_and_by_the_printed_lines(
    tool, backbone, size, interpolation, tmp_path, pictures, capsys
):
    run, encoder = run_with(tmp_path / "run", backbone, size)
    info = replace(read_info(run), interpolation=interpolation, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    save_encoder(run / "encoder.safetensors", encoder, info)
    expected = torch.from_numpy(np.load(mec.embed(run, pictures[0].parent, out=tmp_path / "x.npz"))["features"])
    out = export(run, tool)
    text = capsys.readouterr().out
    names: dict = {}
    exec(printed_lines(text[text.index(str(out)) :]), names)
    upright = [ImageOps.exif_transpose(Image.open(path)) for path in pictures]
    loaded, transform = mec.load_encoder(run)

    def differs(model, of) -> float:
        with torch.no_grad():
            found = torch.cat([model.eval()(of(image)[None]) for image in upright])
        return float((found - expected).abs().max() / expected.abs().max())

    assert differs(loaded, transform) < 1e-4
    assert differs(names["model"], names["transform"]) < 1e-4
    assert differs(*mec.load_encoder(out)) < 1e-4 if tool == "timm" else True
    if tool == "timm":
        overlay = json.loads(out.with_suffix(".json").read_text())["pretrained_cfg"]
        model = timm.create_model("resnet18", pretrained_cfg_overlay=overlay)  # of any model: what counts is the data
        config = timm.data.resolve_model_data_config(model)
        assert [*config["input_size"]] == [3, size, size]
        as_printed = timm.data.resolve_data_config(overlay)
        assert json.dumps(config, sort_keys=True) == json.dumps(as_printed, sort_keys=True)
        theirs = timm.data.create_transform(**config)
        for image in upright:  # Pillow's resizing against torch's: a level of 255 here and there
            rgb = image.convert("RGB")
            assert (theirs(rgb) - transform(rgb)).abs().max() < 2.5 / 255 / 0.2
            assert nn.functional.cosine_similarity(theirs(rgb).flatten(), transform(rgb).flatten(), 0) > 0.9999
        assert differs(names["model"], lambda image: theirs(image.convert("RGB"))) < 0.02


# --- hub and torch -----------------------------------------------------------------------------------------------


def table_of(card: str) -> list[dict[str, str]]:
    """The rows of the card's table of figures, read back."""
    lines = [line for line in card[card.index("## Measured") :].splitlines() if line.startswith("|")]
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(header, row)) for row in rows]


@pytest.mark.parametrize(("backbone", "size"), [("resnet10-tiny", 64), ("vit_tiny_patch16_224", 32)])
def test_a_folder_for_the_hub_loads_by_timm_and_gives_photographs_the_features_of_embed(
    backbone, size, tmp_path, pictures
):
    run, _ = run_with(tmp_path / "run", backbone, size)
    expected = torch.from_numpy(np.load(mec.embed(run, pictures[0].parent, out=tmp_path / "x.npz"))["features"])
    out = export(run, "hub")
    assert {path.name for path in out.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    model = timm.create_model(f"local-dir:{out}", num_classes=0, pretrained=True).eval()
    _, transform = mec.load_encoder(run)
    upright = [ImageOps.exif_transpose(Image.open(path)) for path in pictures]
    with torch.no_grad():
        found = torch.cat([model(transform(image)[None]) for image in upright])
    assert (found - expected).abs().max() / expected.abs().max() < 1e-4
    theirs = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    for image in upright:
        rgb = image.convert("RGB")
        assert nn.functional.cosine_similarity(theirs(rgb).flatten(), transform(rgb).flatten(), 0) > 0.9999


def test_the_figures_of_the_card_are_those_of_results_jsonl(tmp_path, photographs):
    run, _ = run_with(tmp_path / "run", "resnet10-tiny", 64)
    for number in range(16):
        folder = tmp_path / "data" / ("train" if number < 10 else "test") / f"class {number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        photographs[number % 2].crop((number, 0, 300 + number, 300)).save(folder / f"{number}.png")
    data = tmp_path / "data"
    mec.evaluate(run, "knn", data, k=[1, 3])
    mec.evaluate(run, "fewshot", data, labels_per_class=[1], draws=3)
    kept = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    with open(run / "results.jsonl", "a") as file:
        file.write(json.dumps({**kept[0], "checkpoint": "of another", "value": 12.3}) + "\n")
    found = table_of((export(run, "hub") / "README.md").read_text())
    assert len(found) == len(kept)
    for row, line in zip(found, kept):
        assert row["protocol"].split(" ")[0] == line["protocol"]
        assert (row["data"], row["split"], row["metric"], row["n"]) == (
            line["data"], line["split"], line["metric"], str(line["n"])
        )  # fmt: skip
        assert float(row["value"].split()[0]) == pytest.approx(line["value"], rel=1e-3)
        assert (row["spread"] == "") == (line["spread"] is None)
        if line["spread"] is not None:
            assert float(row["spread"]) == pytest.approx(line["spread"], rel=1e-2)


def test_a_card_without_results_says_so_and_has_data_and_terms(tmp_path):
    run, _ = run_with(tmp_path / "run", "resnet10-tiny", 64)
    text = (export(run, "hub", out=tmp_path / "hub") / "README.md").read_text()
    assert "Nothing was measured" in text
    assert "| trained on | photos" in text
    assert "please write them here" in text
    head = yaml.safe_load(text.split("---")[1])
    assert head["library_name"] == "timm"


def test_a_stem_that_timm_has_no_name_for_loads_by_the_lines_of_the_card(finished, tmp_path, monkeypatch, capsys):
    out = export(finished, "hub", out=tmp_path / "hub")
    assert {path.name for path in out.iterdir()} == {"model.safetensors", "README.md"}  # timm would build another stem
    assert "local-dir" not in capsys.readouterr().out
    card = (out / "README.md").read_text()
    assert "hf-hub:" not in card
    names = {}
    monkeypatch.chdir(out)
    exec(card.split("```python\n")[1].split("```")[0], names)
    encoder, transform = mec.load_encoder(finished)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    assert torch.equal(names["transform"](image), transform(image))
    with torch.no_grad():
        assert (names["model"].eval()(transform(image)[None]) - encoder(transform(image)[None])).abs().max() < 1e-5
    assert mec.load_encoder(out / "model.safetensors")  # and by ourselves


def test_nothing_is_pushed_unless_asked_and_a_refusal_is_a_sentence(tmp_path, monkeypatch, capsys):
    import huggingface_hub

    asked = []

    class Api:
        def create_repo(self, name, **_):
            asked.append(name)

        def upload_folder(self, *, folder_path, repo_id):
            if "nobody" in repo_id:
                raise PermissionError("not yours")
            return f"uploaded {sorted(path.name for path in folder_path.iterdir())}"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    run, _ = run_with(tmp_path / "run", "resnet10-tiny", 64)
    out = export(run, "hub")
    assert asked == []
    export(run, "hub", push="me/mine")
    assert asked == ["me/mine"]
    assert "Pushed: uploaded ['README.md', 'config.json', 'model.safetensors']" in capsys.readouterr().out
    with pytest.raises(BadInput, match=r"--push nobody/x: not uploaded \(PermissionError: not yours\).*stays"):
        export(run, "hub", push="nobody/x")
    assert (out / "model.safetensors").exists()
    with pytest.raises(BadInput, match=r"--push is me/mine: .*--to is timm"):
        export(run, "timm", push="me/mine")


@pytest.mark.parametrize(("backbone", "size"), [("resnet10-fast", 32), ("vit_tiny_patch16_224", 32)])
def test_a_program_of_torch_gives_any_number_of_photographs_their_features(backbone, size, tmp_path, pictures, capsys):
    run, _ = run_with(tmp_path / "run", backbone, size)
    expected = torch.from_numpy(np.load(mec.embed(run, pictures[0].parent, out=tmp_path / "x.npz"))["features"])
    out = export(run, "torch")
    names: dict = {}
    exec(printed_lines(capsys.readouterr().out.split(str(tmp_path / "x.npz"))[-1]), names)
    images = torch.stack([names["transform"](ImageOps.exif_transpose(Image.open(path))) for path in pictures])
    program = torch.export.load(out).module()
    for count in (1, 3, 4):
        with torch.no_grad():
            found = program(images[:count])
        assert (found - expected[:count]).abs().max() / expected.abs().max() < 1e-4
