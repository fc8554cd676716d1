"""Names that files, classes, runs and series may have: none reaches a screen or a table as it would act there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from campaign import KINDS, LONG, judged, note
from helpers import command, noise_image, write_images
from readers import RESULT, as_lines

from mec.cli.main import main

pytestmark = [pytest.mark.faults, pytest.mark.filterwarnings("ignore")]

NAMES = {
    "an escape": b"a\x1b[2J\x1b[31mb", "a bell": b"a\x07b", "a title": b"a\x1b]0;x\x07", "C1": "a\x9b31mb".encode(),
    "a line end": b"a\nb", "a return": b"a\rb", "a backspace": b"a\x08b", "right to left": "a\u202eb".encode(),
    "no UTF-8": b"a\xff\xfeb", "latin-1": "Bäume".encode("latin-1"), "markup": b"[red]a[bold]", "percent": b"100%s{0}",
    "LaTeX": b"\\input{x}$a_b^c", "HTML": b"<script>a&b", "a dash": b"--out", "blanks": b" a ", "a quote": b"a'\"b",
    "emoji": "🌲".encode(), "DEL": b"a\x7fb",
}  # fmt: skip


def shown(text: str) -> str | None:
    """What of a text would act on a screen."""
    bad = [c for c in text if not c.isprintable() and c not in "\n\t"]
    return f"shows {bad[:3]!r}" if bad else None


def folder_of(tmp_path: Path, name: bytes) -> Path:
    """Images of which one cannot be read, each named so, in a class of that name."""
    root = tmp_path / "images"
    for part, count in (("train", 6), ("val", 3)):
        for label in (name, b"other"):
            folder = os.path.join(os.fsencode(root), part.encode(), label)
            os.makedirs(folder)
            for i in range(count):
                with open(os.path.join(folder, name + b"%d.png" % i), "wb") as file:
                    noise_image(i).save(file, "PNG")
    with open(os.path.join(os.fsencode(root), b"train", name, name + b".jpg"), "wb") as file:
        file.write(b"no image")
    return root


@pytest.mark.parametrize("what", NAMES)
def test_a_name_of_files_and_classes(what, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = folder_of(tmp_path, NAMES[what])
    flags = ["--recipe", "digits", "--batch-size", "8", "--epochs", "1", "--out", "run", "--device", "cpu"]
    small = ["--set", "views.size=8", "network.projector=[8,8]", "network.backbone=resnet10-tiny"]
    commands = {
        "pretrain": ["pretrain", str(root), *flags, *small],
        "knn": ["evaluate", "pixels", "knn", str(root), "--out", "out"],
        "embed": ["embed", "pixels", str(root), "--out", "out.npz"],
        "pack": ["pack", str(root), "packed"],
        "packed": ["evaluate", "pixels", "knn", "packed", "--out", "out"],
    }
    if not LONG and what not in ("an escape", "a line end", "no UTF-8", "LaTeX"):
        del commands["pretrain"]  # the slowest
    problems = []
    for name, words in commands.items():
        codes: list[int] = []
        problem = judged("names on the screen", f"{what}, {name}", lambda w=words, c=codes: c.append(main(w)))
        out, err = capsys.readouterr()
        problem = problem or shown(out + err) or (f"exit {codes} {err}" if codes != [0] else None)
        if problem:
            KINDS["names on the screen"].bad.setdefault(f"{what}, {name}", problem)
        problems += [problem] if problem else []
    for path in (tmp_path / "run").glob("*.json*"):
        path.read_text(encoding="utf-8")
    assert not problems


@pytest.mark.parametrize("what", NAMES)
def test_a_name_of_an_encoder_in_tables(what, tmp_path, capsys):
    name = NAMES[what].decode("utf-8", "surrogateescape")
    linear = {**RESULT, "protocol": "linear", "data": "imagenet", "encoder": name, "settings": {"preset": name}}
    (tmp_path / "results.jsonl").write_bytes(as_lines({**RESULT, "encoder": name}, linear))
    problems = []
    for form in ("markdown", "latex", "html"):
        for number in ("7", "8"):
            main(["table", number, str(tmp_path), "--format", form, "--out", str(tmp_path / "table")])
            text = (tmp_path / "table").read_text(encoding="utf-8")
            problem = shown(text) or ("a script" if "<script>" in text and form == "html" else None)
            problem = problem or ("a command" if r"\input" in text and form == "latex" else None)
            note("names in tables", f"{what}, {form}", problem)
            problems += [problem] if problem else []
    assert not problems


def test_output_that_takes_ascii_alone(tmp_path, monkeypatch):
    write_images(tmp_path / "Bäume", 4)
    (tmp_path / "Bäume" / "ä.png").write_bytes(b"no image")
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = command("-m", "mec", "embed", "pixels", tmp_path / "Bäume", "--out", tmp_path / "ä.npz")
    problem = None if done.returncode == 0 and "\\xe4.npz" in done.stdout else f"{done.returncode} {done.stderr[-300:]}"
    note("output in ASCII", "embed", problem)
    assert problem is None


def test_home_is_home_in_the_shell_s_way(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "photos", 4)
    assert main(["embed", "pixels", "~/photos", "--out=~/made/out.npz"]) == 0
    assert (tmp_path / "made" / "out.npz").exists()
    assert not (tmp_path / "~").exists()
    assert json.dumps(str(tmp_path))
