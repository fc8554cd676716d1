"""The paper's Figure 1: five image tasks and five video tasks, as radars of scaled values and of ranks."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mec.errors import BadInput
from mec.evaluation.results import RESULTS
from mec.runtime.files import as_drawn, atomic, write_json
from mec.runtime.records import read_records

LOOKS = ("-", "--", "-.", ":")
MARKS = "osD^vPX*"
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#777777", "#000000")


@dataclass(frozen=True)
class Axis:
    """A task: which results count, and what is published of it."""

    name: str
    title: str
    protocols: tuple[str, ...]
    metric: str
    settings: Mapping[str, Any]  # that a result has to have
    published: Mapping[str, Any]  # conditions of the published figures
    video: bool = False


AXES = (
    Axis("LIN", "linear probe, top-1", ("linear", "linear-fast"), "top-1", {}, {"data": "imagenet", "preset": "paper"}),
    Axis("SEMI", "1 % of the labels, top-1", ("semi",), "top-1", {"labels": "1%"}, {"data": "imagenet"}),
    Axis("VOC", "VOC, AP", ("voc0712", "voc"), "AP", {}, {"protocol": "voc0712", "preset": "voc0712-24k"}),
    Axis("COCO", "COCO, box AP", ("coco",), "box AP", {}, {"preset": "coco-1x"}),
    Axis("SEG", "COCO, mask AP", ("coco",), "mask AP", {}, {"preset": "coco-1x"}),
    Axis("SOT", "OTB, AUC", ("sot",), "AUC", {"head": "xcorr"}, {"stage": 3, "sequences": 100}, video=True),
    Axis("VOS", "DAVIS, J-mean", ("vos",), "J-mean", {}, {"stage": 3, "sequences": 30}, video=True),
    Axis("MOT", "MOT16, IDF1", ("mot",), "IDF1", {}, {}, video=True),
    Axis("Pose", "PoseTrack, IDF1", ("posetrack",), "IDF1", {}, {"data": "PoseTrack-val", "sequences": 74}, video=True),
    Axis("MOTS", "MOTS, IDF1", ("mots",), "IDF1", {}, {}, video=True),
)

# Rows with figures in public text: MEC's appendix D, Table 7; MoCo's detection page; UniTrack's results (ResNet-18,
# stage 3; its figures of MOT and MOTS are of test sets without a public ground truth, and stand in no row here).
PUBLISHED: dict[str, dict[str, float]] = {
    "MEC (published)": {"LIN": 74.5},
    "BYOL (published)": {"LIN": 74.3},
    "SimSiam (published)": {"LIN": 71.3},
    "MoCo v2 (published)": {"VOC": 57.4},
    "Supervised (published)": {"VOC": 53.5},
    "Supervised ResNet-18, UniTrack (published)": {"SOT": 55.5, "VOS": 58.4, "Pose": 73.2},
}


def figure_1(results: Sequence[Mapping[str, Any]], out: Path) -> list[Path]:
    """Draw it from results, each with the `run` that it is of; writes PNG, SVG and JSON beside each other.

    Of an axis, only results under the same conditions are compared: those that most runs have. Published rows are
    drawn where the data are the published ones. What is missing is left open, and ranks count who is there.
    """
    runs = list(dict.fromkeys(str(result["run"]) for result in results))
    values: dict[str, dict[str, float]] = {run: {} for run in runs}
    conditions: dict[str, dict[str, Any]] = {}
    for axis in AXES:
        found = compared(axis, results)
        if not found:
            continue
        conditions[axis.name] = condition_of(next(iter(found.values())))
        for run, result in found.items():
            values[run][axis.name] = float(result["value"])
        if all(conditions[axis.name].get(key) == value for key, value in axis.published.items()):
            for name, row in PUBLISHED.items():
                if axis.name in row:
                    values.setdefault(name, {})[axis.name] = row[axis.name]
    columns = {axis.name: {name: row[axis.name] for name, row in values.items() if axis.name in row} for axis in AXES}
    ranks = {name: ranked(column) for name, column in columns.items()}
    mean = {name: float(np.mean([r[name] for r in ranks.values() if name in r])) for name, row in values.items() if row}
    drawn = {name: row for name, row in values.items() if row}
    paths = [out, out.with_suffix(".svg")]
    figure = radars(drawn, ranks, mean)
    for path in paths:
        with atomic(path) as part:
            figure.savefig(part, format=path.suffix[1:], dpi=130)
    table = {"values": values, "ranks": ranks, "mean_rank": mean, "conditions": conditions}
    write_json(out.with_suffix(".json"), json.loads(json.dumps(table)))
    return [*paths, out.with_suffix(".json")]


def of_runs(runs: Sequence[Path], out: Path) -> list[Path]:
    """Draw it from the results of run folders; returns what was written.

    Raises:
        FileNotFoundError: a run has no results.
        BadInput: no run was given.
    """
    if not runs:
        raise BadInput("no run was given: name at least one run folder.")
    results = []
    for run in runs:
        path = run / RESULTS if run.is_dir() else run
        if not path.exists():
            raise FileNotFoundError(f"{path}: no results. `mec evaluate {run} ...` writes them.")
        found = read_records(path, protocol=str, metric=str, value=float, encoder=str, settings=dict)
        results += [{**r, "run": run_name(r, path)} for r in found if r["encoder"] not in ("untrained", "pixels")]
    out.parent.mkdir(parents=True, exist_ok=True)
    return figure_1(results, out)


def run_name(result: Mapping[str, Any], path: Path) -> str:
    return f"{result['encoder']} ({path.resolve().parent.name})"


def compared(axis: Axis, results: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The result of each run on an axis, all under the conditions that most runs have; of equals, the latest."""
    fitting = [
        r for r in results
        if r["protocol"] in axis.protocols and r["metric"] == axis.metric
        and all(r["settings"].get(key) == value for key, value in axis.settings.items())
        and r["settings"].get("part") is None and r["settings"].get("head") != "still"
    ]  # fmt: skip
    if not fitting:
        return {}
    shared = Counter(key for _, key in {(str(r["run"]), key_of(r)) for r in fitting})
    order = [key_of(r) for r in fitting]
    best = max(shared, key=lambda key: (shared[key], order.index(key) * -1))
    return {str(r["run"]): r for r in fitting if key_of(r) == best}


