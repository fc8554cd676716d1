"""Where the training of a classifier keeps its state, so that the same command resumes it, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from mec.data.dataset import Data, Split
from mec.evaluation.cache import state_hash
from mec.runtime.checkpoints import Checkpoints
from mec.runtime.files import content_hash
from mec.version import __version__

if TYPE_CHECKING:
    from mec.evaluation.subject import Subject

FOLDER = "unfinished"  # beside results.jsonl; deleting it is safe


def unfinished(
    subject: Subject, protocol: str, data: Data, train: Split, recipe: Mapping[str, Any], seed: int
) -> Checkpoints:
    """A file named by all that decides the figures (recipe: how it is trained); nowhere if the images do not tell
    what they are."""
    assert data.test is not None
    about: list[Any] = [
        protocol, recipe, seed, data.classes, asdict(subject.info), state_hash(subject.encoder),
        torch.device(subject.device).type, __version__, torch.__version__,
    ]  # fmt: skip
    for split in (train, data.test.labelled()):
        content = split.images.content_hash()
        if content is None:
            return Checkpoints()
        about += [content, split.y.tolist()]
    return Checkpoints(subject.folder / FOLDER / f"{protocol}-{content_hash(about)}.pt")
