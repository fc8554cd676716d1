"""What other systems lack has another way: stand-ins for Windows and for Macs, since tests run on Linux."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import sys
from types import SimpleNamespace

import pytest
import torch
from helpers import command, tiny_run

from mec.errors import BadInput
from mec.runtime import machine
from mec.runtime.device import chosen_device
from mec.runtime.files import atomic, whole_folder
from mec.runtime.locks import only_one
from mec.training.options import Options

# In a process of its own all that Windows lacks is taken away, and its lock put in the place of ours.
WINDOWS = """
import fcntl, os, signal, sys, types

def locking(handle, mode, count):
    assert mode == 2
    fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, count, os.lseek(handle, 0, os.SEEK_CUR))

sys.modules["msvcrt"] = types.SimpleNamespace(locking=locking, LK_NBLCK=2)
sys.modules |= {"fcntl": None, "resource": None}
for name in ("sysconf", "sched_getaffinity", "O_NONBLOCK", "O_CLOEXEC", "pread", "pwrite", "getuid", "killpg", "fork"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGKILL", "SIGALRM"):
    delattr(signal, name)
sync = os.fsync

def fsync(handle):
    try:
        os.write(handle, b"")  # fails where a file was opened to be read, as on Windows
    except OSError:
        raise OSError(9, "Bad file descriptor") from None
    sync(handle)

os.fsync = fsync
"""


def test_a_run_goes_from_images_to_features_without_what_windows_lacks(tmp_path):
    script = "import lightning_fabric, matplotlib.figure, numba, pandas, sklearn.linear_model, timm, torch\n" + WINDOWS
    script += """
import mec
run = mec.pretrain("digits", out="run", steps=2, limit=64, batch_size=32, device="cpu", evaluate=False, workers=0,
                   set=["views.size=8", "network.projector=[32,16]"])
mec.pretrain("digits", out="run", epochs=2, resume=True, device="cpu", evaluate=False)
print(len(mec.features(run, mec.open_data("digits", limit=64).train).x))
mec.export(run, to="timm")
"""  # fmt: skip
    done = command("-c", script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "\n64\n" in done.stdout
    assert (tmp_path / "run" / "encoder.safetensors").exists()


def test_two_writers_are_kept_apart_by_the_lock_of_windows_too(tmp_path):
    script = (
        WINDOWS
        + """
from pathlib import Path
from mec.errors import BadInput
from mec.runtime.locks import only_one
try:
    with only_one(Path("file")):
        print("entered")
except BadInput as error:
    print(error)
"""
    )
    assert command("-c", script, cwd=tmp_path).stdout.strip() == "entered"
    handle = os.open(tmp_path / ".file.lock", os.O_RDWR | os.O_CREAT)
    os.write(handle, b'{"host": "here", "process": 7, "started": "2026"}')
    fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 1 << 30)
    assert "is being written by process 7 on here, since 2026" in command("-c", script, cwd=tmp_path).stdout
    os.close(handle)
    assert command("-c", script, cwd=tmp_path).stdout.strip() == "entered"


def test_files_are_written_out_by_handles_that_may_write(tmp_path, monkeypatch):
    """Windows has no other fsync; folders, which it cannot open at all, are left out."""
    synced = []

    def fsync(handle: int) -> None:
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        synced.append(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with atomic(tmp_path / "file") as part:
        part.write_text("words")
    with whole_folder(tmp_path / "folder") as part:
        (part / "file").write_text("words")
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "file").read_text() == "words"
    assert len(synced) == 2


@pytest.mark.parametrize(("kib", "bytes_"), [(6 << 20, 6 << 30), (None, 8 << 30)])
def test_memory_is_asked_for_as_windows_has_it_or_taken_to_be_small(kib, bytes_, monkeypatch, tmp_path):
    monkeypatch.delattr(os, "sysconf")
    monkeypatch.setattr(machine, "CGROUP", tmp_path / "none")

    def ask(reference) -> int:
        reference._obj.value = kib
        return 1

    if kib is not None:
        kernel = SimpleNamespace(GetPhysicallyInstalledSystemMemory=ask)
        monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=kernel), raising=False)
    assert machine.memory_bytes() == bytes_


def test_a_mac_s_gpu_is_taken_where_torch_sees_one_and_only_by_pretrain(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(BadInput, match="--device mps: torch sees no GPU of a Mac here"):
        tiny_run(tmp_path / "run", device="mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert chosen_device("mps") == "mps"
    assert Options(device="mps").device == "mps"


def test_a_second_lock_of_this_process_is_refused_everywhere(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(locking=lambda *_: None, LK_NBLCK=2))
    with only_one(tmp_path / "file"), pytest.raises(BadInput, match="this very process"):
        only_one(tmp_path / "file").__enter__()
