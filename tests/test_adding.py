"""What docs/architecture.md shows, done: a flag, a method, a protocol, an export, each by its one file."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from helpers import TINY
from processes import printed

ROOT = Path(__file__).parents[1]
RUN = ["--limit", "192", "--batch-size", "64", "--epochs", "1", "--no-evaluate", "--set", *TINY]


@pytest.fixture(scope="module")
def shown() -> dict[str, str]:
    """The code that the page shows, by what it adds."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    kinds = ("flag", "method", "protocol", "export")
    return dict(zip(kinds, re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL), strict=True))


def edit(path: Path, marker: str, text: str) -> None:
    """Put text before the one place where a file has the marker, or, without one, at its end."""
    before = path.read_text()
    assert not marker or before.count(marker) == 1
    path.write_text(before.replace(marker, text + marker) if marker else before + text)


# Calls of the command line in one process, what each printed by its number.
CALLS = """
import contextlib, io, json, sys
from mec.cli.main import main
printed = []
for words in json.loads(sys.argv[1]):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            assert not main(words)
        except SystemExit as ended:  # --help
            assert not ended.code
    printed.append(out.getvalue())
print(json.dumps(printed))
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory, shown) -> tuple[Path, list[str]]:
    """A copy of the package with all four added, one file each, and what its commands printed."""
    root = tmp_path_factory.mktemp("house")
    shutil.copytree(ROOT / "mec", root / "mec", ignore=shutil.ignore_patterns("*.pyc"))  # with what numba compiled
    options = root / "mec" / "training" / "options.py"
    edit(options, "    seed: ", "".join(f"    {line}\n" for line in shown["flag"].splitlines()))
    options.write_text(options.read_text().replace("import Device,", "import Real, Device,"))
    edit(root / "mec" / "objectives" / "methods.py", "", "\n" + shown["method"])
    edit(root / "mec" / "evaluation" / "probing" / "protocols.py", "", "\n\n" + shown["protocol"])
    edit(root / "mec" / "exports" / "export.py", "if TYPE_CHECKING:\n    Tool", shown["export"])
    toy = ["settings.scale_by=0.5", "network.predictor=[32,16]"]
    calls = [
        ["pretrain", "--help"],
        ["pretrain", "digits", "--weight-decay", "0.003", "--method", "toy", "--out", "run", *RUN, *toy],
        ["evaluate", "--help"],
        ["evaluate", "pixels", "spread", "digits", "--out", "out"],
        ["export", "--help"],
        ["export", "run", "--to", "names"],
    ]
    return root, json.loads(printed(CALLS, json.dumps(calls), folder=root, path=root).splitlines()[-1])


def test_a_flag_is_one_field(done):
    root, printed = done
    assert "--weight-decay X" in printed[0]
    settings = json.loads((root / "run" / "settings.json").read_text())
    assert settings["recipe"]["optimizer"]["weight_decay"] == settings["asked"]["weight_decay"] == 0.003


def test_a_method_is_a_function_and_a_row(done):
    root, printed = done
    assert "squared distance of unit rows" in printed[0]
    lines = [json.loads(line) for line in (root / "run" / "metrics.jsonl").read_text().splitlines()]
    assert 0 < lines[-1]["loss"] < 2  # half of a squared distance of unit rows, at most 4


def test_a_protocol_is_a_dataclass_and_a_row(done):
    _, printed = done
    assert "How many directions the features" in printed[2]
    assert 1 < float(printed[3].split(": ")[-1].split()[0]) < 64


def test_an_export_is_a_function_and_a_row(done):
    root, printed = done
    assert "names}" in printed[4].replace(" ", "")
    assert "the names of" in printed[5]
    assert "conv1.weight" in (root / "run" / "encoder-names.txt").read_text()
