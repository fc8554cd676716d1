"""Methods side by side: same images, views, backbone and budget; one run after another, and any of them resumed."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from mec.bench.step import time_steps
from mec.data.dataset import Data, stratified
from mec.data.opening import open_data
from mec.errors import BadInput, Diverged
from mec.evaluation.features import extract
from mec.evaluation.probing.knn import knn
from mec.evaluation.results import RESULTS, Result, as_lines
from mec.networks.encoder_file import load_encoder
from mec.objectives.methods import METHODS, method_named
from mec.recipes.recipe import Recipe
from mec.runtime.device import start_fabric
from mec.runtime.distributed import ALONE, current
from mec.runtime.files import write, write_json, write_text
from mec.runtime.memory import reset_peak_memory
from mec.training import health
from mec.training.plan import adapted, resolve
from mec.training.pretrain import make_trainer, pretrain, recipe_name
from mec.training.run import read_settings
from mec.training.timing import data_seconds, steps_in, trial_steps

if TYPE_CHECKING:
    pass


ASKED, PACE, TRIAL, PICTURE = "compare.json", "pace.json", "trial.json", "compare.png"


ROUNDS = 15  # steps of each method that are timed


CHOOSING = 5_000  # most training images of the k-NN figure that chooses a learning rate


SWEEP_SHARE = 0.375  # of the budget, for each rate tried (3 of 8 minutes)


@dataclass(frozen=True)
class Asked:
    """What a comparison is of; stored, and the same when it goes on."""

    data: str
    data_fingerprint: str
    methods: tuple[str, ...]
    seeds: int = 1
    epochs: int | None = None
    time_budget: float | None = None  # minutes a run
    lrs: tuple[float, ...] = ()  # base rates to choose from; none: the recipe's
    sweep_share: float = SWEEP_SHARE
    recipe: str | None = None
    batch_size: int | None = None
    backbone: str | None = None
    set: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.methods) < 1 or len(set(self.methods)) < len(self.methods):
            raise BadInput(f"--methods is {','.join(self.methods)}: different ones of {', '.join(METHODS)}.")
        for name in self.methods:
            method_named(name)
        if (self.epochs is None) == (self.time_budget is None):
            raise BadInput("a comparison has one budget: --epochs N, or --time-budget MIN for each run.")
        values: list[tuple[str, float]] = [("--lrs", lr) for lr in self.lrs]
        values += [("--seeds", self.seeds), ("--sweep-share", self.sweep_share)]
        values += [("--time-budget", self.time_budget)] if self.time_budget is not None else []
        values += [("--epochs", self.epochs)] if self.epochs is not None else []
        for flag, value in values:
            if not value > 0 or not math.isfinite(value):
                raise BadInput(f"{flag} is {value}: above 0.")


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
    """Where and on what a comparison runs; nothing in it changes what comes of it."""

    out: Path
    images: Data
    device: str
    workers: int | None
    console: Console


def compare(
    data: str,
    *,
    methods: Sequence[str],
    epochs: int | None = None,
    time_budget: float | None = None,
    seeds: int = 1,
    lrs: Sequence[float] = (),
    sweep_share: float = SWEEP_SHARE,
    recipe: str | None = None,
    limit: int | None = None,
    batch_size: int | None = None,
    backbone: str | None = None,
    settings: Sequence[str] = (),
    out: Path | None = None,
    device: str = "auto",
    data_root: Path | None = None,
    workers: int | None = None,
    quiet: bool = False,
) -> Path:
    """Train each method on the same images within the same budget; the folder of the comparison is returned.

    With several learning rates each is tried first with seed 0 and a share of the budget, and the one whose encoder
    tells training images apart best (k-NN of a fifth of them among the others) is kept: test images choose nothing.
    A budget in minutes becomes a number of steps for each method, once. The folder holds a run a trial, compare.json,
    pace.json, results.jsonl and compare.png. Called again the comparison goes on where it
    stopped; more methods or seeds may be added.

    Raises:
        BadInput: something does not fit, or the folder holds another comparison.
        TrainingStopped: a signal asked to stop.
    """
    device = start_fabric(device).device.type
    if current().size > 1:
        raise BadInput(f"mec compare was started as {current().size} processes: it runs in one, without torchrun.")
    console = Console(quiet=quiet, markup=False)
    images = open_data(data, root=data_root, limit=limit)
    if not images.can_be_measured:
        raise BadInput(f"{data} has no labels to compare by: it needs train/CLASS/ and val/CLASS/ or test/CLASS/.")
    asked = Asked(
        data=images.name,
        data_fingerprint=images.fingerprint,
        methods=tuple(methods),
        seeds=seeds,
        epochs=epochs,
        time_budget=time_budget,
        lrs=tuple(lrs),
        sweep_share=sweep_share,
        recipe=recipe,
        batch_size=batch_size,
        backbone=backbone,
        set=tuple(settings),
    )
    out = Path("runs") / f"compare-{images.name}" if out is None else Path(out)
    setup = Setup(out, images, device, workers, console)
    start_comparison(out, asked)
    pace = seconds_a_step(asked, setup)

    def run(trial: Trial) -> Trial:
        return finished(trial, asked, pace, setup)

    rates = {name: chosen_rate(name, asked, run, console) for name in asked.methods}
    # Seeds outside: every method has its first run before one has its second.
    wanted = [
        Trial(name, rates[name], seed, sweep=False)
        for seed in range(seeds)
        for name in asked.methods
        if rates[name] is not None or not lrs
    ]
    drawn = tell(asked, stored_of(wanted, out), setup)
    for trial in wanted:
        if stored(trial, out) is None:
            run(trial)
            drawn = tell(asked, stored_of(wanted, out), setup)
    console.width = max(console.width, 110)  # of the table
    console.print(table(asked, stored_of(wanted, out), rates), highlight=False)
    console.print(f"Written: {out / RESULTS}" + f", {out / PICTURE}" * drawn, highlight=False)
    return out


def start_comparison(out: Path, asked: Asked) -> None:
    """compare.json; one that is there already has to be of the same comparison, but for methods and seeds."""
    path = out / ASKED
    now = json.loads(json.dumps(asdict(asked)))
    if path.exists():
        before = json.loads(path.read_text())
        changed = [
            f"{name}: {before.get(name)!r} before, {value!r} now"
            for name, value in now.items()
            if name not in ("methods", "seeds") and before.get(name) != value
        ]
        if changed:
            raise BadInput(f"{out} holds another comparison ({'; '.join(changed)}). Choose another --out.")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out} already holds something that is no comparison. Choose another --out.")
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, now)


def seconds_a_step(asked: Asked, setup: Setup) -> dict[str, float]:
    """Seconds a step by method where minutes are the budget, timed in turns, so that no method has a busier moment.

    They are kept in pace.json: each run of a method has the same number of steps.
    """
    path = setup.out / PACE
    known: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
    new = [name for name in asked.methods if name not in known]
    if asked.time_budget is None or not new:
        return known
    fabric = start_fabric(setup.device)
    recipe = resolve(recipe_name(asked.recipe, setup.images), setup.images, None, setup.device)[0]
    recipes = {m: adapted(recipe, m, None, asked.batch_size, asked.backbone, asked.set) for m in new}
    with setup.console.status("timing a step of each method"):
        known |= timed_in_turns(recipes, setup.images, fabric, setup.workers)
    write_json(path, known)
    return known


def timed_in_turns(recipes: Mapping[str, Recipe], images: Data, fabric: Any, workers: int | None) -> dict[str, float]:
    """Seconds a step of each recipe on these images: medians of rounds in which each takes one.

    None is faster than the images come, which the others' turns would hide.
    """
    with contextlib.ExitStack() as opened:
        steps: dict[str, Callable[[], None]] = {}
        data: dict[str, float] = {}
        for name, recipe in recipes.items():
            trainer, _ = make_trainer(None, images, recipe, name, None, 0, fabric, ALONE, workers)
            data[name] = data_seconds(trainer)
            trials = opened.enter_context(contextlib.closing(trial_steps(trainer, ROUNDS + 1)))
            steps[name] = functools.partial(next, trials)
        return {t.method: max(t.median, data[t.method]) for t in time_steps(steps, ROUNDS, fabric.device)}


def chosen_rate(method: str, asked: Asked, run: Callable[[Trial], Trial], console: Console) -> float | None:
    """The base rate to train this method with; None: the recipe's, or, where rates were given, none that holds."""
    if len(asked.lrs) < 2:
        return asked.lrs[0] if asked.lrs else None
    tried = {lr: run(Trial(method, lr, seed=0, sweep=True)) for lr in asked.lrs}
    sound = {lr: trial.chosen_by for lr, trial in tried.items() if not trial.diverged}
    words = ", ".join(f"{lr:g}: {'diverged' if t.diverged else f'{t.chosen_by:.1f} %'}" for lr, t in tried.items())
    best = max(sound, key=lambda lr: sound[lr]) if sound else None
    edge = " (at the edge of what was tried)" if best in (min(asked.lrs), max(asked.lrs)) else ""
    console.print(f"{method}, base rate: {words}; taken: {best}{edge}", highlight=False)
    return best


