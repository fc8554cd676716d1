"""Optimizers by name, and which parameters get weight decay and adaptation."""

from collections.abc import Iterable

import torch
from torch import nn

from mec.recipe import Optimizer


def build_optimizer(recipe: Optimizer, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """SGD, LARS or AdamW over two groups: matrices and kernels, and 1-d parameters (biases, norms).

    LARS is timm's. It skips the layer-wise step where weight decay is 0 unless told `always_adapt`: matrices are told,
    and the 1-d group is left to plain SGD unless `decay_1d`. The learning rate is set anew at each step.
    """
    trained = [p for p in parameters if p.requires_grad]
    wide = {"params": [p for p in trained if p.ndim > 1], "weight_decay": recipe.weight_decay, "always_adapt": True}
    flat = {
        "params": [p for p in trained if p.ndim <= 1],
        "weight_decay": recipe.weight_decay if recipe.decay_1d else 0.0,
        "always_adapt": recipe.decay_1d,
    }
    groups = [group for group in (wide, flat) if group["params"]]
    if recipe.name == "lars":
        from timm.optim.lars import Lars

        return Lars(groups, lr=recipe.base_lr, momentum=recipe.momentum, trust_coeff=recipe.trust)
    groups = [{k: v for k, v in group.items() if k != "always_adapt"} for group in groups]
    if recipe.name == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.base_lr, betas=(recipe.momentum, 0.999))
    return torch.optim.SGD(groups, lr=recipe.base_lr, momentum=recipe.momentum)
