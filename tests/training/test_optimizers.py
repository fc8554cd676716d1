"""Judges: SGD and LARS restated, as plain arithmetic in float64."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from mec.recipes.recipe import Optimizer
from mec.recipes.table import RECIPES
from mec.training.optimizers import build_optimizer, clip_each, set_rates

RATES = [0.1, 0.8, 0.4, 0.2, 0.05]  # it changes from step to step, as under a schedule


def parameters() -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    kernel, matrix = (torch.randn(*s, dtype=torch.float64, generator=generator) for s in ((4, 3, 2, 2), (5, 4)))
    flat = {"zero bias": torch.zeros(4), "gain": torch.ones(4), "bias": torch.full((3,), 0.3)}
    return {name: nn.Parameter(x.double()) for name, x in {"kernel": kernel, "matrix": matrix, **flat}.items()}


def gradients(step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return {name: torch.randn(p.shape, dtype=p.dtype, generator=generator) for name, p in parameters().items()}


def stepped(recipe: Optimizer) -> dict[str, torch.Tensor]:
    """The parameters after five steps of the product's optimizer."""
    held = parameters()
    optimizer = build_optimizer(recipe, held.values())
    for step, lr in enumerate(RATES):
        for group in optimizer.param_groups:
            group["lr"] = lr
        for name, gradient in gradients(step).items():
            held[name].grad = gradient
        optimizer.step()
    return {name: p.detach() for name, p in held.items()}


def restated(decay, adapt, trust=0.001, momentum=0.9) -> dict[str, torch.Tensor]:
    """LARS, with decay and adapt as functions of a parameter's number of dimensions."""
    values = {name: p.detach().clone() for name, p in parameters().items()}
    speed = {name: torch.zeros_like(p) for name, p in values.items()}
    for step, lr in enumerate(RATES):
        for name, g in gradients(step).items():
            p, wd = values[name], decay(values[name].ndim)
            if adapt(p.ndim):
                if p.norm() != 0 and g.norm() != 0:
                    a = trust * p.norm() / (g.norm() + wd * p.norm() + 1e-8)
                    g = (g + wd * p) * a
            else:
                g = g + wd * p
            speed[name] = momentum * speed[name] + g
            values[name] = p - lr * speed[name]
    return values


@pytest.mark.parametrize("weight_decay", [0.0, 1.5e-6, 0.1])
@pytest.mark.parametrize("decay_1d", [True, False])
def test_lars_is_larc_without_clip_also_where_weight_decay_is_0(weight_decay, decay_1d):
    found = stepped(Optimizer("lars", weight_decay=weight_decay, decay_1d=decay_1d))
    expected = restated(lambda n: weight_decay if decay_1d or n > 1 else 0.0, lambda n: decay_1d or n > 1)
    assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_lars_moves_a_zero_bias_unscaled_in_its_first_step():
    bias = nn.Parameter(torch.zeros(3))
    optimizer = build_optimizer(Optimizer("lars", base_lr=0.5, weight_decay=0.0, decay_1d=True), [bias])
    bias.grad = torch.tensor([1.0, -2.0, 4.0])
    optimizer.step()
    assert_close(bias.detach(), torch.tensor([-0.5, 1.0, -2.0]))


@pytest.mark.parametrize("trust", [0.001, 0.02])
def test_lars_takes_the_trust_coefficient_of_the_recipe(trust):
    found = stepped(Optimizer("lars", weight_decay=1e-3, decay_1d=True, trust=trust))
    assert_close(found, restated(lambda n: 1e-3, lambda n: True, trust), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("decay_1d", [True, False])
def test_sgd_decays_biases_and_norms_only_if_told(decay_1d):
    found = stepped(Optimizer("sgd", weight_decay=0.1, decay_1d=decay_1d))
    expected = restated(lambda n: 0.1 if decay_1d or n > 1 else 0.0, lambda n: False)
    assert_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["sgd", "adamw", "lars", "muon"])
@pytest.mark.parametrize("decay_1d", [True, False])
def test_every_trained_parameter_is_in_one_group_and_frozen_ones_in_none(name, decay_1d):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    model[3].requires_grad_(False)
    optimizer = build_optimizer(Optimizer(name, weight_decay=0.1, decay_1d=decay_1d), model.parameters())
    assert isinstance(optimizer, torch.optim.Optimizer)
    held = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(held)
    trained = {id(p): p for p in model.parameters() if p.requires_grad}
    assert held.keys() == trained.keys()
    for key, p in trained.items():
        assert held[key]["weight_decay"] == (0.1 if p.ndim > 1 or decay_1d else 0)


def test_adamw_is_torch_s_with_the_recipe_s_momentum_as_its_first_beta():
    recipe = Optimizer("adamw", base_lr=1e-3, momentum=0.85, weight_decay=0.1, decay_1d=True)
    held = parameters()
    judge = torch.optim.AdamW(held.values(), betas=(0.85, 0.999), weight_decay=0.1)
    for step, lr in enumerate(RATES):
        judge.param_groups[0]["lr"] = lr
        for name, gradient in gradients(step).items():
            held[name].grad = gradient
        judge.step()
    assert_close(stepped(recipe), {name: p.detach() for name, p in held.items()})


def test_a_model_of_one_kind_of_parameter_is_one_group():
    assert len(build_optimizer(Optimizer(), nn.Linear(3, 2, bias=False).parameters()).param_groups) == 1


