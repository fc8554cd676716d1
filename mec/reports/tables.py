"""Results -> tables, ours beside published rows; Markdown, LaTeX or HTML, by pandas. Nothing is measured here."""

import html
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

import pandas

from mec.errors import plain
from mec.evaluation.results import RESULTS
from mec.runtime.files import SETTINGS, read_json
from mec.runtime.records import read_records

MISSING = "–"
HASH_SHOWN = 6  # hex digits of a checkpoint's hash
SOURCE = "MEC (NeurIPS 2022), appendix D"

# Columns of Table 8, by the names of our data sets.
TRANSFER = {
    "food101": "Food", "cifar10": "C10", "cifar100": "C100", "sun397": "SUN", "cars": "Cars", "aircraft": "Aircraft",
    "voc2007": "VOC07", "dtd": "DTD", "pets": "Pets", "caltech101": "Caltech", "flowers102": "Flowers",
}  # fmt: skip

PROBES = {"preset": "", "epoch": " epoch"}
LARGE, CROPS = " (large projector)", " (multi-crop)"

TABLE_7: tuple[tuple[str, int, float], ...] = (  # method, epochs, top-1
    ("SimSiam", 800, 71.3), ("Barlow Twins" + LARGE, 1000, 73.2), ("VICReg" + LARGE, 1000, 73.2), ("BYOL", 1000, 74.3),
    ("DINO" + CROPS, 800, 75.3), ("UniGrad" + LARGE + CROPS, 800, 75.5), ("MEC", 800, 74.5),
    ("MEC" + LARGE, 800, 75.1), ("MEC" + CROPS, 800, 75.5),
)  # fmt: skip

TABLE_8: dict[str, tuple[tuple[str, tuple[float, ...]], ...]] = {
    "linear": (
        ("Supervised", (72.3, 93.6, 78.3, 61.9, 66.7, 61.0, 82.8, 74.9, 91.5, 94.5, 94.7)),
        ("SimCLR", (68.4, 90.6, 71.6, 58.8, 50.3, 50.3, 80.5, 74.5, 83.6, 90.3, 91.2)),
        ("BYOL", (75.3, 91.3, 78.4, 62.2, 67.8, 60.6, 82.5, 75.5, 90.4, 94.2, 96.1)),
        ("MEC", (75.6, 92.1, 78.4, 62.7, 67.2, 61.5, 82.7, 75.8, 90.9, 94.6, 96.0)),
    ),
    "finetune": (
        ("Random", (86.9, 95.9, 80.2, 53.6, 91.4, 85.9, 67.3, 64.8, 81.5, 72.6, 92.0)),
        ("Supervised", (88.3, 97.5, 86.4, 64.3, 92.1, 86.0, 85.0, 74.6, 92.1, 93.3, 97.6)),
        ("SimCLR", (88.2, 97.7, 85.9, 63.5, 91.3, 88.1, 84.1, 73.2, 89.2, 92.1, 97.0)),
        ("BYOL", (88.5, 97.8, 86.1, 63.7, 91.6, 88.1, 85.4, 76.2, 91.7, 93.8, 97.0)),
        ("MEC", (88.9, 97.8, 86.8, 63.8, 91.6, 88.5, 85.9, 76.0, 91.9, 94.9, 97.2)),
    ),
}


class Row(NamedTuple):
    """A line: a name, words that are no figures, and figures (None: missing)."""

    name: str
    words: tuple[str, ...]
    figures: tuple[float | None, ...]
    ours: bool = False


class Table(NamedTuple):
    """A heading, the names of the columns, and by title blocks of rows that are compared with each other."""

    title: str
    words: tuple[str, ...]
    figures: tuple[str, ...]
    blocks: Mapping[str, Sequence[Row]]
    source: str = f"Published rows: {SOURCE}. "
    rows: str = "method"  # what a row is
    by_row: bool = False  # the best figures are those of a row


class Measured(NamedTuple):
    """The results of one encoder, of one checkpoint, of one run folder."""

    name: str
    results: tuple[dict[str, Any], ...]
    epochs: int | None = None


