"""The run folder: what a run was asked to do, and whether it may go on."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mec.data.dataset import Data
from mec.errors import BadInput
from mec.networks.encoder_file import EncoderInfo
from mec.recipes.fields import from_file
from mec.recipes.recipe import Recipe
from mec.runtime.files import SETTINGS, check_same, read_json
from mec.runtime.locks import is_empty


@dataclass(frozen=True)
class Correction:
    """Of a time budget: after `step` steps, which took so many seconds, how many steps the run has."""

    step: int
    steps: int
    seconds: float


@dataclass(frozen=True)
class RunSettings:
    """settings.json: everything that decides a run's result, and what was asked for in the user's words."""

    recipe_name: str
    recipe: Recipe
    data: str
    data_fingerprint: str
    images: int
    seed: int
    steps: int
    steps_per_epoch: int
    why: Sequence[str] = ()  # what `auto` chose, and for what reason
    asked: Mapping[str, Any] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)  # of the data's files, by reason
    told: Sequence[str] = ()  # what there is to know about the data
    split: str = ""  # what the part is called that is measured on
    version: str = ""
    minutes: float | None = None  # to train, where that decides the steps
    corrections: Sequence[Correction] = ()  # of the steps planned, in their order

    @property
    def total(self) -> int:
        """Steps in all; after corrections of a time budget fewer than planned."""
        return self.corrections[-1].steps if self.corrections else self.steps


@dataclass(frozen=True)
class Run:
    """All that is known of a run before its first step: where it lies, what decides its result, what it leaves."""

    folder: Path
    settings: RunSettings
    encoder: EncoderInfo  # stored with the weights, with the steps done

    @property
    def recipe(self) -> Recipe:
        return self.settings.recipe

    @property
    def steps(self) -> int:
        return self.settings.total


def read_settings(out: Path) -> RunSettings:
    path = out / SETTINGS
    if not path.exists():
        raise BadInput(f"{out}: no {SETTINGS} in it, so it is not the folder of a run.")
    return from_file(RunSettings, read_json(path), path)


def resumable(out: Path, asked: Mapping[str, Any]) -> RunSettings | None:
    """The settings of the run to resume; None if the folder is empty.
    Raises BadInput: something else than epochs and the data's place is asked for than the run was started with."""
    if not out.exists() or is_empty(out):
        return None
    stored = read_settings(out)
    free = ("epochs", "data_root")
    check_same(stored.asked, {k: v for k, v in asked.items() if k not in free and v not in (None, (), [])}, out)
    return stored


def check_images(out: Path, stored: RunSettings, images: Data | None) -> None:
    # Of another number: one cannot be read now, or can be again.
    if images is not None and not (images.fits(stored.data_fingerprint) and len(images.train) == stored.images):
        before = f"{stored.images:,} of {stored.data}, fingerprint {stored.data_fingerprint}"
        words = f"other images ({before}; now {len(images.train):,}, {images.fingerprint})"
        raise BadInput(f"{out} was started on {words}. Restore them, or start a new run.")


def resume_command(data: Any, out: Path) -> str:
    """What goes on with a run; all else that was asked for stands in its settings.json."""
    if not isinstance(data, (str, Path)):
        return "the same again (mec.pretrain: with resume=True)"
    asked = read_settings(out).asked if (out / SETTINGS).exists() else {}
    root = ["--data-root", asked["data_root"]] if asked.get("data_root") else []
    return shlex.join(["mec", "pretrain", str(data), "--out", str(out), "--resume", *root])
