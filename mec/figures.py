"""Pictures of results; each is one function that writes one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mec.checkpoint import atomic
from mec.evaluate.features import Features

if TYPE_CHECKING:
    from mec.approximation import Approximation
    from mec.bench import Timing
    from mec.evaluate.detection_data import Annotations
    from mec.evaluate.detection_metrics import Detections


def embedding_map(features: Mapping[str, Features], classes: Sequence[str], path: Path) -> None:
    """t-SNE of each named set of features [n, e], side by side, coloured by class.

    Perplexity 30, PCA start and a fixed seed (the paper states none of them).
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(features), 4.4), layout="constrained")
    axes = figure.subplots(1, len(features), squeeze=False)[0]
    for axis, (name, part) in zip(axes, features.items()):
        draw_map(axis, name, part, classes)
    draw_classes(figure, classes)
    write(figure, path)


def draw_map(axis: Any, title: str, part: Features, classes: Sequence[str]) -> None:
    """t-SNE of the unit rows of a set of features on an axis, coloured by class."""
    from sklearn.manifold import TSNE

    perplexity = min(30, (len(part.x) - 1) / 3)
    points = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(part.unit().numpy())
    # The limits of the colours are fixed, so that a class keeps its colour where others are missing.
    axis.scatter(*points.T, c=part.y.numpy(), cmap=colours(classes), vmin=0, vmax=max(9, len(classes) - 1), s=7)
    axis.set(title=title, xticks=[], yticks=[])


def draw_classes(figure: Any, classes: Sequence[str]) -> None:
    """The legend of the classes' colours below a figure, if there are few."""
    if len(classes) > 20:
        return
    from matplotlib import colormaps
    from matplotlib.lines import Line2D

    shades = colormaps[colours(classes)]
    handles = [
        Line2D([], [], linestyle="", marker="o", markersize=5, color=shades(i / max(9, len(classes) - 1)))
        for i in range(len(classes))
    ]
    figure.legend(handles, classes, loc="outside lower center", ncols=min(10, len(classes)), frameon=False)


def colours(classes: Sequence[str]) -> str:
    return "tab10" if len(classes) <= 10 else "nipy_spectral"


def approximation_figure(found: Sequence[Approximation], distortion: float, path: Path) -> None:
    """Milliseconds, and relative error, over the number of rows; the orders of the series and the log-determinant."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.4, 5), layout="constrained")
    times, errors = figure.subplots(1, 2)
    inputs = list(dict.fromkeys(a.rows for a in found))
    orders = list(dict.fromkeys(a.order for a in found))
    for name, dashes in zip(inputs, ("-", "--", ":")):
        for order, shade in zip(orders, ("black", "tab:blue", "tab:orange", "tab:green")):
            points = [a for a in found if (a.rows, a.order) == (name, order)]
            m = [a.m for a in points]
            label = "log-determinant" if order is None else f"order {order}"
            if name == inputs[0]:
                times.plot(m, [a.median for a in points], "o-", markersize=4, color=shade, label=label)
                times.fill_between(m, [a.low for a in points], [a.high for a in points], alpha=0.15, color=shade)
            if order is not None:
                label = f"{label}, {name} (d {points[0].d})"
                errors.plot(m, [100 * a.error for a in points], f"o{dashes}", markersize=4, color=shade, label=label)
    ticks = sorted({a.m for a in found if a.rows == inputs[0]})
    for axis in (times, errors):
        axis.set(xlabel="rows m", xscale="log", yscale="log")
        axis.set_xticks(ticks, labels=ticks)
        axis.minorticks_off()
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False, fontsize="small")
    times.set(ylabel="value, ms", title=f"{inputs[0]}, d {found[0].d}")
    errors.set(ylabel="relative error, %", title=f"against the log-determinant, ε_d² {distortion:g}")
    write(figure, path)


@dataclass(frozen=True)
class Curve:
    """A run of the distortion study: its distortion ε_d², end, and figures over training."""

    distortion: float
    knn: float  # %, NaN where it could not be measured
    diverged: bool
    steps: Sequence[int]
    norm_c: Sequence[float]
    gap: Sequence[float]  # series minus log-determinant, of the loss
    spectrum: Sequence[float]  # of the training features, as shares of the largest


def distortion_figure(
    curves: Sequence[Curve], maps: Mapping[str, Features | None], classes: Sequence[str], path: Path
) -> None:
    """The paper's Figure 4: maps of training features, accuracy over ε_d², spectrum, ‖C‖₂ and the series' gap.

    A run without features, since it diverged, has an empty map that says so.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 8.2), layout="constrained")
    axes = figure.subplots(2, 3)
    for axis, (name, part) in zip(axes[0], maps.items()):
        if part is None:
            axis.set(title=name, xticks=[], yticks=[])
            axis.text(0.5, 0.5, "diverged: no features", ha="center", va="center", transform=axis.transAxes)
        else:
            draw_map(axis, name, part, classes)
    accuracy, (spectra, norms, gaps) = axes[0][2], axes[1]
    measured = [c for c in curves if c.knn == c.knn]
    accuracy.plot([c.distortion for c in measured], [c.knn for c in measured], "-", color="grey")
    shades = colormaps["viridis"].resampled(len(curves) + 1)
    for number, curve in enumerate(curves):
        style = {"color": shades(number), "label": f"ε_d² {curve.distortion:g}"}
        marker = "x" if curve.diverged else "o"
        accuracy.plot([curve.distortion], [curve.knn], marker, color=style["color"], markersize=8)
        if curve.spectrum:
            spectra.plot(range(1, len(curve.spectrum) + 1), curve.spectrum, **style)
        norms.plot(curve.steps, curve.norm_c, **style)
        gaps.plot(curve.steps, curve.gap, **style)
    accuracy.set(xlabel="ε_d²", ylabel="k-NN accuracy, %", xscale="log", title="accuracy (cross: diverged)")
    spectra.set(xlabel="direction", yscale="log", ylim=(1e-4, 1.5), title="singular values of the features")
    norms.axhline(1, color="grey", linestyle=":")
    norms.set(xlabel="step", yscale="log", title="‖C‖₂ (the series surely converges below 1)")
    gaps.axhline(0, color="grey", linestyle=":")
    gaps.set(xlabel="step", title="loss of the series minus exact loss")
    gaps.set_yscale("symlog", linthresh=0.01)
    spectra.legend(frameon=False, fontsize="small")
    draw_classes(figure, classes)
    write(figure, path)


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
    write(figure, path)


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
    write(figure, path)


