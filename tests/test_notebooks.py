"""The notebooks of the documentation run from first cell to last, and show no output of anybody's machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import digit_images

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))


def cells(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def run(path: Path) -> dict:
    """What the code of a notebook's cells, in order, leaves: as a kernel runs it, in one namespace."""
    known: dict = {"__name__": "__main__"}
    for number, cell in enumerate(cells(path)):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{path.name}, cell {number}", "exec"), known)
    return known


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path):
    for cell in cells(path):
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)


def test_there_are_two():
    assert [path.stem for path in NOTEBOOKS] == ["objective", "photographs"]


@pytest.mark.slow
@pytest.mark.usefixtures("quick_report")
def test_the_notebook_of_photographs_runs_on_a_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(digit_images(24)):
        image.save(tmp_path / "photos" / f"{number:02}.png")
    known = run(NOTEBOOKS[1])
    said = capsys.readouterr().out
    assert len(known["features"].x) == 24
    assert said.count("is most like") == 5
    assert {p.name for p in tmp_path.iterdir()} >= {"copies.csv", "strange.csv", "picked.csv", "features.npz", "runs"}
    assert len((tmp_path / "picked.csv").read_text().splitlines()) == 6


@pytest.mark.slow
def test_the_notebook_of_the_objective_learns(capsys):
    known = run(NOTEBOOKS[0])
    losses = known["losses"]
    assert losses["spread out, views agree"] < losses["spread out, views differ"]
    assert losses["spread out, views agree"] < losses["all alike (collapsed)"]
    assert known["after"] > known["before"] + 2
