"""Networks in shards (`--strategy fsdp`) train as whole ones do and leave the same files; blocks may compute twice."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import ranks
import timm
import torch
import torch.distributed as dist
from helpers import TINY_SERIES, crashed_run, identical, lines, tiny_run, untrained_encoder, weights
from torch import nn

from mec.errors import BadInput
from mec.runtime.checkpoints import checkpoints
from mec.training.trainer import Trainer

SETTINGS = ["views.size=8", "network.projector=[32,16]", *TINY_SERIES[:1], "precision=fp32"]
# Six blocks of width 64, batch norms in the heads, a target network; AdamW.
RUN: dict[str, Any] = {"recipe": "small-vit", "backbone": "test_vit", "method": "mec", "set": SETTINGS}
RUN |= {"limit": 64, "save_minutes": 0.0}
STEPS = 4
# Of a gradient of zero, which AdamW divides by its size: a batch norm follows, and keys may move all alike.
LOOSE = ("norm.bias", "qkv.bias")


def noted_run(out: Path, **changes: Any) -> dict[str, Any]:
    """A run; the loss of each step, and what this rank held at the last, in bytes: parameters, buffers, gradients and
    the optimizer's state."""
    losses, held = [], []
    check, limit = Trainer.check, Trainer.limit_gradients

    def noted_loss(trainer: Trainer, run, loss, *others) -> None:
        losses.append(float(loss))
        check(trainer, run, loss, *others)

    def noted_bytes(trainer: Trainer, step: int) -> None:
        tensors = [*trainer.network.parameters(), *trainer.network.buffers()]
        tensors += [p.grad for p in trainer.network.parameters() if p.grad is not None]
        tensors += [value for state in trainer.optimizer.state.values() for value in state.values()]
        local = [tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors]
        held.append(sum(tensor.numel() * tensor.element_size() for tensor in local))
        limit(trainer, step)

    with mock.patch.multiple(Trainer, check=noted_loss, limit_gradients=noted_bytes):
        tiny_run(out, **changes)
    return {"losses": losses, "held": held[-1]}


def as_started() -> None:
    """The variables of torchrun, of the group that there is."""
    rank, size = str(dist.get_rank()), str(dist.get_world_size())
    os.environ.update(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=size, LOCAL_WORLD_SIZE=size)


class Block(nn.Module):
    def __init__(self, before: int, after: int):
        super().__init__()
        self.norm, self.layer = nn.BatchNorm1d(before), nn.Linear(before, after)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.layer(self.norm(x)))


