"""One run of a comparison: which it is, how it is trained, and what came of it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mec.data.dataset import Data, stratified
from mec.errors import Diverged
from mec.evaluation.features import extract
from mec.evaluation.probing.knn import knn
from mec.evaluation.results import RESULTS
from mec.networks.encoder_file import image_transform, load_encoder, read_info
from mec.recipes.fields import from_file
from mec.reports.options import Comparison
from mec.runtime.distributed import ALONE
from mec.runtime.files import read_json, write_json
from mec.runtime.memory import reset_peak_memory
from mec.runtime.progress import Console
from mec.runtime.records import read_records
from mec.training import health
from mec.training.pretrain import pretrain
from mec.training.run import read_settings
from mec.training.timing import steps_in

TRIAL = "trial.json"
CHOOSING = 5_000  # most training images of the k-NN figure that chooses a learning rate


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


def stored_of(trials: Sequence[Trial], out: Path) -> list[Trial]:
    return [done for trial in trials if (done := stored(trial, out)) is not None]


def finished(trial: Trial, pace: Mapping[str, float], setup: Setup) -> Trial:
    """The trial with what came of it: read from its folder, or trained to its end first."""
    if (before := stored(trial, setup.out)) is not None:
        return before
    folder, asked = folder_of(trial, setup.out), setup.options
    setup.console.print(f"[{trial.method}, base rate {rate_of(trial)}, seed {trial.seed}{', sweep' * trial.sweep}]")
    share = asked.sweep_share if trial.sweep else 1.0
    minutes = asked.time_budget
    steps = None if minutes is None else steps_in(60 * share * minutes, pace[trial.method], ALONE)
    reset_peak_memory(setup.device)
    epochs = None if asked.epochs is None else max(1, round(share * asked.epochs))
    changes = [*asked.set, *([] if trial.lr is None else [f"optimizer.base_lr={trial.lr!r}"])]
    own = {"out": folder, "seed": trial.seed, "epochs": epochs, "steps": steps, "set": changes}
    keywords = {**training_keywords(setup, trial.method), **own}
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
