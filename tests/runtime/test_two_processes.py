"""Two processes under torchrun are one process with the same global batch; micro-batches are the whole batch."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import ranks
import torch
from helpers import (
    TINY,
    TINY_SERIES,
    command,
    identical,
    lines,
    started,
    tiny_run,
    untrained_encoder,
    wait_for,
    weights,
)
from torch import nn

from mec.cli.main import main
from mec.data.batches import ViewBatches
from mec.data.opening import open_data
from mec.recipes.recipe import changed
from mec.recipes.table import RECIPES
from mec.runtime.checkpoints import checkpoints

STEPS = 5


def words(folder: Path, out: Path, method: str) -> list[str]:
    """Five steps of batch 48 in fp32: 240 digits, one epoch. Two processes have 24 rows each."""
    # Rounding alone moves these tiny networks apart by 1e-3 in five steps at a large rate, or where the
    # series does not converge (distortion below 1).
    settings = [*TINY, "precision=fp32", "optimizer.base_lr=0.01"]
    settings += (*TINY_SERIES, "settings.distortion=1") if method == "mec" else ()
    flags = ["--recipe", "digits", "--backbone", "resnet10-tiny", "--method", method]
    flags += ["--limit", "240", "--batch-size", "48", "--epochs", "1"]
    return ["pretrain", str(folder), "--out", str(out), *flags, "--no-evaluate", "--set", *settings]


@pytest.mark.parametrize("method", ["mec", pytest.param("mec-joint", marks=pytest.mark.slow)])
def test_two_processes_train_as_one(digit_folder, tmp_path, method):
    """Losses, encoder, heads, target network, momentum buffers and running statistics after five steps."""
    assert main(words(digit_folder, tmp_path / "one", method)) == 0
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "mec"]
    typed = words(digit_folder, tmp_path / "two", method)
    if method == "mec":  # without torchrun, which takes a while to start
        said = "".join(ranks.commands(2, typed, tmp_path))
    else:
        result = command(*launch, *typed)
        said = result.stdout + result.stderr
        assert result.returncode == 0, said
    assert "on cpu x 2" in said
    assert not [word for word in ("broadcast_buffers", "GLOBAL_RANK", "srun") if word in said]
    assert said.count("Training was") == 1  # one process speaks

    # Without predictor and target the rounding of a sum over two processes grows about tenfold a step here.
    close = 1e-5 if method == "mec" else 1e-3
    one, two = (lines(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    assert [m["step"] for m in one] == [m["step"] for m in two] == [1, STEPS]
    for a, b in zip(one, two, strict=True):
        for name in ("loss", "coding_ratio", "agreement", "effective_rank"):
            within = (1e-5 if a["step"] == 1 else close) * (5 if name == "effective_rank" else 1)
            assert a[name] == pytest.approx(b[name], rel=within, abs=within), name
    assert one[0]["gradient_norm"] == pytest.approx(two[0]["gradient_norm"], rel=1e-5)
    state = [torch.load(checkpoints(tmp_path / name)[-1], weights_only=True) for name in ("one", "two")]
    for name, value in state[0]["network"].items():
        torch.testing.assert_close(state[1]["network"][name], value, atol=close, rtol=close, msg=name)
    for i, of_one in state[0]["optimizer"]["state"].items():
        # As a whole: single numbers near zero carry the rounding of the large ones that they are a difference of.
        expected, found = of_one["momentum_buffer"], state[1]["optimizer"]["state"][i]["momentum_buffer"]
        assert (found - expected).norm() <= 100 * close * expected.norm() + close, i
    encoders = [weights(tmp_path / name) for name in ("one", "two")]
    start = untrained_encoder("resnet10-tiny")
    assert max((encoders[0][name] - value).abs().max() for name, value in start.items()) > 1e-3  # they have moved
    for name, value in encoders[0].items():
        torch.testing.assert_close(encoders[1][name], value, atol=close, rtol=close, msg=name)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="finds the processes of torchrun in /proc")
def test_a_process_that_is_killed_starts_again_with_the_others_and_the_run_ends_as_one_left_alone(
    digit_folder, tmp_path
):
    """With --max-restarts, and with --resume from the first start on."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "2"]
    launch += ["-m", "mec"]
    flags = ["--epochs", "15", "--save-minutes", "0", "--resume"]
    command(*launch, *words(digit_folder, tmp_path / "whole", "mec-joint"), *flags, timeout=300)
    out = tmp_path / "run"
    process = started(*launch, *words(digit_folder, out, "mec-joint"), *flags)
    wait_for(lambda: checkpoints(out), process)
    killed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[-1]
    os.kill(int(killed), signal.SIGKILL)
    said, told = process.communicate(timeout=300)
    assert process.returncode == 0, told
    assert "resumed after step" in said
    assert identical(weights(out), weights(tmp_path / "whole"))


