"""What `mec detect` takes, the home of its flags, defaults and words."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from mec.runtime.flags import Device, Folder
from mec.runtime.ranges import FROM_0, Range

DETECTOR = "detector.safetensors"  # in the folder of its training


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Find objects in images by a detector that `mec evaluate RUN voc|coco|yolo` has trained."""

    out: Annotated[str | Path, arg(metavar="FILE", constructor=Path)]
    """The .json to write, as COCO's: images, categories, and annotations with bbox (x, y, w, h in px), score and, of
    Mask R-CNN, segmentation as run lengths."""
    pictures: Folder = None
    """Also draw each image with what was found in it, into this folder."""
    least_score: Annotated[float, Range(float, 0, 1)] = 0.05
    """Detections below this score (0 to 1) are left out; pictures show those from 0.5 on."""
    device: Device = "auto"
    """Where the detector runs."""
    workers: Annotated[int, FROM_0] = 0
    """Processes that decode images."""
