"""What `import mec` gives, and what it leaves alone."""

from __future__ import annotations

import subprocess
import sys

import pytest
from helpers import command
from processes import printed

import mec

PUBLIC = {
    "Data",
    "Encoder",
    "Features",
    "METHODS",
    "OBJECTIVES",
    "RECIPES",
    "Recipe",
    "Result",
    "__version__",
    "coding_length",
    "compare",
    "detect",
    "duplicates",
    "embed",
    "evaluate",
    "export",
    "features",
    "health",
    "joint_coding",
    "label",
    "load_classifier",
    "load_encoder",
    "maximum_entropy_coding",
    "mislabelled",
    "objectives",
    "open_data",
    "outliers",
    "pack",
    "predict",
    "pretrain",
    "report",
    "search",
    "select",
    "suite",
    "track",
}
HEAVY = ("torch", "torchvision", "timm", "matplotlib", "lightning_fabric", "sklearn", "scipy", "pandas", "PIL")


def test_the_public_names_are_these():
    assert set(mec.__all__) == PUBLIC
    assert set(dir(mec)) >= PUBLIC
    for name in PUBLIC:
        assert getattr(mec, name) is not None
    with pytest.raises(AttributeError, match="No mec attribute pretrian"):
        _ = mec.pretrian


def python(code: str) -> str:
    result = command("-c", code)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_importing_the_package_loads_nothing_heavy_and_changes_no_environment():
    code = f"""
import os, sys, warnings, random
before = dict(os.environ), list(warnings.filters), random.getstate(), sys.path[:], sys.excepthook
import mec, mec.cli.main
assert before == (dict(os.environ), list(warnings.filters), random.getstate(), sys.path[:], sys.excepthook)
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    assert python(code) == "[]"


def test_training_and_detection_libraries_load_only_with_what_needs_them():
    code = """
import sys, mec
mec.RECIPES, mec.Recipe
print("torch" in sys.modules, end=" ")
mec.coding_length, mec.maximum_entropy_coding
print("torch" in sys.modules, "matplotlib" in sys.modules, "timm" in sys.modules)
"""
    assert python(code) == "False True False False"


def test_the_functions_are_callable_whatever_was_imported_first(tmp_path):
    """No submodule has the name of a public function, so importing one hides none."""
    code = "import mec.training.pretrain, mec, mec.objectives.coding, mec.cli.main; print(callable(mec.pretrain))"
    assert printed(code, folder=tmp_path) == "True\n"


@pytest.mark.parametrize("words", [["--help"], ["pretrain", "--help"], ["recipes"], ["--version"]])
def test_help_and_recipes_answer_without_torch(words):
    code = "import sys; from mec.cli.main import main\ntry: main({words!r})\nfinally: assert 'torch' not in sys.modules"
    result = subprocess.run(
        [sys.executable, "-c", code.format(words=words)], capture_output=True, text=True, timeout=30, check=False
    )
    assert result.returncode == 0, result.stderr
    assert {"--help": "mec pretrain digits", "pretrain": "--time-budget", "recipes": "imagenet-100ep"}.get(
        words[0], mec.__version__
    ) in result.stdout


def test_the_module_runs_as_the_command_does():
    result = command("-m", "mec", "pretrian")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr + result.stdout
