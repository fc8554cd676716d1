"""The plan of the house: which room may import which, no circles, and sizes at which a reader keeps the overview."""

from __future__ import annotations

import ast
import graphlib
import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

import mec

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mec"
FILES = sorted(PACKAGE.rglob("*.py"))


def contracts(root: Path) -> subprocess.CompletedProcess[str]:
    """What import-linter says of the package in a folder, by the contracts in its pyproject.toml."""
    script = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    environment = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.run(
        [sys.executable, "-c", script], cwd=root, env=environment, capture_output=True, text=True, timeout=120
    )


def test_imports_go_down():
    done = contracts(ROOT)
    assert done.returncode == 0, done.stdout
    assert "KEPT" in done.stdout


UP = {  # a line in a file that reaches for a room above: at once, for types alone, in a function, among protocols
    "objectives/coding.py": "from mec.training.trainer import Trainer",
    "runtime/files.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import mec.recipes.recipe",
    "data/dataset.py": "def late():\n    import mec.evaluation.results",
    "evaluation/metrics.py": "from mec.evaluation.tracking import sot",
}


def test_imports_that_go_up_are_told(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "mec", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for file, line in UP.items():
        with open(tmp_path / "mec" / file, "a") as written:
            written.write(f"\n{line}\n")
    done = contracts(tmp_path)
    assert done.returncode == 1, done.stdout
    for file in UP:
        assert f"mec.{file.removesuffix('.py').replace('/', '.')} -> mec." in done.stdout


def test_no_circle_of_files():
    """Also under TYPE_CHECKING, and of imports inside functions."""
    graph = grimp.build_graph("mec", cache_dir=None)
    graphlib.TopologicalSorter({m: graph.find_modules_directly_imported_by(m) for m in graph.modules}).prepare()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_has_at_most_400_lines(path):
    assert len(path.read_text().splitlines()) <= 400


def test_the_package_stays_small():
    """What is new is paid for by deletion."""
    assert sum(len(path.read_text().splitlines()) for path in FILES) < 24_000


def functions(path: Path) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
    """Functions and methods of a file, by dotted name; those inside functions are no one else's."""
    found: dict[str, ast.FunctionDef | ast.AsyncFunctionDef] = {}

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                visit(child, f"{prefix}{child.name}.")
            elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                found[prefix + child.name] = child

    visit(ast.parse(path.read_text()), "")
    return found


def test_a_public_function_takes_at_most_10_parameters():
    many = {}
    for path in FILES:
        for name, function in functions(path).items():
            public = not any(part.startswith("_") and part != "__init__" for part in name.split("."))
            a = function.args
            taken = [p.arg for p in (*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg)))]
            count = len([p for p in taken if p not in ("self", "cls")])
            if public and count > 10:
                many[f"{path.relative_to(PACKAGE)}: {name}"] = count
    assert many == {}


@pytest.mark.parametrize("name", ["pretrain", "compare"])
def test_the_long_stories_are_told_in_60_lines(name):
    function = inspect.unwrap(getattr(mec, name))
    tree = functions(Path(inspect.getfile(function)))[function.__name__]
    body = tree.body[1:] if ast.get_docstring(tree) else tree.body
    assert body[-1].end_lineno - body[0].lineno + 1 <= 60


def test_tests_lie_where_what_they_test_lies():
    folders = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")}
    assert {str(folder) for folder in folders if not (PACKAGE / folder).is_dir()} - {"faults"} == set()
