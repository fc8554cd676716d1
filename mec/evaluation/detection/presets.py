"""Published schedules and sizes of detectors."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mec.errors import BadInput, nearest
from mec.evaluation.detection.batches import Sizes
from mec.evaluation.detection.network import FULL, Regions
from mec.recipes.fields import from_dict, from_yaml

SWEEP = (0.02, 0.03, 0.05, 0.1, 0.2)  # learning rates, at batch 16


@dataclass(frozen=True)
class Preset:
    """Data, schedule and sizes of a detector. Counts are iterations; the learning rate is for the batch as given."""

    source: str
    train: tuple[str, ...]
    test: str
    iterations: int
    drops: tuple[int, ...]  # where the learning rate falls to a tenth
    warmup: int
    sizes: Sizes
    seeds: tuple[int, ...]
    lr: float = 0.02
    warmup_factor: float = 0.001
    batch_size: int = 16
    momentum: float = 0.9
    weight_decay: float = 1e-4  # none on norms
    flip: float = 0.5
    regions: Regions = FULL
    precise: int = 200  # batches whose statistics are averaged before testing
    photographs: int | None = None  # so many with the largest objects, of train; and tested on the same


PRESETS = {
    protocol: {name: from_dict(Preset, {**row.pop("of", {}), **row}, name) for name, row in table.items()}
    for protocol, table in from_yaml(Path(__file__).with_name("presets.yaml"))["presets"].items()
}


def preset_named(protocol: str, name: str | None) -> tuple[str, Preset]:
    """The name and preset of a protocol's table; its first where none is named."""
    table = PRESETS[protocol]
    name = next(iter(table)) if name is None else name
    if name not in table:
        raise BadInput(f"--preset {name!r} is none of {protocol}'s. {nearest(name, table)}")
    return name, table[name]


def changed_preset(
    preset: Preset, *, iterations: int | None = None, batch_size: int | None = None,
    seeds: Sequence[int] | None = None, lr: float | None = None,
) -> Preset:  # fmt: skip
    """The preset with what was asked for; warm-up and learning-rate steps scale with the iterations."""
    asked: dict[str, Any] = {"batch_size": batch_size, "seeds": tuple(seeds or ()) or None, "lr": lr}
    if iterations is not None:
        drops = tuple(round(iterations / preset.iterations * drop) for drop in preset.drops)
        warmup = min(preset.warmup, max(1, iterations // 10))
        asked |= {"iterations": iterations, "drops": drops, "warmup": warmup}
    return replace(preset, **{name: value for name, value in asked.items() if value is not None})


def result_name(protocol: str, name: str, preset: Preset) -> str:
    """What results call it: the preset, or "PRESET, changed" where more than seeds and rate was."""
    published = PRESETS[protocol][name]
    return name if replace(preset, seeds=published.seeds, lr=published.lr) == published else f"{name}, changed"
