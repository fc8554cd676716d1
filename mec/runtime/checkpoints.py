"""The state of a training on disk, from which it resumes bit for bit; nothing is unpickled (weights_only=True)."""

import contextlib
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mec.errors import BadInput
from mec.runtime.files import atomic, first_line
from mec.runtime.locks import only_one

KEPT = 2  # of step-N.pt
SAVE_MINUTES = 10.0


@dataclass
class Checkpoints:
    """Where a training keeps its state.

    A state is {"step": steps done, "found": what was measured so far, NAME: the state of each part}."""

    path: Path | None = None  # FILE.pt; or a folder, for step-N.pt, the last two; None: nothing is kept
    minutes: float = field(default_factory=lambda: SAVE_MINUTES)
    found: list[Any] = field(default_factory=list)
    saved: float = field(default_factory=time.monotonic)  # seconds

    def files(self) -> list[Path]:
        """Oldest first."""
        if self.path is None:
            return []
        if self.path.suffix == ".pt":
            return [self.path] if self.path.exists() else []
        found = [p for p in self.path.glob("step-*.pt") if re.fullmatch(r"step-\d+\.pt", p.name)]
        return sorted(found, key=lambda p: int(p.stem.removeprefix("step-")))

    def is_due(self) -> bool:
        """Whether so many minutes have passed since the last was saved: short epochs would write more than train."""
        return self.path is not None and time.monotonic() - self.saved >= 60 * self.minutes

    def save(self, step: int, parts: Mapping[str, Any]) -> None:
        """Keep the state after `step` steps; parts are modules and optimizers, or what else has a state dict."""
        state = {name: part.state_dict() for name, part in parts.items()}  # what lies in shards, all ranks have to ask
        if self.path is None:
            return
        file = self.path if self.path.suffix == ".pt" else self.path / f"step-{step}.pt"
        with atomic(file) as part:
            torch.save({**state, "found": self.found, "step": step}, part)
        for old in self.files()[:-KEPT]:
            old.unlink(missing_ok=True)
        self.saved = time.monotonic()

    def newest(self) -> tuple[dict[str, Any], list[str]] | None:
        """The newest state that can be read, and words about newer ones that could not; None where there is none.
        Raises BadInput: there are some, but none can be read."""
        complaints: list[str] = []
        for path in reversed(self.files()):
            try:
                return torch.load(path, map_location="cpu", weights_only=True), complaints
            except Exception as error:  # truncated or foreign files fail in many ways
                complaints.append(f"{path}: cannot be read ({first_line(error)[:120]})")
        if complaints:
            raise BadInput(f"{'; '.join(complaints)}, so that it cannot be resumed. {self.advice}")
        return None

    def restore(self, parts: Mapping[str, Any], say: Callable[[str], None] = print) -> int:
        """Put the parts into the newest state that can be read; gives the steps done, 0 where nothing was kept.
        Raises BadInput: none can be read, or it is of another training."""
        found = self.newest()
        if found is None:
            return 0
        state, complaints = found
        for words in complaints:
            say(f"{words}; the one before it is used.")
        try:
            for name, part in parts.items():
                part.load_state_dict(state[name])
            self.found[:] = state.get("found", [])  # older versions wrote it for classifiers alone
            return state["step"]
        except Exception as error:  # as above
            files, why = ", ".join(path.name for path in self.files()), first_line(error)[:120]
            words = f"cannot be resumed, it is not of this training ({why}). Put its own back. {self.advice}"
            raise BadInput(f"{self.path} ({files}): {words}") from error

    @property
    def advice(self) -> str:
        return f"Remove {self.path} to start again, or choose another --out."

    def only_here(self) -> contextlib.AbstractContextManager[None]:
        """No other process keeps its state there meanwhile. Raises BadInput: one does."""
        if self.path is None:
            return contextlib.nullcontext()
        return only_one(self.path)

    def remove(self) -> None:
        for path in self.files():
            path.unlink(missing_ok=True)


def in_run(out: Path, minutes: float | None = None) -> Checkpoints:
    return Checkpoints(out / "checkpoints", SAVE_MINUTES if minutes is None else minutes)


def checkpoints(out: Path) -> list[Path]:
    """The files of a run folder's, oldest first."""
    return in_run(out).files()
