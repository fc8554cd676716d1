"""What protocols share: a frozen dataclass whose fields are the flags of `mec evaluate` and of `mec.evaluate` alike.

No torch here: the command line reads this before it loads anything heavy. A protocol's `measure` takes a
`mec.evaluation.subject.Subject` and gives results, one by one or all at once; they are printed and stored as they come.
To add one, write the dataclass and its row in the `protocols.py` of its room.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from tyro.conf import Positional, arg

from mec.errors import BadInput
from mec.runtime.flags import Device, Folder, Labels, Name, Number, Real, check
from mec.runtime.ranges import ABOVE_0, FROM_0, FROM_1, SEED, Range

if TYPE_CHECKING:
    from mec.data.dataset import Data
    from mec.evaluation.classifier import Training
    from mec.evaluation.features import Features
    from mec.evaluation.results import Result
    from mec.evaluation.subject import Subject


@dataclass(frozen=True, kw_only=True)
class Protocol(ABC):
    """What every protocol takes."""

    shared: ClassVar[bool] = False  # whether `measure` shares its work among the subject's ranks; else one measures

    device: Device = "auto"
    """Where the encoder runs."""
    out: Folder = None
    """Folder for results.jsonl and cached features. Default: RUN, or the folder of a file that `mec` wrote; else
    runs/NAME."""

    def check(self) -> None:
        """Refuse flags that do not fit, before anything is loaded. Raises BadInput: repeats the flag and its value."""
        check(self)

    def subject(self, run: Any) -> Subject:
        """The encoder that `run` names or is, set up by these flags."""
        from mec.evaluation.subject import resolve

        about = {name: getattr(self, name) for name in ("image_size", "workers") if hasattr(self, name)}
        return resolve(run, device=self.device, out=self.out, **about)

    @abstractmethod
    def measure(self, subject: Subject) -> Iterable[Result]:
        """Results that name their data; encoder, checkpoint and time are added by the caller."""


@dataclass(frozen=True, kw_only=True)
class OnImages(Protocol):
    """What protocols take that read single images."""

    shared: ClassVar[bool] = True
    image_size: Annotated[Number, FROM_1] = None
    """Side of the images the encoder gets, px. Default: the size it was trained on, where that is known; else 224."""
    workers: Annotated[int, FROM_0] = 0
    """Processes that decode images."""


@dataclass(frozen=True, kw_only=True)
class OnLabels(OnImages):
    """What protocols take that learn from one labelled data set and test on its other part."""

    data: Annotated[Positional[Any], arg(metavar="DATA", constructor=str)]
    """digits, a data set's name, a folder with train/CLASS/ and val|test/CLASS/, or a CSV with paths and labels."""
    labels: Labels = None
    """A CSV with the columns path and label, and split (train, val, test) where there is one, in place of folders of
    classes. Without that column 30 % of each class, the same each time, are measured on."""
    data_root: Folder = None
    """Where a torchvision data set's files are; imagenet reads DIR/train and DIR/val."""
    download: bool = False
    """Fetch a torchvision data set from its own home."""
    split: Name = None
    """The held-out part to measure on, by its folder's name: test, val, ... Default: test; where there is none,
    validation. Where there are both, settings are chosen by the other part."""
    limit: Annotated[Number, FROM_1] = None
    """Use at most this many training and this many test images, for a quick look; results note it."""

    @property
    def table(self) -> str | Path | None:
        """The CSV that the data's labels stand in."""
        return self.labels

    def open(self, subject: Subject | None = None) -> Data:
        """The data set, which has labels on both sides; its training images are limited, its test images too.

        Deep values are scaled as the subject was trained; what there is to know about the data is printed.

        Raises BadInput: it is not there, or has no labels."""
        from rich.console import Console

        from mec.data.dataset import Data, limited, with_scale
        from mec.data.opening import open_data
        from mec.runtime.distributed import shared

        data, scale = self.data, subject.info.scale if subject else None
        if isinstance(data, Data):
            if scale and data.scale not in (None, scale) and data.train.images.pixels is not None:
                words = f"in memory, where {data.scale}; the encoder was trained on others: {scale}"
                raise BadInput(f"{data.name}: its images are {words}. Give their folder instead.")
            data = with_scale(data, scale) if scale else data
            data = replace(data, train=limited(data.train, self.limit, seed=0))
        else:
            about: dict[str, Any] = {"root": self.data_root, "download": self.download, "limit": self.limit}
            if self.download and shared().rank:  # the first process fetches it
                shared().wait()
            data = open_data(str(data), **about, split=self.split, scale=scale, labels=self.table)
            if self.download and not shared().rank:
                shared().wait()
            for words in data.words():
                Console(stderr=True, highlight=False).print(words, style="yellow", soft_wrap=True)
        if not data.can_be_measured:
            needs = "train/CLASS/, and val/CLASS/ or test/CLASS/; or --labels CSV, with the columns path and label"
            raise BadInput(f"{data.name} has no labels to measure with: it needs folders {needs}.")
        assert data.test is not None
        return replace(data, test=limited(data.test, self.limit, seed=0))

    def results(self, data: Data, found: Iterable[Result], **settings: Any) -> list[Result]:
        """The results with the data they were measured on, and settings that the function did not know."""
        from mec.evaluation.results import named

        settings |= {} if self.limit is None else {"limit": self.limit}
        found = named(found, data.classes)
        return [replace(result, **data.about, settings={**result.settings, **settings}) for result in found]


