"""What a sweep has found so far, one JSON line each: an interrupted sweep goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mec.runtime.files import write_text


class Ledger:
    """Values by key, written as they come. The file's name holds a hash of what the sweep is about."""

    def __init__(self, folder: Path, name: str, about: Mapping[str, Any]):
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:8]
        self.path = folder / f"{name}-{digest}.jsonl"
        self.known: dict[str, Any] = {}
        if not self.path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_text(self.path, json.dumps({"about": about}) + "\n")
            return
        whole, newline, torn = self.path.read_text().rpartition("\n")
        if torn:  # by a power cut
            write_text(self.path, whole + newline)
        for line in whole.splitlines():
            entry = json.loads(line)
            if "key" in entry:
                self.known[entry["key"]] = entry["value"]

    def once(self, key: str, find: Callable[[], Any]) -> Any:
        """The value of a key: as it was found before, or found now and kept."""
        if key not in self.known:
            self.known[key] = find()
            with open(self.path, "a") as file:
                file.write(json.dumps({"key": key, "value": self.known[key]}) + "\n")
        return self.known[key]
