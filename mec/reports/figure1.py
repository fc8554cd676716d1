"""The paper's Figure 1: five image tasks and five video tasks, as radars of scaled values and of ranks."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas

from mec.errors import BadInput
from mec.pages.charts import colour
from mec.reports.tables import Row, Table, read
from mec.runtime.files import as_drawn, atomic, write_json

CONDITIONS = ("preset", "limit", "labels", "stage", "head", "mode", "detections", "motion", "sequences", "epoch")
LOOKS = ("-", "--", "-.", ":")
MARKS = "osD^vPX*"


class Axis(NamedTuple):
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
    Axis("VOC", "detection, AP", ("voc0712", "voc"), "AP", {}, {"protocol": "voc0712", "preset": "voc0712-24k"}),
    Axis("COCO", "detection, box AP", ("coco",), "box AP", {}, {"preset": "coco-1x"}),
    Axis("SEG", "masks, AP", ("coco",), "mask AP", {}, {"preset": "coco-1x"}),
    Axis("SOT", "one object, AUC", ("sot",), "AUC", {"head": "xcorr"}, {"stage": 3, "sequences": 100}, video=True),
    Axis("VOS", "masks, J-mean", ("vos",), "J-mean", {}, {"stage": 3, "sequences": 30}, video=True),
    Axis("MOT", "boxes, IDF1", ("mot",), "IDF1", {}, {}, video=True),
    Axis("Pose", "poses, IDF1", ("posetrack",), "IDF1", {}, {"data": "PoseTrack-val", "sequences": 74}, video=True),
    Axis("MOTS", "masks, IDF1", ("mots",), "IDF1", {}, {}, video=True),
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


def standing(results: Sequence[Mapping[str, Any]]) -> tuple[Any, dict[str, dict[str, Any]]]:
    """From results, each with the `run` that it is of: a data frame, a row a run, a column an axis; and conditions.
    Of an axis, only results under the same conditions are compared: those that most runs have. Published rows stand
    where the data are the published ones. What is missing is NaN."""
    values: dict[str, dict[str, float]] = {str(result["run"]): {} for result in results}
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
    return pandas.DataFrame(values, index=[axis.name for axis in AXES], dtype=float).T.dropna(how="all"), conditions


def figure_1(results: Sequence[Mapping[str, Any]], out: Path) -> list[Path]:
    """Draw what `standing` has of results; writes PNG, SVG and JSON beside each other. Ranks count who is there."""
    values, conditions = standing(results)
    ranks = values.rank(ascending=False)  # 1 for the largest; equal ones share the mean of their ranks
    mean = ranks.mean(axis=1)
    paths = [out, out.with_suffix(".svg")]
    data = {axis: as_drawn(str(about["data"])) for axis, about in conditions.items()}
    figure = radars(values, ranks, mean, data)
    for path in paths:
        with atomic(path) as part:
            figure.savefig(part, format=path.suffix[1:], dpi=130)
    table = {
        "values": {name: row.dropna().to_dict() for name, row in values.iterrows()},
        "ranks": {axis: column.dropna().to_dict() for axis, column in ranks.items()},
        "mean_rank": mean.to_dict(), "conditions": conditions,
    }  # fmt: skip
    write_json(out.with_suffix(".json"), table)
    return [*paths, out.with_suffix(".json")]


def of_runs(runs: Sequence[Path], out: Path) -> list[Path]:
    """Draw it from the results of run folders; returns what was written.
    Raises FileNotFoundError: a run has no results. BadInput: no run was given."""
    if not runs:
        raise BadInput("no run was given: name at least one run folder.")
    return figure_1(trained(runs), out)


def trained(runs: Sequence[Path]) -> list[dict[str, Any]]:
    """The results of the runs' encoders, each with its name as `run`."""
    return [
        {**result, "run": each.name} for each in read(runs) for result in each.results
        if result["encoder"] not in ("untrained", "pixels") and result["value"] is not None
    ]  # fmt: skip


