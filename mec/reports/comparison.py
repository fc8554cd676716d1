"""Methods side by side: same images, views, backbone and budget; one run after another, and any of them resumed."""

import contextlib
import functools
import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mec.data.dataset import Data
from mec.data.opening import open_data
from mec.errors import BadInput
from mec.evaluation.results import RESULTS
from mec.recipes.fields import fitted
from mec.recipes.recipe import Recipe
from mec.reports.options import Comparison
from mec.reports.trials import PICTURE, Setup, Trial, finished, folder_of, stored, table, tell, training_keywords
from mec.runtime.device import start_fabric
from mec.runtime.distributed import ALONE, current
from mec.runtime.files import read_json, write_json
from mec.runtime.flags import takes
from mec.runtime.locks import is_empty, only_run
from mec.runtime.progress import Console
from mec.training.health import METRICS
from mec.training.options import Options
from mec.training.page import REPORT, write_report
from mec.training.plan import planned
from mec.training.pretrain import make_trainer
from mec.training.timing import data_seconds, trial_steps

ASKED, PACE = "compare.json", "pace.json"
ROUNDS = 15  # steps of each method that are timed


@takes(Comparison)
def compare(data: str | Path | Data, options: Comparison) -> Path:
    """Train each method on the same images within the same budget; the folder of the comparison is returned.

    With several learning rates each is tried first with seed 0 and a share of the budget, and the one whose encoder
    tells training images apart best (k-NN of a fifth of them among the others) is kept: test images choose nothing.
    A budget in minutes becomes a number of steps for each method, once. The folder holds a run a trial, compare.json,
    pace.json, results.jsonl and compare.png. Called again the comparison continues where it stopped; more methods or
    seeds may be added.

    Args:
        data: digits, a data set's name, a folder with train/CLASS/ and val|test/CLASS/, or what `open_data` gave.
    {options}

    Raises:
        BadInput: something does not fit, or the folder holds another comparison.
        TrainingStopped: a signal asked to stop."""
    setup = prepared(data, options)
    with only_run(setup.out, ALONE):
        start_comparison(setup)
        run = functools.partial(finished, pace=seconds_a_step(setup), setup=setup)
        rates = {name: chosen_rate(name, setup, run) for name in setup.options.method_names}
        # Seeds outside: every method has its first run before one has its second.
        sound = [name for name in rates if rates[name] is not None or not setup.options.rates]
        wanted = [Trial(name, rates[name], seed, sweep=False) for seed in range(options.seeds) for name in sound]
        told = {trial: done for trial in wanted if (done := stored(trial, setup.out)) is not None}
        drawn = tell([*told.values()], setup)
        for trial in wanted:
            if trial not in told:
                told[trial] = run(trial)
                drawn = tell([*told.values()], setup)
        setup.console.width = max(setup.console.width, 110)  # of the table
        setup.console.print(table([*told.values()], rates, setup))
        setup.console.print(f"Written: {setup.out / RESULTS}" + f", {setup.out / PICTURE}" * drawn, soft_wrap=True)
        folders = [folder for trial in wanted if ((folder := folder_of(trial, setup.out)) / METRICS).exists()]
        if folders:  # one that diverged at its first step has left nothing
            setup.console.print(f"Page: {write_report(folders, setup.out / REPORT)}", soft_wrap=True)
    return setup.out


def prepared(data: str | Path | Data, options: Comparison) -> Setup:
    """The images, opened once for all runs, and where to run."""
    device = start_fabric(options.device).device.type
    if current().size > 1:
        raise BadInput(f"mec compare was started as {current().size} processes: it runs in one, without torchrun.")
    about: dict[str, Any] = {"root": options.data_root, "limit": options.limit, "labels": options.labels}
    images = data if isinstance(data, Data) else open_data(str(data), **about)
    if not images.can_be_measured:
        name = images.name if isinstance(data, Data) else data
        raise BadInput(f"{name} has no labels to compare by: train/CLASS/ and val|test/CLASS/, or --labels CSV.")
    out = Path("runs") / f"compare-{images.name}" if options.out is None else Path(options.out)
    console = Console(quiet=options.quiet, highlight=False)
    for words in images.words():
        console.print(words, style="yellow", soft_wrap=True)
    return Setup(options, images, out, device, console)


