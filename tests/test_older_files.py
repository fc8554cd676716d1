"""Encoders and runs of earlier versions: files that commit 387d210 wrote (files_of_0.1), and what it made of them."""

import json
import shutil
import warnings
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn
from torch.testing import assert_close

import mec
from mec.errors import BadInput
from mec.networks.encoder_file import EncoderInfo, load_encoder, probe, read_info
from mec.training.run import read_settings

OLD = Path(__file__).parent / "files_of_0.1"


class Views:
    """As in files_of_0.1/README.md."""

    def __init__(self):
        self.rows = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return 4

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.epoch)
        for part in self.rows.split(16):
            yield [part + 0.1 * torch.randn(part.shape, generator=generator) for _ in range(2)]


def rows_encoder() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))


def encoder_file_with(path: Path, metadata: dict) -> Path:
    """The old encoder's weights with other metadata."""
    weights = safetensors.torch.load_file(OLD / "digits" / "encoder.safetensors")
    safetensors.torch.save_file(weights, path, metadata={"mec": json.dumps(metadata)})
    return path


@pytest.fixture
def metadata() -> dict:
    with safetensors.safe_open(OLD / "digits" / "encoder.safetensors", framework="pt") as file:
        return json.loads(file.metadata()["mec"])


def test_an_encoder_of_0_1_loads_and_gives_the_features_that_were_stored_with_it():
    info = read_info(OLD / "digits")
    assert (info.backbone, info.feature_size, info.image_size, info.version) == ("test_efficientnet", 256, 16, "0.1.0")
    encoder, transform = load_encoder(OLD / "digits")
    assert_close(probe(encoder, 16), info.probe, rtol=1e-3, atol=1e-4)
    from sklearn.datasets import load_digits

    image = torch.from_numpy(load_digits().images[0] / 16 * 255).byte().expand(3, 8, 8)
    assert encoder(transform(image)[None]).shape == (1, 256)


def test_the_settings_of_runs_of_0_1_are_read():
    digits, rows = read_settings(OLD / "digits"), read_settings(OLD / "rows")
    assert (digits.steps, digits.recipe.epochs, digits.asked["backbone"]) == (19, 1, "test_efficientnet")
    assert (digits.recipe.network.backbone, digits.recipe.network.projector) == ("test_efficientnet", (64, 32))
    assert (rows.steps, rows.recipe.batch_size, rows.recipe.network.projector) == (12, 16, (8, 4))


def test_a_run_of_0_1_resumes_to_the_encoder_that_0_1_itself_ended_with(tmp_path, monkeypatch):
    monkeypatch.setattr("mec.training.trainer.has_bf16_units", lambda accelerator: False)  # as where it was made
    out = tmp_path / "rows"
    shutil.copytree(OLD / "rows", out)
    mec.pretrain(Views(), encoder=rows_encoder(), out=out, epochs=5, batch_size=16, resume=True, quiet=True)
    found = safetensors.torch.load_file(out / "encoder.safetensors")
    expected = safetensors.torch.load_file(OLD / "rows-resumed-to-5-epochs.safetensors")
    assert_close(found, expected, rtol=1e-4, atol=1e-6)  # on the machine where it was made, bit for bit
    before = safetensors.torch.load_file(OLD / "rows" / "encoder.safetensors")
    assert not torch.allclose(found["0.weight"], before["0.weight"], rtol=1e-4, atol=1e-3)


def test_what_an_older_file_lacks_takes_its_default(tmp_path, metadata):
    needed = ("backbone", "feature_size", "image_size", "small_stem", "interpolation", "mean", "std")
    path = encoder_file_with(tmp_path / "e.safetensors", {name: metadata[name] for name in needed})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder, _ = load_encoder(path)
    info = read_info(path)
    assert info == EncoderInfo(**{name: getattr(read_info(OLD / "digits"), name) for name in needed}, version="")
    assert_close(probe(encoder, 16), metadata["probe"], rtol=1e-3, atol=1e-4)
    for name in needed:
        path = encoder_file_with(tmp_path / "e.safetensors", {k: v for k, v in metadata.items() if k != name})
        with pytest.raises(BadInput, match=rf"e.safetensors: {name} is missing, and has no default\.$"):
            read_info(path)


def test_what_a_newer_file_has_more_is_told_and_passed_over(tmp_path, metadata):
    path = encoder_file_with(tmp_path / "e.safetensors", metadata | {"version": "98.7", "hops": 3})
    text = r"e.safetensors: written by mec 98.7, newer than this .*; not known here, and passed over: hops\.$"
    with pytest.warns(UserWarning, match=text):
        assert read_info(path).backbone == "test_efficientnet"
    path = encoder_file_with(tmp_path / "e.safetensors", metadata | {"version": "98.7", "interpolation": "lanczos"})
    text = "interpolation is 'lanczos': it takes 'bicubic' | 'bilinear'. It was written by mec 98.7, newer than this"
    with pytest.raises(BadInput) as caught:
        read_info(path)
    assert text in str(caught.value)


def test_settings_of_a_newer_version_are_told_and_a_run_lacking_some_is_named(tmp_path):
    values = json.loads((OLD / "rows" / "settings.json").read_text())
    values["recipe"]["optimizer"]["nesterov"] = True
    (tmp_path / "settings.json").write_text(json.dumps(values))
    with pytest.warns(UserWarning, match=r"passed over: recipe\.optimizer\.nesterov\.$"):
        assert read_settings(tmp_path) == read_settings(OLD / "rows")
    del values["recipe"]["optimizer"], values["steps"]
    (tmp_path / "settings.json").write_text(json.dumps(values))
    with pytest.raises(BadInput, match=r"settings\.json: steps is missing, and has no default\.$"):
        read_settings(tmp_path)
