"""What a comparison tells: results.jsonl, a table, and a picture of accuracy over time."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Column, Table

from mec.evaluation.results import RESULTS, Result, as_records
from mec.reports.trials import Setup, Trial
from mec.runtime.files import write_figure
from mec.runtime.records import write_records

PICTURE = "compare.png"
ROWS = {  # of results.jsonl: protocol, metric, unit, and where a trial has it
    "knn": ("knn", "top-1", "%", lambda t: t.accuracy["knn"]),
    "linear-fast": ("linear-fast", "top-1", "%", lambda t: t.accuracy.get("linear-fast")),  # not of many classes
    "seconds": ("compare", "time an epoch", "s", lambda t: t.seconds_per_epoch),
    "memory": ("compare", "peak memory", "GiB", lambda t: t.peak_memory),
    "rank": ("compare", "effective rank", "", lambda t: t.effective_rank),
    "ratio": ("compare", "coding ratio", "", lambda t: t.coding_ratio),
}


def summary(trials: Sequence[Trial], method: str) -> dict[str, tuple[float, float | None, int]]:
    """Mean, spread and number of the finished runs of a method, by row."""
    done = [t for t in trials if t.method == method and not t.diverged]
    found = {}
    for name, (*_, of) in ROWS.items():
        values = [value for t in done if (value := of(t)) is not None]
        if values:
            spread = statistics.stdev(values) if len(values) > 1 else None
            found[name] = (statistics.fmean(values), spread, len(values))
    return found


def tell(trials: Sequence[Trial], setup: Setup) -> bool:
    """results.jsonl and the picture, from the runs that are finished; whether there was anything to draw."""
    results, asked = [], setup.options
    about: dict[str, Any] = setup.images.about
    for method in setup.options.method_names:
        rate = next((t.lr for t in trials if t.method == method), None)
        budget = {"epochs": asked.epochs, "minutes": asked.time_budget}
        settings = {"base_lr": rate, "diverged": diverged(trials, method), **budget}
        for name, (value, spread, n) in summary(trials, method).items():
            protocol, metric, unit, _ = ROWS[name]
            results.append(Result(protocol, metric, value, unit, spread, n, encoder=method, settings=settings, **about))
    write_records(setup.out / RESULTS, as_records(results))
    curves = defaultdict(list)
    for trial in trials:
        if trial.curve:
            curves[trial.method].append(trial.curve)
    if curves:
        accuracy_over_time(curves, f"{setup.images.name}: k-NN accuracy", setup.out / PICTURE)
    return bool(curves)


def diverged(trials: Sequence[Trial], method: str) -> int:
    return sum(bool(t.diverged) for t in trials if t.method == method)


def table(trials: Sequence[Trial], rates: dict[str, float | None], setup: Setup) -> Table:
    """A line a method: mean ± sample standard deviation over seeds."""
    asked = setup.options
    budget = f"{asked.epochs} epochs" if asked.time_budget is None else f"{asked.time_budget:g} minutes"
    title = f"{setup.images.name}: {budget} a run, {asked.seeds} seed{'s' * (asked.seeds > 1)}"
    names = ("base rate", "k-NN, %", "linear, %", "s an epoch", "peak GiB", "effective rank", "coding ratio")
    columns = [Column(name, justify="right") for name in names]
    caption = "rank and ratio: of the embeddings that each objective sees"
    shown = Table("method", *columns, title=title, caption=caption)
    digits = {"knn": 1, "linear-fast": 1, "seconds": 1, "memory": 2, "rank": 0, "ratio": 2}
    for method in setup.options.method_names:
        rate, found, cells = rates[method], summary(trials, method), []
        shown_rate = f"{rate:g}" if rate is not None else "-" if setup.options.rates else "recipe's"
        for name, places in digits.items():
            value, spread, _ = found.get(name, (math.nan, None, 0))
            plus = f" ± {spread:.{places}f}" if spread is not None and name in ("knn", "linear-fast") else ""
            cells.append(f"{value:.{places}f}{plus}" if name in found else "-")
        lost = diverged(trials, method)
        name = method + (f" ({lost} of {asked.seeds} diverged)" if lost else "" if found else " (diverged)")
        shown.add_row(name, shown_rate, *cells)
    return shown


def accuracy_over_time(curves: Mapping[str, Sequence[Sequence[tuple[float, float]]]], title: str, path: Path) -> None:
    """Accuracy (%) over minutes of training: a thin line a run, a thick one for the mean of a name's runs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 4.6), layout="constrained")
    axis = figure.subplots()
    colours = [f"C{i}" for i in range(10)] + ["black", "gold", "navy", "lime"]
    for colour, (name, runs) in zip(colours, curves.items()):
        pairs = [np.asarray(run).T for run in runs]  # times, values
        for t, v in pairs:
            axis.plot(t, v, color=colour, linewidth=0.6, alpha=0.5)
        common = np.linspace(max(t[0] for t, _ in pairs), min(t[-1] for t, _ in pairs), 50)
        mean = np.mean([np.interp(common, t, v) for t, v in pairs], axis=0)
        axis.plot(common, mean, color=colour, linewidth=1.8, label=name)
    axis.set(title=title, xlabel="minutes of training", ylabel="%")
    figure.legend(loc="outside right upper", frameon=False)
    write_figure(figure, path)
