"""No folder, whatever its files are called and hold, starts a program or opens a connection."""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import photographs
import pytest
import uvicorn
from campaign import note
from helpers import write_images

from mec.answers import label
from mec.cli.main import main
from mec.evaluation.detection.batches import Sizes
from mec.evaluation.detection.network import Regions
from mec.evaluation.detection.presets import PRESETS
from mec.evaluation.evaluate import evaluate

pytestmark = [pytest.mark.faults, pytest.mark.filterwarnings("ignore")]

STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn", "socket.connect")
SECRET = "token-of-the-test"
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
COMMANDS = [  # {} is a folder of train/ and test/ with two classes each, hostile files in all of them
    ["embed", "pixels", "{}", "--out", "{}.npz"],
    ["pack", "{}", "{}-packed"],
    ["pretrain", "{}", "--epochs", "1", "--workers", "0", "--out", "{}-run", *TINY],
    ["compare", "{}", "--methods", "mec-joint,simclr", "--epochs", "1", "--out", "{}-both", *TINY],
    ["evaluate", "pixels", "knn", "{}", "--out", "{}-knn"],
    ["evaluate", "random:resnet10-tiny", "finetune", "{}", "--epochs", "1", "--image-size", "32", "--out", "{}-tuned"],
    ["recipes", "auto", "{}"],
    ["select", "pixels", "{}", "--n", "5", "--out", "{}-picked.csv"],
    ["predict", "random:resnet10-tiny", "{}", "--labels", "{}.csv", "--out", "{}-predicted.csv"],
    ["search", "pixels", "{}", "--query", "{}/train/a/0000.png", "--out", "{}-found.csv"],
    ["duplicates", "pixels", "{}", "--out", "{}-groups.csv"],
    ["outliers", "pixels", "{}", "--out", "{}-odd.csv"],
    ["mislabelled", "pixels", "{}/train", "--out", "{}-doubtful.csv"],
    ["detect", "detector", "{}", "--out", "{}-detections.json"],
    ["label", "pixels", "{}", "--classes", "a,b", "--n", "3", "--out", "{}-labels.csv"],
    ["suite", "random:resnet10-tiny", "--data", "{}", "--preset", "quick", "--only", "knn,linear", "--out", "{}-suite"],
    ["track", "pixels", "{}/train/a", "--box", "1,1,6,6", "--out", "{}-tracks.txt"],
]


def hostile_folder(root: Path, files: dict[str, bytes]) -> None:
    """Images of two classes, training and test, with these files among them, and a table of labels beside it."""
    rows = ["path,label"]
    for name in ("train/a", "train/b", "test/a", "test/b"):
        rows += [f"{path},{name[-1]}" for path in write_images(root / name, 50)]
        for number, content in enumerate(files.values()):
            (root / name / f"holiday{number}.{('jpg', 'png')[number % 2]}").write_bytes(content)
    root.with_suffix(".csv").write_text("\n".join(rows))


@pytest.fixture(scope="module")
def detector(tmp_path_factory) -> Path:
    """The folder of a detector that hardly learned."""
    root = tmp_path_factory.mktemp("detector")
    sizes, regions = (
        Sizes((64,), 64, 96),
        Regions(anchors=32, before_nms=(200, 100), after_nms=(50, 20), regions=16, pooled=7),
    )
    tiny = {"iterations": 2, "drops": (1,), "warmup": 1, "sizes": sizes, "seeds": (0,), "batch_size": 2}
    with pytest.MonkeyPatch.context() as patch:
        small = replace(PRESETS["voc"]["small"], regions=regions, precise=2, **tiny)
        patch.setitem(PRESETS["voc"], "small", small)
        data = photographs.voc(root / "data")
        (root / "names").write_text("car\ndog\nperson\n")
        evaluate(
            "random:resnet10-tiny", "voc", data_root=data, out=root / "run", image_size=64, preset="small",
            device="cpu", precision="fp32", classes=root / "names",
        )  # fmt: skip
    return next(root.glob("run/voc-small/lr-*"))


def watched(words: list[str], folder: Path, found) -> None:
    """Run a command in a process of its own; gives its exit code, and programs and connections it tried to start."""
    started: list[str] = []
    code: int | None = None
    sys.addaudithook(lambda event, given: started.append(f"{event} {given}"[:200]) if event in STARTS else None)
    os.chdir(folder)
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    label.secrets.token_urlsafe = lambda *_: SECRET
    uvicorn.Server.run = looked_at
    try:
        code = main(words)
    finally:
        found.send((code, started))
        os._exit(0)


def looked_at(server: uvicorn.Server, sockets: list[socket.socket]) -> None:
    """In place of a browser: every image of the page, and an answer; by no socket, which the hook would tell."""
    from starlette.testclient import TestClient

    here = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
    token = {"x-token": SECRET}
    with TestClient(server.config.app, base_url=here, headers=token) as client:
        number = 0
        while client.get(f"/image/{number}").status_code == 200:
            number += 1
        state = client.get("/state").json()
        answered = client.post("/answer", json={"index": state["index"], "label": 0}).json()
        assert number >= 100
        assert answered["done"] == 1


def programs(words: list[str], folder: Path) -> tuple[int | None, list[str]]:
    fork = get_context("fork")
    ours, theirs = fork.Pipe()
    process = fork.Process(target=watched, args=(words, folder, theirs))
    process.start()
    found = ours.recv() if ours.poll(100) else (None, ["a hang"])
    process.join(10)
    return found


@pytest.mark.parametrize(
    "words", COMMANDS, ids=lambda words: " ".join(words[:3:2]) if words[0] == "evaluate" else words[0]
)
def test_a_hostile_folder_starts_no_program(words, tmp_path, request):
    if words[0] == "detect":
        (tmp_path / "detector").symlink_to(request.getfixturevalue("detector"))
    hostile_folder(tmp_path / "plain", {})
    hostile_folder(tmp_path / "hostile", HOSTILE)
    (code, plain), (told, hostile) = (programs([w.format(n) for w in words], tmp_path) for n in ("plain", "hostile"))
    assert code == 0
    problem = f"starts {hostile}" if len(hostile) > len(plain) else None if told in (0, 1, 2) else "does not end"
    for what in HOSTILE:
        note("foreign programs", f"{what}, {words[0]}", problem)
    assert problem is None
