"""No folder, whatever its files are called and hold, starts a program or opens a connection."""

from __future__ import annotations

import os
import sys
from multiprocessing import get_context
from pathlib import Path

import pytest
from campaign import note
from helpers import write_images

from mec.cli.main import main

pytestmark = [pytest.mark.faults, pytest.mark.filterwarnings("ignore")]

STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn", "socket.connect")
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(x) show\n%%EOF\n"
HOSTILE = {
    "EPS": EPS,
    "DOS EPS": b"\xc5\xd0\xd3\xc6\x1e\0\0\0" + len(EPS).to_bytes(4, "little") + bytes(18) + EPS,
    "PDF": b"%PDF-1.4\n%%EOF\n",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="http://127.0.0.1/a"/></svg>',
    "WMF": b"\xd7\xcd\xc6\x9a" + bytes(60), "HDF": b"\x89HDF\r\n\x1a\n" + bytes(60), "GRIB": b"GRIB" + bytes(60),
    "pickle": b"cos\nsystem\n(S'true'\ntR.", "script": b"#!/bin/sh\ntrue\n",
    "FITS": b"SIMPLE  =                    T" + bytes(80),
    "MVG": b"push graphic-context\nimage over 0,0 0,0 'https://127.0.0.1/'\n",
    "XPM": b"/* XPM */\nstatic char *x[] = {};\n",
}  # fmt: skip


TINY = ["--recipe", "digits", "--backbone", "resnet10-tiny", "--batch-size", "32", "--set", "views.size=8"]
COMMANDS = [
    ["embed", "pixels", "{}", "--out", "{}.npz"],
    ["pack", "{}", "{}-packed"],
    ["pretrain", "{}", "--epochs", "1", "--workers", "0", "--out", "{}-run", *TINY],
    ["recipes", "auto", "{}"],
    ["select", "pixels", "{}", "--n", "5", "--out", "{}-picked.csv"],
    ["search", "pixels", "{}", "--query", "{}/0000.png", "--out", "{}-found.csv"],
    ["duplicates", "pixels", "{}", "--out", "{}-groups.csv"],
    ["outliers", "pixels", "{}", "--out", "{}-odd.csv"],
    ["bench", "data", "{}", "--workers", "0"],
]


def watched(words: list[str], folder: Path, found) -> None:
    """Run a command in a process of its own; gives its exit code, and programs and connections it tried to start."""
    started: list[str] = []
    code: int | None = None
    sys.addaudithook(lambda event, given: started.append(f"{event} {given}"[:200]) if event in STARTS else None)
    os.chdir(folder)
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    try:
        code = main(words)
    finally:
        found.send((code, started))
        os._exit(0)


def programs(words: list[str], folder: Path) -> tuple[int | None, list[str]]:
    fork = get_context("fork")
    ours, theirs = fork.Pipe()
    process = fork.Process(target=watched, args=(words, folder, theirs))
    process.start()
    found = ours.recv() if ours.poll(100) else (None, ["a hang"])
    process.join(10)
    return found


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_a_hostile_folder_starts_no_program(words, tmp_path):
    for name, files in (("plain", {}), ("hostile", HOSTILE)):
        write_images(tmp_path / name, 100)
        for number, content in enumerate(files.values()):
            (tmp_path / name / f"holiday{number}.{('jpg', 'png')[number % 2]}").write_bytes(content)
    (code, plain), (_, hostile) = (programs([w.format(name) for w in words], tmp_path) for name in ("plain", "hostile"))
    assert code == 0
    problem = f"starts {hostile}" if len(hostile) > len(plain) else None
    for what in HOSTILE:
        note("foreign programs", f"{what}, {words[0]}", problem)
    assert problem is None