@dataclass(frozen=True, kw_only=True)
class OnFeatures(OnLabels):
    """What protocols take that need no more than the features of training and test images."""

    crops: Annotated[int, FROM_1] = 1
    """Features are averaged over so many crops, at the same places in every image; results are called PROTOCOL-crops.
    1: the whole image (the central part, at 64 px and above)."""
    crop_area: Annotated[float, Range(float, 0, 1, above=True)] = 0.25
    """Share of the image that each of several --crops covers."""

    def measure(self, subject: Subject) -> list[Result]:
        data = self.open(subject)
        train, test = self.in_crops(subject).both(data)
        # What needs no network is the first process's, where there are several: the others are done.
        return [] if subject.ranks.rank else self.results(data, self.score(train, test, device=subject.device))

    def in_crops(self, subject: Subject) -> Subject:
        """The subject, its features averaged where --crops asks for it."""
        if self.crops == 1:
            return subject
        from mec.evaluation.crops import in_crops

        return in_crops(subject, self.crops, self.crop_area)

    def results(self, data: Data, found: Iterable[Result], **settings: Any) -> list[Result]:
        found = super().results(data, found, **settings)
        if self.crops == 1:
            return found
        crops = {"crops": self.crops, "crop_area": self.crop_area}
        return [replace(r, protocol=f"{r.protocol}-crops", settings={**r.settings, **crops}) for r in found]

    @abstractmethod
    def score(self, train: Features, test: Features, *, device: str) -> list[Result]:
        """Results that name neither data nor encoder."""


@dataclass(frozen=True, kw_only=True)
class Trained(OnLabels):
    """What protocols take that train on augmented views. A flag that is not given is the preset's; results of changed
    presets are marked: paper, changed."""

    base_lr: Annotated[Real, ABOVE_0] = None
    """Learning rate; times batch size / 256 where the preset scales it. Default: the preset's."""
    batch_size: Annotated[Number, FROM_1] = None
    """Images per step. Default: the preset's."""
    micro_batch_size: Annotated[Number, FROM_1] = None
    """Images that go through the network together, where memory is short: the gradients of a batch's parts add up,
    batch norm sees the parts. Default: the batch; 256 where the backbone is frozen, which changes no figure."""
    epochs: Annotated[Number, FROM_1] = None
    """Passes over the labelled images. Default: the preset's."""
    crop: Annotated[Real, Range(float, 0, 1, above=True)] = None
    """Smallest share of an image's area that a random crop covers. Default: the preset's."""
    seed: Annotated[int, SEED] = 0
    """Random seed for the linear layer, data order and augmentation."""

    def changed(self, recipe: Training) -> Training:
        flags = ("base_lr", "head_lr", "batch_size", "micro_batch_size", "epochs", "steps", "head_norm")
        asked: dict[str, Any] = {name: getattr(self, name, None) for name in flags}
        asked["crop"] = None if self.crop is None else (self.crop, 1.0)
        recipe = recipe if self.epochs is None else replace(recipe, steps=None)
        return replace(recipe, **{name: value for name, value in asked.items() if value is not None})
