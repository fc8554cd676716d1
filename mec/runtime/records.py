"""Records, one JSON object per line: metrics, results, skipped images, finished parts.

A last line that a power cut tore off is left out by whoever reads, and goes when the next record is added. Other lines
that are no record are passed over with a warning: one bad line never stops a run or hides the others.
"""

import json
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mec.errors import MALFORMED, BadInput
from mec.runtime.files import content_hash, first_line, only_writer, sync_folder, write_text

Record = dict[str, Any]


def read_records(path: Path, /, **needs: Any) -> list[Record]:
    """The records of a file; none where there is no file. What is no record is passed over, and a warning names it.
    needs: fields that a record has to have, each of a type (or of one of several)."""
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found += [_record(line, needs)] if line.strip() else []
        except MALFORMED as error:
            if number < len(lines):
                words = f"{path}, line {number}: passed over, it is no record ({first_line(error)[:100]})."
                warnings.warn(words, stacklevel=2)
    return found


def write_records(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """All of a file's records, in place of those before; the file is whole at any time."""
    write_text(path, "".join(json.dumps(record) + "\n" for record in records))


def append_records(path: Path, records: Iterable[Mapping[str, Any]], *, unique: str | None = None) -> None:
    """Add records to a file, on disk when this returns; several processes may do so at once.

    Args:
        unique: a field of which a value comes once in the file; records of a known one are left out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        only_writer(file)
        file.seek(0)
        content = file.read()
        if torn := content.rpartition(b"\n")[2]:
            try:
                _record(torn)
                file.write(b"\n")  # whole, but for its end: somebody wrote it by hand
            except MALFORMED:
                file.truncate(len(content) - len(torn))
        if unique is not None:
            known = {str(record.get(unique)) for record in read_records(path)}
            records = [record for record in records if str(record[unique]) not in known]
        file.write("".join(json.dumps(record) + "\n" for record in records).encode())
        file.flush()
        os.fsync(file.fileno())
    if not content:
        sync_folder(path.parent)


def _record(line: bytes, needs: Mapping[str, Any] = MappingProxyType({})) -> Record:
    record = json.loads(line)
    if not isinstance(record, dict):
        raise ValueError("no JSON object")
    if wrong := [name for name, kind in needs.items() if name not in record or not isinstance(record[name], kind)]:
        raise ValueError(f"no fitting {wrong[0]!r}")
    return record


class Ledger:
    """Values of the finished parts of a work by key, stored as they come: run again, the work resumes with the next.

    The first line says what the work is, and the file's name holds a hash of it.

    Raises BadInput: the file is of other work."""

    def __init__(self, folder: Path, name: str, about: Mapping[str, Any], *, writes: bool = True):
        self.path = folder / f"{name}-{content_hash(about, sort_keys=True)[:8]}.jsonl"
        first = json.loads(json.dumps({"about": about}))  # as it is read
        found = read_records(self.path)
        self.writes = writes  # of processes that work together, one
        if not found and writes:
            write_records(self.path, [first])
        elif found and found[0] != first:
            raise BadInput(f"{self.path}: cannot be resumed, it is of other work. Remove it to start again.")
        found = [entry for entry in found[1:] if isinstance(entry.get("key"), str)]
        self.known: dict[str, Any] = {entry["key"]: entry.get("value") for entry in found}

    def once(self, key: str, compute: Callable[[], Any]) -> Any:
        """The value of a key: as it was stored before, or computed now and stored."""
        if key not in self.known:
            self.known[key] = compute()
            if self.writes:
                append_records(self.path, [{"key": key, "value": self.known[key]}])
        return self.known[key]
