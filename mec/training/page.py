"""report.html: what the folders of runs hold, as one page that can be sent on."""

import datetime
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bokeh.palettes import interp_palette
from scipy.stats import rankdata

from mec.data.decoding import open_image
from mec.errors import plain
from mec.evaluation.results import CONFUSION, RESULTS
from mec.objectives.methods import method_named
from mec.pages import charts
from mec.pages.page import write_page
from mec.runtime.files import read_json
from mec.runtime.machine import machine
from mec.runtime.records import read_records
from mec.training.health import Verdict, health, read_metrics
from mec.training.run import RunSettings, read_settings
from mec.training.shown import AFTER, BEFORE, NAMES, Shown, as_uri, read_shown

REPORT = "report.html"
MOST_SHOWN, ROOM = 2_000, 2_500  # images on a page, of all its runs; bytes of each, so that it stays under 8 MB
NEIGHBOURS = 12  # images whose neighbours are shown
MOST_CELLS = 20  # classes of a confusion matrix that is shown whole
MOST_NAMED = 60  # classes in a legend
MOST_PICTURES, PICTURE = 12, 720  # of detections, masks and tracks; px of the longer side
SHADES = interp_palette(("#56b4e9", "#d55e00"), 256)  # of outliers, from those among many like them
TITLES = {BEFORE: "before training", AFTER: "after training"}
CURVES: dict[str, tuple[str, dict[str, str], dict[str, str]]] = {  # title, lines and limits by the names of figures
    "loss": ("Loss, and the least that it can be", {"loss": "loss"}, {"bound": "loss_bound"}),
    "accuracy": ("k-NN accuracy of held-out images, %", {"k-NN": "knn"}, {}),
    "agreement": (
        "Cosine of two views, and of two images", {"views of an image": "agreement", "different images": "similarity"},
        {},
    ),
    "rank": (
        "Directions in use (effective rank)", {"effective rank": "effective_rank"}, {"most": "effective_rank_limit"},
    ),
    "rate": ("Learning rate", {"rate": "lr"}, {}),
    "wait": ("Share of the time spent waiting for data", {"wait": "data_wait"}, {}),
}  # fmt: skip


@dataclass(frozen=True)
class Told:
    """What a run's folder holds."""

    folder: Path
    settings: RunSettings
    metrics: Sequence[Mapping[str, Any]]
    verdict: Verdict
    results: Sequence[Mapping[str, Any]]
    shown: Shown | None

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def method(self) -> str:
        return self.settings.recipe.method

    @property
    def own(self) -> list[Mapping[str, Any]]:
        """The results on the images that it was trained for."""
        return [r for r in self.results if r.get("data") == self.settings.data]


