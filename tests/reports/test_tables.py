"""The paper's tables from results of our own runs."""

from __future__ import annotations

import html.parser
import json
from dataclasses import replace
from pathlib import Path

import pytest
import transcribed

from mec.cli.main import main
from mec.evaluation.results import Result, record
from mec.evaluation.transfer.sets import TRANSFER_SETS
from mec.reports.tables import TABLE_8, TRANSFER, Row, marks, read, table_7, table_8, written


def transferred(data: str, value: float, mode: str = "linear", **settings) -> Result:
    return Result("transfer", "top-1", value, data=data, encoder="mec-joint", settings={"mode": mode, **settings})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with linear figures on two sets (one measured twice, once as a quick look) and one fine-tuned."""
    folder = tmp_path / "cifar-joint"
    record(
        folder,
        [
            transferred("food101", 60.0),
            transferred("food101", 76.04),
            transferred("food101", 99.0, limit=100),
            transferred("dtd", 75.49, preset="paper"),
            transferred("cars", 91.7, mode="finetune", preset="budget"),
            Result("linear", "top-1", 74.9, data="imagenet", encoder="mec-joint", settings={"preset": "paper"}),
            Result("linear", "top-5", 92.0, data="imagenet", encoder="mec-joint", settings={"preset": "paper"}),
            Result("linear", "top-1", 74.0, data="imagenet", encoder="mec-joint", settings={"preset": "fast"}),
            Result("linear", "top-1", 90.0, data="cifar10", encoder="mec-joint", settings={"preset": "paper"}),
        ],
    )
    (folder / "settings.json").write_text(json.dumps({"recipe": {"epochs": 800}, "steps": 4000, "steps_per_epoch": 40}))
    return folder


def cells(text: str, name: str, which: int = 0) -> list[str]:
    """The cells of the which-th row of a Markdown table whose name begins so."""
    rows = [line for line in text.splitlines() if line.startswith(f"| {name}")]
    return [cell.strip() for cell in rows[which].strip("|").split("|")][1:]


def printed_rows(text: str) -> list[list[str]]:
    """The cells of a Markdown table's rows, heading first, without marks."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip().strip("*_") for cell in row] for row in rows if not set("".join(row)) <= set("-:")]


def test_table_7_is_the_paper_s():
    heads = {"†": " (large projector)", "‡": " (multi-crop)"}
    names, epochs, accuracy = (line.split("\t")[1:] for line in transcribed.TABLE_7.splitlines())
    named = ["".join(heads.get(c, c) for c in name).replace("Barlow", "Barlow Twins") for name in names]
    expected = {(*row[:2], "paper", row[2]) for row in zip(named, epochs, accuracy)}
    assert {tuple(row) for row in printed_rows(written(table_7([]), "markdown"))[1:]} == expected


def test_table_8_is_the_paper_s():
    expected = [line.split("\t") for line in transcribed.TABLE_8.replace("Random init", "Random").splitlines()[1:]]
    found = printed_rows(written(table_8([]), "markdown"))[1:]
    assert [row for row in found if row[1]] == [row for row in expected if len(row) > 1]
    parts = [i for i, row in enumerate(found) if not row[1]]
    assert parts == [i for i, row in enumerate(expected) if len(row) == 1]  # linear above fine-tuned


def test_columns_are_the_eleven_sets_in_the_papers_order():
    assert tuple(TRANSFER) == tuple(TRANSFER_SETS)
    assert tuple(TRANSFER.values()) == tuple(entry.title for entry in TRANSFER_SETS.values())
    assert all(len(figures) == 11 for rows in TABLE_8.values() for _, figures in rows)


def test_ours_stand_beside_the_published_rows_with_missing_cells_shown(run):
    text = written(table_8([run]), "markdown")
    ours = cells(text, "mec-joint (cifar-joint) (ours)")
    assert ours == ["**76.0**", *["–"] * 6, "_75.5_", *["–"] * 3]
    assert cells(text, "mec-joint (cifar-joint), budget (ours)")[4] == "_91.7_"
    assert cells(text, "MEC ")[0] == "_75.6_"  # the best of the published rows is second now
    assert cells(text, "Random")[4] == "91.4"


def test_the_latest_figure_counts_and_quick_looks_do_not(run):
    row = [r for r in table_8([run]).blocks["Linear evaluation"] if r.ours]
    assert row[0].figures[0] == 76.04


