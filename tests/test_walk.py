"""The walk-through in docs/walk.md, on digits: its commands in its order end with classes that are right."""

from __future__ import annotations

import csv
import shlex
from pathlib import Path

from helpers import digit_images
from sklearn.datasets import load_digits
from test_readme import ROOT, commands

from mec.cli.main import main


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_folder_becomes_classes_by_the_commands_of_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cells").mkdir()
    for number, image in enumerate(digit_images(300)):
        image.save(tmp_path / "cells" / f"{number:03}.png")
    truth = {f"{number:03}.png": str(label) for number, label in enumerate(load_digits().target[:300])}
    (tmp_path / "cells" / "labels.csv").write_text("path,label\n" + "".join(f"{k},{v}\n" for k, v in truth.items()))
    typed = [shlex.split(line, comments=True)[1:] for line in commands(ROOT / "docs" / "walk.md")][:5]
    assert [words[0] for words in typed] == ["pretrain", "select", "label", "predict", "report"]
    for words in typed:
        if words[0] == "pretrain":
            at = words.index("--time-budget")
            words[at : at + 2] = ["--epochs", "6", "--recipe", "digits", "--set", "views.size=8"]
        if words[0] == "label":  # a person's part: the page that asks is tested by itself
            asked = [row["path"] for row in rows(Path("picked.csv"))]
            text = "".join(f"{path},{truth[path]}\n" for path in asked)
            Path(words[words.index("--out") + 1]).write_text("path,label\n" + text)
            continue
        if words[0] == "select":
            words[words.index("--n") + 1] = "30"  # ten classes in place of five
        assert main(words) == 0, capsys.readouterr().err
    assert "labelled, cross-validated" in capsys.readouterr().out
    found = {row["path"]: row["label"] for row in rows(Path("predictions.csv"))}
    assert len(found) == 300
    right = [found[name] == label for name, label in truth.items() if name not in asked]
    assert sum(right) / len(right) > 0.8
    assert Path("runs/cells/report.html").stat().st_size > 100_000
