"""Optimizers by name, and which parameters get weight decay, adaptation, and a learning rate of their own."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from mec.recipes.recipe import Optimizer
from mec.runtime.machine import has_bf16_units

# Three rounds that take singular values towards 1, of timm's five: a third of the cost, and no worse in short trials.
ROUNDS = [(4.0848, -6.8946, 2.9270), (3.9505, -6.3029, 2.6377), (3.7418, -5.5913, 2.3037)]


def build_optimizer(
    recipe: Optimizer, parameters: Iterable[nn.Parameter], predictor: Iterable[nn.Parameter] = (),
    old: Iterable[nn.Parameter] = (), old_rate: float = 1.0,
) -> torch.optim.Optimizer:  # fmt: skip
    """SGD, LARS, AdamW or Muon over groups: matrices and kernels, 1-d parameters (biases, norms), kernels for Muon.

    With `predictor_lr_constant` the parameters of `predictor` are groups apart, and so are those of `old`, whose
    rate is `old_rate` times the others'. LARS is timm's. It skips the layer-wise step where weight decay is 0 unless
    told `always_adapt`: matrices are told, and the 1-d group is left to plain SGD unless `decay_1d`. The learning rate
    is set anew at each step (`set_rates`)."""
    apart = {id(p) for p in predictor} if recipe.predictor_lr_constant else set()
    kept = {id(p) for p in old}
    rates = {"matrix": recipe.base_lr, "1-d": recipe.base_lr_1d, "kernel": recipe.base_lr_kernels}

    def key(p: nn.Parameter) -> tuple[bool, bool, str]:
        turned = recipe.name == "muon" and p.ndim == 4 and p.shape[1] > 3  # one that sees colours has little to turn
        return id(p) in apart, id(p) in kept, "1-d" if p.ndim <= 1 else "kernel" if turned else "matrix"

    trained, groups = [p for p in parameters if p.requires_grad], []
    for constant, given in ((False, False), (False, True), (True, False)):
        for kind, rate in rates.items():
            chosen = [p for p in trained if key(p) == (constant, given, kind)]
            plain = kind == "1-d" and not recipe.decay_1d
            ratio = (1.0 if rate is None else rate / recipe.base_lr) * (old_rate if given else 1.0)
            decay = 0.0 if plain else recipe.weight_decay
            group = {"params": chosen, "weight_decay": decay, "lr_ratio": ratio, "lr_constant": constant}
            group |= {"always_adapt": not plain} if recipe.name == "lars" else {}
            group |= {"turned": kind == "kernel"} if recipe.name == "muon" else {}
            if chosen:
                groups.append(group)
    if recipe.name == "lars":
        from timm.optim.lars import Lars

        trust: dict[str, Any] = {"trust_coeff": recipe.trust, "trust_clip": recipe.trust_clip}
        return Lars(groups, lr=recipe.base_lr, momentum=recipe.momentum, **trust)
    if recipe.name == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.base_lr, betas=(recipe.momentum, 0.999))
    return (Muon if recipe.name == "muon" else torch.optim.SGD)(groups, lr=recipe.base_lr, momentum=recipe.momentum)


class Muon(torch.optim.SGD):
    """SGD, but for groups marked `turned`: a step of rate r goes r times a tensor's norm against the matrix [out, rest]
    with all singular values alike that is nearest to the momentum, and the norm stays that of the first step.

    Source: Jordan et al., "Muon" (2024), by timm's Newton-Schulz iteration, in bf16 where the device has units for it,
    whatever the recipe's precision; steps relative to a kept norm are ours."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        from timm.optim.muon import zeropower_via_newtonschulz as alike

        for group in self.param_groups:
            for p in (p for p in group["params"] if group["turned"] and p.grad is not None):
                state = self.state[p]
                if not state:
                    state.update(momentum_buffer=torch.zeros_like(p), norm=p.norm())
                mean = state["momentum_buffer"].lerp_(p.grad, 1 - group["momentum"])
                ahead = p.grad.lerp(mean, group["momentum"]).flatten(1)
                dtype = torch.bfloat16 if has_bf16_units(p.device.type) else p.dtype
                turn = alike(ahead, len(ROUNDS), ROUNDS, dtype=dtype).to(p.dtype).reshape(p.shape)
                p.sub_(turn * (group["lr"] * state["norm"] / (turn.norm() + 1e-7)))
                p.mul_(state["norm"] / (p.norm() + 1e-7))
                p.grad = None  # SGD passes over it
        return super().step(closure)


def set_rates(optimizer: torch.optim.Optimizer, lr: float, peak: float) -> None:
    """The rate of a step in each group, at its ratio; groups that are constant stay at the peak. 0 is 0 for all."""
    for group in optimizer.param_groups:
        group["lr"] = group["lr_ratio"] * (peak if group["lr_constant"] and lr else lr)


@torch.no_grad()
def clip_each(parameters: Iterable[nn.Parameter], most: float) -> None:
    """Gradients of single tensors shortened to a norm of `most`, in place (DINO clips so)."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_((most / (parameter.grad.norm() + 1e-6)).clamp(max=1.0))
