"""One writer at a time: the second is refused in words, and nothing is left of one that was killed."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
from multiprocessing import get_context
from pathlib import Path

import pytest
from helpers import tiny_run, weights, write_images

from mec.data.pack import pack
from mec.errors import BadInput
from mec.exports.embed import embed
from mec.reports.comparison import compare
from mec.runtime.checkpoints import Checkpoints
from mec.runtime.files import atomic
from mec.runtime.locks import LOCK, is_empty, only_one

fork = get_context("fork")


def hold(path: Path, lock: Path | None, ours) -> None:
    with only_one(path, lock):
        ours.send("ready")
        ours.poll(60)


@pytest.fixture
def holder(tmp_path):
    """Starts another process that holds a lock."""
    started = []

    def start(path: Path, lock: Path | None = None):
        ours, theirs = fork.Pipe()
        process = fork.Process(target=hold, args=(path, lock, theirs))
        process.start()
        started.append((process, ours))
        assert ours.recv() == "ready"
        return process

    yield start
    for process, ours in started:
        if process.is_alive():
            ours.send("end")
        process.join(30)


def test_the_refusal_says_who_holds_it(holder, tmp_path):
    process = holder(tmp_path / "file")
    with pytest.raises(BadInput, match=f"process {process.pid} on {socket.gethostname()}, since 20"):
        only_one(tmp_path / "file").__enter__()


def test_a_process_refuses_itself(tmp_path):
    with only_one(tmp_path / "file"):
        with pytest.raises(BadInput, match="this very process"):
            only_one(tmp_path / "file").__enter__()
        with only_one(tmp_path / "another"):
            pass
    with only_one(tmp_path / "file"):
        pass
    assert not any(tmp_path.iterdir())


def test_what_a_killed_process_leaves_is_taken_over(holder, tmp_path):
    process = holder(tmp_path / "file")
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert (tmp_path / f".file{LOCK}").exists()
    with only_one(tmp_path / "file"):
        assert json.loads((tmp_path / f".file{LOCK}").read_bytes())["process"] == os.getpid()


@pytest.mark.parametrize("here", [True, False])
def test_without_locks_of_the_system_the_words_in_the_file_decide(tmp_path, monkeypatch, here):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", none)
    file = tmp_path / f".file{LOCK}"
    host = socket.gethostname() if here else "elsewhere"
    file.write_text(json.dumps({"host": host, "process": os.getpid(), "started": "2026"}))
    with pytest.raises(BadInput, match="since 2026"):
        only_one(tmp_path / "file").__enter__()
    gone = fork.Process(target=int)
    gone.start()
    gone.join()
    file.write_text(json.dumps({"host": socket.gethostname(), "process": gone.pid, "started": "2026"}))
    with only_one(tmp_path / "file"):
        pass


def test_a_run_that_is_trained_elsewhere_is_refused_to_a_start_and_to_resume(holder, tmp_path):
    run = tiny_run(tmp_path / "run", epochs=1)
    before = weights(run)
    holder(run, run / LOCK)
    for resume in (True, False):
        with pytest.raises(BadInput, match="is being written by process"):
            tiny_run(run, epochs=2, resume=resume)
    assert weights(run).keys() == before.keys()


def test_a_start_that_was_killed_before_its_settings_is_started_again_by_resume(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).touch()
    (tmp_path / "run" / "settings.json.part").write_text("{")
    assert is_empty(tmp_path / "run")
    tiny_run(tmp_path / "run", epochs=1, resume=True)
    assert not (tmp_path / "run" / LOCK).exists()


def test_a_start_that_is_refused_leaves_no_folder(tmp_path):
    with pytest.raises(BadInput):
        tiny_run(tmp_path / "runs" / "run", epochs=1, batch_size=10**6)
    assert not (tmp_path / "runs").exists()


def test_outputs_of_pack_embed_compare_and_classifiers_have_one_writer(holder, tmp_path, finished):
    images = tmp_path / "images"
    write_images(images, 4)
    holder(tmp_path / "packed")
    with pytest.raises(BadInput, match="packed is being written by"):
        pack(images, tmp_path / "packed", quiet=True)
    holder(tmp_path / "out.npz")
    with pytest.raises(BadInput, match=r"out\.npz is being written by"):
        embed(finished, images, out=tmp_path / "out.npz")
    (tmp_path / "compared").mkdir()
    holder(tmp_path / "compared", tmp_path / "compared" / LOCK)
    with pytest.raises(BadInput, match="compared is being written by"):
        compare("digits", methods="mec-joint", out=tmp_path / "compared", epochs=1, quiet=True, device="cpu")
    holder(tmp_path / "state.pt")
    with pytest.raises(BadInput, match=r"state\.pt is being written by"):
        Checkpoints(tmp_path / "state.pt").only_here().__enter__()


def test_embed_refuses_a_place_that_cannot_be_written_before_it_reads_an_image(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr("mec.exports.embed.open_images", lambda *_, **__: pytest.fail("it has begun"))
    with pytest.raises(OSError, match="file"):
        embed("pixels", write_images(tmp_path / "images", 2)[0].parent, out=tmp_path / "file" / "out.npz")


def fill(path: Path) -> None:
    with atomic(path) as part:
        part.write_bytes(b"x" * 5000)
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_names_the_file_and_the_sizes(tmp_path):
    with pytest.raises(OSError, match=r"No space left.*a\.npz takes more than 5,000 bytes, and [\d,]+ are free"):
        fill(tmp_path / "a.npz")
    assert not any(tmp_path.iterdir())
