"""Loggers hold the figures of metrics.jsonl, results, verdict and pictures; one that fails ends no training."""

from __future__ import annotations

import importlib.util
import json
import math
import sqlite3
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import crashed_run, lines, tiny_run

from mec.errors import BadInput
from mec.runtime.files import read_json
from mec.training.loggers import LOGGERS

SETTING = "recipe.optimizer.base_lr"

# Modules with the calls that each writer makes of its library, which note what they are told in a file beside the run.
NOTE = """
import json, pathlib
def note(*words):
    with open({log!r}, "a") as file:
        file.write(json.dumps(words, default=str) + "\\n")
    if {fails!r} in words[1:2]:
        raise OSError("the network is gone")
"""
RUN = """
class Run:
    offline, summary = True, {{}}
    class config(dict):
        def update(self, values, **_): super().update(values)
    config = config()
    def log(self, values, step): note("{name}", "log", values, step)
    def finish(self, **ended): note("{name}", "finish", self.config, self.summary)
class Image(str): pass
def Settings(**_): pass
def init(*given, **named):
    note("{name}", "init", named.get("id") or given[1])
    return Run()
"""
STANDINS = {
    "wandb": RUN.format(name="wandb"),
    "trackio": RUN.format(name="trackio"),
    "mlflow": """
from types import SimpleNamespace as S
def get_tracking_uri(): return "nowhere"
class MlflowClient:
    def get_experiment_by_name(self, name): return None
    def create_experiment(self, name): return "1"
    def get_run(self, key): return S(data=S(params={"seed": "0"}))
    def create_run(self, experiment, run_name): note("mlflow", "init", "77"); return S(info=S(run_id="77"))
    def update_run(self, key, status): note("mlflow", "init", key)
    def log_param(self, key, name, value): note("mlflow", "param", name, value)
    def log_metric(self, key, name, value, step): note("mlflow", "log", {name: value}, step)
    def set_tag(self, key, name, text): note("mlflow", "tag", name, text)
    def log_artifact(self, key, path): note("mlflow", "artifact", path)
    def set_terminated(self, key, status): note("mlflow", "finish", status)
""",
}


@pytest.fixture
def standin(tmp_path, monkeypatch):
    """Put a module of a logger's name before others; its calls come to the file that is returned."""

    def put(name: str, fails: str = "") -> Path:
        folder, log = tmp_path / "modules", tmp_path / f"{name}.jsonl"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(NOTE.format(log=str(log), fails=fails) + STANDINS[name])
        monkeypatch.syspath_prepend(folder)
        module = sys.modules.pop(name, None)
        before.setdefault(name, module)
        return log

    before: dict[str, Any] = {}
    yield put
    for name, module in before.items():
        sys.modules.pop(name, None)
        if module is not None:
            sys.modules[name] = module


def expected(run: Path) -> dict[tuple[str, int], float]:
    """The finite figures of metrics.jsonl, by name and step."""
    values = [(name, line["step"], value) for line in lines(run / "metrics.jsonl") for name, value in line.items()]
    return {
        (name, step): value for name, step, value in values if name not in ("step", "epoch") and math.isfinite(value)
    }


def told(log: Path) -> list[tuple[str, int, object]]:
    """What a stand-in was given to log: name, step, value, in order."""
    calls = [call for call in lines(log) if call[1] == "log"]
    return [(name, step, value) for _, _, values, step in calls for name, value in values.items()]


def stopped_and_resumed(patch: pytest.MonkeyPatch, out: Path, logger: list[str]) -> Path:
    """A run by these loggers, closed by k-NN and a small map: more takes seconds, and other tests judge it."""
    patch.setattr("mec.training.report.FEW_CLASSES", 1)
    patch.setattr("mec.training.report.MAPPED_TEST", 40)
    crashed_run(patch, 5, out, logger=logger, save_minutes=0, evaluate=True, report=False)
    return tiny_run(out, resume=True, evaluate=True, report=False)  # it knows its loggers


