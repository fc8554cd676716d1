"""`mec.suite`: all of the paper's downstream measurements for which there are data, one after the other, to the end."""

import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.table import Column, Table

from mec.data.decoding import open_image
from mec.data.opening import open_data
from mec.errors import BadInput, TrainingStopped, plain
from mec.evaluation.detection.presets import PRESETS
from mec.evaluation.evaluate import chosen, results_of
from mec.evaluation.results import as_records
from mec.evaluation.subject import Subject, resolve
from mec.evaluation.tracking.protocols import BENCHMARKS
from mec.evaluation.transfer.sets import TRANSFER_SETS, lacking
from mec.recipes.fields import fitted, from_dict
from mec.reports.figure1 import figure_1
from mec.reports.options import Suite
from mec.reports.tables import MISSING, Row
from mec.reports.tables import Table as Figures
from mec.runtime.files import SETTINGS, content_hash, first_line, read_json, write_json
from mec.runtime.flags import names, takes
from mec.runtime.machine import memory_bytes
from mec.runtime.progress import Console, duration
from mec.runtime.records import append_records, read_records
from mec.training.page import REPORT, write_report
from mec.training.shown import as_uri

DONE = "suite.jsonl"  # in the suite's folder: a line a part of a run that ended, well or badly
FIGURE = "figure1.png"
TABLE = "suite.json"  # the latest of each part of each run, those without data among them
ELSEWHERE = "a folder that --data-root names"
FRAME = 480 * 854  # pixels
MOST_FOLDERS, LOOKED_AT = 2_000, 5_000  # the second: images of each part in a quick look
MAIN = {  # the figure of a protocol that the table shows
    "knn": "top-1", "linear": "top-1", "semi": "top-1", "voc": "AP", "coco": "box AP", "sot": "AUC", "vos": "J-mean",
    "mot": "IDF1", "mots": "IDF1", "posetrack": "IDF1",
}  # fmt: skip
QUICK: dict[str, dict[str, Any]] = {  # of transfer, by mode
    "linear": {"limit": 500},
    "finetune": {"limit": 200, "preset": "budget", "steps": 20, "batch_size": 16, "learning_rates": 0.1,
                 "weight_decays": 0.0},
}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """One measurement: a protocol with its data and flags; or, where data are lacking, what and where."""

    name: str
    protocol: str
    data: str | None = None
    flags: Mapping[str, Any] = field(default_factory=dict)
    lacking: str = ""
    work: float = 0.0  # forward passes of images of the encoder's own size that it takes, about
    pixels: float = 0.0  # of larger ones: photographs, frames
    apart: str = ""  # a folder of its own for what it leaves, where another part would write in the same place


@dataclass(frozen=True)
class Outcome:
    """What came of a part of a run: figures, or why there are none."""

    run: str
    part: str
    key: str  # a hash of checkpoint, protocol, data and flags
    failed: str = ""
    lacking: str = ""
    seconds: float = 0.0
    results: Sequence[Mapping[str, Any]] = ()


