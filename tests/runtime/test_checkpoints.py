"""Checkpoints take their place whole, old ones go, and an encoder comes back as it was saved."""

from __future__ import annotations

import json
import os
import stat
import time

import numpy as np
import pytest
import safetensors
import torch
from helpers import lines, tiny_run, weights
from PIL import Image
from torch import nn

import mec
from mec.data.opening import open_data
from mec.errors import BadInput
from mec.evaluation.features import extract
from mec.evaluation.transfer.sweeps import square
from mec.networks.backbones import build_encoder
from mec.networks.encoder_file import EncoderInfo, image_transform, read_info, save_encoder
from mec.runtime.checkpoints import Checkpoints, checkpoints, in_run
from mec.runtime.files import atomic, file_hash


def interrupted_write(path) -> None:
    with atomic(path) as part:
        part.write_text("half of it")
        raise KeyboardInterrupt


def test_a_file_takes_its_place_whole_or_not_at_all(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt):
        interrupted_write(path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
    assert path.read_text() == "before"
    with atomic(path) as part:
        part.write_text("after")
        assert path.read_text() == "before"
    assert path.read_text() == "after"


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_file_has_the_permissions_of_the_umask_whoever_writes_it(tmp_path, mask):
    before = os.umask(mask)
    try:
        save_encoder(tmp_path / "encoder.safetensors", nn.Linear(2, 3), info_of("custom", 0))
        in_run(tmp_path).save(1, {})
        with atomic(tmp_path / "notes.txt") as part:
            part.write_text("some")
    finally:
        os.umask(before)
    for path in (tmp_path / "encoder.safetensors", *checkpoints(tmp_path), tmp_path / "notes.txt"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask, path


def test_a_file_and_its_name_are_on_disk_before_the_next_thing_happens(tmp_path, monkeypatch):
    """The bytes first, then the name in the folder: what the system is asked for, in order."""
    asked, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda f: asked.append(os.readlink(f"/proc/self/fd/{f}")) or fsync(f))
    monkeypatch.setattr(os, "replace", lambda *names: asked.append("replace") or replace(*names))
    with atomic(tmp_path / "notes.txt") as part:
        part.write_text("some")
    assert asked == [str(tmp_path / "notes.txt.part"), "replace", str(tmp_path)]


def numbered(value: float) -> nn.Module:
    """A module of a single number."""
    module = nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(value)
    return module


def test_the_last_two_checkpoints_are_kept_and_the_newest_is_by_number_not_by_name(tmp_path):
    for step in (8, 9, 10, 100):
        in_run(tmp_path).save(step, {"network": numbered(step)})
    (tmp_path / "checkpoints" / "step-101.pt.part").write_bytes(b"half")
    (tmp_path / "checkpoints" / "step-best.pt").write_bytes(b"somebody's own")
    assert [p.name for p in checkpoints(tmp_path)] == ["step-10.pt", "step-100.pt"]
    said: list[str] = []
    assert in_run(tmp_path).restore({"network": (network := numbered(0))}, said.append) == 100
    assert network.weight.item() == 100
    assert said == []
    assert (tmp_path / "checkpoints" / "step-best.pt").exists()


def test_an_older_checkpoint_stands_in_for_a_broken_one_and_says_so(tmp_path):
    for step in (1, 2):
        in_run(tmp_path).save(step, {})
    checkpoints(tmp_path)[1].write_bytes(b"PK\x03\x04 and nothing more")
    said: list[str] = []
    assert in_run(tmp_path).restore({}, said.append) == 1
    assert "step-2.pt: cannot be read" in said[0]
    checkpoints(tmp_path)[0].write_bytes(b"")
    with pytest.raises(BadInput, match=r"step-2\.pt.*step-1\.pt.*cannot be resumed.*choose another --out"):
        in_run(tmp_path).restore({})
    assert in_run(tmp_path / "nowhere").restore({}) == 0


def test_a_state_is_due_after_so_many_minutes_without_one_and_never_where_none_is_kept(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    kept, nowhere = Checkpoints(tmp_path / "state.pt", minutes=5, saved=0.0), Checkpoints()
    told = []
    for seconds in (0, 299, 300, 301, 599, 600):
        now[0] = seconds
        told.append(kept.is_due())
        if kept.is_due():
            kept.save(seconds, {})
        assert not nowhere.is_due()
    assert told == [False, False, True, False, False, True]
    assert [kept.restore({}), len(kept.files())] == [600, 1]
    kept.remove()
    assert kept.restore({}) == 0


def info_of(backbone: str, size: int, **changes) -> EncoderInfo:
    values = {
        "backbone": backbone, "feature_size": 0, "image_size": size, "small_stem": size < 64,
        "interpolation": "bicubic", "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "method": "mec-joint",
        "recipe": "auto", "data": "photos", "data_fingerprint": "", "steps": 1,
    }  # fmt: skip
    return EncoderInfo(**{**values, **changes})


@pytest.mark.parametrize(
    ("backbone", "size"), [("resnet10-tiny", 32), ("vit_tiny_patch16_224", 32), ("convnext_atto", 64)]
)
def test_an_encoder_comes_back_with_the_features_it_had(tmp_path, backbone, size):
    torch.manual_seed(0)
    encoder = build_encoder(backbone, size).eval()
    save_encoder(tmp_path / "encoder.safetensors", encoder, info_of(backbone, size))
    loaded, transform = mec.load_encoder(tmp_path)
    image = transform(Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)))
    assert image.shape == (3, size, size)
    assert not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded(image[None]), encoder(image[None]))