def test_equal_figures_as_printed_share_their_mark_and_missing_ones_get_none():
    rows = [
        Row("a", (), (75.04, 1.0)),
        Row("b", (), (75.0, None)),
        Row("c", (), (74.9, 2.0)),
        Row("d", (), (74.8, None)),
    ]
    assert marks(rows) == [["best", "second"], ["best", ""], ["second", "best"], ["", ""]]


def test_table_7_keeps_kinds_of_probe_apart_and_takes_imagenet_only(run):
    text = written(table_7([run]), "markdown")
    assert cells(text, "mec-joint", 0) == ["100", "paper", "74.9"]
    assert cells(text, "mec-joint", 1) == ["100", "fast", "74.0"]
    assert "90.0" not in text
    assert "92.0" not in text
    assert cells(text, "MEC ", 0) == ["800", "paper", "74.5"]
    assert cells(text, "UniGrad")[-1] == cells(text, "MEC (multi-crop)")[-1] == "**75.5**"
    assert cells(text, "DINO")[-1] == "_75.3_"


def test_a_quick_run_does_not_take_the_place_of_the_published_probe(run):
    changed = {"preset": "paper, changed", "epochs": 1}
    record(run, [Result("linear", "top-1", 11.0, data="imagenet", encoder="mec-joint", settings=changed)])
    text = written(table_7([run]), "markdown")
    assert cells(text, "mec-joint", 0) == ["100", "paper", "74.9"]
    assert cells(text, "mec-joint", 2) == ["100", "paper, changed", "11.0"]


def test_a_run_without_such_figures_is_a_row_of_missing_cells(tmp_path):
    record(tmp_path / "a", [Result("knn", "top-1", 50.0, data="digits", encoder="mec")])
    assert cells(written(table_7([tmp_path / "a"]), "markdown"), "mec (a)") == ["–", "–", "–"]
    assert cells(written(table_8([tmp_path / "a"]), "markdown"), "mec (a)") == ["–"] * 11


class Rows(html.parser.HTMLParser):
    """Text of the cells by row, and what is strong or underlined."""

    def __init__(self, text: str):
        super().__init__()
        self.rows: list[list[str]] = []
        self.marked: dict[str, list[str]] = {"strong": [], "u": []}
        self.stack: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.stack.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.stack):
            self.rows[-1][-1] += data
            if self.stack[-1] in self.marked:
                self.marked[self.stack[-1]].append(data)


def test_html_is_well_formed_and_says_the_same(run):
    parsed = Rows(written(table_8([run]), "html"))
    assert not parsed.stack
    ours = next(row for row in parsed.rows if row[0] == "mec-joint (cifar-joint) (ours)")
    assert ours[1:] == ["76.0"] + ["–"] * 6 + ["75.5"] + ["–"] * 3
    assert "76.0" in parsed.marked["strong"]
    assert "75.6" in parsed.marked["u"]


def test_latex_has_as_many_cells_in_every_row_and_escapes_names(run):
    (run.parent / "a_b & 50%").mkdir()
    other = run.rename(run.parent / "a_b & 50%" / "x_y")
    text = written(table_8([other]), "latex")
    assert r"mec-joint (x\_y) (ours) & \textbf{76.0} & -- &" in text
    assert r"\underline{75.6}" in text
    rows = [line for line in text.splitlines() if line.endswith(r" \\") and "multicolumn" not in line]
    assert {line.count(" & ") for line in rows} == {11}
    assert text.count("{") == text.count("}")


def test_several_runs_are_several_rows_in_their_order(run, tmp_path):
    record(tmp_path / "b", [Result("transfer", "top-1", 50.0, data="dtd", encoder="random:resnet50",
                                   settings={"mode": "linear"})])  # fmt: skip
    names = [row.name for row in table_8([run, tmp_path / "b"]).blocks["Linear evaluation"] if row.ours]
    assert names == ["mec-joint (cifar-joint)", "random:resnet50 (b)"]


def test_checkpoints_of_one_name_are_rows_of_their_own(tmp_path):
    one, other = "0123456789abcdef", "fedcba9876543210"
    for data, checkpoint, value in (("dtd", one, 50.0), ("dtd", other, 60.0), ("food101", one, 70.0)):
        record(tmp_path / "a", [replace(transferred(data, value), checkpoint=checkpoint)])
    text = written(table_8([tmp_path / "a"]), "markdown")
    assert [cells(text, "mec-joint 012345 (a) (ours)")[i] for i in (0, 7)] == ["70.0", "50.0"]
    assert [cells(text, "mec-joint fedcba (a) (ours)")[i] for i in (0, 7)] == ["–", "60.0"]


