"""Fine-tuning an encoder as a detector on VOC or COCO, from the encoder to average precision."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mec.errors import BadInput, Diverged, TrainingStopped
from mec.evaluation.detection.metrics import coco_package
from mec.evaluation.detection.presets import SWEEP, Preset, result_name
from mec.evaluation.detection.reading import read_data
from mec.evaluation.detection.training import RESULT, DetectorRun, Task
from mec.evaluation.results import Result, labelled
from mec.evaluation.subject import Subject
from mec.runtime.device import start_fabric
from mec.runtime.distributed import Ranks, current
from mec.runtime.files import SETTINGS, check_free, check_same, read_json, write_json
from mec.runtime.locks import only_run
from mec.runtime.machine import has_bf16_units
from mec.runtime.progress import Console


def detect(
    subject: Subject, options: Any, name: str, preset: Preset, *, save_minutes: float = 10.0, quiet: bool = False
) -> list[Result]:
    """Train detectors from an encoder and measure them; each run has a folder below SUBJECT.folder/PROTOCOL-NAME.

    Args:
        options: a `protocols.Detection`. Its sweep tries `SWEEP` with the first seed and takes the best AP on the test
            photographs, as published searches do; to what it resumes other rates and seeds may be added.
        name: of the preset, one of the protocol's.
        preset: as `changed_preset` changes it.

    Returns:
        Mean and spread over seeds of each measure; with `sweep` also the AP of each rate. Nothing on ranks but the
        first.
    Raises BadInput: data, preset or encoder do not fit. TrainingStopped: by a signal, or diverged."""
    coco_package()  # refused now, not after hours of training
    data, protocol, precision = read_data(options, preset), options.word, options.precision
    fabric, ranks = start_fabric(subject.device), current()
    if preset.batch_size % ranks.size:
        raise BadInput(f"a batch of {preset.batch_size} cannot be shared by {ranks.size} processes.")
    bf16 = precision == "bf16" or (precision == "auto" and has_bf16_units(fabric.device.type))
    console = Console(quiet=quiet or ranks.rank > 0)
    task = Task(subject, protocol, preset, data, fabric, ranks, console, bf16, save_minutes)
    out = subject.folder / f"{protocol}-{name}"
    as_stored = json.loads(json.dumps(asdict(preset)))
    settings = {  # what decides the results of all runs of a folder
        "protocol": protocol, **{name: value for name, value in as_stored.items() if name not in ("seeds", "lr")},
        "precision": "bf16" if bf16 else "fp32", "checkpoint": subject.checkpoint,
        "data_fingerprint": data.train.fingerprint() + data.test.fingerprint(),
    }  # fmt: skip
    with only_run(out, ranks):
        start_folder(out, settings, options.resume, ranks)
        return trained(task, out, name, options.sweep)


def trained(task: Task, out: Path, name: str, sweep: bool) -> list[Result]:
    """The runs of a preset, one after another, and their results; those that are finished are only read."""
    protocol, preset, console = task.protocol, task.preset, task.console
    data, train, test = task.data, task.data.train, task.data.test
    photographs = f"{len(train):,} photographs to train on, {len(test):,} to test on"
    schedule = f"{preset.iterations:,} iterations of {preset.batch_size}, seeds {', '.join(map(str, preset.seeds))}"
    where = f"on {task.fabric.device.type}"
    console.print(f"{protocol}, preset {name}: {photographs}; {schedule}; {where}", highlight=False, soft_wrap=True)
    for words in data.told:
        console.print(words, highlight=False, soft_wrap=True)
    rates = SWEEP if sweep else (preset.lr,)
    tried: dict[float, dict[str, Any]] = {}
    for rate in rates:
        try:
            tried[rate] = run(task, out, rate, preset.seeds[0])
        except Diverged as error:
            if not sweep:
                raise
            console.print(f"lr {rate:g}: {error}", highlight=False)
    if not tried:
        raise TrainingStopped(f"every learning rate of {', '.join(map(str, rates))} diverged.")
    best = max(tried, key=lambda rate: next(iter(tried[rate]["scores"].values())))  # by AP, or box AP
    runs = [tried[best], *(run(task, out, best, seed) for seed in preset.seeds[1:])]
    if task.ranks.rank > 0:
        return []
    about = {
        "preset": result_name(protocol, name, preset), "precision": "bf16" if task.bf16 else "fp32",
        "iterations": preset.iterations, "batch_size": preset.batch_size, "source": preset.source,
        "photographs": len(test), "classes": len(np.unique(test.labels[~test.ignored])), "rule": data.rule,
    }  # fmt: skip
    results = as_results(protocol, tried if sweep else {}, best, runs, about)
    return labelled(results, data=data.name, data_fingerprint=test.fingerprint(), split=data.split)


def run(task: Task, out: Path, rate: float, seed: int) -> dict[str, Any]:
    """What a run has found: as it stands in its folder, or once it is trained."""
    folder = out / f"lr-{rate:g}-seed-{seed}"
    if (folder / RESULT).exists():
        return read_json(folder / RESULT)
    task.console.print(f"{folder}", highlight=False, soft_wrap=True)
    return DetectorRun(task, rate, seed, folder).to_the_end()


Found = Mapping[str, Any]  # what a run's result.json holds


def as_results(
    protocol: str, tried: Mapping[float, Found], best: float, runs: Sequence[Found], about: Mapping[str, Any]
) -> list[Result]:
    """Each rate of a search, then mean and spread of each measure over the runs with the best."""
    results = []
    for rate, found in tried.items():
        name, value = next(iter(found["scores"].items()))
        settings = {**about, "lr": rate, "part": "search of the learning rate"}
        results.append(Result(protocol, name, value, seed=found["seed"], settings=settings))
    chosen_on = {"lr_chosen_on": "the test photographs"} if tried else {}
    for metric in runs[0]["scores"]:
        values = [found["scores"][metric] for found in runs]
        settings = {**about, **chosen_on, "lr": best, "seeds": [found["seed"] for found in runs], "values": values}
        spread = statistics.stdev(values) if len(values) > 1 else None
        value, seed = statistics.mean(values), runs[0]["seed"]
        results.append(Result(protocol, metric, value, spread=spread, n=len(values), seed=seed, settings=settings))
    return results


def start_folder(out: Path, settings: Mapping[str, Any], resume: bool, ranks: Ranks) -> None:
    """An empty folder with settings.json, or the one to resume; refused where it holds another run."""
    stored = out / SETTINGS
    if resume and stored.exists():
        check_same(read_json(stored, dict), settings, out)
    elif ranks.rank == 0:
        check_free(out)
        out.mkdir(parents=True, exist_ok=True)
        write_json(stored, settings)
    ranks.wait()