def test_what_is_stored_about_an_encoder_is_what_the_run_was(finished):
    info = read_info(finished)
    assert (info.backbone, info.image_size, info.small_stem) == ("resnet10-fast", 8, True)
    assert (info.method, info.recipe, info.data, info.steps) == ("mec-joint", "digits", "digits", 6)
    assert info.feature_size == 256
    assert info.data_fingerprint == open_data("digits", limit=96).fingerprint
    assert info.version == mec.__version__
    with safetensors.safe_open(finished / "encoder.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["mec"])["interpolation"] == info.interpolation
    assert len(file_hash(finished / "encoder.safetensors")) == 16


def test_the_saved_encoder_is_that_of_the_last_checkpoint(finished):
    state = torch.load(checkpoints(finished)[-1], weights_only=True)
    for name, value in weights(finished).items():
        assert torch.equal(state["network"][f"encoder.{name}"], value)
    assert state["step"] == 6


def test_a_module_of_ones_own_is_asked_for_and_filled(tmp_path):
    torch.manual_seed(1)
    run = tiny_run(tmp_path / "run", encoder=nn.Sequential(nn.Flatten(), nn.Linear(192, 8)), epochs=1)
    with pytest.raises(BadInput, match="module of your own"):
        mec.load_encoder(run)
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, 8))
    loaded, _ = mec.load_encoder(run, module=module)
    assert torch.equal(loaded[1].weight, weights(run)["1.weight"])
    with pytest.raises(BadInput, match="not the weights of this backbone"):
        mec.load_encoder(run, module=nn.Sequential(nn.Flatten(), nn.Linear(192, 9)))


def test_small_images_are_resized_whole_and_others_resized_and_cropped_to_the_centre(photographs):
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional as T

    small = image_transform(info_of("resnet10", 32))(photographs[0])
    pixels = T.to_dtype(T.to_image(photographs[0]), torch.uint8)
    resized = T.resize(pixels, [32, 32], InterpolationMode.BICUBIC, antialias=True)
    judge = T.normalize(T.to_dtype(resized, torch.float32, scale=True), [0.5, 0.4, 0.3], [0.2, 0.3, 0.4])
    assert torch.equal(small, judge)
    large = image_transform(info_of("resnet18", 224))(photographs[0])
    resized = T.resize(pixels, [256], InterpolationMode.BICUBIC, antialias=True)
    judge = T.center_crop(T.to_dtype(resized, torch.float32, scale=True), [224, 224])
    assert torch.equal(large, T.normalize(judge, [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]))


@pytest.mark.parametrize("size", [(3000, 1), (1, 3001), (2000, 100), (101, 2000)])
def test_the_unseen_ends_of_a_long_image_are_not_enlarged(size):
    """The crop is what it was; 3000 x 1 px do not become 768,000 x 256 on the way."""
    from torchvision.transforms.v2 import functional as T

    waves = np.add.outer(np.sin(np.arange(size[1]) / 20), np.cos(np.arange(size[0]) / 20))[..., None]
    image = Image.fromarray((127 + 60 * waves * [1, 0.8, -1]).astype(np.uint8))
    for transform in (image_transform(info_of("resnet18", 64)), square(info_of("resnet18", 64), 1.0)):
        steps = transform.transforms
        resized = next(i for i, step in enumerate(steps) if type(step).__name__ == "Resize")
        halfway = image
        for step in steps[: resized + 1]:
            halfway = step(halfway)
        assert max(halfway.shape) <= 9 * min(halfway.shape[-2:])
        if min(size) > 1:
            whole = T.pil_to_tensor(image)
            for step in steps[resized:]:
                whole = step(whole)
            torch.testing.assert_close(transform(image), whole, atol=0.15, rtol=0)  # by a fraction of a px


def test_a_grey_image_and_a_stored_tensor_go_through_the_transform_alike():
    transform = image_transform(info_of("resnet10", 16))
    grey = np.random.default_rng(0).integers(0, 255, (8, 8), dtype=np.uint8)
    from_file = transform(Image.fromarray(grey))
    stored = torch.from_numpy(grey)[None].repeat(3, 1, 1)
    assert torch.equal(from_file, transform(stored))
    assert torch.equal(transform(stored[None])[0], from_file)


def test_features_of_a_run_do_not_depend_on_the_batch_they_are_extracted_in(finished):
    encoder, transform = mec.load_encoder(finished)
    part = open_data("digits").test.take(np.arange(40))
    one, other = (extract(encoder, part, transform, batch_size=size).x for size in (40, 7))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_a_run_leaves_no_half_written_files_and_every_line_is_json(finished):
    assert not list(finished.rglob("*.part"))
    assert [m["step"] for m in lines(finished / "metrics.jsonl")] == [1, 6]
    assert {p.name for p in finished.iterdir()} >= {
        "settings.json", "metrics.jsonl", "health.json", "encoder.safetensors", "checkpoints"
    }  # fmt: skip
    assert not os.access(finished / "checkpoints" / "step-1.pt", os.F_OK)
