"""Optimizers by name, and which parameters get weight decay, adaptation, and a learning rate of their own."""

from collections.abc import Iterable

import torch
from torch import nn

from mec.recipes.recipe import Optimizer


def build_optimizer(
    recipe: Optimizer, parameters: Iterable[nn.Parameter], predictor: Iterable[nn.Parameter] = (),
    old: Iterable[nn.Parameter] = (), old_rate: float = 1.0,
) -> torch.optim.Optimizer:  # fmt: skip
    """SGD, LARS or AdamW over two groups: matrices and kernels, and 1-d parameters (biases, norms).

    With `predictor_lr_constant` the parameters of `predictor` are two more groups, and so are those of `old`, whose
    rate is `old_rate` times the others'. LARS is timm's. It skips the layer-wise step where weight decay is 0 unless
    told `always_adapt`: matrices are told, and the 1-d group is left to plain SGD unless `decay_1d`. The learning rate
    is set anew at each step (`set_rates`)."""
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
            if chosen:
                groups.append(group)
    if recipe.name == "lars":
        from timm.optim.lars import Lars

        return Lars(
            groups, lr=recipe.base_lr, momentum=recipe.momentum, trust_coeff=recipe.trust, trust_clip=recipe.trust_clip
        )
    if recipe.name == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.base_lr, betas=(recipe.momentum, 0.999))
    return torch.optim.SGD(groups, lr=recipe.base_lr, momentum=recipe.momentum)


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
