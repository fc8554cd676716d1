"""Every method in the loop: accumulation, resuming with its memory, frozen prototypes; each from its row of data."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import ranks
import torch
from helpers import TINY, crashed_run, identical, lines, tiny_run, untrained_encoder, weights
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from mec.data.batches import Batch
from mec.errors import BadInput
from mec.networks.siamese import build_siamese
from mec.objectives.matched import unit_rows
from mec.objectives.methods import METHODS, Method
from mec.objectives.table import OBJECTIVES, over_pairs
from mec.recipes.recipe import Recipe, changed
from mec.recipes.table import RECIPES
from mec.runtime.checkpoints import checkpoints
from mec.runtime.distributed import ALONE, Ranks, current
from mec.training.optimizers import build_optimizer
from mec.training.plan import build_objective, with_method
from mec.training.trainer import Trainer, parameters_of

SMALL = ["network.projector=[12,8]", "batch_size=12", "precision=fp32"]
MEMORY = {"swav": ["settings.queue=24", "settings.prototypes=5"], "moco-v2": ["settings.queue=24"]}
TINY_MEMORY = {"swav": ["settings.queue=128", "settings.prototypes=8"], "moco-v2": ["settings.queue=128"]}


def small_recipe(method: str, *settings: str) -> Recipe:
    recipe = with_method(changed(RECIPES["digits"], SMALL), method)
    prototypes = ["network.prototypes=9"] if recipe.network.prototypes else []
    return changed(recipe, [*MEMORY.get(method, []), *prototypes, *settings])


class Plain(nn.Module):
    """An encoder without batch norm, so that rows do not know of each other."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 7))

    def forward(self, x):
        return self.layers(x)


def small_trainer(method: str, *settings: str, group: Ranks = ALONE) -> Trainer:
    """On the digits recipe's optimizer and the method's own heads, all in float64; no batch norm in it."""
    recipe = small_recipe(method, "network.projector_hidden=relu", "network.projector_output=linear", *settings)
    torch.manual_seed(0)
    heads = recipe.network
    network = build_siamese(heads, Plain(), 7).double()
    network.predictor = nn.Linear(8, 8).double() if heads.predictor else network.predictor
    objective, call = build_objective(recipe, network.embedding)
    if isinstance(objective, nn.Module):
        objective.double()
    optimizer = build_optimizer(recipe.optimizer, [*network.parameters(), *parameters_of(objective)])
    fabric = SimpleNamespace(
        device=torch.device("cpu"), strategy=None,
        setup_module=lambda network: network if group.size == 1 else DistributedDataParallel(network),
        setup_optimizers=lambda optimizer: optimizer,
        backward=lambda tensor, *rest: tensor.backward(*rest),
        no_backward_sync=lambda wrapped: wrapped.no_sync() if group.size > 1 else nullcontext(),
    )  # fmt: skip
    batches = SimpleNamespace(steps_per_epoch=2)
    trainer = Trainer(fabric, group, recipe, network, objective, call, optimizer, batches, seed=0)
    trainer.embed = lambda views, with_target=True: trainer.wrapped(views, with_target=with_target)  # in float64
    return trainer


def batch(step: int) -> Batch:
    generator = torch.Generator().manual_seed(step)
    return Batch(list(torch.randn(3, 12, 10, dtype=torch.float64, generator=generator)), torch.arange(12) % 8)


def gradients(trainer: Trainer) -> dict[str, torch.Tensor | None]:
    named = dict(trainer.network.named_parameters())
    if isinstance(trainer.objective, nn.Module):
        named |= dict(trainer.objective.named_parameters())
    return {name: p.grad for name, p in named.items() if p.requires_grad}


@pytest.mark.parametrize("micro", [11, 5, 4])  # of 12 rows; 11 does not leave one alone
@pytest.mark.parametrize("method", METHODS)
def test_micro_batches_give_the_loss_gradient_and_memory_of_the_whole_batch(method, micro):
    whole, parts = small_trainer(method), small_trainer(method, f"micro_batch_size={micro}")
    for step in range(3):
        for trainer in (whole, parts):
            trainer.optimizer.zero_grad()
        settings = whole.settings
        losses = [t.loss_and_gradient(batch(step), step, settings)[0] for t in (whole, parts)]
        assert_close(*losses, rtol=1e-10, atol=1e-12)
        expected = gradients(whole)
        assert any(g is not None and g.abs().max() > 0 for g in expected.values())
        assert_close(gradients(parts), expected, rtol=1e-8, atol=1e-11)
        if isinstance(whole.objective, nn.Module):
            assert_close(parts.objective.state_dict(), whole.objective.state_dict(), rtol=1e-10, atol=1e-12)