def write_report(folders: Sequence[Path], out: Path, suites: Sequence[Mapping[str, Any]] = ()) -> Path:
    """Write the page of any number of runs, and of suites as `suite_section` gives them; returns where.
    Raises FileNotFoundError: no such folder. BadInput: not that of a run, or a damaged file in it."""
    runs = []
    for folder in map(Path, folders):
        verdict, results = health(folder), read_records(folder / RESULTS, protocol=str, metric=str, value=float)
        runs.append(Told(folder, read_settings(folder), read_metrics(folder), verdict, results, read_shown(folder)))
    drawn: dict[str, Any] = {}
    sections = []
    for number, run in enumerate(runs):
        found = section(run, f"run{number}", MOST_SHOWN // len(runs))
        drawn |= found.pop("charts")
        sections.append(found)
    if len(runs) > 1:
        drawn |= compared(runs)
    title = suites[0]["name"] if suites else runs[0].name if len(runs) == 1 else f"{len(runs)} runs side by side"
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    facts = {
        "title": title, "runs": sections, "together": [n for n in drawn if n.startswith("all-")], "made": now,
        "machine": machine("cpu"), "suites": suites, "comparison": side_by_side(runs) if len(runs) > 1 else None,
    }  # fmt: skip
    write_page(out, "report.html", drawn, facts)
    return out


def section(run: Told, key: str, most: int) -> dict[str, Any]:
    """What the template is told of a run, and its charts."""
    shown = None if run.shown is None else fewer(run.shown, most)
    drawn = {f"{key}-{name}": chart for name, chart in learning(run).items()}
    found: dict[str, Any] = {
        "key": key, "name": run.name, "method": run.method, "headline": list(headline(run)), "verdict": run.verdict,
        "curves": list(drawn), "closing": closing(run.own, run.method), "confusions": list(confusions(run.folder)),
        "pictures": list(pictures(run.folder)), "results": [result_row(r) for r in run.results],
        "settings": facts_of(run.settings), "command": command_of(run.settings, run.folder), "map": None,
    }  # fmt: skip
    if shown is not None:
        table = columns(shown)
        found |= mapped(shown, table, key)
        titles = {TITLES[name]: places for name, places in shown.points.items()}
        left, right = charts.maps(titles, table, f"{key}-images")
        drawn |= {f"{key}-{BEFORE}": left, f"{key}-{AFTER}": right}
        shares = {TITLES[name]: (range(1, len(s) + 1), s) for name, s in shown.spectrum.items()}
        drawn[f"{key}-spectrum"] = charts.curves("Share of the variance by direction", shares, x="direction", log=True)
    return {**found, "charts": drawn}


def headline(run: Told) -> Iterator[str]:
    """What was trained on what, and how well, in sentences."""
    settings = run.settings
    done = run.metrics[-1]["step"] if run.metrics else 0
    epochs = done / max(1, settings.steps_per_epoch)
    labels = "with their labels" if method_named(run.method).labels else "without labels"
    yield (
        f"A {settings.recipe.network.backbone} was trained by {run.method} on {settings.images:,} images of "
        f"{settings.data}, {labels}: {done:,} steps of {settings.recipe.batch_size} images, {epochs:.3g} passes"
        + ("." if done >= settings.total else f", of {settings.total:,} steps that were planned.")
    )
    best = {(r["protocol"], str(r.get("encoder"))): r for r in run.own if column_of(r) in ("k-NN (20)", "linear probe")}
    for protocol, words in (("knn", "By its 20 nearest neighbours"), ("linear-fast", "By a linear classifier")):
        if (protocol, run.method) not in best:
            continue
        mine = best[protocol, run.method]
        between = "" if not mine.get("interval") else " (95 %: {:.1f} to {:.1f})".format(*mine["interval"])
        there = {words: best[protocol, name]["value"] for name, words in NAMES.items() if (protocol, name) in best}
        others = ", ".join(f"{name} {value:.1f} %" for name, value in there.items()) or "nothing to compare with"
        images = "" if mine.get("images") is None else f"of {mine['images']:,} images of {mine.get('split', 'test')}, "
        yield f"{words}, {images}{mine['value']:.1f} %{between} are told right; {others}."
    if settings.left_out:
        yield "Left out: " + ", ".join(f"{count:,} {reason}" for reason, count in settings.left_out.items()) + "."
    yield from settings.told


def command_of(settings: RunSettings, folder: Path) -> str:
    """The command that trains this run again."""
    words = ["mec", "pretrain", str(settings.asked.get("data") or "DATA"), "--out", str(folder)]
    asked = {name: value for name, value in settings.asked.items() if name not in ("data", "out", "time_budget")}
    if settings.total != settings.recipe.epochs * settings.steps_per_epoch:
        asked |= {"epochs": None, "steps": settings.total}
    for name, value in asked.items():
        if value in (None, (), [], ""):
            continue
        words += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, (list, tuple)) else [value])]
    return shlex.join(words)


def facts_of(settings: RunSettings) -> list[tuple[str, str]]:
    recipe, method = settings.recipe, method_named(settings.recipe.method)
    objective = ", ".join(f"{key} {value}" for key, value in {**method.settings, **recipe.settings}.items())
    network, optimizer = recipe.network, recipe.optimizer
    rate = f"{optimizer.base_lr * recipe.batch_size / 256:.4g}"
    rate += f" (kernels {optimizer.base_lr_kernels * recipe.batch_size / 256:.3g})" * (optimizer.name == "muon")
    views = " + ".join(f"{view.copies} of {view.size} px" for view in recipe.views)
    return [
        ("recipe", settings.recipe_name), ("method", f"{recipe.method} ({objective})"), ("views", views),
        ("network", f"{network.backbone}, projector {'-'.join(map(str, network.projector)) or 'none'}"),
        ("optimizer", f"{optimizer.name}, rate {rate}, weight decay {optimizer.weight_decay:g}"),
        ("batch", str(recipe.batch_size)), ("seed", str(settings.seed)),
        ("data", f"{settings.data}, fingerprint {settings.data_fingerprint}"), ("mec", settings.version),
        *(("chosen", why) for why in settings.why),
    ]  # fmt: skip


def curve_of(run: Told, name: str) -> charts.Curve:
    """A figure over steps, as it was logged."""
    found = [(line["step"], line[name]) for line in run.metrics if isinstance(line.get(name), (int, float))]
    return [x for x, _ in found], [y for _, y in found]


