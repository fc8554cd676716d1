"""What `mec embed` takes: the home of every flag, its default and its words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from mec.runtime.flags import Device
from mec.runtime.ranges import FROM_0


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """Turn a folder of images into features: an .npz with `paths` and `features`."""

    out: Annotated[str | Path, arg(metavar="FILE", constructor=Path)]
    """The .npz to write. Read it with numpy.load(FILE): data["features"][i] belongs to data["paths"][i]."""
    device: Device = "auto"
    """Where the encoder runs."""
    workers: Annotated[int, FROM_0] = 0
    """Processes that decode images."""