# --- micro-batches -----------------------------------------------------------------------------------------------


class Plain(nn.Module):
    """An encoder without batch norm, so that rows do not know of each other."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.Tanh(), nn.Linear(32, 16))

    def forward(self, x):
        return self.layers(x)


@pytest.mark.parametrize("micro", [32, 24, 8])  # 24 leaves a last part of 16
@pytest.mark.parametrize("method", ["mec-joint", "mec"])
def test_micro_batches_give_the_gradient_of_the_whole_batch(tmp_path, method, micro):
    heads = ["network.projector=[]", *(["network.predictor=[16]"] if method == "mec" else ()), "precision=fp32"]
    settings = ["views.size=8", *heads]

    def trained(name: str, *more: str) -> Path:
        return tiny_run(tmp_path / name, encoder=Plain(), set=[*settings, *more], recipe=recipe_of(method))

    whole, parts = trained("whole"), trained("parts", f"micro_batch_size={micro}")
    untrained = Plain().state_dict()
    for name, value in weights(whole).items():
        assert (value - untrained[name]).abs().max() > 1e-3, name
        torch.testing.assert_close(weights(parts)[name], value, atol=2e-6, rtol=1e-5, msg=name)
    for a, b in zip(lines(whole / "metrics.jsonl"), lines(parts / "metrics.jsonl"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5, abs=1e-5)
        assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=1e-4)


def recipe_of(method: str):
    """The digits recipe with another method, in a part of its settings where rounding does not grow."""
    target = ["network.target=momentum"] if method == "mec" else ()
    return changed(RECIPES["digits"], [f"method={method}", "settings.distortion=1", *target])


class Counted(nn.Module):
    """A batch norm at the very front: what it has seen can be computed by hand."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.layer = nn.BatchNorm1d(192), nn.Linear(192, 16)

    def forward(self, x):
        return self.layer(self.norm(x.flatten(1)))


def test_with_micro_batches_batch_norm_notes_each_part_once(tmp_path):
    """One step of 64 images, two views, parts of 32: running statistics move four times, by those parts."""
    recipe = changed(
        RECIPES["digits"], ["views.size=8", "network.projector=[]", "micro_batch_size=32", "batch_size=64"]
    )
    run = tiny_run(tmp_path / "run", encoder=Counted(), recipe=recipe, set=[], limit=64, epochs=1)
    found = weights(run)
    assert found["norm.num_batches_tracked"] == 4
    split = open_data("digits", limit=64).train
    batches = ViewBatches(split, recipe.views, 64, seed=0, device=torch.device("cpu"), workers=0)
    (batch,) = batches.batches(0, 1, lambda n: slice(0, n))
    judge = nn.BatchNorm1d(192)
    for part in (slice(0, 32), slice(32, 64)):
        for view in batch.views:
            judge(view[part].flatten(1))
    np.testing.assert_allclose(found["norm.running_mean"], judge.running_mean, atol=1e-5)
    np.testing.assert_allclose(found["norm.running_var"], judge.running_var, atol=1e-5)
