"""A timed step is a training step: every method moves its weights, and contenders take turns."""

import json
import sys
from pathlib import Path

import pytest
import torch

from mec.errors import BadInput
from mec.objectives.methods import METHODS

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import methods
import precision
from methods import published_recipe
from reporting import in_turns


def test_each_method_takes_its_published_heads():
    assert published_recipe("byol", "imagenet").network.projector == (4096, 256)
    assert published_recipe("barlow-twins", "imagenet").network.projector == (8192,) * 3
    assert published_recipe("mec", "imagenet").network.predictor == (512, 2048)
    joint = published_recipe("mec-joint", "imagenet").network
    assert (joint.projector, joint.predictor, joint.target) == ((2048,) * 3, (), None)
    for method in METHODS:
        for data in ("imagenet", "cifar10"):
            assert published_recipe(method, data).method == method


def test_contenders_take_turns_and_the_first_round_is_not_counted(monkeypatch):
    clock, calls = [0.0], []
    monkeypatch.setattr("reporting.time.perf_counter", lambda: clock[0])

    def taking(name, seconds):
        def step():
            calls.append(name)
            clock[0] += seconds if len(calls) > 2 else 100

        return step

    found = in_turns({"a": taking("a", 2.0), "b": taking("b", 3.0)}, 3, "cpu")
    assert calls == ["a", "b"] * 4
    assert found == {"a": (2.0, 2.0, 2.0), "b": (3.0, 3.0, 3.0)}


def test_the_script_times_whole_steps_and_writes_json(tmp_path, capsys, monkeypatch):
    moved = {}

    def spied(method, *rest, **options):
        from mec.training.trainer import Trainer

        kept = Trainer.limit_gradients
        seen = []

        def note(self, step):
            seen.append((self, {k: v.clone() for k, v in self.network.state_dict().items()}))
            kept(self, step)

        step = step_of(method, *rest, **options)

        def noted():
            monkeypatch.setattr(Trainer, "limit_gradients", note)
            step()
            monkeypatch.setattr(Trainer, "limit_gradients", kept)
            trainer, before = seen[-1]
            moved[method] = {k for k, v in trainer.network.state_dict().items() if not torch.equal(v, before[k])}

        return noted

    step_of = methods.step_of
    monkeypatch.setattr(methods, "step_of", spied)
    flags = ["--methods", "mec-joint,byol", "--recipes", "cifar10", "--batch-size", "4", "--image-size", "8"]
    more = ["--backbone", "resnet10-fast", "--repeats", "1", "--device", "cpu", "--out", str(tmp_path)]
    methods.main([*flags, *more])
    written = json.loads((tmp_path / "step.json").read_text())
    assert [t["method"] for t in written["timings"]] == ["mec-joint", "byol"]
    assert written["timings"][0]["ratio"] == 1
    assert "a training step, batch 4" in capsys.readouterr().out
    parts = {method: {name.split(".")[0] for name in names} for method, names in moved.items()}
    assert parts["mec-joint"] == {"encoder", "projector"}
    assert {"encoder", "projector", "predictor", "target_encoder", "target_projector"} == parts["byol"]


def test_unknown_methods_are_refused():
    with pytest.raises(BadInput, match="no method is called 'boyl'"):
        methods.main(["--methods", "boyl", "--batch-size", "2"])


def test_precisions_and_optimizers_of_one_recipe_take_turns(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(precision, "has_bf16_units", lambda kind: False)
    precision.main(["digits", "--limit", "128", "--repeats", "1", "--device", "cpu", "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "precision.json").read_text())["steps"]
    assert {(row["precision"], row["optimizer"]) for row in rows} == {("fp32", "sgd"), ("fp32", "muon")}
    assert "16 px, batch 64" in " ".join(capsys.readouterr().out.split())
