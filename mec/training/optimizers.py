"""Optimizers by name, and which parameters get weight decay, adaptation, and a learning rate of their own."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from mec.recipes.recipe import Optimizer

# Of an iteration on singular values that takes them near 1 in few rounds; three rounds of timm's five: a third of the
# cost, and not worse in short trials.
ITERATIONS = 3
COEFFICIENTS = [(4.0848, -6.8946, 2.9270), (3.9505, -6.3029, 2.6377), (3.7418, -5.5913, 2.3037)]


def build_optimizer(
    recipe: Optimizer, parameters: Iterable[nn.Parameter], predictor: Iterable[nn.Parameter] = (),
    old: Iterable[nn.Parameter] = (), old_rate: float = 1.0,
) -> torch.optim.Optimizer:  # fmt: skip
    """SGD, LARS, AdamW or Muon over two groups: matrices and kernels, and 1-d parameters (biases, norms).

    With `predictor_lr_constant` the parameters of `predictor` are two more groups, and so are those of `old`, whose
    rate is `old_rate` times the others'. LARS is timm's. It skips the layer-wise step where weight decay is 0 unless
    told `always_adapt`: matrices are told, and the 1-d group is left to plain SGD unless `decay_1d`. With Muon kernels
    are groups of their own. The learning rate is set anew at each step (`set_rates`)."""
    apart = {id(p) for p in predictor} if recipe.predictor_lr_constant else set()
    kept = {id(p) for p in old}
    trained = [p for p in parameters if p.requires_grad]
    groups = []
    for constant, given in ((False, False), (False, True), (True, False)):
        for flat in (False, True):
            chosen = [p for p in trained if (id(p) in apart, id(p) in kept, p.ndim <= 1) == (constant, given, flat)]
            plain = flat and not recipe.decay_1d
            ratio = recipe.base_lr_1d / recipe.base_lr if flat and recipe.base_lr_1d is not None else 1.0
            ratio *= old_rate if given else 1.0
            decay = 0.0 if plain else recipe.weight_decay
            group = {"params": chosen, "weight_decay": decay, "lr_ratio": ratio, "lr_constant": constant}
            if recipe.name == "lars":
                group["always_adapt"] = not plain
            turned = [p for p in chosen if recipe.name == "muon" and is_kernel(p)]
            if turned:
                ratio = recipe.base_lr_kernels / recipe.base_lr * (old_rate if given else 1.0)
                groups.append({**group, "params": turned, "lr_ratio": ratio, "orthogonal": True})
                group["params"] = [p for p in chosen if not is_kernel(p)]
            if group["params"]:
                groups.append(group)
    if recipe.name == "muon":
        return Muon(groups, lr=recipe.base_lr, momentum=recipe.momentum)
    if recipe.name == "lars":
        from timm.optim.lars import Lars

        return Lars(
            groups, lr=recipe.base_lr, momentum=recipe.momentum, trust_coeff=recipe.trust, trust_clip=recipe.trust_clip
        )
    if recipe.name == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.base_lr, betas=(recipe.momentum, 0.999))
    return torch.optim.SGD(groups, lr=recipe.base_lr, momentum=recipe.momentum)


def is_kernel(parameter: nn.Parameter) -> bool:
    """Whether it is a convolution's, of more inputs than colours: those of a first layer, and of one channel each, have
    little to turn."""
    return parameter.ndim == 4 and parameter.shape[1] > 3


class Muon(torch.optim.SGD):
    """SGD with momentum, but for groups marked `orthogonal`: their tensors turn. A step of rate r goes r times the
    tensor's norm along the matrix with all singular values alike that is nearest to the momentum (Nesterov's, [out,
    rest]), and the norm stays what it was at the first step: of a layer before a norm only the direction counts.

    Source: Jordan et al., "Muon" (2024), by timm's Newton-Schulz iteration; steps relative to a kept norm are ours."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        from timm.optim.muon import zeropower_via_newtonschulz as alike

        for group in self.param_groups:
            for p in group["params"] if group.get("orthogonal") else ():
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state.update(momentum_buffer=torch.zeros_like(p), norm=p.norm())
                mean = state["momentum_buffer"].lerp_(p.grad, 1 - group["momentum"])
                ahead = p.grad.lerp(mean, group["momentum"]).flatten(1)
                turn = alike(ahead, ITERATIONS, COEFFICIENTS, dtype=ahead.dtype).reshape(p.shape)
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
