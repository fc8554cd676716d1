"""Results -> the paper's tables, ours beside published rows; Markdown, LaTeX or HTML. Nothing is measured here."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from mec.errors import plain
from mec.evaluation.results import RESULTS
from mec.runtime.files import read_json
from mec.runtime.records import read_records

MISSING = "–"
HASH_SHOWN = 6  # hex digits of a checkpoint's hash
SOURCE = "MEC (NeurIPS 2022), appendix D"

# Columns of Table 8, by the names of our data sets.
TRANSFER = {
    "food101": "Food", "cifar10": "C10", "cifar100": "C100", "sun397": "SUN", "cars": "Cars", "aircraft": "Aircraft",
    "voc2007": "VOC07", "dtd": "DTD", "pets": "Pets", "caltech101": "Caltech", "flowers102": "Flowers",
}  # fmt: skip

LARGE, CROPS = " (large projector)", " (multi-crop)"

TABLE_7: tuple[tuple[str, int, float], ...] = (  # method, epochs, top-1
    ("SimSiam", 800, 71.3),
    ("Barlow Twins" + LARGE, 1000, 73.2),
    ("VICReg" + LARGE, 1000, 73.2),
    ("BYOL", 1000, 74.3),
    ("DINO" + CROPS, 800, 75.3),
    ("UniGrad" + LARGE + CROPS, 800, 75.5),
    ("MEC", 800, 74.5),
    ("MEC" + LARGE, 800, 75.1),
    ("MEC" + CROPS, 800, 75.5),
)

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


@dataclass(frozen=True)
class Row:
    """A line: a name, words that are no figures, and figures (None: missing)."""

    name: str
    words: tuple[str, ...]
    figures: tuple[float | None, ...]
    ours: bool = False


@dataclass(frozen=True)
class Block:
    """Rows that are compared with each other."""

    title: str
    rows: tuple[Row, ...]

    def cells(self, marked: Mapping[str, str], escape: Callable[[str], str]) -> list[list[str]]:
        """Of each row: name, words and figures as text, the best two of a column marked."""
        found = []
        for row, mark in zip(self.rows, marks(self)):
            numbers = [escape(MISSING if value is None else f"{value:.1f}") for value in row.figures]
            figures = [marked.get(place, "{}").format(number) for place, number in zip(mark, numbers)]
            named = escape(plain(row.name)) + " (ours)" * row.ours
            found.append([named, *(escape(plain(word)) for word in row.words), *figures])
        return found


@dataclass(frozen=True)
class Table:
    """A heading, the names of the columns, and blocks of rows."""

    title: str
    words: tuple[str, ...]
    figures: tuple[str, ...]
    blocks: tuple[Block, ...]

    @property
    def heads(self) -> list[str]:
        return ["method", *self.words, *self.figures]


@dataclass(frozen=True)
class Measured:
    """The results of one encoder, of one checkpoint, of one run folder."""

    name: str
    results: tuple[dict[str, Any], ...]
    epochs: int | None = None


def read(runs: Sequence[Path]) -> list[Measured]:
    """The encoders of all runs, in the order given; checkpoints are told by their hashes where a name has several.

    Args:
        runs: run folders, or results.jsonl files of any name.

    Lines that are no results are passed over, and a warning names them.

    Raises:
        FileNotFoundError: a run has no results.jsonl.
    """
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
        settings = path.parent / "settings.json"
        epochs = epochs_of(settings) if settings.exists() else None
        several = Counter(encoder for encoder, _ in by_encoder)
        for (encoder, checkpoint), results in by_encoder.items():
            trained = encoder not in ("untrained", "start", "pixels") and not encoder.startswith("random:")
            name = f"{encoder} {checkpoint[:HASH_SHOWN]}".rstrip() if several[encoder] > 1 else encoder
            found.append(Measured(f"{name} ({path.parent.name})", tuple(results), epochs if trained else None))
    return found


def epochs_of(settings: Path) -> int | None:
    """What a run's settings.json says of its length: a time budget may have cut the recipe's epochs."""
    stored = read_json(settings)
    steps, each = (stored.get(key) if isinstance(stored, dict) else None for key in ("steps", "steps_per_epoch"))
    if not isinstance(steps, int) or not isinstance(each, int) or not 0 < each < 2**53 > abs(steps):
        return None
    return round(steps / each)


def preset_of(result: dict[str, Any]) -> str:
    return result["settings"].get("preset", "paper")


def latest(results: Sequence[dict[str, Any]], **wanted: Any) -> float | None:
    """The value of the last result that has these values; None where there is none.

    Quick looks at a part of the images (`limit`) are no figures of a protocol and are left out.
    """
    whole = [r for r in results if r["settings"].get("limit") is None]
    return next((r["value"] for r in reversed(whole) if all(r.get(k) == v for k, v in wanted.items())), None)


def table_7(measured: Sequence[Measured]) -> Table:
    """Linear probing on ImageNet: published rows, then ours by preset of the probe."""
    rows = [Row(name, (str(epochs), "paper"), (top_1,)) for name, epochs, top_1 in TABLE_7]
    for each in measured:
        on_imagenet = [r for r in each.results if r.get("protocol") == "linear" and r.get("data") == "imagenet"]
        probes = dict.fromkeys(probe_of(r) for r in on_imagenet)
        for probe in probes or {MISSING: None}:
            figure = latest([r for r in on_imagenet if probe_of(r) == probe], metric="top-1")
            rows.append(Row(each.name, (str(each.epochs or MISSING), probe), (figure,), ours=True))
    return Table("ImageNet, linear probing: top-1 (%)", ("epochs", "probe"), ("top-1",), (Block("", tuple(rows)),))


def probe_of(result: dict[str, Any]) -> str:
    """In words: the probe's preset, and whether its best or its last epoch is meant."""
    settings = result["settings"]
    forms = {"preset": "{}", "epoch": "{} epoch"}
    return ", ".join(form.format(settings[key]) for key, form in forms.items() if key in settings) or MISSING