def read(runs: Sequence[Path]) -> list[Measured]:
    """The encoders of all runs (folders, or results.jsonl files of any name), in the order given; checkpoints are told
    by their hashes where a name has several. Lines that are no results are passed over, and a warning names them.
    Raises FileNotFoundError: a run has no results.jsonl."""
    found: list[Measured] = []
    for run in runs:
        path = run / RESULTS if run.is_dir() else run
        if not path.exists():
            raise FileNotFoundError(f"{path}: no results. `mec evaluate {run} ...` writes them.")
        by_encoder: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for result in read_records(path, encoder=str, value=(int, float, NoneType)):
            settings_of = result.get("settings")
            result["settings"] = settings_of if isinstance(settings_of, dict) else {}
            by_encoder.setdefault((result["encoder"], str(result.get("checkpoint", ""))), []).append(result)
        epochs = epochs_of(path.parent / SETTINGS)
        several = Counter(encoder for encoder, _ in by_encoder)
        for (encoder, checkpoint), results in by_encoder.items():
            trained = encoder not in ("untrained", "start", "pixels") and not encoder.startswith("random:")
            name = f"{encoder} {checkpoint[:HASH_SHOWN]}".rstrip() if several[encoder] > 1 else encoder
            found.append(Measured(f"{name} ({path.parent.name})", tuple(results), epochs if trained else None))
    return found


def epochs_of(settings: Path) -> int | None:
    """What a run's settings.json says of its length: a time budget may have cut the recipe's epochs."""
    stored = read_json(settings) if settings.exists() else None
    steps, each = (stored.get(key) if isinstance(stored, dict) else None for key in ("steps", "steps_per_epoch"))
    if not isinstance(steps, int) or not isinstance(each, int) or not 0 < each < 2**53 > abs(steps):
        return None
    return round(steps / each)


def latest(results: Sequence[dict[str, Any]], **wanted: Any) -> float | None:
    """The value of the last result that has these values; None where there is none.
    Quick looks at a part of the images (`limit`) are no figures of a protocol and are left out."""
    whole = [r for r in results if r["settings"].get("limit") is None]
    return next((r["value"] for r in reversed(whole) if all(r.get(k) == v for k, v in wanted.items())), None)


def table_7(runs: Sequence[Path]) -> Table:
    """Linear probing on ImageNet: published rows, then ours by preset of the probe."""
    rows = [Row(name, (str(epochs), "paper"), (top_1,)) for name, epochs, top_1 in TABLE_7]
    for each in read(runs):
        on_imagenet = [r for r in each.results if r.get("protocol") == "linear" and r.get("data") == "imagenet"]
        probes = dict.fromkeys(probe_of(r) for r in on_imagenet)
        for probe in probes or {MISSING: None}:
            figure = latest([r for r in on_imagenet if probe_of(r) == probe], metric="top-1")
            rows.append(Row(each.name, (str(each.epochs or MISSING), probe), (figure,), ours=True))
    return Table("ImageNet, linear probing: top-1 (%)", ("epochs", "probe"), ("top-1",), {"": rows})


def probe_of(result: dict[str, Any]) -> str:
    """In words: the probe's preset, and whether its best or its last epoch is meant."""
    settings = result["settings"]
    return ", ".join(str(settings[key]) + word for key, word in PROBES.items() if key in settings) or MISSING


def table_8(runs: Sequence[Path]) -> Table:
    """Transfer to eleven data sets, linear and fine-tuned: published rows, then ours."""
    blocks, measured = {}, read(runs)
    for mode, title in (("linear", "Linear evaluation"), ("finetune", "Fine-tuned")):
        rows = [Row(name, (), figures) for name, figures in TABLE_8[mode]]
        for each in measured:
            of_mode: dict[str, list[dict[str, Any]]] = {}
            for r in each.results:
                if r.get("protocol") == "transfer" and r["settings"].get("mode") == mode:
                    of_mode.setdefault(r["settings"].get("preset", "paper"), []).append(r)
            for preset, results in (of_mode or {"paper": []}).items():
                name = each.name if preset == "paper" else f"{each.name}, {preset}"
                rows.append(Row(name, (), tuple(latest(results, data=data) for data in TRANSFER), ours=True))
        blocks[title] = rows
    title = "Transfer: top-1, mean per class (Aircraft, Pets, Caltech, Flowers) or 11-point mAP (VOC07), %"
    return Table(title, (), tuple(TRANSFER.values()), blocks)


