"""A run that stops and goes on ends where a run that never stopped does: bit for bit, on a CPU."""

from __future__ import annotations

import json
import os
import shlex
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import (
    TINY,
    TINY_SERIES,
    Crash,
    at_step,
    crash,
    crashed_run,
    identical,
    lines,
    noise_image,
    started,
    tiny_run,
    wait_for,
    weights,
    write_images,
)
from processes import Forked, mec

from mec.cli.main import main
from mec.errors import BadInput
from mec.runtime.checkpoints import checkpoints
from mec.training import pretrain, runlog

METHODS = [None, "mec"]  # the recipe's mec-joint, and the paper's form with predictor and target network


@pytest.fixture(scope="module", params=METHODS, ids=["mec-joint", "mec"])
def uninterrupted(request, tmp_path_factory) -> tuple[str | None, Path]:
    return request.param, tiny_run(tmp_path_factory.mktemp("whole") / "run", method=request.param)


@pytest.mark.parametrize("step", [2, 5], ids=["first epoch", "second epoch"])  # three steps an epoch
def test_a_run_cut_off_in_mid_epoch_and_resumed_ends_bit_identical(uninterrupted, step, tmp_path, monkeypatch):
    method, whole = uninterrupted
    crashed_run(monkeypatch, step, tmp_path / "run", method=method, save_minutes=0)  # a checkpoint after each step
    assert [p.stem for p in checkpoints(tmp_path / "run")][-1] == f"step-{step - 1}"
    assert not identical(weights(tmp_path / "run"), weights(whole))
    tiny_run(tmp_path / "run", method=method, resume=True)
    assert identical(weights(tmp_path / "run"), weights(whole))


def everything(run: Path) -> dict:
    return torch.load(checkpoints(run)[-1], weights_only=True)


def test_a_resumed_run_also_has_the_target_network_and_optimizer_of_one_never_stopped(tmp_path, monkeypatch):
    whole = everything(tiny_run(tmp_path / "whole", method="mec"))
    crashed_run(monkeypatch, 4, tmp_path / "run", method="mec", save_minutes=0)
    resumed = everything(tiny_run(tmp_path / "run", method="mec", resume=True))
    assert identical(resumed["network"], whole["network"])
    assert any(name.startswith("target_encoder") for name in whole["network"])
    buffers = [state["optimizer"]["state"] for state in (resumed, whole)]
    assert buffers[0].keys() == buffers[1].keys()
    assert all(torch.equal(buffers[0][i]["momentum_buffer"], buffers[1][i]["momentum_buffer"]) for i in buffers[0])


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_on_files_resumes_bit_identical(tmp_path, monkeypatch, workers):
    write_images(tmp_path / "photos", 24, width=80, height=70)
    tiny = {"recipe": "digits", "batch_size": 8, "limit": None, "workers": 0}
    whole = tiny_run(tmp_path / "whole", tmp_path / "photos", **tiny)
    tiny["workers"] = workers
    crashed_run(monkeypatch, 5, tmp_path / "run", tmp_path / "photos", **tiny, save_minutes=0)
    tiny_run(tmp_path / "run", tmp_path / "photos", **tiny, resume=True)
    assert identical(weights(tmp_path / "run"), weights(whole))


def test_a_truncated_newest_checkpoint_falls_back_to_the_one_before(uninterrupted, tmp_path, monkeypatch):
    method, whole = uninterrupted
    crashed_run(monkeypatch, 5, tmp_path / "run", method=method, save_minutes=0)
    before, last = checkpoints(tmp_path / "run")
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    tiny_run(tmp_path / "run", method=method, resume=True)
    assert before.name == "step-3.pt"
    assert identical(weights(tmp_path / "run"), weights(whole))


def test_resuming_where_nothing_was_saved_yet_starts_at_the_first_step(tmp_path, monkeypatch, uninterrupted):
    method, whole = uninterrupted
    crashed_run(monkeypatch, 3, tmp_path / "run", method=method)  # five minutes between checkpoints
    assert not checkpoints(tmp_path / "run")
    tiny_run(tmp_path / "run", method=method, resume=True)
    assert identical(weights(tmp_path / "run"), weights(whole))


def logged(run: Path) -> list[tuple]:
    return [(m["step"], m["loss"], m["effective_rank"]) for m in lines(run / "metrics.jsonl")]


@pytest.mark.parametrize(
    "saved", [pytest.param(0, id="with a checkpoint"), pytest.param(5, id="before the first checkpoint")]
)
def test_metrics_of_a_resumed_run_are_those_of_one_never_stopped(finished, tmp_path, monkeypatch, saved):
    crashed_run(monkeypatch, 5, tmp_path / "run", save_minutes=saved)
    tiny_run(tmp_path / "run", resume=True)
    assert logged(tmp_path / "run") == logged(finished)


