"""What a benchmark found: told, and written beside the machine that it ran on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mec.runtime.files import write_json
from mec.runtime.progress import Console


def report(where: Mapping[str, Any], shown: Iterable[Any], found: Mapping[str, Any], path: Path, *others: Path) -> None:
    """Print the machine, then what there is to show; write the machine and what was found to a JSON file; name all."""
    console = Console(highlight=False)
    console.width = max(console.width, 110)  # of tables with six columns
    for each in (", ".join(f"{k} {v}" for k, v in where.items()), *shown):
        console.print(each)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"machine": where, **found})
    console.print("Written: " + ", ".join(map(str, (path, *others))), soft_wrap=True)