def folder_of(trial: Trial, out: Path) -> Path:
    return out / ("sweep" if trial.sweep else "runs") / f"{trial.method}-lr-{rate_of(trial)}-seed-{trial.seed}"


def rate_of(trial: Trial) -> str:
    return "own" if trial.lr is None else f"{trial.lr:g}"


def stored(trial: Trial, out: Path) -> Trial | None:
    """The trial with what came of it; None if it has not been finished."""
    path = folder_of(trial, out) / TRIAL
    return Trial(**json.loads(path.read_text())) if path.exists() else None


def stored_of(trials: Sequence[Trial], out: Path) -> list[Trial]:
    return [done for trial in trials if (done := stored(trial, out)) is not None]


def finished(trial: Trial, asked: Asked, pace: Mapping[str, float], setup: Setup) -> Trial:
    """The trial with what came of it: read from its folder, or trained to its end first."""
    before = stored(trial, setup.out)
    if before is not None:
        return before
    folder = folder_of(trial, setup.out)
    setup.console.print(f"[{trial.method}, base rate {rate_of(trial)}, seed {trial.seed}{', sweep' * trial.sweep}]")
    share = asked.sweep_share if trial.sweep else 1.0
    steps = None
    if asked.time_budget is not None:
        steps = steps_in(60 * share * asked.time_budget, pace[trial.method], ALONE)
    reset_peak_memory(setup.device)
    try:
        pretrain(
            setup.images,
            recipe=asked.recipe,
            method=trial.method,
            out=folder,
            epochs=None if asked.epochs is None else max(1, round(share * asked.epochs)),
            steps=steps,
            batch_size=asked.batch_size,
            backbone=asked.backbone,
            seed=trial.seed,
            device=setup.device,
            resume=True,
            settings=[*asked.set, *([] if trial.lr is None else [f"optimizer.base_lr={trial.lr!r}"])],
            workers=setup.workers,
            evaluate=not trial.sweep,
            quiet=True,
        )
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
        trial,
        chosen_by=accuracy_among_training_images(folder, setup.images, setup.device),
        steps=run.steps,
        seconds_per_epoch=step * run.steps_per_epoch,
        peak_memory=max((line["peak_memory"] for line in lines if "peak_memory" in line), default=math.nan),
        effective_rank=last["effective_rank"],
        coding_ratio=last["coding_ratio"],
        curve=[(line["step"] * step / 60, line["knn"]) for line in lines if "knn" in line],
    )
    if trial.sweep:
        return trial
    found = [json.loads(text) for text in (folder / RESULTS).read_text().splitlines()]
    mine = [r for r in found if r["encoder"] == trial.method and r["metric"] == "top-1"]
    return replace(trial, accuracy={r["protocol"]: r["value"] for r in mine if r["protocol"] in ("knn", "linear-fast")})