def test_the_first_pace_after_resuming_is_of_the_steps_since_then(tmp_path, monkeypatch):
    moments = iter([0.0, 2.0])
    monkeypatch.setattr(runlog.time, "monotonic", lambda: next(moments))
    with runlog.Log(tmp_path, 12, first=True) as log:
        log.line({"step": 20, "loss": -0.5, "effective_rank": 3.0}, waited=0.5, batch_size=64)
    (line,) = lines(tmp_path / "metrics.jsonl")
    assert line["images_per_second"] == 8 * 64 / 2
    assert line["data_wait"] == 0.25


def test_resuming_with_other_settings_is_refused_and_names_them(finished):
    before = weights(finished)
    with pytest.raises(BadInput) as told:
        tiny_run(finished, resume=True, seed=1, batch_size=16, set=[*TINY, "optimizer.base_lr=0.1"])
    for words in ("seed: 0 before, 1 now", "batch_size: 32 before, 16 now", "optimizer.base_lr=0.1", "--out"):
        assert words in str(told.value)
    assert identical(weights(finished), before)


def test_resuming_on_other_images_is_refused(tmp_path):
    folder = tmp_path / "photos"
    write_images(folder, 16)
    options = {"recipe": "digits", "batch_size": 8, "limit": None}
    tiny_run(tmp_path / "run", folder, **options)
    noise_image(99, 8, 9).save(folder / "one-more.png")
    with pytest.raises(BadInput, match="other images"):
        tiny_run(tmp_path / "run", folder, **options, resume=True)


def test_resuming_for_more_epochs_goes_on(tmp_path):
    tiny_run(tmp_path / "run", epochs=1)
    assert [p.stem for p in checkpoints(tmp_path / "run")] == ["step-3"]
    tiny_run(tmp_path / "run", epochs=3, resume=True)
    steps = [m["step"] for m in lines(tmp_path / "run" / "metrics.jsonl")]
    assert steps == [1, 3, 9]
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["steps"] == 9


def test_a_run_made_longer_counts_as_finished_only_when_it_was_measured_again(tmp_path, monkeypatch, quick_report):
    run = tiny_run(tmp_path / "run", epochs=1, evaluate=True)
    before = len(lines(run / "results.jsonl"))
    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "finish_run", lambda *_: crash())
        with pytest.raises(Crash):
            tiny_run(run, epochs=3, resume=True, evaluate=True)
    tiny_run(run, resume=True, evaluate=True)  # epochs is stored by now
    assert len(lines(run / "results.jsonl")) == 2 * before
    assert (run / "health.json").exists()


def test_steps_make_no_run_longer(tmp_path):
    tiny_run(tmp_path / "run", epochs=None, steps=4)
    tiny_run(tmp_path / "run", epochs=None, steps=4, resume=True)
    with pytest.raises(BadInput, match="a run of 4 steps, steps is 8: epochs makes it longer"):
        tiny_run(tmp_path / "run", epochs=None, steps=8, resume=True)