def learning(run: Told) -> dict[str, Any]:
    """Charts over steps, of what was logged; where it went wrong is marked."""
    verdict = run.verdict
    mark = (verdict.step, verdict.word) if verdict.step is not None and verdict.word != "hardly trained" else None
    drawn = {}
    for key, (title, lines, limits) in CURVES.items():
        found = {name: curve_of(run, field) for name, field in lines.items()}
        if any(len(across) > 1 for across, _ in found.values()):
            bounds = {name: bound for name, field in limits.items() if (bound := curve_of(run, field))[0]}
            drawn[key] = charts.curves(title, found, limits=bounds, mark=mark)
    return drawn


def compared(runs: Sequence[Told]) -> dict[str, Any]:
    """Charts of all runs together."""
    drawn = {}
    for field, key in (("knn", "accuracy"), ("agreement", "agreement"), ("effective_rank", "rank")):
        lines = {run.name: curve for run in runs if (curve := curve_of(run, field))[0]}
        if lines:
            drawn[f"all-{field}"] = charts.curves(CURVES[key][0], lines)
    return drawn


def closing(results: Sequence[Mapping[str, Any]], method: str = "", *, balanced: bool = False) -> dict[str, Any] | None:
    """The closing table: figures of raw pixels, the untrained and the trained encoder, latest of each kind.
    balanced: with balanced accuracy beside top-1, but for few labels."""
    cells: dict[str, dict[str, str]] = {}
    wanted = [r for r in results if r["metric"] == "top-1"]
    wanted += [r for r in results if balanced and r["metric"] == "balanced accuracy" and r["protocol"] != "fewshot"]
    for r in wanted:
        if column := column_of(r):
            spread = f" ± {r['spread']:.1f}" if r.get("spread") else ""
            cells.setdefault(str(r.get("encoder")), {})[column] = f"{r['value']:.1f}{spread}"
    names = list(dict.fromkeys(column for row in cells.values() for column in row))
    rows = [(NAMES.get(name, name), name == method, [row.get(c, "") for c in names]) for name, row in cells.items()]
    return {"columns": names, "rows": rows} if rows else None


def column_of(result: Mapping[str, Any]) -> str:
    settings = result.get("settings", {})
    count = settings.get("labels_per_class")
    names = {"fewshot": f"{count} label{'s' * (count != 1)} a class", "linear-fast": "linear probe"}
    name = {**names, "knn": f"k-NN ({settings.get('k', 20)})"}.get(result["protocol"], "")
    return name + ", balanced" * bool(name and result["metric"] != "top-1")


def side_by_side(runs: Sequence[Told]) -> dict[str, Any]:
    """A row a run: its verdict and its own figures."""
    own = [closing([r for r in run.own if r.get("encoder") == run.method]) for run in runs]
    names = list(dict.fromkeys(c for table in own if table for c in table["columns"]))
    rows = []
    for run, table in zip(runs, own):
        cells = dict(zip(table["columns"], table["rows"][0][2])) if table else {}
        rows.append((run.name, run.method, run.verdict.word, [cells.get(c, "") for c in names]))
    return {"columns": names, "rows": rows}


def result_row(result: Mapping[str, Any]) -> list[str]:
    value = f"{result['value']:.2f}" + ("" if result.get("spread") is None else f" ± {result['spread']:.2f}")
    interval = "" if not result.get("interval") else "{:.1f} to {:.1f}".format(*result["interval"])
    plain_ones = {k: v for k, v in (result.get("settings") or {}).items() if not isinstance(v, (dict, list))}
    names = [str(result.get(key) or "") for key in ("encoder", "data", "split", "images")]
    settings = ", ".join(f"{key} {value}" for key, value in plain_ones.items())
    return [result["protocol"], result["metric"], f"{value} {result.get('unit', '')}", interval, *names, settings]


def confusions(folder: Path) -> Iterator[dict[str, Any]]:
    """Who was taken for whom: the matrix of few classes, and the pairs that were mistaken most often."""
    for path in sorted((folder / CONFUSION).glob("*.json")):
        found = read_json(path, dict)
        classes, matrix = found["classes"], found["matrix"]
        mistaken = [(count, classes[i], classes[j]) for i, row in enumerate(matrix) for j, count in enumerate(row)
                    if i != j and count]  # fmt: skip
        whole = len(classes) <= MOST_CELLS
        rows = [(name, [(count, round(100 * count / max(1, sum(row)))) for count in row])
                for name, row in zip(classes, matrix)]  # fmt: skip
        title = f"{found['protocol']}, {found['data']} {found['split']}, {found['value']:.1f} %"
        most = sorted(mistaken, key=lambda one: -one[0])[:8]
        yield {"title": title, "classes": classes if whole else [], "rows": rows if whole else [], "most": most}


