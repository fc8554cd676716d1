"""Detection, the encoder fine-tuned"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from mec.errors import BadInput
from mec.evaluation.protocol import OnImages, Protocol
from mec.runtime.flags import File, Folder, Name, Number, OptionalIntegers, Place, Real, integers
from mec.runtime.ranges import FROM_0, FROM_1, Range

if TYPE_CHECKING:
    from mec.evaluation.results import Result
    from mec.evaluation.subject import Subject


@dataclass(frozen=True, kw_only=True)
class Detection(OnImages):
    """What fine-tuning as a detector takes; runs go to RUN/PROTOCOL-PRESET/lr-LR-seed-SEED/."""

    word: ClassVar[str]

    data_root: Place
    """Folder of the data."""
    train_split: Name = None
    """Split to train on, of data of your own. Default: trainval or train, what is there beside the test's."""
    test_split: Name = None
    """Split to test on, of data of your own. Default: test, else val."""
    classes: File = None
    """Names of the classes to find, one a line; objects of others are left out. Default: those of the data."""
    preset: Name = None
    """Schedule and sizes. small is for data of your own on a CPU, and their default; quick is a look on little data,
    tested on the photographs it trains on."""
    image_size: Annotated[Number, FROM_1] = None
    """px; below 64, random:NAME has the stem for small images. The size of the photographs is the preset's."""
    lr: Annotated[Real, Range(float, 0, 100, above=True)] = None
    """Learning rate of the whole batch. Default: the preset's."""
    sweep: bool = False
    """Try learning rates 0.02, 0.03, 0.05, 0.1 and 0.2 with the first seed and use the best for all seeds."""
    seeds: Annotated[OptionalIntegers, FROM_0] = None
    """Random seeds, one training run each. Default: 0,1,2,3,4 for VOC, 0 for COCO and quick."""
    iterations: Annotated[Number, FROM_1] = None
    """Overrides the preset's iterations; warm-up and learning-rate steps scale with it."""
    batch_size: Annotated[Number, FROM_1] = None
    """Photographs per iteration, over all processes. Default: the preset's."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 is automatic mixed precision; auto takes it where the device has units for it."""
    resume: bool = False
    """Resume the runs in RUN/PROTOCOL-PRESET from their last checkpoints (one every ten minutes)."""

    def check(self) -> None:
        super().check()
        if self.sweep and self.lr is not None:
            raise BadInput(f"--sweep tries its own learning rates: leave out --lr {self.lr}.")
        if self.seeds is not None and len({*self.chosen_seeds()}) < len(self.chosen_seeds()):
            raise BadInput(f"--seeds is {self.seeds}: each seed once.")

    def chosen_seeds(self) -> list[int]:
        return [] if self.seeds is None else integers(self.seeds, "--seeds")

    def measure(self, subject: "Subject") -> "list[Result]":
        from mec.evaluation.detection.presets import PRESETS, changed_preset, preset_named
        from mec.evaluation.detection.runs import detect

        own = self.own() and "small" in PRESETS[self.word]
        name, published = preset_named(self.word, self.preset or ("small" if own else None))
        asked = {name: getattr(self, name) for name in ("iterations", "batch_size", "lr")}
        return detect(subject, self, name, changed_preset(published, **asked, seeds=self.chosen_seeds()))

    def own(self) -> bool:
        """Whether the data are none of the benchmarks, by how they lie."""
        from mec.evaluation.detection.reading import coco_splits

        root = Path(self.data_root)
        coco = not (root / "annotations/instances_train2017.json").is_file() and bool(coco_splits(root))
        found = {"yolo": True, "coco": coco}.get(self.word, (root / "Annotations").is_dir())
        return bool(self.train_split or self.test_split or found)


@dataclass(frozen=True, kw_only=True)
class Voc(Detection):
    """Faster R-CNN (C4), all of it fine-tuned on VOC 2007 trainval, tested on VOC 2007 test.

    Presets: voc07 (default), voc07-vissl, small, quick. DIR holds VOCdevkit/VOC2007; or, of your own, Annotations,
    ImageSets/Main/SPLIT.txt and JPEGImages, with any classes."""

    word = "voc"


@dataclass(frozen=True, kw_only=True)
class Voc0712(Detection):
    """Faster R-CNN (C4), all of it fine-tuned on VOC 2007 and 2012 trainval, tested on VOC 2007 test.

    Presets: voc0712-24k (default), quick. DIR holds VOCdevkit/VOC2007 and VOCdevkit/VOC2012."""

    word = "voc0712"


@dataclass(frozen=True, kw_only=True)
class Coco(Detection):
    """Mask R-CNN (C4), all of it fine-tuned on COCO train2017, tested on val2017: boxes and masks.

    Presets: coco-1x (default), small, quick. DIR holds annotations/ and images/; of your own in this layout, splits of
    the usual names (train, val, test) are found, others named: --train-split a --test-split b, or files of annotations
    from DIR on. Where objects have no outlines, boxes alone are learned (Faster R-CNN)."""

    word = "coco"

    train_images: Folder = None
    """Folder of the photographs to train on, from --data-root on. Default: where the split's are."""
    test_images: Folder = None
    """Folder of the photographs to test on."""
    boxes_only: bool = False
    """Learn boxes alone, also where there are outlines."""


@dataclass(frozen=True, kw_only=True)
class Yolo(Detection):
    """Faster R-CNN (C4), all of it fine-tuned on data of your own as YOLO's text files.

    Presets: small (default), voc07, quick. DIR holds images/SPLIT and labels/SPLIT, or SPLIT/images and SPLIT/labels,
    and data.yaml or classes.txt."""

    word = "yolo"


PROTOCOLS: dict[str, type[Protocol]] = {"voc": Voc, "voc0712": Voc0712, "coco": Coco, "yolo": Yolo}