def test_the_command_prints_or_writes(run, tmp_path, capsys):
    assert main(["table", "8", str(run)]) == 0
    assert "**76.0**" in capsys.readouterr().out
    assert main(["table", "7", str(run), "--format", "html", "--out", str(tmp_path / "t" / "seven.html")]) == 0
    assert "<strong>75.5</strong>" in (tmp_path / "t" / "seven.html").read_text()
    assert main(["table", "8"]) == 0
    assert cells(capsys.readouterr().out, "MEC ")[0] == "**75.6**"


def test_figure_1_in_numbers_has_mean_ranks_and_published_rows_where_conditions_are_theirs(run, tmp_path, capsys):
    assert main(["table", "figure1", str(run)]) == 0
    text = capsys.readouterr().out
    head, *rows = printed_rows(text)
    assert head[:4] == ["method", "mean rank", "LIN", "SEMI"]
    assert {row[0]: row[1:3] for row in rows}["mec-joint (cifar-joint) (ours)"] == ["1", "74.9"]
    assert {row[0]: row[1:3] for row in rows}["MEC (published)"] == ["2", "74.5"]
    assert "VOC" in head  # nobody has it, and it is shown as missing
    assert {row[head.index("VOC")] for row in rows} == {"–"}
    assert main(["table", "figure1"]) == 0  # without a run what is published, each axis
    rows = {row[0]: row for row in printed_rows(capsys.readouterr().out)}
    assert rows["MoCo v2 (published)"][head.index("VOC")] == "57.4"


@pytest.mark.parametrize("form", ["markdown", "latex", "html"])
def test_a_suite_s_table_says_what_was_measured_and_why_the_rest_was_not(tmp_path, capsys, form):
    """One part measured for both encoders, one that failed, one without data; the best of a row is marked."""
    knn = {"protocol": "knn", "metric": "top-1", "value": 71.26, "settings": {}}
    other = {**knn, "value": 60.0}
    told = [
        {"run": "runs/a_b", "part": "knn digits", "key": "1", "results": [{**knn, "metric": "top-5"}, knn]},
        {"run": "random:x", "part": "knn digits", "key": "2", "results": [other]},
        {"run": "runs/a_b", "part": "vos", "key": "3", "failed": "OSError: <no> video"},
        {"run": "runs/a_b", "part": "coco", "key": "4", "lacking": "annotations belong there"},
    ]
    (tmp_path / "suite.json").write_text(json.dumps(told))
    assert main(["table", "suite", str(tmp_path), "--format", form]) == 0
    said = capsys.readouterr().out
    best = {"markdown": "**71.3**", "latex": r"\textbf{71.3}", "html": "<strong>71.3</strong>"}[form]
    for words in (best, "annotations belong there", "60.0"):
        assert words in said
    assert ("&lt;no&gt;" if form == "html" else "<no>") in said
    if form == "markdown":
        assert cells(said, "knn digits") == ["top-1", "", "**71.3**", "_60.0_"]
        assert cells(said, "vos") == ["", "failed: OSError: <no> video", "–", "–"]
    (tmp_path / "suite.json").write_text('[{"run": 3}]')
    assert main(["table", "suite", str(tmp_path)]) == 2
    assert main(["table", "suite", str(tmp_path / "none")]) == 2
    assert "no table of a suite" in capsys.readouterr().err


def test_a_run_without_results_and_a_broken_line_are_named(run, tmp_path, capsys):
    assert main(["table", "8", str(tmp_path)]) == 2
    assert f"{tmp_path / 'results.jsonl'}: no results" in capsys.readouterr().err
    with open(run / "results.jsonl", "a") as file:
        file.write("{torn")
    (before,) = read([run])
    assert len(before.results) == 9
    with open(run / "results.jsonl", "a") as file:
        file.write("\n{}\n")
    with pytest.warns(UserWarning, match="line 1[01]: passed over"):
        (after,) = read([run])
    assert len(after.results) == 9


def test_a_result_is_not_joined_to_a_line_that_a_power_cut_left(tmp_path):
    record(tmp_path, [Result("knn", "top-1", 50.0)])
    path = tmp_path / "results.jsonl"
    path.write_text(path.read_text() + '{"protocol": "kn')
    record(tmp_path, [Result("linear", "top-1", 60.0)])
    first, last = path.read_text().splitlines()
    assert (json.loads(first)["value"], json.loads(last)["value"]) == (50, 60)