def condition_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """What has to be the same for two results to be compared."""
    telling = ("preset", "limit", "labels", "stage", "head", "mode", "detections", "motion", "sequences", "epoch")
    of = {key: result["settings"][key] for key in telling if key in result["settings"]}
    return {"protocol": result["protocol"], "data": result["data"], "split": result.get("split"), **of}


def key_of(result: Mapping[str, Any]) -> str:
    return json.dumps(condition_of(result), sort_keys=True, default=str)


def ranked(values: Mapping[str, float]) -> dict[str, float]:
    """1 for the largest; equal ones share the mean of their ranks.

    >>> ranked({"a": 3.0, "b": 5.0, "c": 3.0})
    {'a': 2.5, 'b': 1.0, 'c': 2.5}
    """
    above = {name: sum(other > value for other in values.values()) for name, value in values.items()}
    equal = {name: sum(other == value for other in values.values()) for name, value in values.items()}
    return {name: above[name] + (1 + equal[name]) / 2 for name in values}


def scaled(values: Mapping[str, float]) -> dict[str, float]:
    """From 0.2 for the smallest to 1 for the largest; 1 where there is no difference."""
    low, high = min(values.values()), max(values.values())
    return {name: 1.0 if high == low else 0.2 + 0.8 * (value - low) / (high - low) for name, value in values.items()}


def radars(
    values: Mapping[str, dict[str, float]], ranks: Mapping[str, dict[str, float]], mean: Mapping[str, float]
) -> Any:
    """A matplotlib figure: image tasks by value, video tasks by rank; a legend with mean ranks."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.4), layout="constrained")
    axes = figure.subplots(1, 2, subplot_kw={"projection": "polar"})
    handles: dict[str, Any] = {}
    for plot, video in zip(axes, (False, True)):
        tasks = [axis for axis in AXES if axis.video == video]
        angles = [2 * math.pi * i / len(tasks) for i in range(len(tasks))]
        heights: dict[str, dict[str, float]] = {}
        labels = []
        for task in tasks:
            there = {name: row[task.name] for name, row in values.items() if task.name in row}
            most = max(1, len(there))
            by_rank = {name: 1 - 0.8 * (rank - 1) / max(1, most - 1) for name, rank in ranks[task.name].items()}
            heights[task.name] = {} if not there else by_rank if video else scaled(there)
            span = f"{min(there.values()):.1f} to {max(there.values()):.1f}" if there else "missing"
            labels.append(f"{task.name}\n{task.title}\n{span}")
        for number, name in enumerate(values):
            points = [(angle, heights[task.name].get(name, math.nan)) for angle, task in zip(angles, tasks)]
            if all(math.isnan(height) for _, height in points):
                continue
            closed = [*points, points[0]]  # a line breaks where a figure is missing
            (handles[name],) = plot.plot(
                *zip(*closed), LOOKS[number % len(LOOKS)], marker=MARKS[number % len(MARKS)], markersize=6,
                color=COLOURS[number % len(COLOURS)], linewidth=1.6,
            )  # fmt: skip
        plot.set_xticks(angles, labels, fontsize=8)
        plot.tick_params(axis="x", pad=22)
        plot.set_yticks([0.2, 0.6, 1.0], [])
        plot.set_ylim(0, 1.05)
        words = "video tasks, by rank (outermost: first)" if video else "image tasks, from the least to the most"
        plot.set_title(words, fontsize=10, pad=18)
    named = [f"{as_drawn(name)}, mean rank {mean[name]:.2g}" for name in handles]
    if handles:
        figure.legend([*handles.values()], named, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return figure
