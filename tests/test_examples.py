"""The examples run, and teach what they say they teach."""

import importlib.util
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
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


@pytest.fixture
def examples(monkeypatch):
    """Modules of examples/ by name: they import what they share as scripts do."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return example


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "given", "settings", "gain"),
    [
        ("speech", (), {"epochs": 60}, {1: 3}),
        ("time_series", ("OSULeaf",), {"epochs": 20}, {1: 8, 5: 10}),
        ("time_series", ("BasicMotions",), {"epochs": 30}, {1: 10, 5: 10}),
        ("text", (), {}, {1: 1, 5: 2}),
    ],
    ids=["speech", "outlines", "motions", "text"],
)
def test_an_encoder_of_another_modality_beats_its_raw_features(examples, name, given, settings, gain):
    accuracy = examples(name).main(*given, seeds=1, **settings)
    assert list(accuracy) == [f"{f}, {n} a class" for f in ("raw", "untrained", "trained") for n in (1, 5)]
    for labels, points in gain.items():
        for other in ("raw", "untrained"):
            (trained,), (compared,) = accuracy[f"trained, {labels} a class"], accuracy[f"{other}, {labels} a class"]
            assert trained > compared + (points if other == "raw" else 0)


@pytest.mark.parametrize("name", ["speech", "time_series", "text"])
def test_an_example_of_another_modality_is_short_and_its_views_keep_rows_apart(examples, name):
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) < 60
    module = examples(name)
    torch.manual_seed(0)
    shapes = {"speech": (64, 12, 24), "time_series": (64, 6, module.LENGTH if name == "time_series" else 0)}
    rows = torch.arange(1, 65)[:, None].expand(64, 48) if name == "text" else None
    rows = torch.arange(64.0).mul(10).reshape(64, 1, 1).expand(shapes[name]) if rows is None else rows
    first, second = module.view(rows), module.view(rows)
    assert not torch.equal(first, second)
    kept = first.flatten(1) != 0  # a view of row i is of row i, but for what is left out, and noise
    mean = (first.flatten(1) * kept).sum(1) / kept.sum(1).clamp(min=1)
    assert torch.corrcoef(torch.stack([mean.float(), rows.flatten(1)[:, 0].float()]))[0, 1] > 0.9
    assert 0.7 < float(kept.float().mean()) < 0.9  # a fifth is left out


def test_views_of_another_modality_are_parts_in_order_from_various_places(examples):
    """Of rows that count upwards: what is left goes on counting, from another place for another row."""
    torch.manual_seed(0)
    words = examples("text").view(torch.arange(1, 49).expand(64, 48))
    places = torch.where(words > 0, words - torch.arange(24), -1)
    assert {len(set(row.tolist()) - {-1}) for row in places} == {1}
    assert len(set(places.amax(1).tolist())) > 10
    frames = examples("speech").view(torch.arange(24.0).expand(64, 12, 24))
    speeds = (frames[:, :, -2] - frames[:, :, 1]).amax(1) / 21  # of the coefficients, one in five is 0
    assert 0.2 < float(speeds.min()) < 0.7 < float(speeds.max()) < 1.8  # half to all, 0.2 louder or softer
    module = examples("time_series")
    around = module.view(torch.arange(float(module.LENGTH)).expand(64, 1, module.LENGTH))
    assert len(set(around.argmin(2).flatten().tolist())) > 20
    upwards = (around.diff(dim=2) > 0).float().mean(2)
    assert ((upwards < 0.2) | (upwards > 0.8)).all()
    assert 16 < int((upwards > 0.8).sum()) < 48  # about half of them are mirrored


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