def table_1(runs: Sequence[Path]) -> Table:
    """The figures of Figure 1, and mean ranks; published rows alone where no run is given."""
    values = standing(trained(runs))[0] if runs else pandas.DataFrame(PUBLISHED, index=[axis.name for axis in AXES]).T
    ranks = values.rank(ascending=False).mean(axis=1)
    rows = [
        Row(str(name), (f"{ranks[name]:.2g}",), tuple(None if math.isnan(v) else v for v in row), name not in PUBLISHED)
        for name, row in values.iterrows()
    ]
    title = "Figure 1: " + ", ".join(f"{axis.name} ({axis.title})" for axis in AXES)
    return Table(title, ("mean rank",), tuple(values.columns), {"": rows})


def compared(axis: Axis, results: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The result of each run on an axis, all under the conditions that most runs have; of equals, the latest."""
    fitting = [
        r for r in results
        if r.get("protocol") in axis.protocols and r.get("metric") == axis.metric
        and all(r["settings"].get(key) == value for key, value in axis.settings.items())
        and r["settings"].get("part") is None and r["settings"].get("head") != "still"
    ]  # fmt: skip
    if not fitting:
        return {}
    by_run = dict.fromkeys((str(r["run"]), key_of(r)) for r in fitting)
    best = Counter(key for _, key in by_run).most_common(1)[0][0]  # of equals the first
    return {str(r["run"]): r for r in fitting if key_of(r) == best}


def condition_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """What has to be the same for two results to be compared."""
    of = {key: result["settings"][key] for key in CONDITIONS if key in result["settings"]}
    return {"protocol": result["protocol"], "data": result.get("data"), "split": result.get("split"), **of}


def key_of(result: Mapping[str, Any]) -> str:
    return json.dumps(condition_of(result), sort_keys=True, default=str)


def radars(values: Any, ranks: Any, mean: Mapping[str, float], data: Mapping[str, str]) -> Any:
    """A matplotlib figure: image tasks by value, video tasks by rank, with what each was measured on; mean ranks."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.2), layout="constrained")
    axes = figure.subplots(1, 2, subplot_kw={"projection": "polar"})
    handles: dict[str, Any] = {}
    for plot, video in zip(axes, (False, True)):
        tasks = [axis for axis in AXES if axis.video == video]
        angles = [2 * math.pi * i / len(tasks) for i in range(len(tasks))]
        shown = -ranks if video else values  # from 0.2 for the least to 1 for the most; 1 where there is no difference
        low, high = shown.min(), shown.max()
        heights = 1 - 0.8 * (high - shown) / (high - low).where(high > low, 1)
        labels = []
        for task in tasks:
            there = values[task.name].dropna()
            span = f"{data[task.name]}: {there.min():.1f} to {there.max():.1f}" if len(there) else "missing"
            labels.append(f"{task.name}\n{task.title}\n{span}")
        for number, name in enumerate(values.index):
            points = [(angle, heights.loc[name, task.name]) for angle, task in zip(angles, tasks)]
            if all(math.isnan(height) for _, height in points):
                continue
            closed = [*points, points[0]]  # a line breaks where a figure is missing
            (handles[name],) = plot.plot(
                *zip(*closed), LOOKS[number % len(LOOKS)], marker=MARKS[number % len(MARKS)], markersize=6,
                color=colour(number), linewidth=1.6,
            )  # fmt: skip
        plot.set_xticks(angles, labels, fontsize=8)
        plot.tick_params(axis="x", pad=14)
        for angle, label in zip(angles, plot.get_xticklabels()):
            label.set_ha("center" if abs(math.cos(angle)) < 0.5 else "left" if math.cos(angle) > 0 else "right")
        plot.set_yticks([0.2, 0.6, 1.0], [])
        plot.set_ylim(0, 1.05)
        words = "video tasks, by rank (outermost: first)" if video else "image tasks, from the least to the most"
        plot.set_title(words, fontsize=10, pad=18)
    named = [f"{as_drawn(name)}, mean rank {mean[name]:.2g}" for name in handles]
    if handles:
        figure.legend([*handles.values()], named, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return figure
