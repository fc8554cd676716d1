"""The command line: what is typed is what is run, and its exit codes."""

from __future__ import annotations

import datetime
import importlib
import json
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import TINY, digit_images, identical, labelled_folder, lines, tiny_run, weights, write_images

import mec
from mec.cli import main as commands
from mec.cli.main import main, parsed
from mec.data.opening import open_data
from mec.errors import BadInput, TrainingStopped
from mec.evaluation.features import extract
from mec.evaluation.probing.knn import knn
from mec.evaluation.protocol import OnLabels
from mec.evaluation.results import Result
from mec.recipes.table import RECIPES
from mec.runtime.distributed import ALONE
from mec.runtime.files import file_hash
from mec.training import timing
from mec.training.health import effective_rank
from mec.training.options import Options
from mec.training.run import read_settings

# --- parsing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "typed",
    [
        ["--set", "a=1", "b=2", "c=3"],
        ["--set", "a=1", "--set", "b=2", "--set", "c=3"],
        ["--set", "a=1", "b=2", "--seed", "0", "--set", "c=3"],
        ["--set=a=1", "--set=b=2", "--set=c=3"],
    ],
)
def test_set_appends_in_every_spelling(typed, monkeypatch):
    assert given(monkeypatch, "pretrain", "digits", *typed)["set"] == ("a=1", "b=2", "c=3")


def given(monkeypatch, *words: str) -> dict:
    """What a command line hands to `mec.pretrain`."""
    heard: dict = {}
    monkeypatch.setattr("mec.pretrain", lambda data, **rest: heard.update(data=data, **rest))
    assert main(list(words)) == 0
    return heard


def test_every_flag_reaches_the_function_by_its_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    words = "photos/ --recipe auto --method mec --out here --epochs 3 --time-budget 1.5 --limit 100 --batch-size 32"
    words += " --backbone resnet18 --seed 7 --device cpu --resume --data-root there --download --workers 2"
    words += " --labels l.csv --views auto"
    heard = given(monkeypatch, "pretrain", *words.split())
    assert heard == {
        "data": "photos/", "recipe": "auto", "method": "mec", "out": Path("here"), "epochs": 3, "time_budget": 1.5,
        "limit": 100, "batch_size": 32, "backbone": "resnet18", "seed": 7, "device": "cpu", "resume": True,
        "set": (), "data_root": Path("there"), "download": True, "split": None, "workers": 2, "steps": None,
        "save_minutes": 5.0, "evaluate": True, "quiet": False, "encoder": None,
        "views": "auto", "labels": Path("l.csv"), "init": None, "init_lr": None, "freeze": None, "keep_every": None,
        "report": True, "logger": None, "strategy": "ddp", "checkpoint_activations": False,
        "minutes": None,
    }  # fmt: skip
    plain = given(monkeypatch, "pretrain", "digits")
    assert {**plain, "data": "digits"} == {"data": "digits", **vars(Options())}


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["pretrian", "digits"],
        ["pretrain"],
        ["pretrain", "digits", "--epoch-s", "3"],
        ["pretrain", "digits", "--epochs", "many"],
        ["pretrain", "digits", "--device", "tpu"],
        ["evaluate", "run"],
        ["evaluate", "run", "knnn", "digits"],
        ["export", "run", "--to", "tflite"],
        ["embed", "run", "folder"],
    ],
)
def test_bad_use_exits_with_2_and_no_traceback(words, capsys):
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 2
    said = capsys.readouterr()
    assert "Traceback" not in said.err + said.out
    assert said.err + said.out


@pytest.mark.parametrize("command", [*commands.COMMANDS])
def test_help_of_every_command_exits_with_0_and_shows_an_example(command, capsys):
    with pytest.raises(SystemExit) as left:
        parsed([command, "--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert f"mec {command}" in text
    assert commands.kind_of(command).__doc__.split(",")[0].split(".")[0] in " ".join(text.split())


@pytest.mark.parametrize("command", [*commands.COMMANDS])
def test_the_line_of_a_command_is_the_first_of_its_help(command):
    assert commands.COMMANDS[command] == commands.kind_of(command).__doc__.strip().split("\n\n")[0]


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["health"], "\n  similarity  "),
        (["evaluate"], "\n  pixels  "),
        (["evaluate", "RUN", "knn"], "usage: mec evaluate RUN knn [-h] "),
        (["pack"], "FOLDER OUT"),
    ],
)
def test_help_keeps_its_lists_and_shows_commands_as_they_are_typed(words, shown, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit):
        parsed([*words, "--help"])
    assert shown in capsys.readouterr().out


