"""Projector, predictor, and a last layer of cosines with prototypes."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mec.recipes.recipe import Hidden, Output


def projector(
    features: int, widths: tuple[int, ...], *, hidden: Hidden = "bn-relu", output: Output = "bn", prototypes: int = 0
) -> nn.Module:
    """Linear-BN-ReLU a layer, the last Linear-BN without affine; layers before a BN have no bias, it would cancel it.

    With `hidden` gelu or bn-gelu, weights start as DINO's; `output` is bn (without affine), bn-affine, linear (without
    bias) or linear-bias. With `prototypes` above 0, cosines with so many rows come last.

    Source: the released code's sizes and layers (protocol: three layers, 2048 wide); paper, appendix C."""
    layers: list[nn.Module] = []
    for width in widths[:-1]:
        norm = hidden.startswith("bn")
        layers += [nn.Linear(features, width, bias=not norm), *([nn.BatchNorm1d(width)] if norm else [])]
        layers.append(nn.GELU() if hidden.endswith("gelu") else nn.ReLU(inplace=True))
        features = width
    if widths:
        layers.append(nn.Linear(features, widths[-1], bias=output == "linear-bias"))
        features = widths[-1]
        if output.startswith("bn"):
            layers.append(nn.BatchNorm1d(features, affine=output == "bn-affine"))
    if hidden.endswith("gelu"):
        for layer in layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
    if prototypes:
        layers.append(Cosines(features, prototypes))
    return nn.Sequential(*layers)


class Cosines(nn.Module):
    """Rows [m, d] -> cosines [m, n] with n trained rows, whose lengths do not matter (DINO's last layer)."""

    def __init__(self, features: int, prototypes: int):
        super().__init__()
        self.prototypes = nn.Parameter(torch.empty(prototypes, features))
        nn.init.kaiming_uniform_(self.prototypes, a=5**0.5)  # torch's own for linear layers

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1) @ F.normalize(self.prototypes, dim=1).to(x.dtype).T


def predictor(embedding: int, widths: tuple[int, ...], *, bias: bool = True) -> nn.Module:
    """Hidden layers Linear-BN-ReLU, then a plain linear layer back to the embedding's size.

    Source: paper, appendix C: hidden 512, output 2048, BN and ReLU on the first layer only."""
    layers: list[nn.Module] = []
    for width in widths[:-1]:
        layers += [nn.Linear(embedding, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(inplace=True)]
        embedding = width
    return nn.Sequential(*layers, nn.Linear(embedding, widths[-1], bias=bias))
