"""A GPU does what a CPU does: views, objectives, runs, resuming, features. Skipped where there is none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import crashed_run, identical, lines, small_subject, tiny_run, weights
from torch.testing import assert_close

from mec.data.batches import ViewBatches
from mec.data.opening import open_data
from mec.objectives.methods import METHODS
from mec.objectives.table import build
from mec.recipes.table import AUTO, BYOL_VIEWS, DIGITS, RECIPES
from mec.training import trainer
from mec.training.plan import adapted
from mec.training.trainer import captured
from mec.views.views import Draw, augment, crop_batch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

VIEWS = {
    "auto": AUTO.views[0],
    "bicubic, blurred, solarized": replace(BYOL_VIEWS[1], size=32),
    "smaller than the images": replace(AUTO.views[0], size=16),
    "digits": DIGITS.views[0],
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_views_are_those_of_a_cpu(view):
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (64, 3, 32, 32), dtype=np.uint8))
    draw = Draw(view, 1, seed=0, epoch=3, indices=np.arange(64))
    expected = augment(crop_batch(images, draw), draw)
    found = augment(crop_batch(images.cuda(), draw), draw)
    assert found.is_cuda
    # In units of standard deviations. A solarized pixel at the threshold may fall on the other side of it.
    apart = (found.cpu() - expected).abs()
    assert (apart > 1e-4).float().mean() < 1e-4
    assert apart.median() < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_objectives_and_gradients_are_those_of_a_cpu_in_float64(method):
    row = METHODS[method]
    found = []
    for device, dtype in (("cpu", torch.float64), ("cuda", torch.float32)):
        torch.manual_seed(0)
        objective, settings = build(row.objective, 48, {k: v for k, v in row.settings.items() if k != "scale"})
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(64, 48, generator=generator, dtype=torch.float64)
        views = [images + 0.5 * torch.randn(64, 48, generator=generator, dtype=torch.float64) for _ in range(2)]
        online = torch.stack(views).to(device, dtype).requires_grad_()
        target = torch.stack(views).to(device, dtype) if row.target else None
        if isinstance(objective, torch.nn.Module):
            objective.to(device, dtype)
        labels = torch.arange(64, device=device) % 10 if row.labels else None
        loss = objective(online, target, labels=labels, **{k: getattr(v, "end", v) for k, v in settings.items()})
        loss.backward()
        found.append((loss.detach().cpu().double(), online.grad.cpu().double()))
    (expected, gradient), (loss, found_gradient) = found
    assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    assert (found_gradient - gradient).norm() < 1e-3 * gradient.norm()


@pytest.fixture
def repeatable(monkeypatch):
    """Convolutions in full precision, by kernels that give the same each time."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


@pytest.mark.parametrize("method", ["mec-joint", "mec", "moco-v2", "swav", "dino"])
def test_a_run_starts_as_on_a_cpu_and_goes_on_where_it_was_cut_off(method, tmp_path, monkeypatch, repeatable):
    cpu = tiny_run(tmp_path / "cpu", method=method)
    whole = tiny_run(tmp_path / "whole", method=method, device="cuda")
    first, there = lines(cpu / "metrics.jsonl")[0], lines(whole / "metrics.jsonl")[0]
    assert there["loss"] == pytest.approx(first["loss"], rel=1e-3)
    assert there["gradient_norm"] == pytest.approx(first["gradient_norm"], rel=1e-2)
    assert there["peak_memory"] > 0
    assert there["data_wait"] == 0  # the GPU makes the views: the process tells it to and goes on

    crashed_run(monkeypatch, 4, tmp_path / "run", method=method, device="cuda", save_minutes=0)
    tiny_run(tmp_path / "run", method=method, device="cuda", resume=True)
    assert lines(tmp_path / "run" / "metrics.jsonl")[-1]["step"] == 6
    assert identical(weights(tmp_path / "run"), weights(whole))


@pytest.mark.parametrize("method", ["mec-joint", "mec", "swav", "dino"])
def test_steps_by_cuda_graphs_are_those_of_launch_after_launch(method, tmp_path, monkeypatch, repeatable):
    made = []
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "captured", lambda *a: made.append(captured(*a)) or made[-1])
        tiny_run(tmp_path / "graphs", method=method, device="cuda")
    assert len(made) == 1

    def refused(*_):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(trainer, "captured", refused)
    with pytest.warns(UserWarning, match="no CUDA graph: operation not permitted"):
        tiny_run(tmp_path / "launches", method=method, device="cuda")
    one, other = (lines(tmp_path / name / "metrics.jsonl") for name in ("graphs", "launches"))
    for figure in ("loss", "gradient_norm", "effective_rank"):
        assert [line[figure] for line in one] == pytest.approx([line[figure] for line in other], rel=1e-3), figure
    graphs, launches = weights(tmp_path / "graphs"), weights(tmp_path / "launches")
    for name in graphs:  # running statistics among them: capturing leaves none
        assert_close(graphs[name], launches[name], rtol=1e-3, atol=1e-4)


def test_a_run_in_bf16_by_auto_s_choice_trains(tmp_path):
    run = tiny_run(tmp_path / "run", recipe="auto", device="cuda", set=["network.projector=[32,16]"])
    assert all(np.isfinite(line["loss"]) for line in lines(run / "metrics.jsonl"))
    assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in weights(run).values())


def test_small_images_are_kept_on_the_gpu_and_batches_are_those_of_a_cpu():
    split = open_data("digits", limit=100).train
    made = []
    for device in ("cpu", "cuda"):
        batches = ViewBatches(split, DIGITS.views, 32, seed=0, device=torch.device(device), workers=0)
        made.append(next(batches.batches(2, 3, lambda m: slice(0, m))))
    assert batches.on_device(split.images.pixels).is_cuda
    for one, other in zip(made[0].views, made[1].views):
        assert other.is_cuda
        assert_close(other.cpu(), one, rtol=1e-3, atol=1e-3)


def test_features_are_those_of_a_cpu(tmp_path):
    subject = small_subject(tmp_path)
    split = open_data("digits", limit=100).test
    expected = subject.features(split).x
    subject.encoder.cuda()
    there = replace(subject, device="cuda", folder=tmp_path / "gpu").features(split).x
    assert_close(there.cpu(), expected, rtol=1e-3, atol=1e-3)


def test_every_published_cifar_recipe_takes_a_step(tmp_path):
    """Two steps in bf16 each, multi-crop among them: the loop's parts meet on one device."""
    for name in [n for n in RECIPES if n.startswith("cifar10")]:
        recipe = adapted(RECIPES[name], None, 1, 64, "resnet10-tiny", [])
        run = tiny_run(tmp_path / name, recipe=recipe, limit=128, epochs=1, batch_size=64, device="cuda", set=[])
        assert np.isfinite(lines(run / "metrics.jsonl")[-1]["loss"]), name
