"""The encoder as detectron2 reads it: a file of its names, and configurations of the R50-C4 protocols.

detectron2 itself is no dependency: the file follows the names that its ResNets have.
"""

import json
import pickle
import re
from pathlib import Path

import numpy as np

from mec.errors import BadInput
from mec.exports.options import Taken
from mec.runtime.files import atomic, write_text

# Its C4 heads build res5 of bottlenecks, so that no ResNet-18 or -34 fits.
DEPTHS = {"resnet50": 50, "resnet101": 101, "resnet152": 152}

CONFIG = Path(__file__).with_suffix(".yaml")  # what is not in it is detectron2's own default


def detectron2_name(name: str) -> str:
    """A tensor's name in detectron2's ResNets.

    >>> detectron2_name("conv1.weight"), detectron2_name("layer1.0.downsample.1.bias")
    ('stem.conv1.weight', 'res2.0.shortcut.norm.bias')"""
    name = name if "layer" in name else f"stem.{name}"
    name = re.sub(r"layer(\d)", lambda found: f"res{int(found[1]) + 1}", name)
    name = re.sub(r"bn(\d)", r"conv\1.norm", name)
    return name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")


def export_detectron2(taken: Taken, out: Path) -> list[str]:
    """Write the pickle that detectron2's checkpointer reads, and a configuration for VOC07+12 and one for COCO.

    Raises:
        BadInput: an encoder that detectron2 has no network for."""
    info, weights = taken.info, taken.weights
    if info.backbone not in DEPTHS or info.small_stem:
        stem = " with the stem for small images" if info.small_stem else ""
        known = ", ".join(DEPTHS)
        raise BadInput(f"detectron2 has no {info.backbone}{stem} (it has {known} for images of 64 px or more).")
    tensors = {detectron2_name(name): np.asarray(tensor.cpu().numpy()) for name, tensor in weights.items()}
    with atomic(out) as part, open(part, "wb") as file:
        pickle.dump({"model": tensors, "__author__": "mec", "matching_heuristics": True}, file)
    said = [f"{out}: {len(weights)} tensors under detectron2's names. Settings that go with it:"]
    numbers = [", ".join(f"{255 * v:.6g}" for v in part) for part in (info.mean, info.std)]
    for kind in ("voc0712", "coco"):
        coco, path = kind == "coco", out.with_name(f"{out.stem}-{kind}.yaml")
        write_text(path, CONFIG.read_text().format(
            title="Mask R-CNN, R50-C4, COCO 1x" if coco else "Faster R-CNN, R50-C4, VOC 07+12, 24k",
            weights=json.dumps(out.resolve().as_posix()), mean=numbers[0], std=numbers[1], masks=coco,
            depth=DEPTHS[info.backbone], classes=80 if coco else 20,
            train='("coco_2017_train",)' if coco else '("voc_2007_trainval", "voc_2012_trainval")',
            test='("coco_2017_val",)' if coco else '("voc_2007_test",)',
            sizes=", ".join(map(str, range(640 if coco else 480, 801, 32))),
            steps="60000, 80000" if coco else "18000, 22000", iterations=90_000 if coco else 24_000,
            warmup=1000 if coco else 100,
        ))  # fmt: skip
        said.append(f"    {path}")
    return said