def table_8(measured: Sequence[Measured]) -> Table:
    """Transfer to eleven data sets, linear and fine-tuned: published rows, then ours."""
    blocks = []
    for mode, title in (("linear", "Linear evaluation"), ("finetune", "Fine-tuned")):
        rows = [Row(name, (), figures) for name, figures in TABLE_8[mode]]
        for each in measured:
            transferred = [r for r in each.results if r.get("protocol") == "transfer"]
            of_mode = [r for r in transferred if r["settings"].get("mode") == mode]
            for preset in dict.fromkeys(preset_of(r) for r in of_mode) or {"paper": None}:
                of_preset = [r for r in of_mode if preset_of(r) == preset]
                figures = tuple(latest(of_preset, data=data) for data in TRANSFER)
                name = each.name if preset == "paper" else f"{each.name}, {preset}"
                rows.append(Row(name, (), figures, ours=True))
        blocks.append(Block(title, tuple(rows)))
    title = "Transfer: top-1, mean per class (Aircraft, Pets, Caltech, Flowers) or 11-point mAP (VOC07), %"
    return Table(title, (), tuple(TRANSFER.values()), tuple(blocks))


TABLES = {"7": table_7, "8": table_8}


def marks(block: Block) -> list[list[str]]:
    """For each figure "best", "second" or "", by its column, of what is printed: equal figures share a mark."""
    best = []
    for column in zip(*(row.figures for row in block.rows)):
        ranked = sorted({round(v, 1) for v in column if v is not None}, reverse=True)
        best.append(dict(zip(ranked, ("best", "second"))))
    return [["" if v is None else of.get(round(v, 1), "") for v, of in zip(row.figures, best)] for row in block.rows]


NOTE = f"Published rows: {SOURCE}. Ours: as measured, by run. {{best}} best, {{second}} second best; {MISSING} missing."


def markdown(table: Table) -> str:
    def escaped(text: str) -> str:
        return text.replace("|", "\\|").replace("_", "\\_")

    lines = [table.title, "", "| " + " | ".join(table.heads) + " |"]
    lines.append("|" + "---|" * (1 + len(table.words)) + "--:|" * len(table.figures))
    for block in table.blocks:
        if block.title:
            lines.append(f"| *{block.title}* |" + " |" * (len(table.heads) - 1))
        rows = block.cells({"best": "**{}**", "second": "_{}_"}, escaped)
        lines += ["| " + " | ".join(cells) + " |" for cells in rows]
    lines += ["", NOTE.format(best="**Bold**:", second="_italic_:")]
    return "\n".join(lines) + "\n"


def latex(table: Table) -> str:
    note = tex(NOTE.format(best="Bold:", second="underlined:"))
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{tex(table.title)}. {note}}}"]
    lines += [r"\begin{tabular}{l" + "l" * len(table.words) + "r" * len(table.figures) + "}", r"\hline"]
    lines.append(" & ".join(map(tex, table.heads)) + r" \\")
    for block in table.blocks:
        lines.append(r"\hline")
        if block.title:
            lines.append(rf"\multicolumn{{{len(table.heads)}}}{{l}}{{\textit{{{tex(block.title)}}}}} \\")
        rows = block.cells({"best": r"\textbf{{{}}}", "second": r"\underline{{{}}}"}, tex)
        lines += [" & ".join(cells) + r" \\" for cells in rows]
    lines += [r"\hline", r"\end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def tex(text: str) -> str:
    """Text with what LaTeX reads as commands escaped.

    >>> print(tex("a_b & 5 %"))
    a\\_b \\& 5 \\%
    """
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", MISSING: "--"}
    return "".join(special.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)


def as_html(table: Table) -> str:
    note = NOTE.format(best="<strong>Bold</strong>:", second="<u>underlined</u>:")
    lines = ["<table>", f"<caption>{html.escape(table.title)}. {note}</caption>"]
    lines += ["<thead><tr>" + "".join(f"<th>{html.escape(h)}</th>" for h in table.heads) + "</tr></thead>", "<tbody>"]
    for block in table.blocks:
        if block.title:
            lines.append(f'<tr><th colspan="{len(table.heads)}">{html.escape(block.title)}</th></tr>')
        for name, *cells in block.cells({"best": "<strong>{}</strong>", "second": "<u>{}</u>"}, html.escape):
            lines.append(f"<tr><th>{name}</th>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    lines += ["</tbody>", "</table>"]
    return "\n".join(lines) + "\n"


FORMATS = {"markdown": markdown, "latex": latex, "html": as_html}
