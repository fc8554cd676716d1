"""Workers that are killed, stuck or short of shared memory: a sentence within a stated time, or the same items."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from helpers import command, tiny_run, weights, write_images

from mec.data import loading
from mec.data.images import Files
from mec.data.loading import prepared
from mec.errors import BadInput, TrainingStopped
from mec.runtime.checkpoints import checkpoints

TINY = {"recipe": "digits", "batch_size": 8, "limit": None, "set": ("views.size=8", "network.projector=[8,8]")}


class Items(torch.utils.data.Dataset):
    """Numbers; at one of them something happens."""

    def __init__(self, act=lambda: None, at: int = 3):
        self.act, self.at = act, at

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int):
        if index == self.at:
            self.act()
        return torch.full((2,), index), {"n": index, "of": [torch.ones(1)]}


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refused() -> None:
    raise BadInput("item 3 does not fit.")


def test_a_killed_worker_is_told(tmp_path):
    with pytest.raises(TrainingStopped, match=r"a process that decodes images was killed.*fewer --workers"):
        list(prepared(Items(killed), 1, batch_size=None))


def test_a_stuck_worker_is_not_waited_for_without_end(monkeypatch):
    monkeypatch.setattr(loading, "PATIENCE", 1.0)
    monkeypatch.setattr(loading, "LOOK", 0.5)
    with pytest.raises(TrainingStopped, match="has given nothing for 1 s"):
        list(prepared(Items(lambda: time.sleep(4)), 1, batch_size=None))


STUCK = """
import sys, time
sys.path[:0] = {tests!r}
from mec.data import loading
from test_loading import Items
loading.PATIENCE, loading.LOOK = 1.0, 0.5
if __name__ == "__main__":
    list(loading.prepared(Items(lambda: time.sleep(10_000)), 1, batch_size=None))
"""


@pytest.mark.slow
def test_a_program_whose_worker_is_stuck_for_good_ends(tmp_path):
    """Workers leave TERM to the run, so that Python's own way of ending them would wait for ever."""
    began = time.monotonic()
    done = command("-c", STUCK.format(tests=[str(folder) for folder in Path(__file__).parents[:2]]), timeout=90)
    assert "has given nothing for 1 s" in done.stderr
    assert done.returncode == 1
    assert time.monotonic() - began < 45


def test_an_error_of_a_worker_comes_in_its_own_words():
    for workers in (0, 1):
        with pytest.raises(BadInput, match=r"^item 3 does not fit\.$"):
            list(prepared(Items(refused), workers, batch_size=None))


@pytest.mark.parametrize("batch_size", [None, 3])
def test_with_little_shared_memory_the_same_items_come_through_pipes(monkeypatch, batch_size):
    expected = list(prepared(Items(), 2, batch_size=batch_size))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(64 << 20))
    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", lambda *_, **__: pytest.fail("shared"))
    with pytest.warns(UserWarning, match="64 MiB free: what 2 workers prepare comes through pipes"):
        found = list(prepared(Items(), 2, batch_size=batch_size))
    assert str(found) == str(expected)


def test_a_run_whose_worker_is_killed_keeps_its_steps_and_goes_on(tmp_path, monkeypatch):
    write_images(tmp_path / "photos", 24, width=70, height=66)
    read, out = Files.open, tmp_path / "run"
    whole = tiny_run(tmp_path / "whole", str(tmp_path / "photos"), **TINY, workers=0, epochs=2)

    def open_or_die(images, index):
        if index == 5 and torch.utils.data.get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(images, index)

    with monkeypatch.context() as patch:
        patch.setattr(Files, "open", open_or_die)
        with pytest.raises(TrainingStopped, match="was killed"):
            tiny_run(out, str(tmp_path / "photos"), **TINY, workers=1, epochs=2)
    assert [path.stem for path in checkpoints(out)] != ["step-6"]
    assert checkpoints(out)
    tiny_run(out, str(tmp_path / "photos"), **TINY, workers=1, epochs=2, resume=True)
    assert all(torch.equal(weights(out)[name], each) for name, each in weights(whole).items())