def three_steps(method: str, micro: int | None = None) -> dict[str, torch.Tensor]:
    """Losses, network and memory after three steps of the loop's own parts, on this rank's rows."""
    group = current()
    settings = [] if micro is None else [f"micro_batch_size={micro}"]
    trainer = small_trainer(method, "optimizer.base_lr=5", *settings, group=group)
    losses = []
    for step in range(3):
        whole, rows = batch(step), group.share(12)
        part = Batch([view[rows] for view in whole.views], None if whole.labels is None else whole.labels[rows])
        losses.append(trainer.loss_and_gradient(part, step, trainer.at(step, 10)["settings"])[0])
        trainer.set_lr(0.1)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad(set_to_none=True)
        trainer.network.update_target(0.7)
    memory = trainer.objective.state_dict() if isinstance(trainer.objective, nn.Module) else {}
    return {"losses": torch.stack(losses), **trainer.network.state_dict(), **memory}


def three_steps_of_all() -> dict[str, dict[str, torch.Tensor]]:
    return {f"{method}, {micro}": three_steps(method, micro) for method in METHODS for micro in (None, 2)}


@pytest.fixture(scope="module")
def on_two_ranks():
    return ranks.run(three_steps_of_all, 2)


@pytest.mark.parametrize("method", METHODS)
def test_the_loop_on_two_ranks_trains_as_on_one_with_memory_and_in_micro_batches(method, on_two_ranks):
    expected = three_steps(method)
    for found in on_two_ranks:
        for micro in (None, 2):
            assert_close(found[f"{method}, {micro}"], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_scale_multiplies_the_gradient_and_leaves_the_loss_that_is_told(method):
    one, three = small_trainer(method, "settings.scale=1"), small_trainer(method, "settings.scale=3")
    losses = [t.loss_and_gradient(batch(0), 0, t.settings)[0] for t in (one, three)]
    assert_close(*losses)
    for name, gradient in gradients(one).items():
        if gradient is not None:
            assert_close(gradients(three)[name], 3 * gradient)


@pytest.mark.parametrize("method", ["swav", "dino"])
def test_prototypes_do_not_move_while_they_are_frozen_and_move_afterwards(method):
    trainer = small_trainer(method, "optimizer.freeze_prototypes_epochs=1", "optimizer.weight_decay=0.1")
    held = trainer.objective.prototypes if method == "swav" else trainer.network.projector[-1].prototypes
    moved = []
    for step in range(3):  # two steps an epoch
        before = nn.functional.normalize(held.detach(), dim=1)  # swav's are normalised in each step
        trainer.loss_and_gradient(batch(step), step, trainer.settings)
        trainer.limit_gradients(step)
        trainer.set_lr(0.1)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        moved.append(not torch.allclose(nn.functional.normalize(held.detach(), dim=1), before))
    assert moved == [False, False, True]


def test_gradients_are_clipped_tensor_by_tensor_where_the_recipe_says():
    trainer = small_trainer("dino", "optimizer.clip=0.01", "settings.scale=100")
    trainer.loss_and_gradient(batch(0), 0, trainer.settings)
    assert max(g.norm() for g in gradients(trainer).values() if g is not None) > 0.02
    trainer.limit_gradients(0)
    assert max(g.norm() for g in gradients(trainer).values() if g is not None) <= 0.0101


def tiny(method: str) -> list[str]:
    predictor = ["network.predictor=[8,16]"] if METHODS[method].predictor else []
    return [*TINY, *predictor, *TINY_MEMORY.get(method, [])]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["swav", "moco-v2", "dino", "unigrad"])
def test_a_run_cut_off_and_resumed_has_the_weights_and_memory_of_one_that_never_stopped(tmp_path, monkeypatch, method):
    options = {"method": method, "set": tiny(method)}
    whole = torch.load(checkpoints(tiny_run(tmp_path / "whole", **options))[-1], weights_only=True)
    crashed_run(monkeypatch, 5, tmp_path / "run", save_minutes=0, **options)  # a checkpoint after each step
    resumed = torch.load(checkpoints(tiny_run(tmp_path / "run", resume=True, **options))[-1], weights_only=True)
    assert whole["step"] == resumed["step"] == 6
    assert all(value.any() for name, value in whole["objective"].items() if name != "pointer")
    assert identical(resumed["objective"], whole["objective"])
    assert identical(resumed["network"], whole["network"])


def test_what_will_not_fit_late_in_a_run_is_told_at_its_start():
    recipe = changed(RECIPES["cifar10-swav"], ["batch_size=512"])  # a queue of 3840, used from epoch 50 on
    with pytest.raises(BadInput, match="queue 3840 with batches of 512"):
        build_objective(recipe, 128)


def test_a_network_of_supervised_gives_a_logit_a_class(tmp_path):
    out = tiny_run(tmp_path / "run", method="supervised", set=["views.size=8"])
    state = torch.load(checkpoints(out)[-1], weights_only=True)["network"]
    assert [tuple(v.shape) for k, v in state.items() if k.startswith("projector")] == [(10, 256), (10,)]


def test_supervised_without_labels_says_where_they_would_come_from(digit_folder, tmp_path):
    with pytest.raises(BadInput, match="method supervised learns from labels, and there are none"):
        tiny_run(tmp_path / "run", data=str(digit_folder), method="supervised", set=["views.size=8"])


