"""A picture of features: t-SNE maps, coloured by class."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mec.evaluation.features import Features
from mec.runtime.files import as_drawn, write_figure

MOST_NAMED = 60  # classes in a legend
LONGEST_NAME = 32  # letters of a class's name there


def embedding_map(features: Mapping[str, Features], classes: Sequence[str], path: Path) -> list[np.ndarray]:
    """t-SNE [n, 2] of each named set of features [n, e]; drawn side by side, coloured by class.
    Perplexity 30, PCA start and a fixed seed (the paper states none of them)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(features), 4.4), layout="constrained")
    axes = figure.subplots(1, len(features), squeeze=False)[0]
    points = [draw_map(axis, name, part, classes) for axis, (name, part) in zip(axes, features.items())]
    draw_classes(figure, classes)
    write_figure(figure, path)
    return points


def map_points(part: Features) -> np.ndarray:
    """t-SNE [n, 2] of the unit rows of features."""
    from sklearn.manifold import TSNE

    perplexity = min(30, (len(part.x) - 1) / 3)
    found: np.ndarray = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(part.unit().numpy())
    return found


def draw_map(axis: Any, title: str, part: Features, classes: Sequence[str]) -> np.ndarray:
    """`map_points`, drawn on an axis, coloured by class."""
    points = map_points(part)
    # The limits of the colours are fixed, so that a class keeps its colour where others are missing.
    axis.scatter(*points.T, c=part.y.numpy(), cmap=colours(classes), vmin=0, vmax=max(9, len(classes) - 1), s=7)
    axis.set(title=title, xticks=[], yticks=[])
    return points


def draw_classes(figure: Any, classes: Sequence[str]) -> None:
    """The legend of the classes' colours below a figure: as many columns as fit, the figure as much higher.
    Of more than `MOST_NAMED` classes only their number is told."""
    if not classes:
        return
    if len(classes) > MOST_NAMED:
        figure.supxlabel(f"{len(classes):,} classes, by colour", fontsize=9)
        return
    from matplotlib import colormaps
    from matplotlib.lines import Line2D

    shades = colormaps[colours(classes)]
    names = [name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…" for name in map(as_drawn, classes)]
    colour = [shades(i / max(9, len(classes) - 1)) for i in range(len(classes))]
    handles = [Line2D([], [], linestyle="", marker="o", markersize=5, color=each) for each in colour]
    width, height = figure.get_size_inches()
    font = 9 if len(classes) <= 20 else 7
    column = (0.8 * max(map(len, names)) + 4) * font / 72  # inches: names, marker and what lies between columns
    columns = max(1, min(10, len(classes), int(width / column)))
    figure.set_size_inches(width, height + 1.7 * font / 72 * -(-len(classes) // columns))
    figure.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=font)


def colours(classes: Sequence[str]) -> str:
    return "tab10" if len(classes) <= 10 else "nipy_spectral"