@takes(Suite)
def suite(runs: str | Path | Sequence[str | Path], options: Suite) -> Path:
    """Measure encoders by all of the paper's downstream tasks for which there are data.

    Called again it goes on where it stopped: what is measured is not measured again.

    Args:
        runs: what `evaluate` takes: run folders, files, names ("random:resnet50"); one or several.
    {options}

    Returns:
        The folder of the suite: suite.json (the table), suite.jsonl, figure1.png, .svg and .json, and report.html.

    Raises:
        BadInput: something does not fit, or there are no data for any part.
        TrainingStopped: some parts failed; all others are measured."""
    given = [str(run) for run in ([runs] if isinstance(runs, (str, Path)) else runs)]
    if not given:
        raise BadInput("no run was given: name at least one.")
    console = Console(quiet=options.quiet, highlight=False)
    subjects = {run: resolve(run, device=options.device) for run in given}
    parts = [part for part in planned(options) if not options.chosen or part.name.split()[0] in options.chosen]
    out = Path(options.out)
    pace = {run: seconds_an_image(subject) for run, subject in subjects.items()}
    console.print(plan_table(parts, subjects, pace, out))
    if all(part.lacking for part in parts):
        raise BadInput("there are no data for any part: name some by --data or --data-root.")
    if options.dry_run:
        return out
    out.mkdir(parents=True, exist_ok=True)
    measure(parts, subjects, options, console)
    told = outcomes(parts, subjects, out)
    write_json(out / TABLE, [asdict(outcome) for outcome in told])
    results = [{**result, "run": outcome.run} for outcome in told for result in outcome.results]
    pictures = figure_1(results, out / FIGURE)
    shown = suite_section(out)
    table = Table("part", "figure", *(Column(run, justify="right") for run in shown["runs"]), "", title="The suite")
    for name, metric, why, figures in shown["rows"]:  # what has no data the plan says
        table.add_row(name, metric, *figures, why)
    console.print(table)
    page = write_report([Path(run) for run in subjects if (Path(run) / SETTINGS).exists()], out / REPORT, [shown])
    console.print("Written: " + ", ".join(map(str, (out / TABLE, *pictures, page))), soft_wrap=True)
    if failed := [outcome for outcome in told if outcome.failed]:
        words = "; ".join(f"{one.part} of {one.run}: {one.failed}" for one in failed)
        raise TrainingStopped(f"{len(failed)} parts failed, all others are measured. {words}")
    return out


def measure(parts: Sequence[Part], subjects: Mapping[str, Subject], options: Suite, console: Console) -> None:
    """Take all parts that are not taken yet; each is stored as it ends. Several processes each take their share."""
    out = Path(options.out)
    ends = math.inf if options.budget is None else time.monotonic() + 3600 * options.budget
    size, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    wanted = [(run, part) for part in parts if not part.lacking for run in subjects]
    for run, part in wanted[rank::size]:
        key = key_of(part, subjects[run])
        if key in measured(out):
            continue
        if time.monotonic() > ends:
            console.print("The budget is used up; the same command goes on.", style="yellow")
            return
        console.print(f"{part.name}: {plain(run)}", style="bold")
        began, found, failed = time.monotonic(), [], ""
        place = {"out": out / content_hash(run) / part.apart} if part.apart or "@" in run else {}  # RUN@untrained
        try:
            for result in results_of(run, chosen(part.protocol, part.data, {**part.flags, **place}), lambda _: None):
                found.append(result)
                console.print(f"  {result.line()}", soft_wrap=True)
        except Exception as error:  # whatever it is: the others are measured all the same
            failed = f"{type(error).__name__}: {first_line(error)[:300]}"
            console.print(f"  failed: {failed}", style="red", soft_wrap=True)
        seconds = round(time.monotonic() - began, 1)
        append_records(out / DONE, [asdict(Outcome(run, part.name, key, failed, "", seconds, as_records(found)))])


def measured(out: Path) -> set[str]:
    """The keys of what is done, by whichever process."""
    return {line["key"] for line in read_records(out / DONE, key=str) if not line.get("failed")}


def planned(options: Suite) -> list[Part]:
    """All parts, in the paper's order, those without data among them."""
    quick, root = options.preset == "quick", None if options.data_root is None else Path(options.data_root)
    if root is not None and not root.is_dir():
        raise BadInput(f"--data-root is {root}: no such folder.")
    folders = [] if root is None else folders_in(root)
    sets = [] if options.data is None else names(options.data, "--data")
    of_labels = (part for data in sets or ["imagenet"] for part in labelled(data, root, quick))
    others = (found for kind in (transferred, detected, tracked) for found in kind(folders, root, quick))
    return [*of_labels, *others]


def folders_in(root: Path) -> list[Path]:
    """The folder and those in it, to a depth of two, in the order of their names; not all of images by class."""
    found = (path for path in (root, *sorted(root.glob("*")), *sorted(root.glob("*/*"))) if path.is_dir())
    return [*islice(found, MOST_FOLDERS)]


