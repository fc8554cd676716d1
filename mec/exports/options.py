"""What `mec embed` takes, the home of its flags, defaults and words; and what an export is made from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from mec.runtime.flags import Device
from mec.runtime.ranges import FROM_0

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mec.networks.encoder_file import EncoderInfo


@dataclass(frozen=True)
class Taken:
    """An encoder to write for another tool."""

    file: Path
    info: EncoderInfo
    encoder: nn.Module
    weights: dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """Turn a folder of images into features: an .npz with `paths` and `features`."""

    out: Annotated[str | Path, arg(metavar="FILE", constructor=Path)]
    """The .npz to write. Read it with numpy.load(FILE): data["features"][i] belongs to data["paths"][i]."""
    device: Device = "auto"
    """Where the encoder runs."""
    workers: Annotated[int, FROM_0] = 0
    """Processes that decode images."""
