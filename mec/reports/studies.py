"""Studies that draw the paper's Figure 4, models alike but for ε_d², and Figure 6, the series beside the logarithm."""

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from rich.table import Column, Table
from torch import Tensor

from mec.data.dataset import Data
from mec.data.opening import open_data
from mec.errors import BadInput, Diverged
from mec.evaluation.features import Features, extract, measured_parts
from mec.evaluation.map import draw_classes, draw_map
from mec.evaluation.probing.knn import knn
from mec.networks.encoder_file import load_encoder
from mec.objectives.coding import coding_length
from mec.objectives.matched import unit_rows
from mec.recipes.recipe import Network, Recipe
from mec.recipes.table import DIGITS, recipe_named
from mec.reports.options import ApproximationFigure, DistortionFigure
from mec.reports.turns import in_turns
from mec.runtime.device import chosen_device
from mec.runtime.files import SETTINGS, write_figure, write_json
from mec.runtime.flags import integers, reals, takes
from mec.runtime.machine import machine
from mec.runtime.progress import Console
from mec.training import health
from mec.training.pretrain import pretrain
from mec.training.report import HEALTH
from mec.training.run import read_settings

MEASURED = 2_000  # most images in the bank, which is in the map, too, and in the test
PAPER = (0.12, 0.01)  # the two distortions of the paper's Figure 4
ORDERS = (1, 2, 4)
RANDOM = "random unit rows"
# Appendix D, of 2048 samples: the log-determinant's time; of each order relative error, and of the first the time.
PAPER_ROWS, PAPER_FOUND = 2048, ("35.48 ms", "0.11 ms, 2.56 %", "0.22 %", "0.07 %")
DIFFERS = (
    "The paper does not state its inputs, embedding size, ε_d² or machine. The error grows with λ and with how few "
    "directions the rows have; its milliseconds are a GPU's."
)


@dataclass(frozen=True)
class Curve:
    """A run of the study: its distortion ε_d², how it ended, and figures over training."""

    distortion: float
    knn: float  # top-1 (%) of held-out images by 20 neighbours, NaN where it could not be measured
    diverged: bool  # or collapsed
    verdict: str
    steps: Sequence[int]
    norm_c: Sequence[float]
    gap: Sequence[float]  # series minus log-determinant, of the loss
    spectrum: Sequence[float]  # singular values of the training features, as shares of the largest


def studied(recipe: Recipe, data: Data, out: Path, options: DistortionFigure) -> tuple[Curve, Features | None]:
    """Train a run in `out` where that was not done before; what came of it, and its features of training images.
    Raises BadInput: the folder holds a run with another recipe, seed or data."""
    if (out / SETTINGS).exists():
        stored = read_settings(out)
        if (stored.recipe, stored.seed) != (recipe, options.seed) or not data.fits(stored.data_fingerprint):
            raise BadInput(f"{out} holds a run with other settings, seed or data. Choose another --out.")
    if not (out / HEALTH).exists():
        asked: dict[str, Any] = {"recipe": recipe, "out": out, "seed": options.seed, "device": options.device}
        with contextlib.suppress(Diverged):  # which health tells
            pretrain(data, resume=True, evaluate=False, quiet=True, **asked)
    lines = health.read_metrics(out)
    verdict, features, accuracy, shares = health.health(out), None, math.nan, list[float]()
    if not any("diverged" in line for line in lines):
        encoder, transform = load_encoder(out)
        features, test = (extract(encoder, part, transform) for part in measured_parts(data, MEASURED, MEASURED))
        accuracy = knn(features, test)[0].value
        values = torch.linalg.svdvals(features.unit())
        shares = (values / values[0].clamp_min(1e-30)).tolist()
    lines = [line for line in lines if "norm_c" in line]
    steps, norms, gaps = ([line.get(key, 0.0) for line in lines] for key in ("step", "norm_c", "series_gap"))
    lost = verdict.word in ("diverged", "collapsed")
    distortion = float(recipe.settings["distortion"])  # type: ignore[arg-type]
    return Curve(distortion, accuracy, lost, str(verdict), steps, norms, gaps, shares), features


# The digits recipe at the images' own 8 px, trained as the paper's CIFAR-10 models are: order 4, no target.
SMALL_DIGITS = replace(
    DIGITS, method="mec", settings={"order": 4}, views=tuple(replace(view, size=8) for view in DIGITS.views),
    network=Network("resnet10-tiny", projector=(256, 128)), epochs=8, expects={},
)  # fmt: skip


@takes(DistortionFigure)
def distortion_study(options: DistortionFigure) -> Path:
    """Train models alike but for ε_d² (runs in `out`, resumable), and draw them: `out`/distortion.png.

    Args:
    {options}

    Raises:
        BadInput: no labels to colour and measure by, or the recipe is not of a coding length."""
    out, recipe = Path(options.out), options.recipe
    console = Console(quiet=options.quiet, highlight=False)
    images = open_data(options.data, root=options.data_root)
    if not images.can_be_measured:
        raise BadInput(f"{options.data} has no labels: the figure colours by class and measures accuracy.")
    if isinstance(recipe, Recipe):
        base = recipe
    elif recipe is None and images.suits == "digits":
        base = SMALL_DIGITS
    else:
        base = recipe_named(recipe or "cifar10-paper")
    base = base if options.epochs is None else replace(base, epochs=options.epochs)
    curves: list[Curve] = []
    maps: dict[str, Features | None] = {}
    for distortion in sorted({*reals(options.sweep, "--sweep"), *PAPER}):
        chosen = replace(base, settings={**base.settings, "distortion": distortion})
        curve, features = studied(chosen, images, out / f"distortion-{distortion:g}", options)
        console.print(f"ε_d² {distortion:g}: k-NN {curve.knn:.1f} %, {curve.verdict}", soft_wrap=True)
        curves.append(curve)
        if distortion in PAPER:
            accuracy = "" if features is None else f": k-NN {curve.knn:.1f} %"
            maps[f"ε_d² {distortion:g}{accuracy}"] = features
    write_json(out / "distortion.json", [asdict(c) for c in curves])
    distortion_figure(curves, dict(reversed(maps.items())), images.classes, out / "distortion.png")
    console.print(f"Written: {out / 'distortion.png'}, {out / 'distortion.json'}", soft_wrap=True)
    return out / "distortion.png"