def labelled(data: str, root: Path | None, quick: bool) -> Iterator[Part]:
    where: dict[str, Any] = {} if root is None or Path(data).is_dir() else {"data_root": root}
    few: dict[str, Any] = {"limit": LOOKED_AT} if quick else {}
    try:
        found = open_data(data, root=where.get("data_root"))
        images, most = (min(len(x or ()), few.get("limit", len(x or ()))) for x in (found.train, found.test))
        lack = "" if found.can_be_measured else f"{data} has no labels: train/CLASS/ and val/CLASS/ or test/CLASS/"
    except (BadInput, FileNotFoundError) as error:
        images, most, lack = 0, 0, first_line(error)
    trained, probe = ({**few, "epochs": 2, "batch_size": 64}, few) if quick else ({}, {"preset": "paper"})
    yield Part(f"knn {data}", "knn", data, {"k": 20, **few, **where}, lack, images + most)
    yield Part(f"linear {data}", "linear", data, {**probe, **where}, lack, (images + most) * (1 if quick else 100))
    for share in ("1%", "10%"):
        flags, passes = {"labels": share, **trained, **where}, images * float(share[:-1]) / 100 * (6 if quick else 150)
        yield Part(f"semi {share} {data}", "semi", data, flags, lack, passes + most)


def transferred(folders: Sequence[Path], root: Path | None, quick: bool) -> Iterator[Part]:
    for mode in QUICK:
        for name, entry in TRANSFER_SETS.items():
            place = next((folder for folder in folders if not lacking(name, folder)), None)
            get = entry.get.replace("--download", f"mec evaluate RUN transfer {name} --data-root DIR --download")
            lack = "" if place else f"it belongs in {root or ELSEWHERE}: {get}"
            work = 1000.0 if quick else 10_000.0 if mode == "linear" else 56 * 20_000 * 256 * 3
            flags = {"data_root": place, "mode": mode, **(QUICK[mode] if quick else {})}
            yield Part(f"transfer {mode} {name}", "transfer", name, flags, lack, work)


def detected(folders: Sequence[Path], root: Path | None, quick: bool) -> Iterator[Part]:
    marks = {"voc": ("VOCdevkit/VOC2007", "Annotations/*.xml"), "coco": ("annotations/instances_train2017.json",)}
    for word, places in marks.items():
        found = [folder for folder in folders if any(any(folder.glob(place)) for place in places)]
        inside = [folder for folder in found if any(folder.is_relative_to(o) and folder != o for o in found)]
        for place in [folder for folder in found if folder not in inside and folder.name != "VOC2007"]:
            own = word == "voc" and not (place / places[0]).exists()
            preset = "quick" if quick else "small" if own else next(iter(PRESETS[word]))
            name = f"{word} {place.name}" if own else word
            steps = PRESETS[word][preset]
            pixels = steps.iterations * steps.batch_size * 3 * 1.4 * steps.sizes.test**2
            flags = {"data_root": place, "preset": preset, "resume": True}
            yield Part(name, word, None, flags, "", pixels=pixels, apart=place.name if own else "")
        if not found:
            yield Part(word, word, lacking=f"{places[0]} belongs in {root or ELSEWHERE}")


def tracked(folders: Sequence[Path], root: Path | None, quick: bool) -> Iterator[Part]:
    for word, kind in BENCHMARKS.items():
        place = next((folder for folder in folders if any(folder.glob(kind.mark))), None)
        lack = "" if place else f"{kind.mark} belongs in a folder of {root or ELSEWHERE}"
        frames = sum(1 for _ in place.rglob("*.jpg")) if place else 0
        flags = {"data_root": place, "stage": "3" if quick else "both"}
        yield Part(word, word, None, flags, lack, pixels=2 * FRAME * frames)


def seconds_an_image(subject: Subject) -> float:
    """Of a forward pass, from a short timing."""
    side = subject.info.image_size or 224
    images = torch.zeros(8, 3, side, side, device=subject.device)
    with torch.no_grad():
        subject.encoder(images)
        began = time.perf_counter()
        subject.encoder(images).sum().item()
    return (time.perf_counter() - began) / len(images)


def key_of(part: Part, subject: Subject) -> str:
    """What a part of a run is known by: another checkpoint or other flags are another part."""
    about = {"checkpoint": subject.checkpoint, "protocol": part.protocol, "data": part.data, "name": part.name}
    return content_hash({**about, "flags": json.loads(json.dumps(part.flags, default=str))}, sort_keys=True)[:16]


