"""What a run says at its ends: which data, which recipe, what to do next."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

from helpers import tiny_run

from mec.cli.main import main
from mec.data.opening import open_data
from mec.networks.encoder_file import read_info
from mec.training.options import Options
from mec.training.report import next_steps
from mec.training.run import Run, read_settings


def test_digits_are_known_by_what_they_are_and_not_by_a_folder_s_name():
    digits = open_data("digits")
    assert Options().named("digits") == Options().named(digits) == "digits"
    assert Options().named("photos/digits") == Options().named(Path("/photos/digits")) == "auto"
    assert Options().named(replace(digits, suits="photographs")) == "auto"


def test_the_command_that_it_ends_with_is_one_that_runs(tmp_path, capsys):
    """Also with spaces in a folder's name, and for data that need --data-root."""
    out = tmp_path / "my run"
    run = Run(out, read_settings(tiny_run(out)), read_info(out))
    words = next_steps(run, open_data("digits")).splitlines()[1]
    assert main(shlex.split(words)[1:]) == 0
    assert "knn top-1" in capsys.readouterr().out
    asked = replace(run.settings, asked={"data": "cifar10", "data_root": "/my data"})
    words = next_steps(replace(run, settings=asked), open_data("digits")).splitlines()[1]
    assert shlex.split(words)[3:] == ["knn", "cifar10", "--data-root", "/my data"]


def test_supervised_does_not_say_that_labels_only_measure(tmp_path, capsys):
    flags = ["--limit", "64", "--epochs", "1", "--batch-size", "32", "--set", "views.size=8"]
    assert main(["pretrain", "digits", "--method", "supervised", "--out", str(tmp_path / "run"), *flags]) == 0
    said = capsys.readouterr().out
    assert "with the labels of 10 classes" in said
    assert "only for measuring" not in said
