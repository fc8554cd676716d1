"""Flags of protocols: every number has a range, and what is outside is refused in words before anything is loaded."""

from __future__ import annotations

import math
import sys
from dataclasses import MISSING, fields
from typing import get_args, get_type_hints

import pytest

from mec.cli.main import main, parsed
from mec.errors import BadInput
from mec.evaluation.protocols import GROUPS, PROTOCOLS, protocol_list
from mec.runtime.flags import as_flag
from mec.runtime.ranges import Range


def ranges(word: str) -> dict[str, Range]:
    """The numeric fields of a protocol, and what each may be."""
    found = {}
    for name, hint in get_type_hints(PROTOCOLS[word], include_extras=True).items():
        kinds = {kind for part in (hint, *get_args(hint)) for kind in (part, *get_args(part))}
        if kinds & {int, float}:
            (found[name],) = (part for part in hint.__metadata__ if isinstance(part, Range))
    return found


NUMBERS = [(word, name, within) for word in PROTOCOLS for name, within in ranges(word).items()]


def required(word: str) -> list[str]:
    """What the command line has to say beside the flag under test."""
    given = {"data": ["digits"], "data_root": ["--data-root", "."], "labels": ["--labels", "1%"]}
    return [w for f in fields(PROTOCOLS[word]) if f.default is MISSING for w in given[f.name]]


def test_every_number_of_every_protocol_is_looked_at():
    assert {"k", "temperature", "draws", "seed", "workers", "crop", "weight_decays", "seeds"} <= {
        n for _, n, _ in NUMBERS
    }
    assert {word for word, _, _ in NUMBERS} == {*PROTOCOLS} - {"tracking"}


@pytest.mark.parametrize(
    ("word", "name", "within"), NUMBERS, ids=lambda value: str(value) if isinstance(value, str) else ""
)
def test_a_number_out_of_range_is_refused_with_flag_value_and_what_fits(word, name, within, capsys):
    below = within.least if within.above else within.least - 1
    outside = [below, *([within.most + 1] if within.most < math.inf else [])]
    outside += [] if within.kind is int else [math.nan, math.inf, -math.inf]
    for value in outside:
        number = f"{value:g}" if within.kind is float else str(int(value))
        assert main(["evaluate", "no-such-run", word, *required(word), as_flag(name), number]) == 2
        said = capsys.readouterr().err
        assert f"mec: {as_flag(name)} is {number}" in said.replace(".0:", ":").replace("'", "")
        assert str(within) in said or (math.isnan(value) and "numbers with commas between" in said)
    lists = isinstance(getattr(PROTOCOLS[word], name, None), str)
    if within.kind is int and lists:
        assert main(["evaluate", "no-such-run", word, *required(word), as_flag(name), "2.5"]) == 2
        assert f"{as_flag(name)} is '2.5': whole numbers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"k": []}, "--k is []"),
        ({"k": [5, 0]}, r"--k is \[5, 0\]: a whole number, at least 1"),
        ({"k": 2.5}, "--k is 2.5: whole numbers"),
        ({"temperature": "warm"}, "--temperature is warm: a number above 0"),
        ({"temperature": None}, "--temperature is None"),
        ({"device": "gpu"}, "--device is 'gpu'. Did you mean 'cpu'"),
    ],
)
def test_values_from_python_are_held_to_the_same_types(flags, expected):
    with pytest.raises(BadInput, match=expected.replace("[]", r"\[\]")):
        PROTOCOLS["knn"](data="digits", **flags).check()


def test_flags_that_do_not_go_together_are_refused_before_anything_is_loaded(capsys):
    for words, expected in (
        (["linear", "digits", "--epochs", "3"], "--epochs belongs to the presets that train"),
        (["transfer", "dtd", "--data-root", "x", "--steps", "3"], "--steps belongs to fine-tuning"),
        (
            ["transfer", "dtd", "--data-root", "x", "--mode", "finetune", "--standardise"],
            "--standardise belongs to the",
        ),
        (["voc", "--data-root", ".", "--sweep", "--lr", "0.1"], "leave out --lr 0.1"),
    ):
        assert main(["evaluate", "no-such-run", *words]) == 2
        assert expected in capsys.readouterr().err


# --- help ----------------------------------------------------------------------------------------------------------


def help_of(capsys, monkeypatch, width: int, *words: str) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    with pytest.raises(SystemExit) as left:
        parsed(["evaluate", *words, "--help"])
    assert left.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [60, 100])
def test_help_of_evaluate_lists_the_protocols_in_groups_as_wide_as_the_terminal(capsys, monkeypatch, width):
    text = help_of(capsys, monkeypatch, width)
    places = [text.index(f"\n{title}:\n") for title in GROUPS]
    assert places == sorted(places)
    for title, rows in GROUPS.items():
        part = text[text.index(f"\n{title}:\n") :]
        assert all(part.index(f"\n  {word} ") >= 0 for word in rows)
    assert "  random:NAME             a timm backbone" in text  # lists stay as they are
    free = [line for line in text.splitlines() if not line.startswith("  ")]
    assert max(map(len, free)) <= width
    assert max(len(line) for line in protocol_list(width).splitlines()) <= width


@pytest.mark.parametrize("width", [60, 100])
@pytest.mark.parametrize("word", PROTOCOLS)
def test_a_protocols_help_says_what_it_is_once_and_keeps_to_the_terminal(capsys, monkeypatch, word, width):
    text = help_of(capsys, monkeypatch, width, "RUN", word)
    sentence = " ".join(str(PROTOCOLS[word].__doc__).split())[:40]
    assert " ".join(text.split()).count(sentence) == 1
    assert max(map(len, text.splitlines())) <= width
    assert text.startswith(f"usage: mec evaluate RUN {word} [-h]")
    for field in fields(PROTOCOLS[word]):
        assert field.name == "data" or as_flag(field.name) in text or f"--no-{field.name}" in text
    assert "--no-download" not in text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["kmm", "digits"], "no protocol 'kmm'. Did you mean 'knn'?"),
        (["lineer", "digits"], "no protocol 'lineer'. Did you mean 'linear'?"),
        (["sot2"], "Did you mean 'sot'?"),
        (["knn", "digits", "--temprature", "0.1"], "--temperature"),
        (["linear", "digits", "--preset", "papr"], "paper"),
    ],
)
def test_a_misspelt_word_gets_the_nearest_one(capsys, words, expected):
    with pytest.raises(SystemExit) as left:
        main(["evaluate", "RUN", *words])
    assert left.value.code == 2
    assert expected in capsys.readouterr().err


def test_the_table_is_read_without_torch():
    from helpers import command

    code = "import sys, mec.evaluation.protocols; assert not {'torch', 'numpy'} & {*sys.modules}"
    assert command("-c", code).returncode == 0, sys.executable