def accuracy_among_training_images(folder: Path, images: Data, device: str) -> float:
    """k-NN accuracy (%) of every fifth labelled training image among the others."""
    encoder, transform = load_encoder(folder)
    split = images.train.labelled()
    if len(split) > CHOOSING:
        split = split.take(stratified(split.labels, len(split), CHOOSING, seed=0))
    queries = np.random.Generator(np.random.Philox(0)).permutation(len(split)) % 5 == 0
    parts = [split.take(np.flatnonzero(chosen)) for chosen in (~queries, queries)]
    bank, asked = (extract(encoder.to(device), part, transform, device=device) for part in parts)
    return knn(bank, asked)[0].value


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


def tell(asked: Asked, trials: Sequence[Trial], setup: Setup) -> bool:
    """results.jsonl and the picture, from the runs that are finished; whether there was anything to draw."""
    results = []
    for method in asked.methods:
        rate = next((t.lr for t in trials if t.method == method), None)
        settings = {"base_lr": rate, "diverged": diverged(trials, method)}
        for name, (value, spread, n) in summary(trials, method).items():
            protocol, metric, unit, _ = ROWS[name]
            results.append(
                Result(
                    protocol,
                    metric,
                    value,
                    unit,
                    spread,
                    n,
                    data=setup.images.name,
                    encoder=method,
                    settings={**settings, "epochs": asked.epochs, "minutes": asked.time_budget},
                    data_fingerprint=setup.images.fingerprint,
                )
            )
    write_text(setup.out / RESULTS, as_lines(results))
    curves: dict[str, list] = {}
    for trial in trials:
        if trial.curve:
            curves.setdefault(trial.method, []).append(trial.curve)
    if curves:
        accuracy_over_time(curves, f"{setup.images.name}: k-NN accuracy", setup.out / PICTURE)
    return bool(curves)


def diverged(trials: Sequence[Trial], method: str) -> int:
    return sum(bool(t.diverged) for t in trials if t.method == method)


def table(asked: Asked, trials: Sequence[Trial], rates: dict[str, float | None]) -> Table:
    """A line a method: mean ± sample standard deviation over seeds."""
    budget = f"{asked.epochs} epochs" if asked.time_budget is None else f"{asked.time_budget:g} minutes"
    title = f"{asked.data}: {budget} a run, {asked.seeds} seed{'s' * (asked.seeds > 1)}"
    shown = Table(title=title, caption="rank and ratio: of the embeddings that each objective sees")
    columns = ("base rate", "k-NN, %", "linear, %", "s an epoch", "peak GiB", "effective rank", "coding ratio")
    for column in ("method", *columns):
        shown.add_column(column, justify="left" if column == "method" else "right")
    digits = {"knn": 1, "linear-fast": 1, "seconds": 1, "memory": 2, "rank": 0, "ratio": 2}
    for method in asked.methods:
        rate = rates[method]
        found = summary(trials, method)
        cells = []
        shown_rate = f"{rate:g}" if rate is not None else "-" if asked.lrs else "recipe's"
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
