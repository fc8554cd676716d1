"""From images to answers: `mec select`, `predict`, `search`, `duplicates`, `outliers`, `mislabelled`, `label`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from tyro.conf import Positional, arg

from mec.answers import options
from mec.answers.options import Labelling, Predicting, Searching, Selecting
from mec.runtime.flags import flags_of
from mec.runtime.paths import check_data, check_run


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What each of them is asked about."""

    run_folder: Annotated[Positional[str], arg(metavar="RUN")]
    """A run folder, RUN@untrained, a file of weights or a name, as for `mec evaluate`."""
    images: Annotated[Positional[str], arg(metavar="IMAGES")]
    """A folder of images nested in any way, tars, a CSV or text of paths, or a file."""

    def answer(self, function: str, options: type) -> None:
        """Call the function of `mec` on the run and the images, with the options."""
        check_run(self.run_folder)
        check_data(self.images, names=False)
        import mec

        called: Any = getattr(mec, function)
        called(self.run_folder, self.images, **flags_of(self, options))


@dataclass(frozen=True, kw_only=True)
class Select(Selecting, Asked):
    __doc__ = Selecting.__doc__

    more: ClassVar[str] = """\
  mec select runs/photos-auto photos/ --n 50 --out picked.csv
  mec select runs/photos-auto photos/ --n 50 --labels picked.csv --out more.csv   the next 50

Then fill in the column label, and `mec predict` names the rest."""

    def run(self) -> None:
        self.answer("select", Selecting)


@dataclass(frozen=True, kw_only=True)
class Predict(Predicting, Asked):
    __doc__ = Predicting.__doc__

    more: ClassVar[str] = """\
  mec predict runs/photos-auto photos/ --labels picked.csv --out predictions.csv

Accuracy, balanced accuracy and calibration error are told first, by cross-validation with 95 % intervals. Confidence
is calibrated by it. The folder predictions/ then holds the classifier with its encoder, for mec.load_classifier."""

    def run(self) -> None:
        self.answer("predict", Predicting)


@dataclass(frozen=True, kw_only=True)
class Search(Searching, Asked):
    __doc__ = Searching.__doc__

    more: ClassVar[str] = """\
  mec search runs/photos-auto photos/ --query one.jpg,two.jpg --top 10 --out found.csv"""

    def run(self) -> None:
        self.answer("search", Searching)


@dataclass(frozen=True, kw_only=True)
class Duplicates(options.Duplicates, Asked):
    __doc__ = options.Duplicates.__doc__

    more: ClassVar[str] = """\
  mec duplicates runs/photos-auto labelled/ --out duplicates.csv     its train/ and test/ are compared too"""

    def run(self) -> None:
        self.answer("duplicates", options.Duplicates)


@dataclass(frozen=True, kw_only=True)
class Outliers(options.Outliers, Asked):
    __doc__ = options.Outliers.__doc__

    more: ClassVar[str] = """\
  mec outliers runs/photos-auto photos/ --out strange.csv"""

    def run(self) -> None:
        self.answer("outliers", options.Outliers)


@dataclass(frozen=True, kw_only=True)
class Mislabelled(options.Mislabelled, Asked):
    __doc__ = options.Mislabelled.__doc__

    more: ClassVar[str] = """\
  mec mislabelled runs/photos-auto labelled/train/ --out doubtful.csv
  mec mislabelled runs/photos-auto photos/ --labels labels.csv --out doubtful.csv"""

    def run(self) -> None:
        self.answer("mislabelled", options.Mislabelled)


@dataclass(frozen=True, kw_only=True)
class Label(Labelling, Asked):
    __doc__ = Labelling.__doc__

    more: ClassVar[str] = """\
  mec label runs/photos-auto photos/ --n 50 --classes cat,dog,other --out labels.csv

Prints the address of a page on this machine alone. Keys 1 to 9 name the image, u undoes, s skips; each answer is on
disk before the next image. After every ten, accuracy by cross-validation is shown and the next are chosen anew."""

    def run(self) -> None:
        self.answer("label", Labelling)
