"""The examples run, and teach what they say they teach."""

import importlib.util
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import digit_images

from mec.cli.main import parsed
from mec.recipes.table import DIGITS, RECIPES

EXAMPLES = Path(__file__).parents[1] / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_encoder_of_measurements_beats_the_measurements_with_one_label_a_class():
    accuracy = example("any_modality").main(quiet=True)
    assert accuracy["encoder, 1 a class"] > accuracy["raw, 1 a class"] + 1  # 87.8 and 84.9 when this was written


@pytest.mark.slow
def test_the_minimal_example_learns_digits_from_python(tmp_path):
    assert example("minimal").main(str(tmp_path / "run"), epochs=5) > 60  # untrained: 48


@pytest.mark.usefixtures("quick_report")
def test_the_page_of_python_runs_as_it_stands_with_public_names_only(tmp_path, monkeypatch, capsys):
    small = replace(DIGITS, views=tuple(replace(view, size=8) for view in DIGITS.views))
    monkeypatch.setitem(RECIPES, "digits", small)  # digits as they are, not at 16 px: a quarter of the time
    page = (Path(__file__).parents[1] / "docs" / "python.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    statements = [line for line in code.splitlines() if line and not line.startswith("#")]
    assert len(statements) < 45
    assert {line for line in statements if "import" in line} == {"import torch", "import mec"}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(digit_images(6)):
        image.save(tmp_path / "photos" / f"{number}.png")
    (tmp_path / "labels.csv").write_text(
        "path,label\n" + "".join(f"{i}.png,{('even', 'odd')[i % 2]}\n" for i in range(6))
    )
    known: dict = {}
    exec(code, known)
    assert known["classifier"].classes == ("even", "odd")
    assert known["rows"].shape == known["features"].x.shape
    assert [r.metric for r in known["few"]] == ["top-1", "balanced accuracy"] * 2
    assert known["linear"][0].value > 90  # after two epochs 94.3; 86.5 where the loss has no gradient
    assert known["pixels"][0].value == pytest.approx(
        97.2, abs=0.5
    )  # 20 neighbours of colours as they are, not of grey values
    assert np.load("features.npz")["features"].shape == known["features"].x.shape == (6, known["features"].x.shape[1])
    assert known["weights"].exists()
    assert Path("runs/compare/compare.png").exists()
    assert capsys.readouterr().out


def test_the_scripts_for_clusters_are_whole_and_give_flags_that_there_are():
    yaml = pytest.importorskip("yaml")
    for script in (EXAMPLES / "cluster").glob("*.sh"):
        subprocess.run(["bash", "-n", script], check=True)
        assert "mec pretrain" in script.read_text()
    job = yaml.safe_load((EXAMPLES / "cluster/kubernetes.yaml").read_text())
    pods = job["spec"]["pytorchReplicaSpecs"]
    (container,) = pods["Worker"]["template"]["spec"]["containers"]
    assert pods["Master"]["template"] == pods["Worker"]["template"]
    command = parsed([*container["command"][3:], *container["args"]])
    assert (command.recipe, command.resume) == ("imagenet-100ep", True)
