"""An encoder that gives NaN is refused wherever it is used, whatever it is that went bad."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import labelled_folder, tiny_run
from PIL import Image
from torch import nn

import mec
from mec.errors import BadInput
from mec.exports.export import export
from mec.networks.encoder_file import load_encoder, probe, read_info, save_encoder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("runs") / "run", epochs=1)


def spoiled(run, folder, kind: str):
    """The run's encoder after a divergence: NaN in a weight, a variance below zero, or weights that overflow."""
    encoder, _ = load_encoder(run)
    info = read_info(run)
    norms = [m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        if kind in ("nan", "nan, no probe"):
            next(encoder.parameters())[0, 0, 0, 0] = torch.nan
        elif kind == "variance":  # of the last channel alone: what is stored of the probe does not see it
            norms[-1].running_var[-1] = -1.0
        else:
            norms[-1].weight[-1] = 3e38
            norms[-1].bias[-1] = 3e38
    folder.mkdir()
    known = () if kind == "nan, no probe" else probe(encoder, info.image_size)
    save_encoder(folder / "encoder.safetensors", encoder, replace(info, probe=known))
    return folder


@pytest.mark.parametrize("kind", ["nan", "nan, no probe", "variance", "overflow"])
def test_an_encoder_that_gives_nan_is_refused_by_everything_that_uses_it(trained, tmp_path, kind):
    run, data = spoiled(trained, tmp_path / "run", kind), labelled_folder(tmp_path / "data", train=2, test=1)
    for use in (
        lambda: load_encoder(run),
        lambda: export(run, "timm"),
        lambda: mec.embed(run, data, out=tmp_path / "x.npz"),
        lambda: mec.evaluate(run, "knn", data, k=1),
    ):
        with pytest.raises(BadInput, match=r"diverged"):
            use()
    assert not (tmp_path / "x.npz").exists()
    assert {path.name for path in run.iterdir()} == {"encoder.safetensors"}


@pytest.mark.parametrize("where", ["stored", "found"])
def test_a_probe_of_nan_never_fits(trained, tmp_path, monkeypatch, where):
    """NaN is within no tolerance, be it in the file or in what this code makes of the weights."""
    encoder, _ = load_encoder(trained)
    info = read_info(trained)
    (tmp_path / "run").mkdir()
    told = (*info.probe[:3], float("nan"), *info.probe[4:]) if where == "stored" else info.probe
    save_encoder(tmp_path / "run" / "encoder.safetensors", encoder, replace(info, probe=told))
    if where == "found":
        from mec.networks import encoder_file

        monkeypatch.setattr(encoder_file, "of_fixed_image", lambda *_: torch.full((99,), torch.nan))
    with pytest.raises(BadInput, match=r"other features|NaN"):
        load_encoder(tmp_path / "run")


def test_features_of_an_encoder_in_memory_are_refused_too():
    class Bad(nn.Module):
        def forward(self, images):
            return images.flatten(1).log()

    pictures = [Image.fromarray(np.zeros((8, 8, 3), np.uint8))]
    with pytest.raises(BadInput, match="not finite"):
        mec.features((Bad(), lambda image: torch.from_numpy(np.array(image)).permute(2, 0, 1).float()), pictures)
