"""Transfer to eleven other data sets"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from mec.errors import BadInput
from mec.evaluation.protocol import OnImages, Protocol
from mec.runtime.flags import Names, Number, OptionalReals, Place, as_flag, reals
from mec.runtime.ranges import ABOVE_0, FROM_1, SEED, Range

if TYPE_CHECKING:
    from mec.evaluation.results import Result
    from mec.evaluation.subject import Subject


@dataclass(frozen=True, kw_only=True)
class Transfer(OnImages):
    """Logistic regression on frozen features, or fine-tuning, for each data set by its own grid of settings.

    Settings are chosen on held-out images, fitted once more on all training images, and tested once. Interrupted, the
    search resumes when the same command runs again."""

    data: Annotated[Positional[Names], arg(metavar="NAMES")]
    """food101, cifar10, cifar100, sun397, cars, aircraft, voc2007, dtd, pets, caltech101, flowers102; several with
    commas between; or all."""
    data_root: Place
    """Folder with the data sets, each in the layout of its own archive."""
    mode: Literal["linear", "finetune"] = "linear"
    """linear: logistic regression on features, 45 penalties. finetune: all layers, a grid of learning rates and weight
    decays."""
    preset: Literal["paper", "random", "budget"] = "paper"
    """For finetune. paper: 56 runs of 20,000 steps. random: twice as long, for an untrained network. budget: 20 runs of
    5,000 steps of 64 images."""
    steps: Annotated[Number, FROM_1] = None
    """For finetune: steps of each run. Default: the preset's."""
    batch_size: Annotated[Number, Range(int, 2)] = None
    """For finetune: images per step. Default: the preset's."""
    learning_rates: Annotated[OptionalReals, ABOVE_0] = None
    """For finetune: the grid of learning rates. Default: the preset's."""
    weight_decays: Annotated[OptionalReals, Range(float, 0)] = None
    """For finetune: the grid of weight decays; each is divided by the learning rate. Default: the preset's."""
    standardise: bool = False
    """For linear: scale each feature to mean 0 and standard deviation 1. The protocol takes raw features."""
    background: bool = True
    """Caltech-101 with its background folder as the 102nd class."""
    difficult_as_absent: bool = False
    """VOC: count images that show a class only in difficult instances as negatives, instead of leaving them out."""
    limit: Annotated[Number, Range(int, 2)] = None
    """Use at most this many training and this many test images of each set, for a quick look; tables leave such results
    out."""
    seed: Annotated[int, SEED] = 0
    """Random seed for the held-out parts, Caltech-101's split and fine-tuning."""
    download: bool = False
    """Fetch the data sets that torchvision can."""

    def check(self) -> None:
        super().check()
        of_finetuning = ("steps", "batch_size", "learning_rates", "weight_decays")
        given = [name for name in of_finetuning if getattr(self, name) is not None]
        given += ["preset"] if self.preset != "paper" else []
        if self.mode == "linear" and given:
            raise BadInput(f"{as_flag(given[0])} belongs to fine-tuning, and the mode is linear. Add --mode finetune.")
        if self.mode == "finetune" and self.standardise:
            raise BadInput("--standardise belongs to the mode linear; fine-tuning has no such thing.")

    def measure(self, subject: "Subject") -> "Iterable[Result]":
        from mec.evaluation.transfer.sweeps import FINETUNING, transfer

        recipe = None
        if self.mode == "finetune":
            changed: dict[str, Any] = {"steps": self.steps, "batch_size": self.batch_size}
            for name in ("learning_rates", "weight_decays"):
                value = getattr(self, name)
                changed[name] = None if value is None else tuple(reals(value, as_flag(name)))
            recipe = replace(FINETUNING[self.preset], **{k: v for k, v in changed.items() if v is not None})
        yield from transfer(subject, self, recipe)


PROTOCOLS: dict[str, type[Protocol]] = {"transfer": Transfer}