def start_comparison(setup: Setup) -> None:
    """compare.json; one that is there already has to be of the same comparison, but for methods and seeds."""
    out, images = setup.out, setup.images
    path, asked = out / ASKED, {"data": images.name, "data_fingerprint": images.fingerprint, **setup.options.asked}
    now = json.loads(json.dumps(asked))  # as it is read
    if path.exists():
        before = read_json(path, dict)
        if images.fits(str(before.get("data_fingerprint"))):  # an older one of the same images
            now["data_fingerprint"] = before["data_fingerprint"]
        compared = [name for name in now if name not in ("methods", "seeds")]
        if changed := [f"{k}: {before.get(k)!r} before, {now[k]!r} now" for k in compared if before.get(k) != now[k]]:
            raise BadInput(f"{out} holds another comparison ({'; '.join(changed)}). Choose another --out.")
    elif out.exists() and (not out.is_dir() or not is_empty(out)):
        raise BadInput(f"{out} already holds something that is no comparison. Choose another --out.")
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, now)


def seconds_a_step(setup: Setup) -> dict[str, float]:
    """Seconds a step by method where minutes are the budget, timed in turns, so that no method has a busier moment.
    They are kept in pace.json: each run of a method has the same number of steps."""
    path = setup.out / PACE
    known: dict[str, float] = fitted(read_json(path), dict[str, float], str(path)) if path.exists() else {}
    new = [name for name in setup.options.method_names if name not in known]
    if setup.options.time_budget is None or not new:
        return known
    fabric = start_fabric(setup.device)
    asked = {name: Options(**training_keywords(setup, name)) for name in new}
    recipes = {m: planned(o.named(setup.images), setup.images, o, setup.device)[0] for m, o in asked.items()}
    with setup.console.status("timing a step of each method"):
        known |= timed_in_turns(recipes, setup.images, fabric, setup.options.workers)
    write_json(path, known)
    return known


def timed_in_turns(recipes: Mapping[str, Recipe], images: Data, fabric: Any, workers: int | None) -> dict[str, float]:
    """Seconds a step of each recipe on these images: medians of rounds in which each takes one.
    None is faster than the images come, which the others' turns would hide."""
    with contextlib.ExitStack() as opened:
        steps, data = {}, {}
        for name, recipe in recipes.items():
            trainer, _ = make_trainer(None, images, recipe, name, Options(workers=workers), fabric, ALONE)
            data[name] = data_seconds(trainer)
            steps[name] = opened.enter_context(contextlib.closing(trial_steps(trainer, ROUNDS + 1)))
        times: dict[str, list[float]] = {name: [] for name in steps}
        for name in [*steps] * (ROUNDS + 1):  # in turns: a machine's moods meet all of them alike
            began = time.perf_counter()
            next(steps[name])
            times[name].append(time.perf_counter() - began)
        return {name: max(statistics.median(of[1:]), data[name]) for name, of in times.items()}


def chosen_rate(method: str, setup: Setup, run: Callable[[Trial], Trial]) -> float | None:
    """The base rate to train this method with; None: the recipe's, or, where rates were given, none that holds."""
    lrs = setup.options.rates
    if len(lrs) < 2:
        return lrs[0] if lrs else None
    tried = {lr: run(Trial(method, lr, seed=0, sweep=True)) for lr in lrs}
    sound = {lr: trial.chosen_by for lr, trial in tried.items() if not trial.diverged}
    words = ", ".join(f"{lr:g}: {'diverged' if t.diverged else f'{t.chosen_by:.1f} %'}" for lr, t in tried.items())
    best = max(sound, key=lambda lr: sound[lr]) if sound else None
    edge = " (at the edge of what was tried)" if best in (min(lrs), max(lrs)) else ""
    setup.console.print(f"{method}, base rate: {words}; taken: {best}{edge}")
    return best
