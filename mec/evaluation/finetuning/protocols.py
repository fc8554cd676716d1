"""Labelled images, the backbone fine-tuned"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Literal

from mec.evaluation.protocol import Protocol, Trained
from mec.runtime.flags import Number, Real
from mec.runtime.ranges import ABOVE_0, FROM_1, Range

if TYPE_CHECKING:
    from mec.evaluation.results import Result
    from mec.evaluation.subject import Subject


@dataclass(frozen=True, kw_only=True)
class Finetune(Trained):
    """The backbone and a new linear layer, fine-tuned end to end on all labels.

    Interrupted, it resumes when the same command runs again."""

    preset: Literal["simclr", "simclr-random", "budget"] = "simclr"
    """simclr: 20,000 steps of 256 images (40,000 for random weights); budget: 5,000 steps of 64."""
    steps: Annotated[Number, FROM_1] = None
    """Length of the training, in place of epochs. Default: the preset's."""
    weight_decay: Annotated[float, Range(float, 0)] = 0.0
    """Divided by the learning rate before use, as SimCLR's grid of 1e-6 to 1e-3 is."""
    head_lr: Annotated[Real, ABOVE_0] = None
    """Learning rate of the linear layer. Default: that of the backbone."""

    def measure(self, subject: Subject) -> list[Result]:
        from mec.evaluation.classifier import preset_name
        from mec.evaluation.finetuning.finetune import FINETUNES, finetune, with_decay

        published = FINETUNES[self.preset]
        recipe = self.changed(published)
        recipe = with_decay(recipe, recipe.base_lr, self.weight_decay)
        data = self.open(subject)
        found = finetune(subject, data, recipe, seed=self.seed)
        return self.results(data, found, preset=preset_name(self.preset, published, recipe))


@dataclass(frozen=True, kw_only=True)
class Semi(Trained):
    """The backbone and a new linear layer, fine-tuned end to end on 1 % or 10 % of the labels.

    Interrupted, it resumes when the same command runs again."""

    labels: str = field()
    """1%, 10% or another share, drawn class by class (a smaller one is part of a larger); or a file of names, one per
    line, such as SimCLR's 1percent.txt. A CSV that has all labels is given as DATA."""
    preset: Literal["paper", "simclr", "barlow-twins", "vicreg", "swav", "vissl"] = "paper"
    """Whose recipe for so many labels. paper: SGD, batch size 1024, 50 epochs, cosine schedule, learning rate 0.05 x
    batch size / 256."""
    head_lr: Annotated[Real, ABOVE_0] = None
    """Learning rate of the linear layer. Default: the preset's."""

    @property
    def table(self) -> None:
        """`labels` are something else here."""

    def measure(self, subject: Subject) -> list[Result]:
        from mec.data.dataset import limited
        from mec.evaluation.classifier import preset_name
        from mec.evaluation.finetuning.semi import labelled_part, semi, semi_recipe, share_asked

        data = replace(self, limit=None).open(subject)  # the labels are drawn from all images
        assert data.test is not None
        data = replace(data, test=limited(data.test, self.limit, self.seed))
        everything = data.train.labelled()
        part = labelled_part(everything, self.labels, self.seed)
        published = semi_recipe(self.preset, share_asked(self.labels, part, everything))
        recipe = self.changed(published)
        found = semi(subject, data, limited(part, self.limit, self.seed), recipe, labels=self.labels, seed=self.seed)
        return self.results(data, found, preset=preset_name(self.preset, published, recipe))


PROTOCOLS: dict[str, type[Protocol]] = {"finetune": Finetune, "semi": Semi}