def detection_picture(
    annotations: Annotations,
    detections: Sequence[Detections],
    chosen: Sequence[int],
    path: Path,
    *,
    masks: bool,
    least_score: float = 0.5,
) -> None:
    """The chosen photographs: objects in dashed white, detections coloured by class with name and score."""
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    from mec.evaluate.detection_data import read_image_at
    from mec.evaluate.detection_metrics import masks_api

    colours = ["tab:red", "tab:blue", "tab:green", "tab:orange", "tab:purple", "tab:cyan", "tab:pink", "tab:olive"]
    columns = min(3, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.7 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    for axis, index in zip(axes, chosen):
        found = detections[index]
        pixels = np.asarray(read_image_at(annotations, index)).astype(float) / 255
        shown = [n for n in np.argsort(found.scores) if found.scores[n] >= least_score]  # the surest on top
        for n in shown:
            if masks and found.masks is not None:
                inside = masks_api().decode(dict(found.masks[n])).astype(bool)
                colour = np.array(to_rgb(colours[found.labels[n] % len(colours)]))
                pixels[inside] = 0.5 * pixels[inside] + 0.5 * colour
        axis.imshow(pixels)
        for x0, y0, x1, y1 in annotations.boxes[annotations.rows(index)]:
            axis.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, color="white", linestyle="--"))
        for n in shown:
            (x0, y0, x1, y1), colour = found.boxes[n], colours[found.labels[n] % len(colours)]
            axis.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, color=colour, linewidth=2))
            label = f"{annotations.classes[found.labels[n]]} {found.scores[n]:.2f}"
            axis.text(x0, y0, label, color="white", fontsize=7, backgroundcolor=colour, va="bottom")
        axis.set_title(f"{annotations.ids[index]}: {len(shown)} of score {least_score:g} or more", fontsize=9)
    write(figure, path)


def training_curves(lines: Sequence[Mapping[str, float]], path: Path) -> None:
    """Each loss over iterations, and the learning rate below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5.4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    x = [line["iteration"] for line in lines]
    for name in dict.fromkeys(key for line in lines for key in line if key.startswith("loss")):
        above.plot(x, [line[name] for line in lines], label=name, linewidth=2 if name == "loss" else 1)
    above.set(ylabel="loss", yscale="log")
    above.legend(frameon=False, fontsize=8)
    below.plot(x, [line["lr"] for line in lines])
    below.set(xlabel="iteration", ylabel="learning rate")
    write(figure, path)


def write(figure: Any, path: Path) -> None:
    """A PNG, whole or not at all."""
    with atomic(path) as part:
        figure.savefig(part, format="png", dpi=110)
