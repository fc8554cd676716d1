"""The picture of docs/objective.md: what the series, the cross form and the joint form reward.

python benchmarks/pictures.py [FILE]      a second
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from mec.objectives.mec import joint_coding, lower_bound, maximum_entropy_coding

M, DISTORTION = 8, 0.1  # eight rows; C has norm 1 / (8 x 0.1) = 1.25


def turned(angle: float) -> torch.Tensor:
    """Eight orthonormal rows, each turned by the angle in a plane that it shares with another."""
    c, s = math.cos(angle), math.sin(angle)
    plane = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
    return torch.block_diag(*[plane] * (M // 2))


def spread(directions: int, angle: float) -> torch.Tensor:
    """Two views [2, 16, 32] of 16 images that use so many directions, and differ by the angle."""
    image = torch.arange(16) % directions
    first = torch.eye(32, dtype=torch.float64)[image]
    second = math.cos(angle) * first + math.sin(angle) * torch.eye(32, dtype=torch.float64)[16 + image]
    return torch.stack([first, second])


def draw(path: Path) -> None:
    figure = Figure(figsize=(13, 4), layout="constrained")
    series, turning, joint = figure.subplots(1, 3)

    x = np.linspace(0, 2.2, 300)
    for order in (1, 2, 4, 8):
        series.plot(x, sum((-1) ** (k + 1) * x**k / k for k in range(1, order + 1)), label=f"order {order}")
    series.plot(x, np.log1p(x), color="black", linewidth=2, label="log(1 + x)")
    series.axvline(1, color="grey", linestyle=":")
    series.set(ylim=(-1, 2.2), xlabel="eigenvalue x of λ ZZᵀ", title="one eigenvalue's part of the coding length")

    degrees = np.linspace(0, 180, 181)
    forms = {
        "cross, order 4": lambda z: maximum_entropy_coding(*z, distortion=DISTORTION, order=4),
        "cross, exact": lambda z: maximum_entropy_coding(*z, distortion=DISTORTION, order=None),
        "joint": lambda z: joint_coding(z, distortion=DISTORTION),
    }
    for name, form in forms.items():
        views = (torch.stack([turned(0), turned(math.radians(a))]) for a in degrees)
        turning.plot(degrees, [float(form(z)) for z in views], label=name)
    bound = lower_bound(M, M, DISTORTION)
    turning.axhline(bound, color="grey", linestyle=":", label="least that an exact form can be")
    turning.set(xlabel="angle between the views, degrees", title="loss of two views that are turned")

    degrees = np.linspace(0, 90, 91)
    for directions in (1, 4, 16):
        losses = [float(joint_coding(spread(directions, math.radians(a)), distortion=DISTORTION)) for a in degrees]
        joint.plot(degrees, losses, label=f"images use {directions} of 16 directions")
    joint.set(xlabel="angle between the views, degrees", title="joint loss: less by agreeing and by spreading")
    for axis in (series, turning, joint):
        axis.legend(frameon=False, fontsize="small")
    figure.savefig(path, format="png", dpi=100)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path, nargs="?", default=Path("docs/images/objective.png"), help="to write")
    draw(parser.parse_args().picture)
