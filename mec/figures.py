"""Pictures of results; each is one function that writes one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mec.checkpoint import atomic
from mec.evaluate.features import Features

if TYPE_CHECKING:
    from mec.bench import Timing


def embedding_map(features: Mapping[str, Features], classes: Sequence[str], path: Path) -> None:
    """t-SNE of each named set of features [n, e], side by side, coloured by class.

    Perplexity 30, PCA start and a fixed seed (the paper states none of them).
    """
    from matplotlib.figure import Figure
    from sklearn.manifold import TSNE

    figure = Figure(figsize=(4.2 * len(features), 4.4), layout="constrained")
    axes = figure.subplots(1, len(features), squeeze=False)[0]
    for axis, (name, part) in zip(axes, features.items()):
        perplexity = min(30, (len(part.x) - 1) / 3)
        points = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(part.unit().numpy())
        drawn = axis.scatter(*points.T, c=part.y.numpy(), cmap="tab10" if len(classes) <= 10 else "nipy_spectral", s=7)
        axis.set(title=name, xticks=[], yticks=[])
    if len(classes) <= 20:
        handles, _ = drawn.legend_elements(num=list(range(len(classes))))
        figure.legend(handles, classes, loc="outside lower center", ncols=min(10, len(classes)), frameon=False)
    with atomic(path) as part_file:
        figure.savefig(part_file, format="png", dpi=110)


def timing_plot(timings: Sequence[Timing], path: Path) -> None:
    """Median milliseconds over m, both logarithmic, a line a contender and a panel an embedding size d."""
    from matplotlib.figure import Figure

    sizes = sorted({t.d for t in timings})
    figure = Figure(figsize=(1.6 + 4.6 * len(sizes), 4.4), layout="constrained")
    axes = figure.subplots(1, len(sizes), squeeze=False, sharey=True)[0]
    for axis, d in zip(axes, sizes):
        for name in dict.fromkeys(t.name for t in timings):
            points = sorted((t.m, t.median, t.low, t.high) for t in timings if (t.name, t.d) == (name, d))
            m, median, low, high = zip(*points)
            dashed = name.endswith("products")  # not an objective: what none can do without
            (line,) = axis.plot(m, median, "o--" if dashed else "o-", markersize=4, label=name)
            axis.fill_between(m, low, high, alpha=0.15, color=line.get_color())
        axis.set(title=f"embeddings of {d}", xlabel="images m", xscale="log", yscale="log")
        axis.set_xticks(sorted({t.m for t in timings if t.d == d}), labels=sorted({t.m for t in timings if t.d == d}))
        axis.minorticks_off()
    axes[0].set_ylabel("value and gradient, ms")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper", frameon=False)
    with atomic(path) as part_file:
        figure.savefig(part_file, format="png", dpi=110)


def accuracy_over_time(curves: Mapping[str, Sequence[Sequence[tuple[float, float]]]], title: str, path: Path) -> None:
    """Accuracy (%) over minutes of training: a thin line a run, a thick one for the mean of a name's runs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 4.6), layout="constrained")
    axis = figure.subplots()
    colours = [f"C{i}" for i in range(10)] + ["black", "gold", "navy", "lime"]
    for colour, (name, runs) in zip(colours, curves.items()):
        times = [np.asarray([t for t, _ in run]) for run in runs]
        values = [np.asarray([v for _, v in run]) for run in runs]
        for t, v in zip(times, values):
            axis.plot(t, v, color=colour, linewidth=0.6, alpha=0.5)
        common = np.linspace(max(t[0] for t in times), min(t[-1] for t in times), 50)
        mean = np.mean([np.interp(common, t, v) for t, v in zip(times, values)], axis=0)
        axis.plot(common, mean, color=colour, linewidth=1.8, label=name)
    axis.set(title=title, xlabel="minutes of training", ylabel="%")
    figure.legend(loc="outside right upper", frameon=False)
    with atomic(path) as part_file:
        figure.savefig(part_file, format="png", dpi=110)
