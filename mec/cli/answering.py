"""From images to answers: `mec select`, `predict`, `search`, `duplicates`, `outliers`, `mislabelled`, `label`."""

from dataclasses import dataclass

from mec.answers import options
from mec.cli.command import OnRun


@dataclass(frozen=True, kw_only=True)
class Select(options.Selecting, OnRun):
    more = """\
  mec select runs/photos-auto photos/ --n 50 --out picked.csv
  mec select runs/photos-auto photos/ --n 50 --labels picked.csv --out more.csv   the next 50

Then fill in the column label, and `mec predict` names the rest."""


@dataclass(frozen=True, kw_only=True)
class Predict(options.Predicting, OnRun):
    more = """\
  mec predict runs/photos-auto photos/ --labels picked.csv --out predictions.csv

Accuracy, balanced accuracy and calibration error are told first, by cross-validation with 95 % intervals. Confidence
is calibrated by it. The folder predictions/ then holds the classifier with its encoder, for mec.load_classifier."""


@dataclass(frozen=True, kw_only=True)
class Search(options.Searching, OnRun):
    more = """\
  mec search runs/photos-auto photos/ --query one.jpg,two.jpg --top 10 --out found.csv"""


@dataclass(frozen=True, kw_only=True)
class Duplicates(options.Duplicates, OnRun):
    more = """\
  mec duplicates runs/photos-auto labelled/ --out duplicates.csv     its train/ and test/ are compared too"""


@dataclass(frozen=True, kw_only=True)
class Outliers(options.Outliers, OnRun):
    more = """\
  mec outliers runs/photos-auto photos/ --out strange.csv"""


@dataclass(frozen=True, kw_only=True)
class Mislabelled(options.Mislabelled, OnRun):
    more = """\
  mec mislabelled runs/photos-auto labelled/train/ --out doubtful.csv
  mec mislabelled runs/photos-auto photos/ --labels labels.csv --out doubtful.csv"""


@dataclass(frozen=True, kw_only=True)
class Label(options.Labelling, OnRun):
    more = """\
  mec label runs/photos-auto photos/ --n 50 --classes cat,dog,other --out labels.csv

Prints the address of a page on this machine alone. Keys 1 to 9 name the image, u undoes, s skips; each answer is on
disk before the next image. After every ten, accuracy by cross-validation is shown and the next are chosen anew."""
