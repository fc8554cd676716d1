"""Projector and predictor."""

from torch import nn


def projector(features: int, widths: tuple[int, ...]) -> nn.Module:
    """Linear-BN-ReLU a layer, the last Linear-BN without affine; no biases, since BN would cancel them.

    Source: the released code's sizes and layers (protocol: three layers, 2048 wide); paper, appendix C.
    """
    layers: list[nn.Module] = []
    for width in widths[:-1]:
        layers += [nn.Linear(features, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(inplace=True)]
        features = width
    if widths:
        layers += [nn.Linear(features, widths[-1], bias=False), nn.BatchNorm1d(widths[-1], affine=False)]
    return nn.Sequential(*layers)


def predictor(embedding: int, widths: tuple[int, ...]) -> nn.Module:
    """Hidden layers Linear-BN-ReLU, then a plain linear layer back to the embedding's size.

    Source: paper, appendix C: hidden 512, output 2048, BN and ReLU on the first layer only.
    """
    layers: list[nn.Module] = []
    for width in widths[:-1]:
        layers += [nn.Linear(embedding, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(inplace=True)]
        embedding = width
    return nn.Sequential(*layers, nn.Linear(embedding, widths[-1]))
