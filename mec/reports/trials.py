"""The runs of a comparison: how each is trained, what came of it, and what they tell together."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Column, Table

from mec.data.dataset import Data, stratified
from mec.errors import Diverged
from mec.evaluation.features import extract
from mec.evaluation.probing.knn import knn
from mec.evaluation.results import RESULTS, Result, as_records
from mec.networks.encoder_file import image_transform, load_encoder, read_info
from mec.recipes.fields import from_file
from mec.reports.options import Comparison
from mec.runtime.distributed import ALONE
from mec.runtime.files import read_json, write_figure, write_json
from mec.runtime.machine import reset_peak_memory
from mec.runtime.progress import Console
from mec.runtime.records import read_records, write_records
from mec.training import health
from mec.training.pretrain import pretrain
from mec.training.run import read_settings
from mec.training.timing import steps_in

PICTURE = "compare.png"
TRIAL = "trial.json"
CHOOSING = 5_000  # most training images of the k-NN figure that chooses a learning rate
ROWS = {  # a column of the table and its digits; of results.jsonl: protocol, metric, unit
    "knn": ("k-NN, %", 1, "knn", "top-1", "%"),
    "linear-fast": ("linear, %", 1, "linear-fast", "top-1", "%"),  # not of many classes
    "seconds_per_epoch": ("s an epoch", 1, "compare", "time an epoch", "s"),
    "peak_memory": ("peak GiB", 2, "compare", "peak memory", "GiB"),
    "effective_rank": ("effective rank", 0, "compare", "effective rank", ""),
    "coding_ratio": ("coding ratio", 2, "compare", "coding ratio", ""),
}


@dataclass(frozen=True)
class Trial:
    """One run: which it is, and what came of it. `diverged` says in words what ended it early."""

    method: str
    lr: float | None  # base rate; None: the recipe's
    seed: int
    sweep: bool
    diverged: str = ""
    chosen_by: float = math.nan  # k-NN accuracy (%) of a fifth of the training images among the others
    steps: int = 0
    seconds_per_epoch: float = math.nan
    peak_memory: float = math.nan  # GiB
    effective_rank: float = math.nan
    coding_ratio: float = math.nan
    accuracy: dict[str, float] | None = None  # protocol -> top-1 (%) on test images
    curve: list[tuple[float, float]] | None = None  # minutes of training, k-NN accuracy (%)


@dataclass(frozen=True)
class Setup:
    """A comparison under way: what was asked for, on what, where."""

    options: Comparison
    images: Data
    out: Path
    device: str
    console: Console


def training_keywords(setup: Setup, method: str) -> dict[str, Any]:
    """What each run of a method is asked for."""
    asked = setup.options
    kept = {name: getattr(asked, name) for name in ("recipe", "batch_size", "backbone", "workers", "set")}
    return {**kept, "minutes": asked.time_budget, "method": method, "device": setup.device, "quiet": True}


def folder_of(trial: Trial, out: Path) -> Path:
    return out / ("sweep" if trial.sweep else "runs") / f"{trial.method}-lr-{rate_of(trial)}-seed-{trial.seed}"


def rate_of(trial: Trial) -> str:
    return "own" if trial.lr is None else f"{trial.lr:g}"


def stored(trial: Trial, out: Path) -> Trial | None:
    """The trial with what came of it; None if it has not been finished."""
    path = folder_of(trial, out) / TRIAL
    return from_file(Trial, read_json(path), path) if path.exists() else None


def finished(trial: Trial, pace: Mapping[str, float], setup: Setup) -> Trial:
    """The trial with what came of it: read from its folder, or trained to its end first."""
    if (before := stored(trial, setup.out)) is not None:
        return before
    folder, asked = folder_of(trial, setup.out), setup.options
    setup.console.print(f"[{trial.method}, base rate {rate_of(trial)}, seed {trial.seed}{', sweep' * trial.sweep}]")
    share, minutes = asked.sweep_share if trial.sweep else 1.0, asked.time_budget
    keywords = training_keywords(setup, trial.method) | {"out": folder, "seed": trial.seed}
    keywords["steps"] = None if minutes is None else steps_in(60 * share * minutes, pace[trial.method], ALONE)
    keywords["epochs"] = None if asked.epochs is None else max(1, round(share * asked.epochs))
    keywords["set"] = [*asked.set, *([] if trial.lr is None else [f"optimizer.base_lr={trial.lr!r}"])]
    reset_peak_memory(setup.device)
    try:
        pretrain(setup.images, resume=True, evaluate=not trial.sweep, report=False, **keywords)
    except Diverged as error:
        trial = replace(trial, diverged=str(error))
    else:
        trial = measured(folder, trial, setup, pace.get(trial.method))
    write_json(folder / TRIAL, asdict(trial))
    return trial


def measured(folder: Path, trial: Trial, setup: Setup, step: float | None) -> Trial:
    """The trial with the figures of its finished run; seconds a step where it was timed beforehand."""
    run, lines = read_settings(folder), health.read_metrics(folder)
    if step is None:
        paced = [line["images_per_second"] for line in lines if "images_per_second" in line]
        step = run.recipe.batch_size / statistics.median(paced[1:] or paced)  # the first lines warm up
    last = [line for line in lines if "effective_rank" in line][-1]
    trial = replace(
        trial, chosen_by=accuracy_among_training_images(folder, setup.images, setup.device), steps=run.steps,
        seconds_per_epoch=step * run.steps_per_epoch, effective_rank=last["effective_rank"],
        peak_memory=max((line["peak_memory"] for line in lines if "peak_memory" in line), default=math.nan),
        coding_ratio=last["coding_ratio"],
        curve=[(line["step"] * step / 60, line["knn"]) for line in lines if "knn" in line],
    )  # fmt: skip
    if trial.sweep:
        return trial
    mine = [r for r in read_records(folder / RESULTS) if r["encoder"] == trial.method and r["metric"] == "top-1"]
    return replace(trial, accuracy={r["protocol"]: r["value"] for r in mine if r["protocol"] in ("knn", "linear-fast")})


def accuracy_among_training_images(folder: Path, images: Data, device: str, image_size: int | None = None) -> float:
    """k-NN accuracy (%) of every fifth labelled training image among the others."""
    encoder, transform = load_encoder(folder)
    if image_size is not None:
        transform = image_transform(replace(read_info(folder), image_size=image_size))
    split = images.train.labelled()
    if len(split) > CHOOSING:
        split = split.take(stratified(split.labels, len(split), CHOOSING, seed=0))
    queries = np.random.Generator(np.random.Philox(0)).permutation(len(split)) % 5 == 0
    parts = [split.take(np.flatnonzero(chosen)) for chosen in (~queries, queries)]
    bank, asked = (extract(encoder.to(device), part, transform, device=device) for part in parts)
    return knn(bank, asked)[0].value


def summary(trials: Sequence[Trial], method: str) -> dict[str, tuple[float, float | None, int]]:
    """Mean, spread and number of the finished runs of a method, by row."""
    done = [{**vars(t), **(t.accuracy or {})} for t in trials if t.method == method and not t.diverged]
    values = {name: [figures[name] for figures in done if name in figures] for name in ROWS}
    return {
        name: (statistics.fmean(of), statistics.stdev(of) if len(of) > 1 else None, len(of))
        for name, of in values.items() if of
    }  # fmt: skip


def tell(trials: Sequence[Trial], setup: Setup) -> bool:
    """results.jsonl and the picture, from the runs that are finished; whether there was anything to draw."""
    results, asked = [], setup.options
    about: dict[str, Any] = setup.images.about
    for method in asked.method_names:
        rate = next((t.lr for t in trials if t.method == method), None)
        budget = {"epochs": asked.epochs, "minutes": asked.time_budget}
        settings = {"base_lr": rate, "diverged": diverged(trials, method), **budget}
        for name, (value, spread, n) in summary(trials, method).items():
            _, _, protocol, metric, unit = ROWS[name]
            results.append(Result(protocol, metric, value, unit, spread, n, encoder=method, settings=settings, **about))
    write_records(setup.out / RESULTS, as_records(results))
    curves: dict[str, list[Any]] = {}
    for trial in trials:
        if trial.curve:
            curves.setdefault(trial.method, []).append(trial.curve)
    if curves:
        accuracy_over_time(curves, f"{setup.images.name}: k-NN accuracy", setup.out / PICTURE)
    return bool(curves)


def diverged(trials: Sequence[Trial], method: str) -> int:
    return sum(bool(t.diverged) for t in trials if t.method == method)


def table(trials: Sequence[Trial], rates: Mapping[str, float | None], setup: Setup) -> Table:
    """A line a method: mean ± sample standard deviation over seeds."""
    asked = setup.options
    budget = f"{asked.epochs} epochs" if asked.time_budget is None else f"{asked.time_budget:g} minutes"
    title = f"{setup.images.name}: {budget} a run, {asked.seeds} seed{'s' * (asked.seeds > 1)}"
    columns = [Column(name, justify="right") for name in ("base rate", *(heading for heading, *_ in ROWS.values()))]
    shown = Table("method", *columns, title=title, caption="rank and ratio: of the embeddings that each objective sees")
    for method in asked.method_names:
        rate, found, cells = rates[method], summary(trials, method), []
        for name, (_, digits, *_) in ROWS.items():
            value, spread, _ = found.get(name, (None, None, 0))
            plus = f" ± {spread:.{digits}f}" if spread is not None and name in ("knn", "linear-fast") else ""
            cells.append("-" if value is None else f"{value:.{digits}f}{plus}")
        lost = diverged(trials, method)
        words = f" ({lost} of {asked.seeds} diverged)" if lost else "" if found else " (diverged)"
        shown_rate = f"{rate:g}" if rate is not None else "-" if asked.rates else "recipe's"
        shown.add_row(method + words, shown_rate, *cells)
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