def blocks() -> nn.Module:
    """A small encoder that is taken apart into blocks."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Sequential(Block(192, 32), Block(32, 16)))


FEW: dict[str, Any] = {**RUN, "backbone": None, "set": [*SETTINGS, "network.freeze_patches=false"]}


def test_two_ranks_in_shards_go_on_with_what_one_process_left_and_what_does_not_fit_is_told(tmp_path, monkeypatch):
    one = tiny_run(tmp_path / "one", **FEW, encoder=blocks())
    crashed_run(monkeypatch, 3, tmp_path / "left", **FEW, encoder=blocks())
    told, held = ranks.run(refused_and_resumed, 2, str(tmp_path))[0]
    assert apart(weights(one), weights(tmp_path / "left"), blocks().state_dict()) < 0.01
    for a, b in zip(lines(one / "metrics.jsonl"), lines(tmp_path / "left" / "metrics.jsonl"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
        assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=1e-4)
    whole, shards = (torch.load(checkpoints(run)[-1], weights_only=True) for run in (one, tmp_path / "left"))
    assert shapes(shards) == shapes(whole)
    moments = sum(v.numel() for state in whole["optimizer"]["state"].values() for v in state.values() if v.ndim)
    network = sum(v.numel() for v in whole["network"].values())
    assert held / (4 * (network + 1.5 * moments)) == pytest.approx(0.5, rel=0.15)
    for setting, words in REFUSED.items():
        assert told[setting] == f"--strategy fsdp: {words}; or use ddp."
    assert "single numbers" in told["a number"]
    assert not (tmp_path / "run").exists()


def refused_and_resumed(folder: str) -> tuple[dict[str, str], int]:
    told = refused(folder)
    return told, noted_run(Path(folder, "left"), **FEW, encoder=blocks(), strategy="fsdp", resume=True)["held"]


def in_shards(folder: str) -> dict[str, Any]:
    """A run, one that goes on with what one process left, and one that is left."""
    as_started()
    found = noted_run(Path(folder, "two"), **RUN, strategy="fsdp")
    tiny_run(Path(folder, "left by one"), **RUN, strategy="fsdp", resume=True)
    with pytest.MonkeyPatch.context() as patch:
        crashed_run(patch, 3, Path(folder, "left by two"), **RUN, strategy="fsdp", checkpoint_activations=True)
    return found


@pytest.mark.slow
def test_two_ranks_in_shards_are_one_process_and_each_resumes_what_the_other_left(tmp_path, monkeypatch):
    whole = noted_run(tmp_path / "one", **RUN)
    crashed_run(monkeypatch, 3, tmp_path / "left by one", **RUN)
    shards = ranks.run(in_shards, 2, str(tmp_path))
    tiny_run(tmp_path / "left by two", **RUN, resume=True)
    for found in shards:
        assert found["losses"] == pytest.approx(whole["losses"], abs=1e-5)
        assert found["held"] / whole["held"] == pytest.approx(0.5, rel=0.15)
    for name in ("two", "left by one", "left by two"):
        run = tmp_path / name
        assert apart(weights(tmp_path / "one"), weights(run), untrained_encoder("test_vit")) < 0.01, name
        for a, b in zip(lines(run / "metrics.jsonl"), lines(tmp_path / "one" / "metrics.jsonl"), strict=True):
            assert (a["step"], a["loss"]) == (b["step"], pytest.approx(b["loss"], abs=1e-5)), name
            assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=1e-4), name
    one, two = (torch.load(checkpoints(tmp_path / name)[-1], weights_only=True) for name in ("one", "two"))
    assert shapes(two) == shapes(one)


@torch.no_grad()
def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], start: dict[str, torch.Tensor]) -> float:
    """How far the weights of two runs lie apart, as a share of the way that one of them went; of tensors, the most."""
    assert one.keys() == other.keys() == start.keys()
    names = [name for name in one if one[name].is_floating_point() and not name.endswith(LOOSE)]
    names = [name for name in names if not torch.equal(one[name], start[name])]
    return max(float((other[name] - one[name]).norm() / (one[name] - start[name]).norm()) for name in names)


def shapes(state: Any) -> Any:
    """What a state consists of."""
    if isinstance(state, dict):
        return {name: shapes(value) for name, value in state.items()}
    return tuple(state.shape) if isinstance(state, torch.Tensor) else type(state)


SMALL: dict[str, Any] = {
    "recipe": "small-vit", "backbone": "vit_small_patch16_224", "method": "mec", "limit": 160, "batch_size": 16,
    "epochs": 1, "set": ["views.size=16", "network.projector=[256,16]", "precision=fp32"],
}  # fmt: skip


def both_ways(folder: str) -> dict[str, Any]:
    as_started()
    return {way: noted_run(Path(folder, way), **SMALL, strategy=way) for way in ("ddp", "fsdp")}


@pytest.mark.slow
def test_four_ranks_train_a_vit_s_in_shards_as_by_ddp_and_hold_a_quarter(tmp_path):
    for found in ranks.run(both_ways, 4, str(tmp_path), timeout=1800):
        assert len(found["ddp"]["losses"]) == 10
        assert found["fsdp"]["losses"] == pytest.approx(found["ddp"]["losses"], abs=1e-5)
        assert found["fsdp"]["held"] / found["ddp"]["held"] == pytest.approx(0.25, rel=0.15)
    start = untrained_encoder(SMALL["backbone"], 16)
    assert apart(weights(tmp_path / "ddp"), weights(tmp_path / "fsdp"), start) < 0.01


def by_lars(folder: str, strategy: str) -> dict[str, Any]:
    as_started()
    return noted_run(Path(folder, strategy), **LARS, strategy=strategy)


LARS: dict[str, Any] = {"recipe": "digits", "backbone": "resnet10-tiny", "limit": 64, "epochs": 3}
LARS["set"] = [
    "views.size=8",
    "network.projector=[32,16]",
    "precision=fp32",
    "optimizer.name=lars",
    "micro_batch_size=8",
]


@pytest.mark.slow
def test_lars_batch_norms_and_micro_batches_are_the_same_in_shards(tmp_path):
    """Its rate is by the norms of whole tensors."""
    ddp, fsdp = (ranks.run(by_lars, 2, str(tmp_path), way)[0] for way in ("ddp", "fsdp"))
    assert fsdp["losses"] == pytest.approx(ddp["losses"], abs=1e-5)
    one, other = weights(tmp_path / "ddp"), weights(tmp_path / "fsdp")
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, atol=1e-4, rtol=1e-3, msg=name)


# --- blocks that compute twice ---------------------------------------------------------------------------------


@pytest.mark.parametrize("micro", [[], ["micro_batch_size=16"]])
@pytest.mark.parametrize("backbone", ["test_vit", "resnet10-tiny"])  # the latter's batch norms note what they have seen
def test_blocks_that_compute_twice_train_the_same(tmp_path, backbone, micro):
    settings = ["views.size=8", "network.projector=[32,16]", "precision=fp32", *micro]
    about = {"recipe": "digits", "backbone": backbone, "limit": 32, "epochs": 2, "set": settings}
    once, again = counted_run(tmp_path / "once", **about), counted_run(tmp_path / "again", **about, twice=True)
    assert identical(weights(tmp_path / "once"), weights(tmp_path / "again"))
    assert again > once


def counted_run(out: Path, *, twice: bool = False, **about: Any) -> int:
    """A run; how often the last block of its encoder was called while training."""
    called = []

    def count(module: nn.Module, given: Any) -> None:
        called.append(isinstance(module, (timm.models.vision_transformer.Block, timm.models.resnet.BasicBlock)))

    with nn.modules.module.register_module_forward_pre_hook(count):
        tiny_run(out, **about, checkpoint_activations=twice)
    return sum(called)


def test_a_module_that_cannot_compute_twice_is_told_what_can(tmp_path):
    with pytest.raises(BadInput, match=r"--checkpoint-activations: custom has no set_grad_checkpointing"):
        tiny_run(tmp_path / "run", encoder=nn.Sequential(nn.Flatten(), nn.Linear(192, 8)), checkpoint_activations=True)
    assert not (tmp_path / "run").exists()


# --- what does not go with shards --------------------------------------------------------------------------------


REFUSED = {
    "optimizer.name=muon": "optimizer.name is muon, which turns whole kernels: --set optimizer.name=sgd",
    "optimizer.average=0.9": "optimizer.average is 0.9: --set optimizer.average=0",
    "swav": "the objective of swav trains prototypes: take another --method",
}


class Numbered(nn.Linear):
    """With a parameter that is a single number."""

    def __init__(self):
        super().__init__(192, 8)
        self.number = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.flatten(1)) * self.number


def refused(folder: str) -> dict[str, str]:
    """What each rank is told."""
    as_started()
    about: dict[str, dict[str, Any]] = {setting: {"set": ["views.size=8", setting]} for setting in REFUSED}
    about |= {"swav": {"method": "swav"}, "a number": {"encoder": Numbered()}}
    told = {}
    for name, more in about.items():
        with pytest.raises(BadInput) as error:
            tiny_run(Path(folder, "run"), strategy="fsdp", **{"set": ["views.size=8"], **more})
        told[name] = str(error.value)
    return told


def test_one_process_has_nothing_to_share_out(tmp_path):
    with pytest.raises(BadInput, match=r"--strategy fsdp in one process: start several"):
        tiny_run(tmp_path / "run", strategy="fsdp")
    assert not (tmp_path / "run").exists()