def test_a_folder_that_holds_something_is_refused_without_resume(finished, tmp_path):
    before = weights(finished)
    with pytest.raises(BadInput, match=r"already holds a run.*--resume"):
        tiny_run(finished)
    assert identical(weights(finished), before)
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(BadInput, match=r"already holds something.*--out"):
        tiny_run(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_resume_of_a_folder_that_is_no_run_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(BadInput, match=r"no settings\.json"):
        tiny_run(tmp_path, resume=True)


# --- signals -----------------------------------------------------------------------------------------------------


def printed_command(text: str) -> list[str]:
    """The words after `mec` of the command that a message gives."""
    return shlex.split(text[text.index("mec pretrain") :].splitlines()[0])[1:]


@pytest.mark.usefixtures("quick_report")
@pytest.mark.parametrize(("number", "method"), [(signal.SIGINT, "mec"), (signal.SIGTERM, None)])
def test_a_signal_saves_the_step_and_tells_the_command_that_goes_on(
    number, method, digit_folder, tmp_path, monkeypatch, capsys
):
    """With every flag that decides the run in the printed command: it works as it is typed."""
    out = tmp_path / "my run"
    options = {"recipe": "digits", "limit": 192, "batch_size": 64, "seed": 3, "method": method}
    whole = tiny_run(tmp_path / "whole", digit_folder, **options)
    words = ["pretrain", str(digit_folder), "--out", str(out), "--epochs", "2", "--set", TINY[0], "--set", TINY[1]]
    words += [f"--{name.replace('_', '-')}={value}" for name, value in options.items() if value is not None]
    words += ["--set", *TINY_SERIES] if method else []
    came = signal.signal(number, signal.default_int_handler)  # ignored in what a shell runs in its background
    with monkeypatch.context() as patch:
        at_step(patch, 4, lambda: os.kill(os.getpid(), number))
        assert main(words) == 1
    told = capsys.readouterr().err
    assert "stopped by a signal after step 4 of 6" in told
    assert [p.stem for p in checkpoints(out)] == ["step-4"]
    assert signal.signal(number, came) is signal.default_int_handler
    assert main(printed_command(told)) == 0
    assert identical(weights(out), weights(whole))


@pytest.mark.slow
def test_sigterm_to_the_command_saves_exits_with_1_and_the_printed_command_finishes(digit_folder, tmp_path):
    out = tmp_path / "run"
    process = started("-m", "mec", "pretrain", digit_folder, "--out", out, "--epochs", "10")
    wait_for(lambda: (out / "metrics.jsonl").exists() and lines(out / "metrics.jsonl"), process)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1, told
    assert "Traceback" not in told
    assert "stopped by a signal" in told
    assert checkpoints(out)
    assert main(printed_command(told)) == 0
    assert checkpoints(out)[-1].stem == "step-40"
    steps = [m["step"] for m in lines(out / "metrics.jsonl")]
    assert steps == sorted(set(steps))


def test_a_signal_to_all_processes_of_a_run_lets_its_workers_end_the_step(tmp_path):
    """As torchrun and SLURM send it."""
    write_images(tmp_path / "photos", 24, width=80, height=70)
    out = tmp_path / "run"
    words = ["--recipe", "digits", "--batch-size", "8", "--epochs", "2000", "--workers", "2", "--out", out]
    process = Forked(mec, "pretrain", tmp_path / "photos", *words, folder=tmp_path, session=True)
    process.start()
    wait_for(lambda: (out / "metrics.jsonl").exists() and lines(out / "metrics.jsonl"), process)
    os.killpg(process.pid, signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.exitcode == 1, told
    assert "stopped by a signal" in told
    assert checkpoints(out)


# --- kill -9 -----------------------------------------------------------------------------------------------------

SCRIPT = """
import sys; sys.path.insert(0, {tests!r})
import torch; torch.set_num_threads(1)
from helpers import tiny_run
tiny_run({out!r}, method={method!r}, epochs={epochs}, resume=True, save_minutes=0)
"""


def killed_and_resumed(out: Path, method: str | None, epochs: int, moments: list[float]) -> None:
    """A run killed so many seconds after its first checkpoint (of each attempt), then resumed to its end."""
    script = SCRIPT.format(tests=str(Path(__file__).parents[1]), out=str(out), method=method, epochs=epochs)
    for moment in moments:
        process = started("-c", script)
        seen = checkpoints(out)
        wait_for(lambda seen=seen, p=process: checkpoints(out) != seen or p.poll() == 0, process)
        time.sleep(moment)
        process.kill()
        process.communicate()
    tiny_run(out, method=method, epochs=epochs, resume=True)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_kill_9_at_four_random_moments_and_resume_each_time_end_bit_identical(tmp_path, method):
    moments = np.random.default_rng().uniform(0, 1.5, 4).tolist()
    whole = tiny_run(tmp_path / "whole", method=method, epochs=80)
    killed_and_resumed(tmp_path / "run", method, 80, moments)
    assert identical(weights(tmp_path / "run"), weights(whole)), f"killed after {moments} s"
    steps = [m["step"] for m in lines(tmp_path / "run" / "metrics.jsonl")]
    assert steps == sorted(set(steps))


def test_the_stored_encoder_may_be_a_running_average_of_the_trained_one_and_resumes(tmp_path, monkeypatch):
    averaged = {"set": [*TINY, "optimizer.average=0.7"], "save_minutes": 0}
    whole = tiny_run(tmp_path / "whole", epochs=None, steps=2, **averaged)
    before, after = (torch.load(kept, weights_only=True)["network"] for kept in checkpoints(whole)[-2:])
    stored = weights(whole)
    for name, found in stored.items():
        if found.dtype.is_floating_point:
            expected = 0.7 * before[f"encoder.{name}"] + 0.3 * after[f"encoder.{name}"]
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    longer = tiny_run(tmp_path / "longer", **averaged)
    crashed_run(monkeypatch, 5, tmp_path / "run", **averaged)
    tiny_run(tmp_path / "run", resume=True, **averaged)
    assert identical(weights(tmp_path / "run"), weights(longer))
