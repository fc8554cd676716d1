"""What `mec pack` takes: the home of every flag, its default and its words."""

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg

from mec.runtime.flags import Labels
from mec.runtime.ranges import ABOVE_0, FROM_1, Range


@dataclass(frozen=True, kw_only=True)
class Packing:
    """Write a folder of images as tar files that train the same and are easier to move."""

    resize: Annotated[int | None, arg(metavar="PX", help_behavior_hint=""), FROM_1] = None
    """Shrink images whose shorter side is longer than this (antialiased), stored as JPEG. Default: keep the bytes."""
    quality: Annotated[int, Range(int, 1, 95)] = 90
    """JPEG quality of images that are shrunk, 1 to 95."""
    shard_size: Annotated[float, arg(metavar="MB"), ABOVE_0] = 256
    """About how large a tar becomes."""
    labels: Labels = None
    """A CSV with the columns path and label, and split where there is one, in place of folders of classes."""
    quiet: bool = False
    """Print nothing."""
