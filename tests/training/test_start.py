"""Runs that start from given weights, stages that stand still, and the encoders that a run keeps on its way."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from helpers import TINY, Crash, at_step, crash, noise_image, tiny_run
from PIL import Image
from torch import nn
from torch.testing import assert_close

import mec
from mec.cli.main import main
from mec.errors import BadInput
from mec.evaluation.results import Result
from mec.evaluation.subject import resolve
from mec.networks.backbones import build_encoder
from mec.networks.encoder_file import EncoderInfo, read_info, save_encoder
from mec.recipes.recipe import Optimizer
from mec.runtime.files import read_json
from mec.runtime.paths import check_run
from mec.training.health import hardly_trained
from mec.training.optimizers import build_optimizer
from mec.training.report import without_gain
from mec.training.start import Start, take

VIT = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("first") / "run", keep_every=1)


def weights(path):
    return safetensors.torch.load_file(path)


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "changes",
    [{}, {"method": "simclr"}, {"method": "mec"}, {"method": "byol", "set": [*TINY, "network.predictor=[8,16]"]}],
)
def test_a_run_starts_from_another_and_its_result_is_one_like_any(first, tmp_path, changes):
    run = tiny_run(tmp_path / "second", init=first, **changes)
    assert same(weights(run / "start.safetensors"), weights(first / "encoder.safetensors"))
    assert not same(weights(run / "encoder.safetensors"), weights(first / "encoder.safetensors"))
    assert read_info(run).backbone == read_info(first).backbone == "resnet10-fast"
    assert f"starts from {first} (resnet10-fast): 78 of 78 tensors taken" in read_json(run / "settings.json")["why"]
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert_close(resolve(f"{run}@untrained").encoder(x), resolve(first).encoder(x))
    assert resolve(f"{run}@untrained").name == "start"
    assert mec.evaluate(run, "knn", "digits", k=5, limit=100)
    assert mec.export(run, "timm").exists()
    third = tiny_run(tmp_path / "third", init=f"{run}@last", epochs=1)
    assert same(weights(third / "start.safetensors"), weights(run / "encoder.safetensors"))


def test_the_closing_table_sets_the_run_against_the_weights_given(first, tmp_path, capsys, quick_report):
    run = tiny_run(tmp_path / "run", init=first, evaluate=True, quiet=False)
    out = capsys.readouterr().out
    assert "given weights" in out
    assert "untrained" not in out
    result = Result("knn", "top-1", 50.0, encoder="start", settings={"k": 20})
    told = without_gain([result, replace(result, encoder="mec-joint")], "mec-joint")
    assert "beat those of the weights given" in told
    assert without_gain([result, replace(result, encoder="mec-joint", value=51.0)], "mec-joint") == ""
    start, given = (mec.evaluate(of, "knn", "digits", limit=96)[0] for of in (f"{run}@untrained", first))
    assert start.value == given.value


def test_a_run_resumes_bit_for_bit_although_its_start_has_gone(first, tmp_path, monkeypatch):
    shutil.copytree(first, tmp_path / "given")
    options = {"init": tmp_path / "given", "freeze": 1, "init_lr": 0.2}
    whole = tiny_run(tmp_path / "whole", **options)
    with monkeypatch.context() as patch:
        at_step(patch, 5, crash)
        with pytest.raises(Crash):
            tiny_run(tmp_path / "cut", **options)
    shutil.rmtree(tmp_path / "given")
    cut = tiny_run(tmp_path / "cut", resume=True)
    assert same(weights(cut / "encoder.safetensors"), weights(whole / "encoder.safetensors"))
    (cut / "start.safetensors").unlink()
    with pytest.raises(BadInput, match=r"start\.safetensors is gone"):
        tiny_run(tmp_path / "cut", resume=True, epochs=3)


@pytest.mark.parametrize("method", ["mec-joint", "mec"])
def test_frozen_stages_stand_still_with_their_statistics_and_the_others_move(first, tmp_path, method):
    run = tiny_run(tmp_path / "run", init=first, freeze=2, method=method)
    before, after = weights(run / "start.safetensors"), weights(run / "encoder.safetensors")
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"layer3", "layer4"}
    state = torch.load(sorted((run / "checkpoints").glob("*.pt"))[-1], weights_only=True)["network"]
    for name in before:
        if method == "mec" and name.split(".")[0] in ("conv1", "bn1", "layer1", "layer2"):
            assert torch.equal(state[f"target_encoder.{name}"], before[name]), name


def test_a_transformers_blocks_freeze_with_what_lies_before_them(tmp_path):
    (tmp_path / "given").mkdir()
    info = EncoderInfo(VIT, 192, 32, True, "bicubic", (0.5,) * 3, (0.25,) * 3)
    save_encoder(tmp_path / "given" / "encoder.safetensors", build_encoder(VIT, 32, True), info)
    run = tiny_run(
        tmp_path / "run", init=tmp_path / "given", freeze=9, limit=64, batch_size=32, epochs=1,
        set=["views.size=32", "network.projector=[32,16]"],
    )  # fmt: skip
    before, after = weights(run / "start.safetensors"), weights(run / "encoder.safetensors")
    changed = {".".join(name.split(".")[:2]) for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[1] for name in changed if name.startswith("blocks")} == {"9", "10", "11"}
    assert not changed & {"cls_token", "pos_embed", "patch_embed.proj"}
    assert read_json(run / "settings.json")["recipe"]["views"][0]["mean"] == [0.5, 0.5, 0.5]


def test_the_encoder_has_a_rate_of_its_own():
    encoder, head = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), nn.Linear(4, 4)
    groups = build_optimizer(
        Optimizer(), [*encoder.parameters(), *head.parameters()], old=encoder.parameters(), old_rate=0.1
    ).param_groups
    ratio = {id(p): group["lr_ratio"] for group in groups for p in group["params"]}
    assert [ratio[id(p)] for p in encoder.parameters()] == pytest.approx([0.1] * 4)
    assert [ratio[id(p)] for p in head.parameters()] == [1, 1]


@torch.no_grad()
def test_a_stem_of_another_size_sees_smooth_images_alike():
    torch.manual_seed(0)
    large, small = build_encoder("resnet18", 64, False), build_encoder("resnet18", 32, True)
    for given, own in ((large, small), (small, large)):
        info = EncoderInfo("resnet18", 512, 32, False, "bicubic", (0.5,) * 3, (0.5,) * 3)
        (said,) = take(own, Start("x", info, given.state_dict()))
        k, j = given.conv1.kernel_size[0], own.conv1.kernel_size[0]
        assert f"resized: conv1.weight [64, 3, {k}, {k}] -> [64, 3, {j}, {j}]" in said
        assert same(own.layer1.state_dict(), given.layer1.state_dict())
        constant = [conv.weight.sum((1, 2, 3)) for conv in (given.conv1, own.conv1)]
        assert float(torch.corrcoef(torch.stack(constant))[0, 1]) > 0.95
        assert constant[1].norm() / constant[0].norm() == pytest.approx(1, abs=0.1)


@torch.no_grad()
def test_a_transformers_positions_are_resampled_and_that_is_told():
    given, own = build_encoder(VIT, 224, False), build_encoder(VIT, 64, False)
    info = EncoderInfo(VIT, 192, 224, False, "bicubic", (0.5,) * 3, (0.5,) * 3)
    (said,) = take(own, Start("x", info, given.state_dict()))
    assert "resized: pos_embed [1, 197, 192] -> [1, 17, 192]" in said
    assert torch.equal(own.blocks[0].attn.qkv.weight, given.blocks[0].attn.qkv.weight)


def test_a_name_with_a_tag_takes_those_weights_where_they_lie(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "none"))
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"resnet18\.a1_in1k: no weights on this machine"):
        tiny_run(tmp_path / "run", init="resnet18.a1_in1k")
    torch.manual_seed(3)
    network = timm.create_model("resnet18")
    (tmp_path / "checkpoints").mkdir()
    torch.save(network.state_dict(), tmp_path / "checkpoints" / "resnet18_a1_0-d63eafa0.pth")
    run = tiny_run(tmp_path / "run", init="resnet18.a1_in1k", limit=64, epochs=1)
    start = weights(run / "start.safetensors")
    assert torch.equal(start["layer4.1.conv2.weight"], network.state_dict()["layer4.1.conv2.weight"])
    assert start["conv1.weight"].shape[-1] == 3
    assert read_info(run).backbone == "resnet18.a1_in1k"
    why = " ".join(read_json(run / "settings.json")["why"])
    assert "left: fc (2)" in why
    assert "resized: conv1.weight [64, 3, 7, 7] -> [64, 3, 3, 3]" in why
    assert mec.load_encoder(run)[0](torch.zeros(1, 3, 8, 8)).shape == (1, 512)


REFUSED = [
    ({"init": "pixels"}, "of no backbone with a name"),
    ({"backbone": "resnet18.a1_in1k"}, r"which names weights: --init resnet18\.a1_in1k starts from them"),
    ({"freeze": 1}, "--freeze is 1: it goes with --init RUN"),
    ({"init_lr": 0.1}, "--init-lr is 0.1: it goes with --init RUN"),
    ({"init": "FIRST", "freeze": 4}, "--freeze is 4: 1 to 3 stages"),
    ({"init": "FIRST", "backbone": "resnet18"}, r"--backbone is resnet18, but --init .* is resnet10-fast"),
    ({"init": "FIRST", "encoder": nn.Linear(2, 2)}, "a module of your own yourself"),
]


@pytest.mark.parametrize(("changes", "words"), REFUSED)
def test_what_does_not_fit_is_refused_and_leaves_no_run(first, tmp_path, changes, words):
    given = {name: first if value == "FIRST" else value for name, value in changes.items()}
    with pytest.raises(BadInput, match=words):
        tiny_run(tmp_path / "run", **given)
    assert not (tmp_path / "run" / "settings.json").exists()


def test_encoders_of_epochs_are_kept_and_named_by_their_step(first, tmp_path, capsys):
    assert sorted(path.stem for path in (first / "encoders").iterdir()) == ["00000003", "00000006"]
    assert [read_info(f"{first}@{step}").steps for step in (3, 6, "last")] == [3, 6, 6]
    assert same(weights(first / "encoders" / "00000006.safetensors"), weights(first / "encoder.safetensors"))
    copy = tmp_path / "run"
    shutil.copytree(first, copy)
    (result, *_) = mec.evaluate(f"{copy}@3", "knn", "digits", k=5)
    assert result.encoder == "mec-joint@3"
    assert (copy / "results.jsonl").exists()
    noise_image(3).save(tmp_path / "x.png")
    third, last = (
        np.load(mec.embed(f"{copy}@{step}", tmp_path / "x.png", out=tmp_path / f"{step}.npy")) for step in (3, "last")
    )
    assert not np.allclose(third, last)
    assert mec.load_encoder(f"{copy}@3")[0] is not None
    for call in (check_run, resolve):
        with pytest.raises(FileNotFoundError, match=r"no encoder of step 4 was kept\. There: 3, 6; and @last"):
            call(f"{copy}@4")
    assert main(["export", f"{copy}@3", "--to", "timm"]) == 0
    assert "encoders" in capsys.readouterr().out


def test_all_kept_encoders_are_measured_and_drawn(first, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(first, copy)
    assert main(["evaluate", f"{copy}@all", "knn", "digits", "--k", "5"]) == 0
    out = capsys.readouterr().out
    assert "step 3\nknn top-1" in out
    assert f"Figures over the steps: {copy / 'steps-knn.png'}" in out
    with Image.open(copy / "steps-knn.png") as picture:
        assert min(picture.size) > 300
    (third, *_), (last, *_) = (mec.evaluate(f"{copy}@{step}", "knn", "digits", k=5) for step in (3, "last"))
    assert f"top-1: {third.value:.1f} %" in out
    assert f"top-1: {last.value:.1f} %" in out
    shutil.rmtree(copy / "encoders")
    with pytest.raises(BadInput, match="kept no encoders on its way; mec pretrain --keep-every N does"):
        mec.evaluate(f"{copy}@all", "knn", "digits")


def test_health_compares_with_the_weights_given(first, tmp_path):
    figures = {"agreement": 0.5, "similarity": 0.4, "loss": -1.0}
    lines = [{"step": step, **figures} for step in (1, 50, 100, 150)]
    assert "little more than the weights given: by 0.10" in hardly_trained(lines, "the weights given")[1]
    better = [lines[0], *({**line, "agreement": 0.9} for line in lines[1:])]
    assert hardly_trained(better, "the weights given") is None
    run = tiny_run(tmp_path / "run", init=first)
    start = mec.features(f"{run}@untrained", [noise_image(seed) for seed in range(3)]).x
    assert torch.equal(start, mec.features(first, [noise_image(seed) for seed in range(3)]).x)
