"""Records, one JSON object per line: metrics, results, skipped images, finished parts.

A last line that a power cut tore off is left out by whoever reads, and goes when the next record is added.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from mec.errors import BadInput
from mec.runtime.files import content_hash, only_writer, sync_folder, write_text

Record = dict[str, Any]


def read_records(path: Path) -> list[Record]:
    """The records of a file; none where there is no file.

    Raises:
        BadInput: a line other than a torn last one is no JSON object; names it.
    """
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found += [_record(line)] if line.strip() else []
        except ValueError as error:
            if number < len(lines):
                raise BadInput(f"{path}, line {number}: cannot be read ({error}); remove the line.") from error
    return found


def write_records(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """All of a file's records, in place of those before; the file is whole at any time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, _as_lines(records))


def append_records(path: Path, records: Iterable[Mapping[str, Any]], *, unique: str | None = None) -> None:
    """Add records to a file, on disk when this returns; several processes may do so at once.

    Args:
        unique: a field of which a value comes once in the file; records of a known one are left out.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file, only_writer(file):
        file.seek(0)
        content = file.read()
        if torn := content.rpartition(b"\n")[2]:
            try:
                _record(torn)
                file.write(b"\n")  # whole, but for its end: somebody wrote it by hand
            except ValueError:
                file.truncate(len(content) - len(torn))
        if unique is not None:
            known = {record[unique] for record in read_records(path)}
            records = [record for record in records if record[unique] not in known]
        file.write(_as_lines(records).encode())
        file.flush()
        os.fsync(file.fileno())
    if not content:
        sync_folder(path.parent)


def _record(line: bytes) -> Record:
    record = json.loads(line)
    if not isinstance(record, dict):
        raise ValueError("no JSON object")
    return record


def _as_lines(records: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


class Ledger:
    """Values of the finished parts of a work by key, stored as they come: run again, the work resumes with the next.

    The first line says what the work is, and the file's name holds a hash of it.

    Raises:
        BadInput: the file is of other work.
    """

    def __init__(self, folder: Path, name: str, about: Mapping[str, Any]):
        self.path = folder / f"{name}-{content_hash(about, sort_keys=True)[:8]}.jsonl"
        first = json.loads(json.dumps({"about": about}))  # as it is read
        found = read_records(self.path)
        if not found:
            write_records(self.path, [first])
        elif found[0] != first:
            raise BadInput(f"{self.path}: cannot be resumed, it is of other work. Remove it to start again.")
        self.known = {entry["key"]: entry["value"] for entry in found[1:]}

    def once(self, key: str, compute: Callable[[], Any]) -> Any:
        """The value of a key: as it was stored before, or computed now and stored."""
        if key not in self.known:
            self.known[key] = compute()
            append_records(self.path, [{"key": key, "value": self.known[key]}])
        return self.known[key]
