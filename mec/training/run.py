"""The run folder: what a run was asked to do, and whether it may go on."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mec.errors import BadInput
from mec.recipes.fields import from_file
from mec.recipes.recipe import Recipe
from mec.runtime.files import SETTINGS


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
    version: str = ""


def read_settings(out: Path) -> RunSettings:
    path = out / SETTINGS
    if not path.exists():
        raise BadInput(f"{out}: no {SETTINGS} in it, so it is not the folder of a run.")
    try:
        values = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise BadInput(f"{path}: not valid JSON ({error}).") from error
    return from_file(RunSettings, values, path)


def as_json(settings: RunSettings) -> str:
    return json.dumps(asdict(settings), indent=1, ensure_ascii=False) + "\n"


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], out: Path) -> None:
    """Resuming may change the number of epochs, and nothing else that was asked for.

    Raises:
        BadInput: names every setting that differs, with both values.
    """
    differing = [
        f"{name}: {before.get(name)!r} before, {value!r} now"
        for name, value in now.items()
        if name not in ("epochs", "data_root") and value not in (None, (), []) and before.get(name) != value
    ]
    if differing:
        raise BadInput(
            f"{out} was started with other settings ({'; '.join(differing)}). Leave them out to resume it as it was, "
            "or start a new run with another --out."
        )


def resume_command(data: Any, out: Path) -> str:
    """What goes on with a run; all else that was asked for stands in its settings.json."""
    if not isinstance(data, (str, Path)):
        return "the same again (mec.pretrain: with resume=True)"
    asked = read_settings(out).asked if (out / SETTINGS).exists() else {}
    root = ["--data-root", asked["data_root"]] if asked.get("data_root") else []
    return shlex.join(["mec", "pretrain", str(data), "--out", str(out), "--resume", *root])