def test_output_that_nobody_reads_to_its_end_is_no_error():
    command = f"{sys.executable} -m mec recipes | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("auto", "")


def test_help_names_every_command_and_the_exit_codes(capsys):
    with pytest.raises(SystemExit) as left:
        parsed(["--help"])
    text = capsys.readouterr().out
    assert left.value.code == 0
    assert all(command in text for command in commands.COMMANDS)
    assert "Exit codes: 0 done, 1 failed" in text


def test_the_help_of_all_commands_loads_none_of_them():
    ask = "from mec.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    found = subprocess.run(
        [sys.executable, "-c", ask + "import sys; print(sorted(m for m in sys.modules if m.startswith('mec.')))"],
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()[-1]  # fmt: skip
    assert found == str(["mec.cli", "mec.cli.main", "mec.cli.parsing", "mec.errors", "mec.version"])


@pytest.mark.parametrize(
    ("error", "code"), [(BadInput("x"), 2), (FileNotFoundError("x"), 2), (TrainingStopped("x"), 1), (OSError("x"), 1)]
)
def test_the_exit_code_tells_bad_use_from_failure(error, code, monkeypatch, capsys):
    def run(self):
        raise error

    monkeypatch.setattr(commands.kind_of("recipes"), "run", run)
    assert main(["recipes"]) == code
    assert capsys.readouterr().err == "mec: x\n"
    monkeypatch.setenv("MEC_TRACEBACK", "1")
    assert main(["recipes"]) == code
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_outside_of_training_exits_with_1(monkeypatch, capsys):
    def run(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands.kind_of("recipes"), "run", run)
    assert main(["recipes"]) == 1
    assert "Traceback" not in capsys.readouterr().err


# --- pretrain ----------------------------------------------------------------------------------------------------


