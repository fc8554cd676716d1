"""What docs/architecture.md shows, done: a flag, a method, a protocol, an export, each by its one file."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import TINY, environment

ROOT = Path(__file__).parents[1]
RUN = ["--limit", "192", "--batch-size", "64", "--epochs", "1", "--no-evaluate", "--set", *TINY]


@pytest.fixture(scope="module")
def shown() -> dict[str, str]:
    """The code that the page shows, by what it adds."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    kinds = ("flag", "method", "protocol", "export")
    return dict(zip(kinds, re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL), strict=True))


@pytest.fixture
def house(tmp_path):
    """A copy of the package, with what numba has compiled; a command runs in it."""
    shutil.copytree(ROOT / "mec", tmp_path / "mec", ignore=shutil.ignore_patterns("*.pyc"))

    def run(*words: str) -> str:
        result = subprocess.run(
            [sys.executable, "-m", "mec", *words],
            cwd=tmp_path, env={**environment(), "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        return result.stdout

    return tmp_path, run


def edit(path: Path, marker: str, text: str) -> None:
    """Put text before the one place where a file has the marker, or, without one, at its end."""
    before = path.read_text()
    assert not marker or before.count(marker) == 1
    path.write_text(before.replace(marker, text + marker) if marker else before + text)


def test_a_flag_is_one_field(shown, house):
    root, run = house
    field = "".join(f"    {line}\n" for line in shown["flag"].splitlines())
    options = root / "mec" / "training" / "options.py"
    edit(options, "    seed: ", field)
    options.write_text(options.read_text().replace("import Device,", "import Real, Device,"))
    assert "--weight-decay X" in run("pretrain", "--help")
    run("pretrain", "digits", "--weight-decay", "0.003", "--out", "run", *RUN)
    settings = json.loads((root / "run" / "settings.json").read_text())
    assert settings["recipe"]["optimizer"]["weight_decay"] == settings["asked"]["weight_decay"] == 0.003


def test_a_method_is_a_function_and_a_row(shown, house):
    root, run = house
    methods = root / "mec" / "objectives" / "methods.py"
    edit(methods, "", "\n" + shown["method"])
    assert "squared distance of unit rows" in run("pretrain", "--help")
    run(
        "pretrain",
        "digits",
        "--method",
        "toy",
        "--out",
        "run",
        *RUN,
        "settings.scale_by=0.5",
        "network.predictor=[32,16]",
    )
    lines = [json.loads(line) for line in (root / "run" / "metrics.jsonl").read_text().splitlines()]
    assert 0 < lines[-1]["loss"] < 2  # half of a squared distance of unit rows, at most 4


def test_a_protocol_is_a_dataclass_and_a_row(shown, house):
    root, run = house
    edit(root / "mec" / "evaluation" / "probing" / "protocols.py", "", "\n\n" + shown["protocol"])
    assert "How many directions the features" in run("evaluate", "--help")
    assert 1 < float(run("evaluate", "pixels", "spread", "digits", "--out", "out").split(": ")[-1].split()[0]) < 64


def test_an_export_is_a_function_and_a_row(shown, house):
    root, run = house
    exports = root / "mec" / "exports" / "export.py"
    edit(exports, "if TYPE_CHECKING:\n    Tool", shown["export"])
    run("pretrain", "digits", "--out", "run", *RUN)
    assert "names}" in run("export", "--help").replace(" ", "")
    assert "the names of" in run("export", "run", "--to", "names")
    assert "conv1.weight" in (root / "run" / "encoder-names.txt").read_text()