def test_the_800_epoch_recipe_leaves_norms_and_biases_to_plain_sgd():
    # As Barlow Twins and BYOL; the 100-epoch recipe decays all, as released.
    assert RECIPES["imagenet-800ep"].optimizer.decay_1d is False
    assert RECIPES["imagenet-100ep"].optimizer.decay_1d is True


def test_rates_of_biases_and_of_a_constant_predictor_follow_the_recipe():
    network, head = nn.Linear(4, 3), nn.Linear(3, 3)
    recipe = Optimizer(base_lr=0.4, base_lr_1d=0.1, predictor_lr_constant=True)
    optimizer = build_optimizer(recipe, [*network.parameters(), *head.parameters()], head.parameters())
    rate = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for lr, expected in ((0.2, (0.2, 0.05, 0.4, 0.1)), (0.0, (0, 0, 0, 0))):
        set_rates(optimizer, lr, peak=0.4)
        parameters = (network.weight, network.bias, head.weight, head.bias)
        assert [rate[id(p)]["lr"] for p in parameters] == pytest.approx(list(expected))


def test_clipped_lars_never_steps_further_than_the_global_rate():
    # solo-learn's clip_lr: the layer-wise rate over the global one, at most 1.
    weight = nn.Parameter(torch.full((2, 2), 100.0))
    optimizer = build_optimizer(
        Optimizer("lars", base_lr=0.5, weight_decay=0.0, trust=0.02, trust_clip=True, momentum=0.0), [weight]
    )
    for size in (1e-3, 1e3):
        before, weight.grad = weight.detach().clone(), torch.full((2, 2), size)
        local = 0.02 * before.norm() / weight.grad.norm()
        optimizer.step()
        step = 0.5 * min(float(local) / 0.5, 1.0) * weight.grad
        assert_close(weight.detach(), before - step)


def test_clipping_shortens_single_gradients_as_torch_does_one_by_one():
    held = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(1))]
    held[0].grad, held[1].grad = torch.tensor([3.0, 4.0, 0.0]), torch.full((2, 2), 0.5)
    expected = [p.grad.clone() for p in held[:2]]
    for gradient in expected:
        fake = nn.Parameter(torch.zeros_like(gradient))
        fake.grad = gradient
        nn.utils.clip_grad_norm_([fake], 3.0)
    clip_each(held, 3.0)
    assert_close([p.grad for p in held[:2]], expected)
    assert expected[0].norm() == pytest.approx(3.0, rel=1e-5)
    assert expected[1].norm() == 1.0


def test_muon_turns_kernels_by_its_share_of_their_norm_and_leaves_the_rest_to_sgd():
    generator = torch.Generator().manual_seed(1)
    kernel = nn.Parameter(torch.randn(8, 6, 3, 3, dtype=torch.float64, generator=generator))
    others = {"first": torch.randn(8, 3, 3, 3), "matrix": torch.randn(5, 8), "bias": torch.randn(5)}
    held, plain = ({n: nn.Parameter(x.double()) for n, x in others.items()} for _ in range(2))
    recipe = Optimizer("muon", base_lr=0.5, base_lr_kernels=0.1, momentum=0.0, weight_decay=0.1)
    optimizer = build_optimizer(recipe, [kernel, *held.values()])
    judge = build_optimizer(replace(recipe, name="sgd"), plain.values())
    start, gradient = kernel.detach().clone(), torch.randn(8, 6, 3, 3, dtype=torch.float64, generator=generator)
    for each, own in ((optimizer, held), (judge, plain)):
        set_rates(each, 0.25, peak=0.25)
        for p in own.values():
            p.grad = p.detach().cos()
    kernel.grad = gradient.clone()
    optimizer.step(), judge.step()
    assert_close(held, plain, rtol=0, atol=0)
    assert_close(kernel.norm(), start.norm())
    u, _, v = torch.linalg.svd(gradient.flatten(1), full_matrices=False)
    turn = 0.05 * start.norm() * (u @ v) / (u @ v).norm()  # all singular values alike
    ahead = start.flatten(1) - turn
    exact = ahead * start.norm() / ahead.norm() - start.flatten(1)
    moved = (kernel.detach() - start).flatten(1)
    assert (moved * exact).sum() / (moved.norm() * exact.norm()) > 0.97  # three rounds of the iteration are near it
    assert moved.norm() / exact.norm() == pytest.approx(1, abs=0.05)


def test_muon_goes_on_from_its_state_as_if_it_had_not_stopped():
    def network() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(6, 2))

    def steps(net: nn.Module, optimizer: torch.optim.Optimizer, seeds: range) -> None:
        for seed in seeds:
            x = torch.randn(5, 4, 3, 3, generator=torch.Generator().manual_seed(seed))
            net(x).square().sum().backward()
            set_rates(optimizer, 0.1, peak=0.1)
            optimizer.step()
            optimizer.zero_grad()

    recipe = Optimizer("muon", base_lr=0.2)
    whole, first, second = network(), network(), network()
    steps(whole, build_optimizer(recipe, whole.parameters()), range(4))
    before = build_optimizer(recipe, first.parameters())
    steps(first, before, range(2))
    second.load_state_dict(first.state_dict())
    after = build_optimizer(recipe, second.parameters())
    after.load_state_dict(before.state_dict())
    steps(second, after, range(2, 4))
    assert_close(dict(second.named_parameters()), dict(whole.named_parameters()), rtol=0, atol=0)
