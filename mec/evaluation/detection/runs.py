"""Fine-tuning an encoder as a detector on VOC or COCO, from the encoder to average precision."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from mec.errors import BadInput, Diverged, TrainingStopped
from mec.evaluation.detection.annotations import Annotations, crowds, read_coco, read_voc, without_polygons
from mec.evaluation.detection.batches import largest_objects
from mec.evaluation.detection.metrics import coco_package
from mec.evaluation.detection.network import Detector
from mec.evaluation.detection.presets import PRESETS, SWEEP, Preset
from mec.evaluation.detection.training import DetectorRun
from mec.evaluation.results import Result, labelled
from mec.evaluation.subject import Subject
from mec.runtime import files
from mec.runtime.device import start_fabric
from mec.runtime.distributed import Ranks, current
from mec.runtime.files import SETTINGS, check_free, missing
from mec.runtime.machine import has_bf16_units


def detect(
    subject: Subject,
    protocol: str,
    root: Path,
    name: str,
    chosen: Preset,
    *,
    sweep: bool = False,
    precision: str = "auto",
    resume: bool = False,
    save_minutes: float = 10.0,
    quiet: bool = False,
) -> list[Result]:
    """Train detectors from an encoder and measure them; each run has a folder below SUBJECT.folder/PROTOCOL-NAME.

    Args:
        protocol: "voc", "voc0712" or "coco".
        root: of the data, in its standard layout.
        name: of the preset, one of PRESETS[protocol].
        chosen: the preset, as `changed_preset` changes it.
        sweep: try `SWEEP` with the first seed, take the best AP on the test photographs, as published searches do.
        precision: "auto" (bf16 where the device has units for it), "fp32" or "bf16".
        resume: resume the runs that the folder holds.

    Returns:
        Mean and spread over seeds of each measure; with `sweep` also the AP of each rate. Nothing on ranks but the
        first.

    Raises:
        BadInput: data, preset or encoder do not fit. TrainingStopped: by a signal, or diverged.
    """
    coco_package()  # refused now, not after hours of training
    train, test = read_data(protocol, root, chosen)
    fabric = start_fabric(subject.device)
    bf16 = precision == "bf16" or (precision == "auto" and has_bf16_units(fabric.device.type))
    ranks = current()
    if chosen.batch_size % ranks.size:
        raise BadInput(f"a batch of {chosen.batch_size} cannot be shared by {ranks.size} processes.")
    console = Console(quiet=quiet or ranks.rank > 0)
    out = subject.folder / f"{protocol}-{name}"
    # Rates and seeds are folders in it: others may be added, and those that are finished count.
    as_stored = json.loads(json.dumps(asdict(chosen)))
    settings = {
        "protocol": protocol,
        **{name: value for name, value in as_stored.items() if name not in ("seeds", "lr")},
        "precision": "bf16" if bf16 else "fp32",
        "checkpoint": subject.checkpoint,
        "data_fingerprint": train.fingerprint() + test.fingerprint(),
    }
    start_folder(out, settings, resume, ranks)
    console.print(
        f"{protocol}, preset {name}: {len(train):,} photographs to train on, {len(test):,} to test on; "
        f"{chosen.iterations:,} iterations of {chosen.batch_size}, seeds {', '.join(map(str, chosen.seeds))}; "
        f"on {fabric.device.type}",
        highlight=False,
    )

    lacking = without_polygons(train).sum()
    if lacking:
        console.print(f"{lacking:,} objects have no polygon and are not trained on.", highlight=False)

    def run(rate: float, seed: int) -> dict[str, Any]:
        folder = out / f"lr-{rate:g}-seed-{seed}"
        if (folder / "result.json").exists():
            return json.loads((folder / "result.json").read_text())
        console.print(f"{folder}", highlight=False)
        one = DetectorRun(fabric, ranks, subject, protocol, chosen, train, test, rate, seed, folder, console, bf16)
        return one.to_the_end(save_minutes)

    rates = SWEEP if sweep else (chosen.lr,)
    tried: dict[float, dict[str, Any]] = {}
    for rate in rates:
        try:
            tried[rate] = run(rate, chosen.seeds[0])
        except Diverged as error:
            if not sweep:
                raise
            console.print(f"lr {rate:g}: {error}", highlight=False)
    if not tried:
        raise TrainingStopped(f"every learning rate of {', '.join(map(str, rates))} diverged.")
    best = max(tried, key=lambda rate: main_score(tried[rate])[1])
    runs = [tried[best], *(run(best, seed) for seed in chosen.seeds[1:])]
    if ranks.rank > 0:
        return []
    about = {
        "preset": result_name(protocol, name, chosen), "precision": settings["precision"],
        "iterations": chosen.iterations, "batch_size": chosen.batch_size, "source": chosen.source,
        "photographs": len(test), "classes": len(np.unique(test.labels[~test.ignored])),
    }  # fmt: skip
    results = as_results(protocol, tried if sweep else {}, best, runs, about)
    split = chosen.test if chosen.photographs is None else "train"
    data = "COCO2017" if protocol == "coco" else "VOC2007"
    return labelled(results, data=data, data_fingerprint=test.fingerprint(), split=split)


def as_results(
    protocol: str,
    tried: Mapping[float, Mapping[str, Any]],
    best: float,
    runs: Sequence[Mapping[str, Any]],
    about: Mapping[str, Any],
) -> list[Result]:
    """Each rate of a search, then mean and spread of each measure over the runs with the best."""
    results = []
    for rate, found in tried.items():
        name, value = main_score(found)
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


def main_score(found: Mapping[str, Any]) -> tuple[str, float]:
    """AP, or box AP: the first of the scores."""
    return next(iter(found["scores"].items()))


def result_name(protocol: str, name: str, preset: Preset) -> str:
    """What results call it: the preset, or "PRESET, changed" where more than seeds and rate was."""
    published = PRESETS[protocol][name]
    return name if replace(preset, seeds=published.seeds, lr=published.lr) == published else f"{name}, changed"


def read_data(protocol: str, root: Path, preset: Preset) -> tuple[Annotations, Annotations]:
    """What is trained on and what is tested on."""
    if protocol == "coco":
        read: Callable[[Sequence[str]], Annotations] = lambda names: read_coco(root, names[0])  # noqa: E731
    else:
        read = lambda names: read_voc(root, [(int(n.split()[0]), n.split()[1]) for n in names])  # noqa: E731
    train = read(preset.train)
    missing(map(Path, train.paths), f"photographs of {', '.join(preset.train)}")
    lacking, crowd = without_polygons(train), crowds(train)
    if lacking.any() and (lacking | crowd).all():
        raise BadInput(
            f"{train.source}: none of its {lacking.sum():,} objects has a polygon (they have boxes alone, or masks as "
            'run lengths), and masks are learned from polygons. Write the outlines into "segmentation", as '
            "[[x, y, x, y, ...]]."
        )
    if preset.photographs is not None:
        train = largest_objects(train, preset.photographs)
        return train, train
    test = read((preset.test,))
    missing(map(Path, test.paths), f"photographs of {preset.test}")
    return train, test


def start_folder(out: Path, settings: Mapping[str, Any], resume: bool, ranks: Ranks) -> None:
    """An empty folder with settings.json, or the one to resume.

    Raises:
        BadInput: it holds a run and this is no resuming, or was started with other settings; names them.
    """
    stored = out / SETTINGS
    if resume and stored.exists():
        try:
            before = json.loads(stored.read_text())
        except ValueError as error:
            raise BadInput(f"{stored}: not valid JSON ({error}).") from error
        differing = [f"{k}: {before.get(k)!r} before, {v!r} now" for k, v in settings.items() if before.get(k) != v]
        if differing:
            raise BadInput(
                f"{out} was started with other settings ({'; '.join(differing)}). Use them, or another --out."
            )
    elif ranks.rank == 0:
        check_free(out)
        out.mkdir(parents=True, exist_ok=True)
        files.write_json(stored, settings)
    ranks.wait()


__all__ = ["PRESETS", "Detector", "Preset", "detect"]
