"""A comparison gives every method the same, goes on where it stopped, and tells what its runs' own files say."""

from __future__ import annotations

import json
import statistics

import pytest
from helpers import TINY, lines, tiny_run
from rich.console import Console

from mec.cli.main import main
from mec.data.opening import open_data
from mec.errors import BadInput, Diverged, TrainingStopped
from mec.reports import comparison
from mec.reports import trials as running
from mec.reports.comparison import compare
from mec.reports.options import Comparison
from mec.reports.trials import Setup, Trial
from mec.runtime.distributed import Ranks
from mec.training.run import read_settings

FEW = {"epochs": 2, "limit": 192, "batch_size": 64, "set": TINY, "device": "cpu", "quiet": True}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Two methods, two rates, two seeds, on digits; its folder."""
    out = tmp_path_factory.mktemp("comparison") / "out"
    return compare("digits", methods=["mec-joint", "simclr"], seeds=2, lrs=[0.5, 2.0], out=out, **FEW)


def trials(out, kind):
    return {path.parent.name: json.loads(path.read_text()) for path in sorted((out / kind).glob("*/trial.json"))}


@pytest.mark.slow
def test_each_rate_is_tried_with_seed_0_and_a_share_of_the_budget(done):
    swept = trials(done, "sweep")
    assert set(swept) == {f"{m}-lr-{lr}-seed-0" for m in ("mec-joint", "simclr") for lr in ("0.5", "2")}
    for name, trial in swept.items():
        assert trial["steps"] == 3  # 0.375 of two epochs: one
        assert read_settings(done / "sweep" / name).recipe.optimizer.base_lr == trial["lr"]


@pytest.mark.slow
def test_the_rate_that_tells_training_images_apart_best_is_taken_for_all_seeds(done):
    swept, ran = trials(done, "sweep").values(), trials(done, "runs")
    for method in ("mec-joint", "simclr"):
        best = max((t for t in swept if t["method"] == method), key=lambda t: t["chosen_by"])
        mine = [t for t in ran.values() if t["method"] == method]
        assert [t["seed"] for t in mine] == [0, 1]
        assert {t["lr"] for t in mine} == {best["lr"]}


@pytest.mark.slow
def test_all_runs_have_the_same_images_views_backbone_and_steps(done):
    settings = [read_settings(path.parent) for path in done.glob("runs/*/trial.json")]
    for read in (
        lambda s: s.data_fingerprint,
        lambda s: s.recipe.views,
        lambda s: s.recipe.network.backbone,
        lambda s: s.recipe.network.projector,
        lambda s: s.steps,
        lambda s: s.recipe.batch_size,
    ):
        assert len({json.dumps(read(s), default=str) for s in settings}) == 1


@pytest.mark.slow
def test_results_are_mean_and_spread_of_the_runs_own_results(done):
    told = {(r["encoder"], r["protocol"], r["metric"]): r for r in lines(done / "results.jsonl")}
    for method in ("mec-joint", "simclr"):
        for protocol in ("knn", "linear-fast"):
            values = []
            for run in done.glob(f"runs/{method}-*"):
                (one,) = (
                    r["value"]
                    for r in lines(run / "results.jsonl")
                    if (r["encoder"], r["protocol"], r["metric"]) == (method, protocol, "top-1")
                )
                values.append(one)
            found = told[method, protocol, "top-1"]
            assert found["value"] == pytest.approx(statistics.fmean(values))
            assert found["spread"] == pytest.approx(statistics.stdev(values))
            assert found["n"] == 2
        assert told[method, "compare", "time an epoch"]["value"] > 0
        assert 0.05 < told[method, "compare", "peak memory"]["value"] < 24
        assert 1 <= told[method, "compare", "effective rank"]["value"] <= 64
    assert (done / "compare.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_a_finished_comparison_is_told_again_without_training_and_takes_more_methods(done, monkeypatch, capsys):
    before = {path: path.stat().st_mtime_ns for path in done.glob("*/*/trial.json")}
    trained = []
    monkeypatch.setattr(running, "pretrain", lambda *_, **options: trained.append(options["method"]) or stop())

    def stop():
        raise TrainingStopped("stopped by a signal")

    flags = ["--seeds", "2", "--lrs", "0.5,2", "--epochs", "2", "--limit", "192", "--batch-size", "64"]
    words = ["compare", "digits", *flags, "--set", *TINY, "--device", "cpu", "--out", str(done)]
    assert main([*words, "--methods", "mec-joint,simclr"]) == 0
    assert trained == []
    said = capsys.readouterr().out
    assert "digits: 2 epochs a run, 2 seeds" in said
    assert "simclr" in said
    assert main([*words, "--methods", "mec-joint,simclr,byol"]) == 1  # it begins with what is new, and is stopped
    assert trained == ["byol"]
    told = {(r["encoder"], r["protocol"]): r["n"] for r in lines(done / "results.jsonl")}
    assert told["mec-joint", "knn"] == told["simclr", "knn"] == 2  # what is finished stays told meanwhile
    assert {path: path.stat().st_mtime_ns for path in done.glob("*/*/trial.json")} == before


@pytest.mark.slow
def test_a_budget_in_minutes_gives_each_method_its_steps_once(tmp_path, monkeypatch):
    few = {**FEW, "epochs": None, "time_budget": 0.01}
    out = compare("digits", methods=["mec-joint"], seeds=2, out=tmp_path / "out", **few)
    monkeypatch.setattr(comparison, "timed_in_turns", lambda recipes, *_: dict.fromkeys(recipes, 0.3))
    compare("digits", methods=["mec-joint", "simclr"], seeds=2, out=out, **few)
    pace = json.loads((out / "pace.json").read_text())
    assert 0 < pace["mec-joint"] < 0.3  # measured, and kept
    assert pace["simclr"] == 0.3
    found = {name: trial["steps"] for name, trial in trials(out, "runs").items()}
    assert found["simclr-lr-own-seed-0"] == found["simclr-lr-own-seed-1"] == 1  # 0.6 s less a twentieth
    joint = int(0.95 * 0.6 / pace["mec-joint"])
    assert found["mec-joint-lr-own-seed-0"] == found["mec-joint-lr-own-seed-1"] == joint


@pytest.mark.slow
def test_another_budget_in_the_same_folder_is_refused_by_name(done):
    with pytest.raises(BadInput, match=r"holds another comparison .*epochs: 2 before, 3 now"):
        compare("digits", methods=["mec-joint"], seeds=2, lrs=[0.5, 2.0], out=done, **{**FEW, "epochs": 3})


@pytest.mark.usefixtures("quick_report")
def test_a_rate_that_diverges_is_told_and_not_taken(tmp_path, monkeypatch, capsys):
    pretrain = running.pretrain

    def shaky(*rest, **options):
        if "optimizer.base_lr=2.0" in options["set"]:
            options["out"].mkdir(parents=True)
            raise Diverged("diverged at step 2: loss nan")
        return pretrain(*rest, **options)

    monkeypatch.setattr(running, "pretrain", shaky)
    out = compare("digits", methods=["mec-joint"], lrs=[0.5, 2.0], out=tmp_path / "out", **FEW)
    assert trials(out, "sweep")["mec-joint-lr-2-seed-0"]["diverged"] == "diverged at step 2: loss nan"
    assert set(trials(out, "runs")) == {"mec-joint-lr-0.5-seed-0"}
    out = compare("digits", methods=["mec-joint"], lrs=[2.0], out=tmp_path / "all", **{**FEW, "quiet": False})
    (result,) = trials(out, "runs").values()
    assert result["diverged"]
    assert lines(out / "results.jsonl") == []
    assert "compare.png" not in capsys.readouterr().out


def test_figures_that_a_run_lacks_are_left_out_of_the_table():
    """Of more than 100 classes no linear probe is fitted at the end of a run."""
    trial = Trial("mec-joint", None, 0, sweep=False, accuracy={"knn": 40.0}, steps=1, peak_memory=1.0)
    found = running.summary([trial], "mec-joint")
    assert found["knn"] == (40.0, None, 1)
    assert "linear-fast" not in found


def test_peak_memory_is_that_of_the_run_s_own_log(tmp_path):
    """What is measured afterwards takes memory, too, and a resumed comparison has another process."""
    run = tiny_run(tmp_path / "run")
    logged = lines(run / "metrics.jsonl")
    assert all(0.05 < line["peak_memory"] < 24 for line in logged)
    more = [{**line, "peak_memory": number} for line, number in zip(logged, (3.0, 7.0, 5.0))]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in more))
    setup = Setup(Comparison(methods="mec-joint"), open_data("digits", limit=192), tmp_path, "cpu", Console(quiet=True))
    assert running.measured(run, Trial("mec-joint", None, 0, sweep=True), setup, None).peak_memory == max(
        line["peak_memory"] for line in more
    )


def test_a_comparison_is_of_one_process(monkeypatch):
    monkeypatch.setattr(comparison, "current", lambda: Ranks(0, 2))
    with pytest.raises(BadInput, match="started as 2 processes: it runs in one"):
        compare("digits", methods=["mec-joint"], epochs=1, quiet=True)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"methods": ("simclr", "simclr")}, "--methods is simclr,simclr: different ones of mec, "),
        ({"methods": ("simlcr",)}, "no method is called 'simlcr'. Did you mean 'simclr'?"),
        ({"epochs": None}, "a comparison has one budget: --epochs N, or --time-budget MIN for each run."),
        ({"time_budget": 1.0}, "a comparison has one budget: --epochs N, or --time-budget MIN for each run."),
        ({"seeds": 0}, "--seeds is 0: a whole number, at least 1."),
        ({"epochs": 0}, "--epochs is 0: a whole number, at least 1."),
        ({"epochs": None, "time_budget": -5.0}, "--time-budget is -5.0: a number above 0."),
        ({"epochs": None, "time_budget": float("nan")}, "--time-budget is nan: a number above 0."),
        ({"lrs": (0.5, -1.0)}, "--lrs is (0.5, -1.0): a number above 0."),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_trained(changes, text):
    with pytest.raises(BadInput) as caught:
        compare("digits", **{"methods": ("simclr",), "epochs": 1} | changes)
    assert str(caught.value).startswith(text)


def test_data_without_labels_cannot_be_compared_on(digit_folder):
    with pytest.raises(BadInput, match="has no labels to compare by"):
        compare(str(digit_folder), methods=["mec-joint"], epochs=1, quiet=True)


def test_a_comparison_does_not_take_a_folder_that_holds_something_else(tmp_path):
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(BadInput, match="already holds something that is no comparison"):
        compare("digits", methods=["mec-joint"], out=tmp_path, **FEW)
