"""Labelled images, the backbone frozen"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import arg

from mec.errors import BadInput
from mec.evaluation.protocol import OnFeatures, Protocol, Trained
from mec.runtime.flags import Integers, as_flag, integers
from mec.runtime.ranges import ABOVE_0, FROM_1, SEED

if TYPE_CHECKING:
    from mec.evaluation.features import Features
    from mec.evaluation.results import Result
    from mec.evaluation.subject import Subject


@dataclass(frozen=True, kw_only=True)
class FewShot(OnFeatures):
    """Logistic regression on a few labels per class: mean and standard deviation over random draws."""

    labels_per_class: Annotated[Integers, FROM_1] = "1,5"
    """Labelled images per class; several numbers are measured in turn."""
    draws: Annotated[int, FROM_1] = 20
    """Random draws of the labelled images."""
    seed: Annotated[int, SEED] = 0
    """Random seed for the draws."""

    def score(self, train: Features, test: Features, *, device: str) -> list[Result]:
        from mec.evaluation.probing.fewshot import fewshot

        counts = integers(self.labels_per_class, "--labels-per-class")
        return fewshot(train, test, labels_per_class=counts, draws=self.draws, seed=self.seed)


@dataclass(frozen=True, kw_only=True)
class Knn(OnFeatures):
    """k nearest neighbours: a vote of the most similar training images, weighted by cosine similarity."""

    k: Annotated[Integers, FROM_1] = "10,20,100,200"
    """Neighbours; several numbers are measured in turn, those above the number of training images are left out."""
    temperature: Annotated[float, ABOVE_0] = 0.07
    """A neighbour's vote weighs exp(cosine similarity / temperature)."""

    def score(self, train: Features, test: Features, *, device: str) -> list[Result]:
        from mec.evaluation.probing.knn import knn

        ks = integers(self.k, "--k")
        if above := [k for k in ks if k > len(train.x)]:
            from mec.runtime.progress import Console

            words = f"k {', '.join(map(str, above))}: left out, there are {len(train.x):,} training images."
            Console(stderr=True, highlight=False).print(words, style="yellow")
        return knn(train, test, k=ks, temperature=self.temperature, device=device)


@dataclass(frozen=True, kw_only=True)
class LinearProbe(Trained, OnFeatures):
    """A linear classifier on the frozen backbone.

    The preset fast (results call it linear-fast) is logistic regression on features of images without augmentation,
    its penalty chosen on held-out training images. The others train on random crops and flips, as published. They were
    made for ImageNet: for few images their learning rates are too low (raise --base-lr), and on a CPU they take long.
    Interrupted, they resume when the same command runs again."""

    preset: Literal["fast", "paper", "released", "simclr", "simsiam", "barlow-twins", "vicreg", "lightly"] = "fast"
    """Whose settings. paper and released: LARS, batch size 4096, 100 epochs, learning rate 0.05, and 0.03 after a batch
    norm."""
    head_norm: Annotated[bool | None, arg(metavar="{True,False}", help_behavior_hint="")] = None
    """Batch norm without affine parameters before the linear layer. Default: the preset's."""

    def check(self) -> None:
        super().check()
        for name in ("base_lr", "batch_size", "micro_batch_size", "epochs", "crop", "head_norm"):
            if self.preset == "fast" and getattr(self, name) is not None:
                raise BadInput(f"{as_flag(name)} belongs to the presets that train; fast has none. Add --preset paper.")
        if self.preset != "fast" and self.crops > 1:
            raise BadInput(f"--crops is {self.crops}: preset {self.preset} makes its own crops. Take --preset fast.")

    def measure(self, subject: Subject) -> list[Result]:
        data = self.open(subject)
        if self.preset == "fast":
            from mec.evaluation.probing.linear import linear

            subject = self.in_crops(subject)
            chosen_on = None if data.validation is None else subject.features(data.validation.labelled())
            train, test = subject.both(data)
            if subject.ranks.rank:
                return []
            return self.results(data, linear(train, test, seed=self.seed, validation=chosen_on))
        from mec.evaluation.classifier import preset_name
        from mec.evaluation.probing.probe import PROBES, train_probe

        published = PROBES[self.preset]
        recipe = self.changed(published)
        found = train_probe(subject, data, recipe, seed=self.seed)
        return self.results(data, found, preset=preset_name(self.preset, published, recipe))

    def score(self, train: Features, test: Features, *, device: str) -> list[Result]:
        from mec.evaluation.probing.linear import linear

        if self.preset != "fast":
            raise BadInput(f"--preset {self.preset} trains on images; features take --preset fast.")
        return linear(train, test, seed=self.seed)


PROTOCOLS: dict[str, type[Protocol]] = {"fewshot": FewShot, "knn": Knn, "linear": LinearProbe}