def pictures(folder: Path) -> Iterator[tuple[str, str]]:
    """Pictures of detections, masks and tracks that a run's folder has, in small: name and data URI."""
    found = sorted(p for kind in ("png", "jpg") for p in folder.rglob(f"*.{kind}"))
    found = [p for p in found if p.parent != folder and CONFUSION not in p.relative_to(folder).parts]
    for path in found[:: -(-len(found) // MOST_PICTURES) if found else 1]:
        try:
            small = open_image(path).convert("RGB")
        except Exception:  # one that is broken, or half written, leaves a page without it
            continue
        small.thumbnail((PICTURE, PICTURE))
        yield plain(str(path.relative_to(folder))), as_uri(small, "JPEG")


def fewer(shown: Shown, most: int) -> Shown:
    """At most so many of the images, and no more than fit in as many times `ROOM`, evenly taken; neighbours that are no
    longer there are left out."""
    n = len(shown.names)
    most = min(most, most * ROOM * n // sum(map(len, shown.thumbnails)))
    if n <= most:
        return shown
    kept = [i * n // most for i in range(most)]
    place = {old: new for new, old in enumerate(kept)}
    rows: dict[str, Any] = {}
    for key in ("names", "thumbnails", "labels", "clusters"):
        rows[key] = [getattr(shown, key)[i] for i in kept]
    for key in ("points", "cosine", "near"):
        rows[key] = {name: [values[i] for i in kept] for name, values in getattr(shown, key).items()}
    for name, near in rows["near"].items():
        rows["near"][name] = [[place[j] for j in row if j in place] for row in near]
    return replace(shown, **rows)


def columns(shown: Shown) -> dict[str, list[Any]]:
    """What a map's source holds of each image."""
    classes, steps = [plain(name) for name in shown.classes], (len(SHADES) - 1) / max(1, len(shown.names) - 1) ** 3
    shades = {
        "class": [charts.colour(label) if label >= 0 else charts.INK for label in shown.labels],
        "cluster": [charts.colour(group) for group in shown.clusters],
        "outlier": [SHADES[int(steps * (len(shown.names) - rank) ** 3)] for rank in rankdata(shown.cosine[AFTER])],
    }
    return {
        "image": list(shown.thumbnails), "name": [plain(name) for name in shown.names],
        "label": [classes[label] if 0 <= label < len(classes) else "" for label in shown.labels],
        "colour": shades["class" if classes else "cluster"],
        **{f"by_{name}": found for name, found in shades.items()},
        **{f"near_{name}": [list(near) for near in found] for name, found in shown.near.items()},
    }  # fmt: skip


def mapped(shown: Shown, told: Mapping[str, Sequence[Any]], key: str) -> dict[str, Any]:
    """What the template is told of the images, of which `columns` has `told`."""
    n = len(shown.names)
    asked = [i * n // min(n, NEIGHBOURS) for i in range(min(n, NEIGHBOURS))]

    def cell(index: int, of: int | None = None) -> tuple[str, str, bool]:
        same = of is not None and shown.labels[index] >= 0 and shown.labels[index] == shown.labels[of]
        return shown.thumbnails[index], told["label"][index] or told["name"][index], same

    rows = [(cell(i), *([cell(j, i) for j in shown.near[name][i]] for name in (BEFORE, AFTER))) for i in asked]
    legends = {}
    if shown.classes:
        legends["class"] = [(charts.colour(i), plain(name)) for i, name in enumerate(shown.classes[:MOST_NAMED])]
    legends["cluster"] = [(charts.colour(group), f"group {group + 1}") for group in sorted({*shown.clusters})]
    legends["outlier"] = [(SHADES[0], "among many like it"), (SHADES[-1], "unlike the others")]
    far = sorted(range(n), key=lambda i: shown.cosine[AFTER][i])[:NEIGHBOURS]
    return {
        "map": f"{key}-images", "images": n, "of": shown.of, "part": shown.part, "neighbours": rows,
        "views": shown.views, "legends": legends, "first": "class" if shown.classes else "cluster",
        "outliers": [cell(i) for i in far],
    }  # fmt: skip