def distortion_figure(curves: Sequence[Curve], maps: Mapping[str, Any], classes: Sequence[str], path: Path) -> None:
    """The paper's Figure 4: maps of training features, accuracy over ε_d², spectrum, ‖C‖₂ and the series' gap.
    A run without features, since it diverged, has an empty map that says so."""
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
    norms.legend(frameon=False, fontsize="small")
    draw_classes(figure, classes)
    write_figure(figure, path)


@dataclass(frozen=True)
class Approximation:
    """One order at one number of rows m [m, d]; order None is the log-determinant."""

    rows: str  # which inputs
    m: int
    d: int
    order: int | None
    value: float  # nats
    error: float  # relative to the log-determinant's value
    median: float  # ms, value alone
    low: float
    high: float


def approximations(name: str, rows: Tensor, counts: list[int], distortion: float, repeats: int) -> list[Approximation]:
    """Every order at every number of rows, the orders taking turns."""
    found = []
    orders: tuple[int | None, ...] = (None, *ORDERS)
    for m in counts:
        z = unit_rows(rows[:m])
        values = {order: float(coding_length(z, distortion, order)) for order in orders}
        runs = {order: partial(coding_length, z, distortion, order) for order in orders}
        for order, times in in_turns(runs, repeats, z.device.type, per_second=1000).items():
            error = abs(values[order] / values[None] - 1)
            found.append(Approximation(name, len(z), z.shape[1], order, values[order], error, *times))
    return found


@takes(ApproximationFigure)
def approximation_study(options: ApproximationFigure) -> list[Approximation]:
    """Measure on random unit rows and, given a run, on its features of its training images; print, write, draw.

    Args:
    {options}

    Raises:
        BadInput: a number below 1."""
    counts, device, out = integers(options.rows, "--rows"), chosen_device(options.device), Path(options.out)
    distortion = options.distortion
    measured = partial(approximations, distortion=distortion, repeats=options.repeats)
    rows = torch.randn(max(counts), options.size, generator=torch.Generator().manual_seed(0)).to(device)
    found = measured(RANDOM, rows, counts)
    if options.run_folder is not None:
        name, features = features_of(Path(options.run_folder), options.data, options.data_root, max(counts))
        kept = [m for m in counts if m < len(features)] + [len(features)]
        found += measured(name, features.to(device), kept)
    tables = [approximation_table([*of], distortion) for _, of in groupby(found, lambda a: a.rows)]
    written = {"distortion": distortion, "approximations": [asdict(a) for a in found]}
    out.mkdir(parents=True, exist_ok=True)
    approximation_figure(found, distortion, out / "coding.png")
    write_json(out / "coding.json", {"machine": machine(device), **written})
    console = Console(highlight=False)
    console.width = max(console.width, 110)
    console.print(", ".join(f"{k} {v}" for k, v in machine(device).items()), *tables, DIFFERS, sep="\n")
    console.print(f"Written: {out / 'coding.json'}, {out / 'coding.png'}", soft_wrap=True)
    return found


def features_of(run: Path, data: str | None, root: str | Path | None, most: int) -> tuple[str, Tensor]:
    """Features [n, e] of a run's own training images, or of another data set's."""
    asked = read_settings(run).asked
    name = data or asked.get("data")
    if name is None:
        raise BadInput(f"{run} was not trained on images by name: say which to use, --data FOLDER.")
    limit = most if data is not None else min(most, asked.get("limit") or most)
    images = open_data(name, root=root or asked.get("data_root"), limit=limit).train
    encoder, transform = load_encoder(run)
    return f"features of {run.name}", extract(encoder, images, transform).x


def approximation_table(found: Sequence[Approximation], distortion: float) -> Table:
    """Times and errors by number of rows, the paper's beside ours at its own number."""
    first = found[0]
    columns = [Column(name, justify="right") for name in ("m", "log-determinant", *(f"order {n}" for n in ORDERS))]
    table = Table(*columns, title=f"{first.rows}, d {first.d}, ε_d² {distortion:g}: ms, relative error")
    for m in dict.fromkeys(a.m for a in found):
        at = {a.order: a for a in found if a.m == m}
        cells = [f"{at[n].median:.2f} ms, {100 * at[n].error:.3g} %" for n in ORDERS]
        table.add_row(str(m), f"{at[None].median:.2f} ms", *cells)
        if m == PAPER_ROWS and first.rows == RANDOM:
            table.add_row(f"{m}, paper", *PAPER_FOUND)
    return table


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
    write_figure(figure, path)
