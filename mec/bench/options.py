"""What `mec bench` takes, a dataclass a benchmark: the home of every flag, its default and its words."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from mec.runtime.flags import Device, Folder, Integers, Name, Names, Number, Place
from mec.runtime.ranges import FROM_0, FROM_1, Range


@dataclass(frozen=True, kw_only=True)
class Timed:
    """What every benchmark takes."""

    device: Device = "auto"
    """Where to time."""
    out: Place = Path("runs/bench")
    """Folder for coding.json and coding.png, step.json or data.json."""


@dataclass(frozen=True, kw_only=True)
class Coding(Timed):
    """Coding lengths: the released loop with autograd, ours at several orders, the exact forms."""

    rows: Annotated[Integers, FROM_1] = "1024,2048,4096"
    """Numbers of images m, with commas."""
    sizes: Annotated[Integers, FROM_1] = "2048"
    """Embedding sizes d, with commas."""
    repeats: Annotated[int, FROM_1] = 7
    """Rounds in which each contender runs once; medians and ranges are over them."""


@dataclass(frozen=True, kw_only=True)
class Step(Timed):
    """Training steps: forward, objective, backward, optimizer, target network, with each method's published heads."""

    methods: Names = "mec,mec-joint,byol,barlow-twins"
    """Names with commas; ratios are to the first."""
    recipes: Literal["imagenet", "cifar10"] = "imagenet"
    """Whose heads, backbone and view size."""
    batch_size: Annotated[int, FROM_1] = 32
    """Images."""
    image_size: Annotated[Number, FROM_1] = None
    """px, in place of the recipe's."""
    backbone: Name = None
    """In place of the recipe's."""
    repeats: Annotated[int, FROM_1] = 7
    """Rounds in which each contender runs once; medians and ranges are over them."""


@dataclass(frozen=True, kw_only=True)
class Loading(Timed):
    """From disk to views: images a second of each stage, alone and together, and which one limits."""

    recipe: str = "auto"
    """Whose views to make."""
    images: Annotated[int, Range(int, 2)] = 256
    """How many images to time."""
    workers: Annotated[Number, FROM_0] = None
    """Processes that decode. Default: none, one, and one a core, each timed."""
    data_root: Folder = None
    """Where a torchvision data set's or imagenet's files are."""
