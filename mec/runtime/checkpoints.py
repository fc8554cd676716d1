"""A run's own checkpoints, in torch's format, read with weights_only=True."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from mec.errors import BadInput
from mec.runtime.files import atomic, first_line

KEPT = 2  # checkpoints


def checkpoints(out: Path) -> list[Path]:
    """The run's checkpoints, oldest first."""
    found = [p for p in (out / "checkpoints").glob("step-*.pt") if re.fullmatch(r"step-\d+\.pt", p.name)]
    return sorted(found, key=lambda p: int(p.stem.removeprefix("step-")))


def save(out: Path, step: int, state: dict[str, Any]) -> Path:
    """Write the state after `step` steps; older ones than the last two go."""
    folder = out / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step}.pt"
    with atomic(path) as part:
        torch.save({**state, "step": step}, part)
    for old in checkpoints(out)[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def newest(out: Path) -> tuple[dict[str, Any], list[str]] | None:
    """The newest state that can be read, and words about newer ones that could not; None where there is none.

    Raises:
        BadInput: there are checkpoints, but none can be read.
    """
    complaints: list[str] = []
    for path in reversed(checkpoints(out)):
        try:
            return torch.load(path, map_location="cpu", weights_only=True), complaints
        except Exception as error:  # truncated or foreign files fail in many ways
            complaints.append(f"{path}: cannot be read ({first_line(error)[:120]})")
    if complaints:
        raise BadInput("; ".join(complaints) + ". Start again with another --out.")
    return None
