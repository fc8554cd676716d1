"""From images to answers: `mec select`, `predict`, `search`, `duplicates`, `outliers`, `mislabelled`, `label`."""

from dataclasses import dataclass

from mec.answers import options
from mec.cli.command import OnRun


@dataclass(frozen=True, kw_only=True)
class Select(options.Selecting, OnRun): ...


@dataclass(frozen=True, kw_only=True)
class Predict(options.Predicting, OnRun): ...


@dataclass(frozen=True, kw_only=True)
class Search(options.Searching, OnRun): ...


@dataclass(frozen=True, kw_only=True)
class Duplicates(options.Duplicates, OnRun): ...


@dataclass(frozen=True, kw_only=True)
class Outliers(options.Outliers, OnRun): ...


@dataclass(frozen=True, kw_only=True)
class Mislabelled(options.Mislabelled, OnRun): ...


@dataclass(frozen=True, kw_only=True)
class Label(options.Labelling, OnRun): ...
