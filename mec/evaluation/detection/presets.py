"""Published schedules and sizes of detectors."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mec.errors import BadInput, nearest
from mec.evaluation.detection.batches import Sizes
from mec.evaluation.detection.network import FULL, Regions

SWEEP = (0.02, 0.03, 0.05, 0.1, 0.2)  # learning rates, at batch 16
VOC_SIZES = Sizes(tuple(range(480, 801, 32)), 800)
COCO_SIZES = Sizes(tuple(range(640, 801, 32)), 800)


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


VOC0712_24K = Preset(
    source="MEC appendix C; MoCo's pascal_voc_R_50_C4_24k on detectron2",
    train=("2007 trainval", "2012 trainval"), test="2007 test",
    iterations=24_000, drops=(18_000, 22_000), warmup=100, sizes=VOC_SIZES, seeds=(0, 1, 2, 3, 4),
)  # fmt: skip

VOC07 = replace(
    VOC0712_24K,
    source="MEC appendix C: fewer iterations according to the size of the data (24,000 x 5,011 / 16,551)",
    train=("2007 trainval",), iterations=7_266, drops=(5_450, 6_661),
)  # fmt: skip

VOC07_VISSL = replace(VOC07, source="VISSL's rn50_transfer_voc07_detectron2_e2e", iterations=12_500, drops=(9_500,))

COCO_1X = Preset(
    source="MEC appendix C; MoCo's coco_R_50_C4 on detectron2, 1x schedule",
    train=("train2017",), test="val2017",
    iterations=90_000, drops=(60_000, 80_000), warmup=1_000, sizes=COCO_SIZES, seeds=(0,),
)  # fmt: skip

# A look on little data, on a CPU: small images, few regions, tested on the photographs it was trained on.
QUICK: dict[str, Any] = {
    "source": "for a look on little data; compares with nothing",
    "iterations": 600, "drops": (480, 560), "warmup": 20, "lr": 0.03, "batch_size": 2, "seeds": (0,),
    "sizes": Sizes((128,), 128, 224), "flip": 0.0, "precise": 20, "photographs": 8,
    "regions": Regions(before_nms=(2_000, 1_000), after_nms=(200, 100), regions=16, pooled=7),
}  # fmt: skip

# For data of one's own, on two cores: half an hour or so for a ResNet-18.
SMALL: dict[str, Any] = {
    "source": "for some hundred photographs of one's own on a CPU; compares with nothing published",
    "iterations": 1_200, "drops": (900, 1_100), "warmup": 100, "lr": 0.01, "batch_size": 4, "seeds": (0,),
    "sizes": Sizes((256, 288, 320), 320, 480), "precise": 50,
    "regions": Regions((16.0, 32.0, 64.0, 128.0, 256.0), 128, (2_000, 1_000), (400, 150), 64, 100, 7),
}  # fmt: skip

PRESETS: dict[str, dict[str, Preset]] = {
    "voc": {
        "voc07": VOC07, "voc07-vissl": VOC07_VISSL, "small": replace(VOC07, **SMALL), "quick": replace(VOC07, **QUICK)
    },
    "voc0712": {"voc0712-24k": VOC0712_24K, "quick": replace(VOC0712_24K, **QUICK)},
    "coco": {"coco-1x": COCO_1X, "small": replace(COCO_1X, **SMALL), "quick": replace(COCO_1X, **QUICK)},
    "yolo": {"small": replace(VOC07, **SMALL), "voc07": VOC07, "quick": replace(VOC07, **QUICK)},
}  # fmt: skip


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
