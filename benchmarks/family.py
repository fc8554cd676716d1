"""The picture of the family in docs/objective.md: what each corner pays for a singular value of the views' average.

python benchmarks/family.py [FILE]      a second
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

M = 128  # images; d above it, so that σ² = 1 everywhere is the even spread of views that agree
CORNERS = {  # name: (exponent a, ε_d²)
    "log, ε_d² 0.02 (mec-joint)": (0.0, 0.02),
    "log, ε_d² 0.0002": (0.0, 0.0002),
    "a = ¼, ε_d² 0.02": (0.25, 0.02),
    "a = ½, ε_d² → 0 (MMCR)": (0.5, 1e-9),
    "a = 1: agreement alone": (1.0, 0.02),
}


def pay(squared: np.ndarray, exponent: float, distortion: float) -> np.ndarray:
    """((1 + λσ²)^a - 1) / a, or its logarithm, over its value at σ² = 1."""
    logs = np.log1p(squared / (M * distortion))
    paid = np.expm1(exponent * logs) / exponent if exponent else logs
    return paid / np.interp(1.0, squared, paid)


def draw(path: Path) -> None:
    figure = Figure(figsize=(10, 4), layout="constrained")
    value, slope = figure.subplots(1, 2)
    squared = np.linspace(0, 4, 4001)
    for (name, corner), style in zip(CORNERS.items(), ("-", "--", "-.", ":", "-")):
        paid = pay(squared, *corner)
        value.plot(squared, paid, style, label=name)
        slope.plot(squared, np.gradient(paid, squared), style, label=name)
    for axes, title in ((value, "what a direction counts"), (slope, "what one more unit of σ² is worth")):
        axes.axvline(1, color="grey", linewidth=0.5)
        axes.set(xlabel="σ², a squared singular value of the views' average", title=title)
    slope.set(ylim=(0, 4))
    value.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, default=Path("docs/images/family.png"))
    draw(parser.parse_args().file)