def test_changing_the_method_takes_its_heads_and_leaves_none_of_the_old_ones():
    dino = with_method(RECIPES["digits"], "dino")
    assert (dino.network.prototypes, dino.network.target) == (1024, "momentum")
    back = with_method(dino, "mec-joint")
    assert back.network == RECIPES["digits"].network


@pytest.mark.parametrize("name", [name for name in RECIPES if not name.endswith("supervised")])  # these have one view
def test_a_method_on_another_s_recipe_has_the_heads_and_optimizer_flags_that_it_has_by_default(name):
    """A projector without batch norm, a clipped gradient or a frozen layer would stay behind and handicap it."""
    for method in METHODS:
        if method == RECIPES[name].method:
            continue
        found, plain = with_method(RECIPES[name], method), with_method(replace(RECIPES["digits"], method=""), method)
        for part, other, fields in (
            (
                found.network,
                plain.network,
                "projector_hidden projector_output prototypes predictor_bias views_together",
            ),
            (found.optimizer, plain.optimizer, "clip freeze_prototypes_epochs predictor_lr_constant"),
        ):
            for field in fields.split():
                assert getattr(part, field) == getattr(other, field), (method, field)


def test_the_target_network_follows_by_the_momentum_of_each_step_after_the_optimizer_s(tmp_path):
    """With steps so large that an average of the weights before them would be another one."""
    settings = ["optimizer.base_lr=5", "network.target_momentum=0.6", "network.target_momentum_end=0.9", *tiny("byol")]
    out = tiny_run(tmp_path / "run", method="byol", set=settings, save_minutes=0, epochs=1)  # three steps
    steps = [torch.load(path, weights_only=True)["network"] for path in checkpoints(out)]
    assert [path.stem for path in checkpoints(out)] == ["step-2", "step-3"]  # the last two are kept
    momentum = 0.9 - 0.3 * (1 + math.cos(math.pi * 2 / 3)) / 2  # of step 2, the third, of three
    averaged = [name for name, _ in untrained_encoder(RECIPES["digits"].network.backbone).items()]
    for name in averaged:
        before, after, online = steps[0][f"target_encoder.{name}"], steps[1][f"target_encoder.{name}"], steps[1]
        expected = momentum * before + (1 - momentum) * online[f"encoder.{name}"]
        assert_close(after, expected, rtol=1e-5, atol=1e-7)
    assert any((steps[1][f"target_encoder.{n}"] - steps[0][f"target_encoder.{n}"]).abs().max() > 0.01 for n in averaged)


def test_dino_keeps_its_teacher_and_the_others_what_they_train(tmp_path):
    for method, kept in (("dino", "target_encoder."), ("byol", "encoder.")):
        out = tiny_run(tmp_path / method, method=method, set=tiny(method))
        network = torch.load(checkpoints(out)[-1], weights_only=True)["network"]
        stored = weights(out)
        assert not torch.equal(network["encoder.conv1.weight"], network["target_encoder.conv1.weight"])
        for name, value in stored.items():
            assert torch.equal(value, network[kept + name]), (method, name)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("settings.temperature=l2", "settings.temperature is 'l2': it takes a number above 0."),
        ("settings.temperature=null", "settings.temperature is None: it takes a number above 0."),
        ('settings.temperature={"start": 1, "end": null, "epochs": 3}', "settings.temperature"),
        ('settings.temperature={"start": 1, "end": 2, "epochs": 0}', "settings.temperature"),
    ],
)
def test_a_setting_of_another_type_is_refused_by_name(setting, message):
    with pytest.raises(BadInput) as caught:
        build_objective(changed(with_method(RECIPES["digits"], "simclr"), [setting]), 8)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(("method", "widths"), [("simsiam", (64, 128)), ("byol", (512, 128)), ("simclr", ())])
def test_predictors_are_narrow_or_as_wide_as_the_projector(method, widths):
    assert RECIPES["digits"].network.projector == (512, 128)
    assert with_method(RECIPES["digits"], method).network.predictor == widths
    paper = RECIPES["imagenet-100ep"]
    assert with_method(paper, "mec-exact").network == paper.network  # (512, 2048), as published


def test_a_toy_method_takes_one_function_and_two_table_rows(tmp_path, monkeypatch):
    """As docs/architecture.md shows it."""

    def squared_distance(online, target):
        return (unit_rows(online) - unit_rows(target)).square().sum(1).mean()

    monkeypatch.setitem(OBJECTIVES, "squared_distance", over_pairs(squared_distance))
    monkeypatch.setitem(METHODS, "toy", Method("squared_distance", predictor="wide", target="momentum"))
    out = tiny_run(tmp_path / "run", method="toy", set=[*TINY, "network.predictor=[8,16]"])
    assert all(0 < line["loss"] < 4 for line in lines(out / "metrics.jsonl"))
