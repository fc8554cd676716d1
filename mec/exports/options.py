"""What `mec embed` takes, the home of its flags, defaults and words; and what an export is made from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from mec.runtime.flags import Device, Labels
from mec.runtime.ranges import FROM_0, FROM_1

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
    pixels: bool = False  # whether ONNX takes images as they are


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """Turn images into features: a file with a row for each."""

    out: Annotated[str | Path, arg(metavar="FILE", constructor=Path)]
    """The file to write: .npz (arrays paths, features, labels), .npy (features alone, their paths beside it in
    .paths.csv), .parquet (columns path, label, features) or .csv (path, label, f0, f1, ...)."""
    labels: Labels = None
    """A CSV with the columns path and label, to be written beside the features; or the word folders: the names of the
    folders that images lie in."""
    device: Device = "auto"
    """Where the encoder runs."""
    workers: Annotated[int, FROM_0] = 0
    """Processes that decode images."""
    batch_size: Annotated[int, FROM_1] = 256
    """Images that go through the encoder together."""
