"""Every reader, every kind of damage: a value or a sentence, never a traceback, a hang or memory without end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from campaign import LONG, judged
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from readers import READERS

pytestmark = [pytest.mark.faults, pytest.mark.filterwarnings("ignore")]

WHOLE: dict[str, bytes] = {
    "nothing": b"", "NUL": b"\0", "many NULs": b"\0" * 5000, "a line end": b"\n", "null": b"null\n", "a number": b"7\n",
    "a list": b"[]\n", "an object": b"{}\n", "a text": b'"x"\n', "true": b"true\n", "NaN": b"NaN\n",
    "deep lists": b"[" * 100_000 + b"]" * 100_000, "deep objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "a huge number": b"9" * 5000, "latin-1": "Bäume\n".encode("latin-1"), "UTF-16": "Bäume\n".encode("utf-16"),
    "a mark of order": b"\xef\xbb\xbf{}", "control characters": b"\x1b[2J\x07\x9b31m\r\n", "pickle": b"\x80\x04N.",
    "a zip's end": b"PK\x05\x06" + b"\0" * 18, "random bytes": np.random.default_rng(0).bytes(3000),
    "cut JSON": b'{"a": [1, 2', "a list of lists": b"[[1, 2], [3]]",
    "an object of nulls": b'{"id": null, "steps": null}',
    "lines of lists": b"[]\n[]\n",
    "an external entity": b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
    "a bomb": b'<!DOCTYPE a [<!ENTITY b "' + b"x" * 500 + b'">' + b"".join(
        b'<!ENTITY %c "%s">' % (99 + i, b"&%c;" % (98 + i) * 50) for i in range(8)) + b"]><a>&j;</a>",
    "words": b"all work and no play\n" * 50,
    "an ini": b"[Sequence]\nseqLength=-1\nframeRate=nan\n", "an ini's head": b"[",
}  # fmt: skip

LEAVES: list[Any] = [
    None, True, -1, 0, 2**31, 2**63, 10**400, -(10**400), 0.5, float("nan"), float("inf"), 1e308, "", "x",
    "\x1b[2J\x07",
    "\ud800", "../../etc/passwd", "a" * 10_000, [], {}, [[]], [1], {"x": {}}, ["a", None],
]  # fmt: skip


def given_to(reader_name: str, content: bytes, folder: Path) -> Any:
    """What the reader makes of the content."""
    reader = READERS[reader_name]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    reader.layout(folder)
    path = folder / reader.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return reader.read(folder)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", READERS)
def test_a_valid_file_is_read(name, tmp_path, capsys):
    given_to(name, READERS[name].valid, tmp_path / "x")


@pytest.mark.parametrize("name", READERS)
def test_a_file_of_something_else(name, tmp_path, capsys):
    assert_good(judged(f"hostile {name}", label, lambda c=content: given_to(name, c, tmp_path / "x")) and label
                for label, content in WHOLE.items())  # fmt: skip


@pytest.mark.parametrize("name", READERS)
def test_a_file_that_is_torn_or_has_other_bytes_in_it(name, tmp_path, capsys):
    valid = READERS[name].valid
    random = np.random.default_rng(1)
    contents: dict[str, bytes] = {}
    for i in range(60 if LONG else 8):
        contents[f"cut {i}"] = valid[: int(random.integers(len(valid)))]
        changed = bytearray(valid)
        for place in random.integers(len(valid), size=1 + i % 4):
            changed[place] = int(random.integers(256))
        contents[f"changed {i}"] = bytes(changed)
    contents |= {"NULs at its end": valid[:-3] + b"\0" * 300, "twice": valid * 2, "rest": valid[len(valid) // 3 :]}
    assert_good(judged(f"hostile {name}", label, lambda c=content: given_to(name, c, tmp_path / "x")) and label
                for label, content in contents.items())  # fmt: skip


INI = {"seqLength": b"2", "frameRate": b"30", "imWidth": b"8", "imHeight": b"8", "imExt": b".png", "imDir": b"img1"}
ODD = (b"2000000000", b"-1", b"0", b"nan", b"inf", b"1e9", b"", b"x", b"../../..", b"9" * 50, b"%(x)s", b"[a]", b"/")


def test_numbers_and_words_of_a_seqinfo_and_sizes_of_masks(tmp_path, capsys):
    cases = {}
    for key, value in INI.items():
        line = f"{key}=".encode()
        for odd in ODD:
            content = READERS["seqinfo.ini"].valid.replace(line + value, line + odd)
            cases["seqinfo.ini", f"{key} = {odd[:20]!r}"] = content
    rows = (b"1 1 2 100000 100000 PPPPPPPb0", b"1 1 2 8 8 0", b"1 1 2 -8 8 PQ", b"1 1 2 99999999999 1 o" + b"o" * 50)
    cases |= {("MOTS", str(row[:30])): row + b"\n" for row in rows}
    assert_good(judged(f"hostile {name}", label, lambda n=name, c=content: given_to(n, c, tmp_path / "x")) and label
                for (name, label), content in cases.items())  # fmt: skip


def documents(valid: bytes) -> list[Any]:
    """What the file holds, where it is JSON or lines of JSON."""
    try:
        return [json.loads(line) for line in valid.splitlines()]
    except ValueError:
        return []


STRUCTURED = [name for name, reader in READERS.items() if documents(reader.valid)]


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The paths of all values inside a value, itself first."""
    yield path
    if isinstance(value, (dict, list)):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(part, (*path, key))


def replaced(value: Any, path: tuple, new: Any) -> Any:
    if not path:
        return new
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[path[0]] = replaced(copied[path[0]], path[1:], new)
    return copied


def without(value: Any, path: tuple) -> Any:
    copied = dict(value) if isinstance(value, dict) else list(value)
    if len(path) == 1:
        del copied[path[0]]
    else:
        copied[path[0]] = without(copied[path[0]], path[1:])
    return copied


def encoded(found: list[Any]) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in found)


@pytest.mark.parametrize("name", STRUCTURED)
def test_values_of_other_types_and_sizes_in_their_places(name, tmp_path, capsys):
    found = documents(READERS[name].valid)
    every = [path for path in places(found) if path]
    random = np.random.default_rng(2)
    cases = [(path, leaf) for path in every for leaf in LEAVES]
    chosen = random.permutation(len(cases))[: 10**6 if LONG else 24]
    contents = {
        f"{'.'.join(map(str, cases[i][0]))} = {str(cases[i][1])[:20]!r}": replaced(found, *cases[i]) for i in chosen
    }
    contents |= {f"no {'.'.join(map(str, path))}": without(found, path) for path in every[: 10**6 if LONG else 8]}
    assert_good(judged(f"hostile {name}", label, lambda c=content: given_to(name, encoded(c), tmp_path / "x")) and label
                for label, content in contents.items())  # fmt: skip


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("name", STRUCTURED)
def test_anything_that_hypothesis_puts_anywhere(name, tmp_path, capsys):
    found = documents(READERS[name].valid)
    every = [path for path in places(found) if path]

    @seed(0)
    @settings(max_examples=200 if LONG else 8, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(path=st.sampled_from(every), value=JSON)
    def tried(path: tuple, value: Any) -> None:
        content = encoded(replaced(found, path, value))
        label = f"{'.'.join(map(str, path))} = {value!r}"
        assert judged(f"hostile {name}", label, lambda: given_to(name, content, tmp_path / "x")) is None

    tried()


def assert_good(labels: Iterator[Any]) -> None:
    bad = [label for label in [*labels] if label]
    assert not bad, f"{len(bad)} are not good (the words stand at the end): {bad[:5]}"
