"""Pictures: t-SNE maps of features, coloured by class; a protocol's figures over the encoders that a run kept."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mec.evaluation.features import Features
from mec.evaluation.results import Result
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


def draw_steps(found: Sequence[tuple[int, Result]], path: Path) -> None:
    """The protocol's first figure over the steps, a line for each k or number of labels, with its 95 % intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axis = figure.subplots()
    lines: dict[str, list[tuple[int, Result]]] = {}
    for step, result in found:
        count = result.settings.get("k", result.settings.get("labels_per_class"))
        if result.metric == found[0][1].metric:
            lines.setdefault(result.metric + f", {count}" * (count is not None), []).append((step, result))
    for name, line in lines.items():
        steps, values = [step for step, _ in line], [r.value for _, r in line]
        (drawn,) = axis.plot(steps, values, marker="o", label=name)
        if all(r.interval for _, r in line):
            low, high = zip(*(r.interval for _, r in line if r.interval))
            axis.fill_between(steps, low, high, color=drawn.get_color(), alpha=0.12, linewidth=0)
    one = found[0][1]
    axis.set(xlabel="step", ylabel=one.unit, title=f"{one.protocol} on {one.data} ({one.split})")
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3)
    write_figure(figure, path)