def test_a_resumed_run_goes_on_in_the_same_place_and_no_figure_is_there_twice(standin, tmp_path, monkeypatch):
    logs = {name: standin(name) for name in STANDINS}
    out = stopped_and_resumed(monkeypatch, tmp_path / "run", [*STANDINS])
    for name, log in logs.items():
        check_calls(name, log, out)


def check_calls(name: str, log: Path, out: Path) -> None:
    calls = lines(log)
    keys = [call[2] for call in calls if call[1] == "init"]
    assert len(keys) == 2
    assert keys[0] == keys[1] == read_json(out / "loggers.json")[name]
    assert [call[1] for call in calls].count("finish") == 2
    figures = [entry for entry in told(log) if isinstance(entry[2], float)]
    wanted = expected(out)
    own = {(a, step): value for a, step, value in figures if not a.startswith("results/")}
    stable = {at for at in wanted if at[0] not in ("data_wait", "images_per_second", "peak_memory")}
    assert own.keys() == wanted.keys()
    assert all(own[at] == wanted[at] for at in stable)
    assert len(figures) == len({entry[:2] for entry in figures})
    results = {a: value for a, _, value in figures if a.startswith("results/")}
    stored = [r for r in lines(out / "results.jsonl") if r["protocol"] == "knn" and r["metric"] == "top-1"]
    assert {f"results/{r['encoder']}/k-NN 20/top-1": r["value"] for r in stored}.items() <= results.items()
    text = log.read_text()
    assert json.dumps(read_json(out / "health.json")["evidence"])[1:-1] in text
    assert "embedding.png" in text
    assert SETTING in text


def test_a_logger_that_is_named_later_gets_what_was_logged_before(standin, tmp_path):
    out = tiny_run(tmp_path / "run")
    log = standin("wandb")
    tiny_run(out, resume=True, epochs=3, logger="wandb")
    assert {(name, step) for name, step, value in told(log) if isinstance(value, float)} == expected(out).keys()


@pytest.mark.parametrize(
    ("name", "what"), [("wandb", "log"), ("trackio", "log"), ("mlflow", "tag"), ("wandb", "finish")]
)
def test_a_logger_that_fails_is_told_of_once_and_training_goes_on(name, what, standin, tmp_path, capsys):
    log = standin(name, fails=what)
    out = tiny_run(tmp_path / "run", logger=name, quiet=False)
    said = " ".join(capsys.readouterr().out.split())
    assert said.count(f"--logger {name} failed (the network is gone)") == 1
    assert [call[1] for call in lines(log)].count(what) == 1
    assert read_json(out / "health.json")["word"] == "hardly trained"


def test_one_that_cannot_be_opened_is_refused_before_training_and_resuming_begins(standin, tmp_path):
    standin("wandb", fails="init")
    with pytest.raises(BadInput, match=r"--logger wandb: the network is gone\. Nothing was trained: .* --resume"):
        tiny_run(tmp_path / "run", logger="wandb")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    standin("wandb")
    assert (tiny_run(tmp_path / "run", logger="wandb", resume=True) / "health.json").exists()


def test_names_and_libraries_that_are_not_there_are_refused_before_anything_is_written(tmp_path, monkeypatch):
    with pytest.raises(BadInput, match=r"--logger is wanbd\. Did you mean 'wandb'?"):
        tiny_run(tmp_path / "run", logger="wanbd")
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mlflow" else found(name))
    with pytest.raises(BadInput, match=r"--logger mlflow needs mlflow: pip install 'mec-ssl\[mlflow\]'"):
        tiny_run(tmp_path / "run", logger=["tensorboard", "mlflow"])
    assert not (tmp_path / "run").exists()


def test_without_a_name_nothing_but_the_run_s_own_files_is_written(tmp_path):
    out = tiny_run(tmp_path / "run")
    assert not (out / "loggers.json").exists()
    assert not (out / "tensorboard").exists()


# --- the libraries themselves -------------------------------------------------------------------------------------