def test_the_run_folder_keeps_what_was_asked_and_the_recipe_as_run(digit_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [
        "--limit",
        "64",
        "--batch-size",
        "32",
        "--epochs",
        "1",
        "--seed",
        "5",
        "--set",
        *TINY,
        "--set",
        "views.flip=0",
    ]
    assert main(["pretrain", str(digit_folder), "--recipe", "digits", *words]) == 0
    out = tmp_path / "runs" / "scans-digits"  # the default: runs/DATA-RECIPE
    run = read_settings(out)
    assert (run.recipe.batch_size, run.recipe.epochs, run.seed, run.images, run.steps) == (32, 1, 5, 64, 2)
    assert run.recipe.views[0].size == 8
    assert run.asked["limit"] == 64
    assert run.version == mec.__version__
    said = capsys.readouterr().out
    for words in ("64 training images, no labels", "Training was ", "Encoder: ", "mec embed ", "mec export "):
        assert words in said
    assert read_settings(out).recipe == run.recipe  # there and back through JSON


@pytest.mark.usefixtures("quick_report")
def test_a_folder_is_trained_by_the_auto_recipe_which_says_why(digit_folder, tmp_path, capsys):
    assert main(["pretrain", str(digit_folder), "--out", str(tmp_path / "run"), "--epochs", "1"]) == 0
    run = read_settings(tmp_path / "run")
    assert run.recipe_name == "auto"
    assert run.recipe.views[0].size == 16
    assert len(run.why) >= 4
    said = " ".join(capsys.readouterr().out.split())
    assert all(" ".join(reason.split()) in said for reason in run.why)


@pytest.mark.usefixtures("quick_report")
def test_a_time_budget_is_turned_into_steps_and_stored(digit_folder, tmp_path):
    out = tmp_path / "run"
    words = ["pretrain", str(digit_folder), "--out", str(out), "--recipe", "digits", "--batch-size", "64"]
    words += ["--set", *TINY, "--time-budget", "0.02"]
    assert main(words) == 0
    run = read_settings(out)
    assert any(f"{run.steps:,} steps" in reason and "0.02 minutes" in reason for reason in run.why)
    assert lines(out / "metrics.jsonl")[-1]["step"] == run.steps >= 1
    assert mec.load_encoder(out)[0].bn1.num_batches_tracked == 2 * run.steps


@pytest.mark.parametrize("method", [pytest.param(None, marks=pytest.mark.slow), "mec"])
def test_the_timing_of_steps_leaves_no_trace_in_the_run(digit_folder, tmp_path, monkeypatch, method):
    """Weights, running statistics, momentum and target network are put back before the first step."""
    module = importlib.import_module("mec.training.pretrain")
    timed = module.steps_within
    monkeypatch.setattr(module, "steps_within", lambda minutes, trainer: (8, timed(minutes, trainer, seconds=0.1)[1]))
    options = {"recipe": "digits", "limit": None, "batch_size": 64, "method": method}
    plain = tiny_run(tmp_path / "plain", digit_folder, **options)  # eight steps
    budget = tiny_run(tmp_path / "budget", digit_folder, **options, time_budget=100)
    assert identical(weights(budget), weights(plain))


@pytest.mark.parametrize("together", [1, 8])
def test_a_time_budget_counts_the_waits_for_workers_who_bring_several_batches_at_once(monkeypatch, together):
    def bursts(_, most, together):
        for step in range(most):
            waited = 0.08 if step % 4 == 0 else 0.0
            time.sleep(waited + 0.001)
            yield waited

    monkeypatch.setattr(timing, "trial_steps", bursts)
    monkeypatch.setattr(timing, "TIMED_TOGETHER", {"cpu": together})
    trainer = SimpleNamespace(
        ranks=ALONE,
        batches=SimpleNamespace(workers=4, steps_per_epoch=10),
        fabric=SimpleNamespace(device=torch.device("cpu")),
    )
    steps, _ = timing.steps_within(1.0, trainer, seconds=0.5)
    assert 60 / 0.04 < steps < 60 / 0.018  # 0.02 s a step and something, not 0.001


def test_steps_are_given_alone_and_at_least_one(tmp_path):
    told = {(0, None): "--steps is 0: a whole number, at least 1.", (5, 1.0): "--steps is 5, --time-budget 1: give one"}
    for (steps, minutes), words in told.items():
        with pytest.raises(BadInput, match=re.escape(words)):
            tiny_run(tmp_path / "run", steps=steps, time_budget=minutes)
    tiny_run(tmp_path / "run", steps=5)
    assert lines(tmp_path / "run" / "metrics.jsonl")[-1]["step"] == 5


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Path:
    """A run by the command itself on a labelled folder: two classes, 24 + 16 images."""
    root = labelled_folder(tmp_path_factory.mktemp("labelled"), train=12, test=8, classes="ab")
    out = root.parent / "measured-run"
    words = ["--recipe", "digits", "--batch-size", "8", "--epochs", "1", "--set", *TINY]
    assert main(["pretrain", str(root), "--out", str(out), *words]) == 0
    return out


def test_a_labelled_folder_ends_with_a_table_of_results_beside_raw_pixels(measured):
    results = lines(measured / "results.jsonl")
    assert {r["encoder"] for r in results} == {"pixels", "untrained", "mec-joint"}
    rows = {(r["protocol"], r["metric"], r["settings"].get("labels_per_class")) for r in results}
    assert rows == {
        (protocol, metric, count)
        for protocol, count in (("fewshot", 1), ("fewshot", 5), ("knn", None), ("linear-fast", None))
        for metric in ("top-1", "balanced accuracy")
    }
    (bank,) = {r["settings"]["train"] for r in results if "train" in r["settings"]}
    assert {path.name for path in (measured / "confusion").iterdir()} == {
        f"{name}-labelled0-{results[0]['split']}.{suffix}"
        for name in (f"knn-k-20-train-{bank}", f"linear-fast-preset-fast-train-{bank}")
        for suffix in ("json", "png")
    }
    by_knn = [m for m in lines(measured / "metrics.jsonl") if "knn" in m]
    assert by_knn
    assert all(0 <= m["knn"] <= 100 for m in by_knn)


# --- evaluate ----------------------------------------------------------------------------------------------------


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """The finished run's encoder, in a folder of its own."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "encoder.safetensors").write_bytes((finished / "encoder.safetensors").read_bytes())
    return tmp_path / "run"


FIELDS = {
    "protocol", "data", "split", "encoder", "metric", "unit", "value", "spread", "n", "seed", "settings", "checkpoint",
    "data_fingerprint", "version", "time", "images", "interval", "largest_class", "told",
}  # fmt: skip


def test_a_toy_protocol_takes_one_dataclass(tmp_path):
    """As docs/architecture.md shows it."""

    @dataclass(frozen=True, kw_only=True)
    class Spread(OnLabels):
        def measure(self, subject):
            data = self.open()
            _, test = subject.both(data)
            yield from self.results(data, [Result("spread", "effective rank", effective_rank(test.unit()))])

    chosen = Spread(data="digits", limit=64, out=tmp_path, image_size=8)
    (result,) = chosen.measure(chosen.subject("random:resnet10-fast"))
    assert 1 < result.value <= 64
    assert (result.data, result.settings) == ("digits", {"limit": 64})


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (["knn", "digits", "--k", "5"], 3),
        (["fewshot", "digits", "--labels-per-class", "1,3", "--draws", "3", "--seed", "4"], 4),
        (["knn", "digits", "--limit", "300"], 12),
        (["linear", "digits", "--limit", "100"], 2),
        (["linear", "digits", "--limit", "100", "--preset", "paper", "--epochs", "2"], 4),
        (["linear", "digits", "--limit", "100", "--preset", "released", "--epochs", "1", "--base-lr", "9"], 4),
        (["finetune", "digits", "--limit", "64", "--steps", "2", "--weight-decay", "1e-5"], 3),
        (["semi", "digits", "--labels", "10%", "--limit", "64", "--epochs", "2"], 3),
    ],
)
def test_evaluate_adds_lines_with_every_field_of_a_result(run, words, count, capsys):
    (run / "results.jsonl").write_text('{"earlier": true}\n')
    assert main(["evaluate", str(run), *words]) == 0
    earlier, *results = lines(run / "results.jsonl")
    assert earlier == {"earlier": True}
    assert len(results) == count
    said = capsys.readouterr().out
    limit = int(words[words.index("--limit") + 1]) if "--limit" in words and words[0] != "semi" else None
    data = open_data("digits", limit=limit)
    for result in results:
        assert result.keys() == FIELDS
        name = "linear-fast" if words[0] == "linear" and "--preset" not in words else words[0]
        assert (result["protocol"], result["data"], result["split"]) == (name, "digits", "test")
        assert ("limit" in result["settings"]) == ("--limit" in words)
        preset = result["settings"].get("preset", "fast")
        assert preset.removesuffix(", changed") in [*words, "fast", "simclr", "paper"]
        changed = {"--epochs", "--steps", "--base-lr", "--weight-decay"} & {*words}
        assert preset.endswith(", changed") == bool(changed)
        assert (result["encoder"], result["unit"], result["version"]) == ("mec-joint", "%", mec.__version__)
        assert result["checkpoint"] == file_hash(run / "encoder.safetensors")
        assert result["data_fingerprint"] == data.fingerprint
        assert datetime.datetime.fromisoformat(result["time"]).tzinfo is not None
        assert f"{result['value']:.1f}" in said
    if words[0] == "fewshot":
        assert [r["settings"]["labels_per_class"] for r in results] == [1, 1, 3, 3]
        assert {(r["n"], r["seed"]) for r in results} == {(3, 4)}
        assert all(r["spread"] >= 0 for r in results)


def test_evaluate_gives_the_figure_of_the_functions_it_is_made_of(run):
    assert main(["evaluate", str(run), "knn", "digits"]) == 0
    encoder, transform = mec.load_encoder(run)
    data = open_data("digits")
    features = [extract(encoder, split, transform) for split in (data.train, data.test)]
    expected = knn(*features, k=[10, 20, 100, 200])
    assert [r["value"] for r in lines(run / "results.jsonl")] == [r.value for r in expected]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["fewshot", "digits", "--labels-per-class", "one"], "--labels-per-class is 'one'"),
        (["fewshot", "digits", "--labels-per-class", "500"], "--labels-per-class 500: from 1 to"),
        (["knn", "digits", "--k", "0"], "--k is 0"),
        (["knn", "digits", "--k", "few"], "--k is 'few'"),
        (["linear", "digits", "--epochs", "3"], "--epochs belongs to the presets that train"),
        (["linear", "digits", "--preset", "paper", "--base-lr", "-1"], "--base-lr is -1"),
        (["finetune", "digits", "--weight-decay", "-1"], "--weight-decay is -1"),
        (["finetune", "digits", "--base-lr", "0"], "--base-lr is 0"),
        (["semi", "digits", "--labels", "10%", "--limit", "0"], "--limit is 0"),
        (["semi", "digits", "--labels", "0%"], "--labels is '0%'"),
        (["semi", "digits", "--labels", "1percent.txt"], "1percent.txt: no such list of names"),
        (["semi", "digits", "--labels", "10%", "--preset", "barlow-twins"], "published for 1 % of the labels"),
        (["knn", "digits", "--image-size", "0"], "--image-size is 0"),
        (["knn", "nowhere"], "no such folder"),
    ],
)
def test_evaluate_refuses_what_makes_no_sense(run, words, expected, capsys):
    assert main(["evaluate", str(run), *words]) == 2
    assert expected in capsys.readouterr().err
    assert not (run / "results.jsonl").exists()


def test_evaluate_needs_labels_and_says_how_to_give_them(run, digit_folder, capsys):
    assert main(["evaluate", str(run), "knn", str(digit_folder)]) == 2
    text = capsys.readouterr().err
    assert "has no labels" in text
    assert "train/CLASS/" in text


# --- the others --------------------------------------------------------------------------------------------------


def test_recipes_lists_each_with_source_and_expected_figure(capsys):
    assert main(["recipes"]) == 0
    text = capsys.readouterr().out
    for name, recipe in RECIPES.items():
        assert f"{name}\n  {recipe.method}" in text
        assert recipe.source in text
        for metric, value in recipe.expects.items():
            assert f"{metric} {value:g}" in text


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_in_full_is_json_whose_keys_set_takes(name, capsys):
    assert main(["recipes", name]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["optimizer"]["base_lr"] == RECIPES[name].optimizer.base_lr
    from mec.recipes.recipe import changed

    settings = [f"optimizer.{key}={json.dumps(value)}" for key, value in shown["optimizer"].items()]
    settings += [f"views.{i}.{k}={json.dumps(v)}" for i, view in enumerate(shown["views"]) for k, v in view.items()]
    assert changed(RECIPES[name], settings) == RECIPES[name]
    assert main(["recipes", name + "x"]) == 2
    assert f"Did you mean '{name}'?" in capsys.readouterr().err


def test_recipes_auto_shows_what_a_run_on_these_images_would_take(tmp_path, capsys):
    data = tmp_path / "photos"
    write_images(data, 40, width=20, height=30)
    assert main(["recipes", "auto", str(data), "--device", "cpu"]) == 0
    shown = capsys.readouterr()
    assert "image size 16 px" in shown.err
    run = tiny_run(tmp_path / "run", data, limit=None, batch_size=None, epochs=None, set=(), steps=1)
    assert json.loads(shown.out) == json.loads((run / "settings.json").read_text())["recipe"]
    assert main(["recipes", "digits", str(data)]) == 2
    assert f"leave {data} out" in capsys.readouterr().err
    assert main(["recipes", "auto"]) == 0
    assert "`mec recipes auto DATA` shows its choice" in capsys.readouterr().err


def test_health_shows_figures_over_time_and_the_verdict_of_the_run(finished, capsys):
    assert main(["health", str(finished)]) == 0
    text = capsys.readouterr().out
    verdict = json.loads((finished / "health.json").read_text())
    assert f"Training was {verdict['words']}" in text
    first, last = lines(finished / "metrics.jsonl")
    for name in ("loss", "effective_rank", "coding_ratio", "gradient_norm"):
        row = next(line for line in text.splitlines() if line.startswith(name))
        assert f"{first[name]:.4g} -> {last[name]:.4g}" in " ".join(row.split())


@pytest.mark.parametrize("what", ["nowhere", "empty"])
def test_health_of_what_is_no_run_is_bad_use(tmp_path, what, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["health", str(tmp_path / what)]) == 2
    assert str(tmp_path / what) in capsys.readouterr().err


def test_embed_writes_paths_and_features_and_lists_what_it_could_not_read(run, tmp_path, capsys):
    folder = tmp_path / "photos"
    write_images(folder / "deep" / "er", 5, width=20, height=30)
    for i, image in enumerate(digit_images(7)):
        image.save(folder / f"digit-{i}.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 and nothing")
    out = tmp_path / "out" / "features.npz"
    assert main(["embed", str(run), str(folder), "--out", str(out)]) == 0
    found = np.load(out)
    assert set(found.files) == {"paths", "features", "told"}
    assert found["features"].shape == (12, 256)
    assert found["features"].dtype == np.float32
    paths = found["paths"].tolist()
    assert paths == sorted(paths)
    assert "deep/er/0003.png" in paths
    encoder, transform = mec.load_encoder(run)
    with torch.no_grad():
        image = open_data(str(folder)).train.images.read(paths.index("digit-4.png"))
        judge = encoder(transform(image)[None])[0]
    np.testing.assert_allclose(found["features"][paths.index("digit-4.png")], judge, atol=1e-5)
    (skipped,) = lines(tmp_path / "out" / "features.skipped.jsonl")
    assert Path(skipped["path"]).name == "broken.jpg"
    assert skipped["reason"]
    assert "12 images, 256 features each" in capsys.readouterr().out


def test_embed_leaves_out_what_goes_while_it_runs_and_keeps_names_beside_their_features(run, tmp_path, monkeypatch):
    from mec.exports import embed as module

    paths, stored = write_images(tmp_path / "photos", 6), module.stored
    monkeypatch.setattr(module, "stored", lambda *rest: paths[2].unlink() or stored(*rest))
    out = tmp_path / "x.npz"
    assert main(["embed", str(run), str(tmp_path / "photos"), "--out", str(out)]) == 0
    found = np.load(out)
    assert found["paths"].tolist() == [p.name for p in paths if p != paths[2]]
    (skipped,) = lines(tmp_path / "x.skipped.jsonl")
    assert Path(skipped["path"]).name == paths[2].name
    monkeypatch.undo()
    assert main(["embed", str(run), str(tmp_path / "photos"), "--out", str(out)]) == 0
    np.testing.assert_allclose(found["features"], np.load(out)["features"], atol=1e-6)


def test_embed_leaves_out_what_no_sample_of_a_large_folder_met(run, tmp_path, monkeypatch):
    """One broken file must not end an hour's work."""
    from mec.data import folders as data

    monkeypatch.setattr(data, "CHECK_ALL_BELOW", 10)
    paths = write_images(tmp_path / "photos", 40)
    paths[5].write_bytes(b"nothing")
    assert main(["embed", str(run), str(tmp_path / "photos"), "--out", str(tmp_path / "x.npz")]) == 0
    assert len(np.load(tmp_path / "x.npz")["paths"]) == 39
    assert Path(lines(tmp_path / "x.skipped.jsonl")[0]["path"]).name == "0005.png"


@pytest.mark.parametrize(
    ("folder", "out", "expected"),
    [
        ("photos", "x.txt", "ends with .npz"),
        ("nowhere", "x.npz", "no such folder"),
        ("empty", "x.npz", "no image found"),
    ],
)
def test_embed_refuses_what_makes_no_sense(run, tmp_path, folder, out, expected, capsys):
    write_images(tmp_path / "photos", 2)
    (tmp_path / "empty").mkdir()
    assert main(["embed", str(run), str(tmp_path / folder), "--out", str(tmp_path / out)]) == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / out).exists()


