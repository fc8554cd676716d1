"""Records are whole lines: a power cut takes the last one at most, and several processes may add to a file at once."""

from __future__ import annotations

import json
import os

import pytest
from helpers import lines
from processes import CONTEXT

from mec.runtime.records import Ledger, append_records, read_records, write_records


@pytest.mark.parametrize("tail", ['{"n": 3, "w', '{"n": 3', "\0\0\0\0", "  ", "12"])
def test_a_torn_last_line_is_left_out_and_goes_with_the_next_record(tmp_path, tail):
    path = tmp_path / "records.jsonl"
    append_records(path, [{"n": 1}, {"n": 2}])
    path.write_text(path.read_text() + tail)
    before = path.read_bytes()
    assert read_records(path) == [{"n": 1}, {"n": 2}]
    assert path.read_bytes() == before  # reading writes nothing
    append_records(path, [{"n": 4}])
    assert lines(path) == [{"n": 1}, {"n": 2}, {"n": 4}]


def test_a_last_line_that_only_lacks_its_end_is_kept(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text('{"n": 1}\n{"n": 2}')
    assert read_records(path) == [{"n": 1}, {"n": 2}]
    append_records(path, [{"n": 3}])
    assert lines(path) == [{"n": 1}, {"n": 2}, {"n": 3}]


@pytest.mark.parametrize("broken", ["{torn", "3", '["n", 1]', "\0\0", "[" * 10**5, '{"n": "x"}', "{}", "\udcff"])
def test_another_line_that_is_no_record_is_passed_over_with_a_word(tmp_path, broken):
    path = tmp_path / "records.jsonl"
    path.write_bytes(f'{{"n": 1}}\n{broken}\n{{"n": 3}}\n'.encode("utf-8", "surrogateescape"))
    with pytest.warns(UserWarning, match=r"records\.jsonl, line 2: passed over"):
        assert read_records(path, n=int) == [{"n": 1}, {"n": 3}]


def test_no_file_has_no_records_and_writing_replaces_them_all(tmp_path):
    path = tmp_path / "new" / "records.jsonl"
    assert read_records(path) == []
    write_records(path, [{"n": 1}])
    write_records(path, [{"n": 2}, {"n": float("inf")}])
    assert read_records(path) == [{"n": 2}, {"n": float("inf")}]


def add(path, number: int) -> None:
    for n in range(50):
        append_records(path, [{"n": n, "by": number, "text": "x" * 9000}], unique="n")


def test_processes_that_add_at_once_neither_mix_lines_nor_add_a_known_one(tmp_path):
    path = tmp_path / "records.jsonl"
    processes = [CONTEXT.Process(target=add, args=(path, number)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert sorted(record["n"] for record in read_records(path)) == list(range(50))


def test_a_ledger_finds_each_part_once_and_is_never_rewritten(tmp_path):
    ledger = Ledger(tmp_path, "a", {})
    assert ledger.once("one", lambda: 1.0) == 1.0
    before, text = os.stat(ledger.path), ledger.path.read_text()
    again = Ledger(tmp_path, "a", {})
    assert again.once("one", lambda: pytest.fail("looked for again")) == 1.0
    after = os.stat(ledger.path)
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    ledger.path.write_text(text + '{"key": "tw')
    again = Ledger(tmp_path, "a", {})
    assert again.known == {"one": 1.0}
    again.once("two", lambda: None)
    assert Ledger(tmp_path, "a", {}).known == {"one": 1.0, "two": None}


def test_a_ledger_of_an_older_version_is_found_by_its_name(tmp_path):
    """Name and lines as commit 387d210 wrote them."""
    about = {"set": "dtd", "mode": "linear", "limit": None, "mean": (0.5, 0.25), "recipe": {"steps": 3, "rate": 0.1}}
    old = tmp_path / "dtd-linear-90bbe33a.jsonl"
    old.write_text(json.dumps({"about": about}) + '\n{"key": "penalty 1e-06", "value": 41.5}\n')
    assert Ledger(tmp_path, "dtd-linear", about).known == {"penalty 1e-06": 41.5}
    assert Ledger(tmp_path, "dtd-linear", about | {"limit": 3}).known == {}