def marks(rows: Sequence[Row], *, by_row: bool = False) -> list[list[str]]:
    """For each figure "best", "second" or "", by its column or row, of what is printed: equal figures share a mark."""
    figures = pandas.DataFrame([row.figures for row in rows], dtype=float).round(1)
    places = figures.rank(axis=int(by_row), ascending=False, method="dense").fillna(0)
    return [[{1: "best", 2: "second"}.get(int(place), "") for place in line] for line in places.to_numpy()]


def cells(table: Table, escape: Callable[[str], str], marked: Mapping[str, str], head: str) -> list[list[str]]:
    """Rows of text: the blocks' titles by `head`, names, words and figures, the best two of a column marked."""
    found = []
    for title, rows in table.blocks.items():
        found += [[head.format(escape(title)), *[""] * len(table.words + table.figures)]] if title else []
        for row, mark in zip(rows, marks(rows, by_row=table.by_row)):
            numbers = [escape(MISSING if value is None else f"{value:.1f}") for value in row.figures]
            figures = [marked.get(place, "{}").format(number) for place, number in zip(mark, numbers)]
            found.append(
                [escape(plain(row.name)) + " (ours)" * row.ours, *map(escape, map(plain, row.words)), *figures]
            )
    return found


def md(text: str) -> str:
    return text.replace("|", "\\|").replace("_", "\\_")


def tex(text: str) -> str:
    """Text with what LaTeX reads as commands escaped.

    >>> print(tex("a_b & 5 %"))
    a\\_b \\& 5 \\%"""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", MISSING: "--"}
    return "".join(special.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)


FORMS: dict[str, tuple[Callable[[str], str], dict[str, str], str, tuple[str, str]]] = {
    # how text is escaped, the best two figures and a block's title are marked, and the note names those marks
    "markdown": (md, {"best": "**{}**", "second": "_{}_"}, "*{}*", ("**Bold**", "_italic_")),
    "latex": (tex, {"best": r"\textbf{{{}}}", "second": r"\underline{{{}}}"}, r"\textit{{{}}}", ("Bold", "underlined")),
    "html": (html.escape, {"best": "<strong>{}</strong>", "second": "<u>{}</u>"}, "<em>{}</em>",
             ("<strong>Bold</strong>", "<u>underlined</u>")),
}  # fmt: skip


def written(table: Table, form: str) -> str:
    """The table in one of FORMS."""
    escape, marked, head, (best, second) = FORMS[form]
    note = escape(f"{table.source}Ours: as measured, by run. ") + f"{best}: best, {second}: second best; "
    note += escape(f"{MISSING} missing.")
    names = [table.rows, *table.words, *map(plain, table.figures)]
    frame = pandas.DataFrame(cells(table, escape, marked, head), columns=[escape(name) for name in names])
    sides = "l" * (1 + len(table.words)) + "r" * len(table.figures)
    if form == "markdown":
        aligned = ["left" if side == "l" else "right" for side in sides]
        return f"{table.title}\n\n{frame.to_markdown(index=False, colalign=aligned, disable_numparse=True)}\n\n{note}\n"
    caption = f"{escape(table.title)}. {note}"
    if form == "latex":
        return frame.to_latex(index=False, escape=False, column_format=sides, caption=caption)
    text: str = frame.to_html(index=False, escape=False, border=0)
    return text.replace("<thead>", f"<caption>{caption}</caption>\n  <thead>", 1) + "\n"