def in_tensorboard(run: Path, key: str) -> dict[tuple[str, int], float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert {"verdict/text_summary", "settings/text_summary"} <= set(events.Tags()["tensors"])
    assert "embedding" in events.Tags()["images"]
    names = events.Tags()["scalars"]
    return {(name, event.step): event.value for name in names for event in events.Scalars(name)}


def in_trackio(run: Path, key: str) -> dict[tuple[str, int], float]:
    from trackio.sqlite_storage import SQLiteStorage

    rows = SQLiteStorage.get_logs("mec", key)
    assert any(str(row.get("verdict", "")).startswith("hardly trained") for row in rows)
    assert any("embedding" in row for row in rows)
    assert SQLiteStorage.get_run_config("mec", key)[SETTING] == 2.0
    return {(k, r["step"]): v for r in rows for k, v in r.items() if isinstance(v, (int, float)) and k != "step"}


def in_wandb(run: Path, key: str) -> dict[tuple[str, int], float]:
    from wandb.proto import wandb_internal_pb2

    found, kinds = {}, set()
    for path in sorted(run.glob(f"wandb/offline-run-*/run-{key}.wandb")):
        for raw in log_records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(raw)
            kinds.add(record.WhichOneof("record_type"))
            if kinds >= {"summary"} and "hardly trained" in str(record.summary):
                kinds.add("verdict")
            items = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
            found |= {(name, items["_step"]): v for name, v in items.items() if isinstance(v, (int, float))}
    assert kinds >= {"run", "config", "summary", "verdict"}
    assert list(run.glob("wandb/offline-run-*/files/media/images/embedding_*.png"))
    return {at: v for at, v in found.items() if at[0][0] != "_" and not at[0].endswith(("/width", "/height", "/size"))}


def log_records(data: bytes):
    """The records of wandb's file: pieces in blocks of 32 KiB, each with checksum, length, kind (whole, first, ...)."""
    at, whole = 7, b""
    while at < len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield whole
            whole = b""


def in_mlflow(run: Path, key: str) -> dict[tuple[str, int], float]:
    store = sqlite3.connect(run.parent / "mlflow.db")
    rows = store.execute("select key, step, value from metrics where run_uuid = ?", [key]).fetchall()
    tags = dict(store.execute("select key, value from tags where run_uuid = ?", [key]).fetchall())
    settings = dict(store.execute("select key, value from params where run_uuid = ?", [key]).fetchall())
    assert tags["verdict"].startswith("hardly trained")
    assert settings[SETTING] == "2.0"
    assert store.execute("select status from runs where run_uuid = ?", [key]).fetchone() == ("FINISHED",)
    assert list(run.parent.glob("mlruns/**/embedding.png"))
    assert len(rows) == len({row[:2] for row in rows})
    return {(name, step): value for name, step, value in rows}


READERS = {"tensorboard": in_tensorboard, "trackio": in_trackio, "wandb": in_wandb, "mlflow": in_mlflow}


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """A run that was stopped and resumed, by all loggers that are installed here, none of them with a network."""
    folder = tmp_path_factory.mktemp("logged")
    there = [name for name in LOGGERS if importlib.util.find_spec(name) is not None]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # MLflow writes pictures into the working directory
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("TRACKIO_DIR", str(folder / "trackio"))
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        return stopped_and_resumed(patch, folder / "run", there)


@pytest.mark.parametrize("name", LOGGERS)
def test_the_library_itself_holds_the_figures_of_metrics_jsonl(name, logged):
    pytest.importorskip(name)
    found = READERS[name](logged, read_json(logged / "loggers.json")[name])
    wanted = expected(logged)
    assert wanted.keys() == {at for at in found if not at[0].startswith("results/")}
    stable = {at: value for at, value in wanted.items() if at[0] in ("loss", "effective_rank", "knn", "lr")}
    assert len(stable) > 5
    assert {at: found[at] for at in stable} == pytest.approx(stable, rel=1e-6)  # of TensorBoard's in float32
    assert any(at[0].startswith("results/mec-joint/k-NN 20") for at in found)
