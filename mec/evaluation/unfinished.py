"""A training of a classifier that was interrupted: the same command goes on where it stopped, bit for bit."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mec.data.dataset import Data, Split
from mec.errors import BadInput
from mec.evaluation.cache import state_hash
from mec.runtime.files import atomic, first_line
from mec.version import __version__

if TYPE_CHECKING:
    from mec.evaluation.classifier import Training
    from mec.evaluation.subject import Subject


FOLDER = "unfinished"  # beside results.jsonl; deleting it is safe


SAVE_MINUTES = 10.0


@dataclass
class Unfinished:
    """The state of a training in a file, until its results are there; without a path nothing is kept."""

    path: Path | None = None
    found: list[Any] = field(default_factory=list)  # what was measured after epochs
    saved: float = field(default_factory=time.monotonic)

    def restore(self, parts: Mapping[str, Any]) -> int:
        """Put modules and optimizer into the state that was kept; gives the steps done, 0 where there is none.

        Raises:
            BadInput: the file is damaged.
        """
        if self.path is None or not self.path.exists():
            return 0
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            for name, part in parts.items():
                part.load_state_dict(state[name])
        except Exception as error:  # truncated or foreign files fail in many ways
            raise BadInput(
                f"{self.path}: cannot be gone on with ({first_line(error)[:120]}). Remove it to start again."
            ) from error
        self.found[:] = state["found"]
        return state["step"]

    def save(self, step: int, parts: Mapping[str, Any], *, last: bool) -> None:
        """After the last step, and every ten minutes: short epochs would write more than they train."""
        if self.path is None or not (last or time.monotonic() - self.saved >= 60 * SAVE_MINUTES):
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(self.path) as part:
            torch.save({"step": step, "found": self.found, **{k: v.state_dict() for k, v in parts.items()}}, part)
        self.saved = time.monotonic()

    def remove(self) -> None:
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def unfinished(subject: Subject, protocol: str, data: Data, train: Split, recipe: Training, seed: int) -> Unfinished:
    """Where this training is kept, by all that decides its figures; nowhere if the images do not tell what they are."""
    assert data.test is not None
    about: list[Any] = [
        protocol, asdict(recipe), seed, data.classes, asdict(subject.info), state_hash(subject.encoder),
        torch.device(subject.device).type, __version__, torch.__version__,
    ]  # fmt: skip
    for split in (train, data.test.labelled()):
        content = split.images.content_hash()
        if content is None:
            return Unfinished()
        assert split.labels is not None
        about += [content, split.labels.tolist()]
    digest = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    return Unfinished(subject.folder / FOLDER / f"{protocol}-{digest}.pt")