def plan_table(parts: Sequence[Part], subjects: Mapping[str, Subject], pace: Mapping[str, float], out: Path) -> Table:
    done = measured(out)
    table = Table("part", Column("about", justify="right"), "", title=f"The plan: {len(subjects)} encoders, {out}")
    total = 0.0
    for part in parts:
        left = [run for run, subject in subjects.items() if key_of(part, subject) not in done]
        images = {run: part.work + part.pixels / (subjects[run].info.image_size or 224) ** 2 for run in left}
        seconds = 0.0 if part.lacking else sum(pace[run] * number for run, number in images.items())
        total += seconds
        words = f"no data: {part.lacking}" if part.lacking else "done" if not left else ""
        table.add_row(part.name, duration(seconds) if seconds else "", words)
    table.caption = f"about {duration(total)} in all, by a short timing; memory: {memory_bytes() / 2**30:.0f} GiB"
    return table


def outcomes(parts: Sequence[Part], subjects: Mapping[str, Subject], out: Path) -> list[Outcome]:
    """The latest of each part of each run; what was not begun is there with its reason."""
    told = {line["key"]: line for line in read_records(out / DONE, key=str, run=str, part=str)}
    found = []
    for part in parts:
        for run, subject in subjects.items():
            key = key_of(part, subject)
            line = {**told.get(key, {"lacking": part.lacking or "not yet"}), "run": run, "part": part.name, "key": key}
            found.append(from_dict(Outcome, line, str(out / DONE), []))
    return found


def suite_table(folders: Sequence[Path]) -> Figures:
    """A row a part, a column an encoder: its main figure; and why figures are missing.
    Raises FileNotFoundError: no suite has ended there. BadInput: its table is damaged."""
    told: list[Outcome] = []
    for path in (folder / TABLE for folder in folders or [Path(Suite.out)]):
        if not path.exists():
            raise FileNotFoundError(f"{path}: no table of a suite. `mec suite RUN... --out {path.parent}` writes it.")
        told += fitted(read_json(path), list[Outcome], str(path))
    runs, rows = list(dict.fromkeys(one.run for one in told)), []
    for part in dict.fromkeys(one.part for one in told):
        of = {one.run: one for one in told if one.part == part}
        main = {run: figure for run, one in of.items() if (figure := main_figure(one))}
        why = dict.fromkeys(f"failed: {one.failed}" if one.failed else one.lacking for one in of.values())
        metric = next((str(figure["metric"]) for figure in main.values()), "")
        values = (main[run]["value"] if run in main else None for run in runs)
        rows.append(Row(part, (metric, "; ".join(filter(None, why))), tuple(values)))
    return Figures("The suite", ("figure", "missing"), tuple(runs), {"": rows}, "", "part", by_row=True)


def suite_section(folder: Path) -> dict[str, Any]:
    """What a page shows of a suite: its table, and Figure 1. Raises as `suite_table`."""
    shown, figure = suite_table([folder]), folder / FIGURE
    rows = [(plain(name), *map(plain, words), [MISSING if v is None else f"{v:.1f}" for v in figures])
            for name, words, figures, _ in shown.blocks[""]]  # fmt: skip
    lacking = [row for row in rows if not (row[1] or "failed: " in row[2])]
    about = {"name": plain(folder.resolve().name), "runs": [*map(plain, shown.figures)], "lacking": lacking}
    picture = as_uri(open_image(figure)) if figure.exists() else ""
    return {**about, "rows": [row for row in rows if row not in lacking], "figure": picture}


def main_figure(outcome: Outcome) -> Mapping[str, Any] | None:
    """The result that the table shows; none where there are none."""
    wanted = MAIN.get(outcome.part.split()[0])
    figures = [r for r in outcome.results if isinstance(r.get("value"), (int, float))]
    found = [r for r in figures if (r.get("settings") or {}).get("head") != "still"]  # what stays is no encoder
    return next((r for r in found if r.get("metric") == wanted), found[0] if found else None)
