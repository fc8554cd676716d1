"""Runs that are killed at random moments, started twice, short of disk or shared memory: nothing finished is lost."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from campaign import LONG, note
from helpers import environment, identical, lines, started, tiny_run, weights, write_images

from mec.data.pack import pack
from mec.errors import BadInput, TrainingStopped
from mec.exports.embed import embed

pytestmark = [pytest.mark.faults, pytest.mark.filterwarnings("ignore")]
fork = get_context("fork")
RUN: dict[str, Any] = {"recipe": "digits", "limit": None, "batch_size": 8, "epochs": 4, "save_minutes": 0}
RUN |= {"set": ("views.size=8", "network.projector=[8,8]", "network.backbone=resnet10-tiny")}


def silent(call, *arguments: Any, **options: Any) -> None:
    """In a process of its own, which ends with 0, 2 (refused in words) or 1."""
    torch.set_num_threads(1)
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    code = 1
    with contextlib.suppress(Exception):
        try:
            call(*arguments, **options)
            code = 0
        except (BadInput, TrainingStopped):
            code = 2
    os._exit(code)


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, str]:
    """The same images in a folder, in tars, and packed with an index."""
    root = tmp_path_factory.mktemp("sources")
    write_images(root / "photos", 32, width=70, height=66)
    pack(root / "photos", root / "packed", quiet=True)
    (root / "tars").mkdir()
    shutil.copy(root / "packed" / "train-000000.tar", root / "tars")
    return {
        "folder": str(root / "photos"),
        "packed": str(root / "packed"),
        "tars": str(root / "tars" / "train-000000.tar"),
    }


@pytest.fixture(scope="module")
def whole(sources, tmp_path_factory) -> dict[str, dict[str, torch.Tensor]]:
    """What a run of each ends with that nobody kills."""
    root = tmp_path_factory.mktemp("whole")
    return {name: weights(tiny_run(root / name, data, **RUN)) for name, data in sources.items()}


@pytest.mark.parametrize("number", range(30 if LONG else 6))
def test_a_run_that_is_killed_at_any_moment_resumes_bit_for_bit(number, sources, whole, tmp_path):
    name, out = ("folder", "tars", "packed")[number % 3], tmp_path / "run"
    random = np.random.default_rng(number)
    kills, problem = 0, None
    for _ in range(2):
        process = fork.Process(
            target=silent, args=(tiny_run, out, sources[name]), kwargs={**RUN, "resume": True, "workers": 0}
        )
        process.start()
        wanted = int(random.integers(0, 3))
        until = time.monotonic() + 60
        while process.is_alive() and time.monotonic() < until and len(list((out / "checkpoints").glob("*"))) < wanted:
            time.sleep(0.002)
        time.sleep(float(random.uniform(0, 0.3)))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.join()
        if (out / "metrics.jsonl").exists() and random.random() < 0.5:  # a power cut tears the last line as well
            with open(out / "metrics.jsonl", "a") as file:
                file.write('{"step": 3, "lo')
    try:
        tiny_run(out, sources[name], **RUN, resume=True)
        steps_told = [line["step"] for line in lines(out / "metrics.jsonl")]
        if not identical(weights(out), whole[name]):
            problem = "other weights"
        elif steps_told != sorted(set(steps_told)):
            problem = f"steps {steps_told}"
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    note(f"kill -9 while training ({name})", f"{number}, {kills} kills", problem)
    assert problem is None


@pytest.mark.parametrize("number", range(10 if LONG else 3))
def test_of_two_starts_at_once_one_trains_and_the_other_is_refused(number, sources, whole, tmp_path):
    out = tmp_path / "run"
    options = {**RUN, "resume": bool(number % 2), "workers": 0}
    both = [fork.Process(target=silent, args=(tiny_run, out, sources["folder"]), kwargs=options) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
    codes = sorted(process.exitcode for process in both)
    same = codes == [0, 2] and identical(weights(out), whole["folder"])
    note("two starts at once", f"{number}", None if same else f"exit codes {codes}")
    assert same


@pytest.mark.parametrize("number", range(12 if LONG else 3))
def test_a_pack_that_is_killed_leaves_nothing_that_looks_whole(number, sources, tmp_path):
    out = tmp_path / "packed"
    process = fork.Process(target=silent, args=(pack, sources["folder"], out), kwargs={"quiet": True})
    process.start()
    time.sleep(0.01 * number)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    problem = (
        "an index without its shards"
        if out.exists() and process.exitcode != 0 and not (out / "index.json").exists()
        else None
    )
    if not out.exists():
        pack(sources["folder"], out, quiet=True)
    same = (out / "train-000000.tar").read_bytes() == (Path(sources["packed"]) / "train-000000.tar").read_bytes()
    problem = problem or (None if same else "other shards")
    note("kill -9 while packing", f"{number}", problem)
    assert problem is None


BROKEN = {"disk full": errno.ENOSPC, "quota": errno.EDQUOT, "device error": errno.EIO, "read only": errno.EROFS}


@pytest.mark.parametrize("what", BROKEN if LONG else ["disk full"])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_leaves_what_was_before(what, call, sources, whole, tmp_path, monkeypatch):
    """At every write of a run in turn: it ends in a sentence, and is resumed bit for bit."""
    for at in range(1, 30, 1 if LONG else 10):
        out, count = tmp_path / f"run-{at}", 0
        real = getattr(os, call)

        def failing(*arguments: Any, _real=real, _at=at, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == _at:
                raise OSError(BROKEN[what], os.strerror(BROKEN[what]))
            return _real(*arguments, **options)

        problem = None
        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing)
            try:
                tiny_run(out, sources["folder"], **RUN)
            except (TrainingStopped, BadInput, OSError) as error:
                problem = None if str(error) else "no word"
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
        try:
            tiny_run(out, sources["folder"], **RUN, resume=True)
            problem = problem or (None if identical(weights(out), whole["folder"]) else "other weights")
        except Exception as error:
            problem = problem or f"not resumed: {type(error).__name__}: {error}"
        note(f"writes that fail ({what})", f"{call} {at}", problem)
        assert problem is None
        shutil.rmtree(out)


def test_embed_that_fails_keeps_the_file_before(sources, tmp_path, monkeypatch):
    out = tmp_path / "out.npz"
    embed("pixels", sources["folder"], out=out)
    before = out.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
        with pytest.raises(OSError, match="No space"):
            embed("pixels", sources["folder"], out=out)
    problem = None if out.read_bytes() == before and not list(tmp_path.glob("*.part")) else "another file"
    note("writes that fail (disk full)", "embed", problem)
    assert problem is None


@pytest.mark.skipif(
    shutil.which("unshare") is None or os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"]).returncode != 0,
    reason="needs root, and a kernel that lets it have mounts of its own",
)
def test_with_8_MB_of_shared_memory_a_run_trains_within_a_minute(sources, tmp_path):
    words = [
        "-m",
        "mec",
        "pretrain",
        sources["folder"],
        "--out",
        str(tmp_path / "run"),
        "--workers",
        "2",
        "--epochs",
        "1",
    ]
    words += ["--recipe", "digits", "--batch-size", "8", "--device", "cpu", "--set", *RUN["set"]]
    inside = f"mount -t tmpfs -o size=8m tmpfs /dev/shm && exec {sys.executable} {' '.join(words)}"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", inside], env=environment(), capture_output=True, text=True, timeout=180
    )
    told = done.returncode == 0 or "Traceback" not in done.stderr
    problem = None if told and "through pipes" in done.stderr else f"{done.returncode}: {done.stderr[-300:]}"
    note("8 MB of shared memory", "pretrain", problem)
    assert problem is None


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1", "SIGTERM"] if LONG else ["SIGUSR1"])
def test_a_signal_saves_and_the_run_goes_on(name, sources, whole, tmp_path):
    out = tmp_path / "run"
    words = [
        "--recipe",
        "digits",
        "--batch-size",
        "8",
        "--epochs",
        "4000",
        "--workers",
        "0",
        "--out",
        out,
        "--set",
        *RUN["set"],
    ]
    process = started("-m", "mec", "pretrain", sources["folder"], *words)
    until = time.monotonic() + 90
    while not ((out / "metrics.jsonl").exists() and (out / "metrics.jsonl").read_bytes()) and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(getattr(signal, name))
    _, told = process.communicate(timeout=60)
    good = process.returncode == 1 and "stopped by a signal" in told and "Traceback" not in told
    note("signals", name, None if good else f"{process.returncode}: {told[-200:]}")
    assert good