def test_export_by_the_command_prints_where_it_wrote(run, capsys):
    assert main(["export", str(run), "--to", "timm"]) == 0
    assert str(run / "encoder-timm.safetensors") in capsys.readouterr().out
    assert (run / "encoder-timm.safetensors").exists()
    assert main(["export", str(run), "--to", "torchvision"]) == 2


def test_pack_writes_shards_that_pretrain_reads(tmp_path, capsys):
    write_images(tmp_path / "photos", 40, width=70, height=66)
    assert main(["pack", str(tmp_path / "photos"), str(tmp_path / "packed"), "--resize", "32"]) == 0
    assert "40 images in 1 shards" in " ".join(capsys.readouterr().out.split())
    run = tiny_run(tmp_path / "run", str(tmp_path / "packed"), limit=None, batch_size=16, recipe="digits", workers=0)
    assert json.loads((run / "settings.json").read_text())["images"] == 40
    assert main(["pack", str(tmp_path / "photos"), str(tmp_path / "packed")]) == 2
    assert "already holds something" in capsys.readouterr().err


@pytest.mark.parametrize("what", [[], ["transfer", "RUN", "--sweep", "1"], ["coding"], ["distortion"]])
def test_figures_that_do_not_exist_are_bad_use(what, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["figure", *what])
    assert caught.value.code == 2
    capsys.readouterr()
