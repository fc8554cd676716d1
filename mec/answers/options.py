"""What the commands from images to answers take: the home of their flags, defaults and words."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from mec.runtime.flags import Device, File, Labels, Names
from mec.runtime.ranges import FROM_0, FROM_1, SEED, Range

Way = Literal["auto", "coding", "coding-chosen", "typical", "farthest", "random"]
Out = Annotated[str | Path, arg(metavar="FILE", constructor=Path)]
COSINE = Range(float, -1, 1)


@dataclass(frozen=True, kw_only=True)
class OnImages:
    """What every one of them takes."""

    device: Device = "auto"
    """Where the encoder runs."""
    workers: Annotated[int, FROM_0] = 0
    """Processes that decode images."""


@dataclass(frozen=True, kw_only=True)
class Choosing(OnImages):
    """What is chosen, and how."""

    n: Annotated[int, FROM_1] = 50
    """How many images."""
    way: Way = "auto"
    """How to choose. coding: after which all others have the shortest code given the chosen; coding-chosen: of which
    the code is longest; typical: nearest to the centres of k-means; farthest: least like those chosen; random; auto:
    typical up to 50 labels in all, then coding (docs/results.md)."""
    seed: Annotated[int, SEED] = 0
    """Of what is drawn: by random, and at the start of k-means."""


@dataclass(frozen=True, kw_only=True)
class Selecting(Choosing):
    """Choose the images that are worth labelling first, by what the encoder sees."""

    out: Out
    """The CSV to write: path,label, the labels left empty for you to fill in, and then for `mec predict --labels`."""
    labels: Labels = None
    """A CSV with the columns path,label: images that are labelled already count as chosen."""


@dataclass(frozen=True, kw_only=True)
class Predicting(OnImages):
    """Name the class of every image, from few labels, with how far that can be trusted told first."""

    labels: Annotated[str | Path, arg(metavar="CSV", constructor=Path)]
    """A CSV with the columns path,label; images that it does not name, or names without a label, are predicted."""
    out: Out
    """The CSV to write: path, label, confidence, the two next classes with theirs, given (a label of yours), and flags:
    unlike (any labelled image), unsure."""
    classifier: File = None
    """Folder for the classifier with its encoder; `mec.load_classifier` reads it. Default: OUT without its suffix."""
    unlabelled: Literal["auto", "yes", "no"] = "auto"
    """Whether labels are spread over neighbours to images without one, and the classifier fitted on both; auto: where
    cross-validation finds that better, by more than its standard error."""
    finetune: bool = False
    """Train the encoder on the labels, too, 200 steps; six times in all, so that cross-validation stays honest. Figures
    come after those without, to be compared; labels are not spread then."""
    seed: Annotated[int, SEED] = 0
    """Of the folds of cross-validation."""


@dataclass(frozen=True, kw_only=True)
class Searching(OnImages):
    """Find the images that are most like some given ones."""

    query: Annotated[str | Path, arg(metavar="FILE,...", constructor=str)]
    """Images to look for: a file, several with commas between, a folder, or a list."""
    out: Out
    """The CSV to write: query, rank, path, similarity (cosine); a page of thumbnails is written beside it (.html)."""
    top: Annotated[int, FROM_1] = 10
    """How many for each."""


@dataclass(frozen=True, kw_only=True)
class Duplicates(OnImages):
    """Find groups of images that are alike, and those that lie in more than one part: test images seen in training."""

    out: Out
    """The CSV to write: group, path, part, similarity to the group's first, leak; and a page beside it (.html)."""
    above: Annotated[float, COSINE] = 0.99
    """Cosine of features from which two images are alike."""


@dataclass(frozen=True, kw_only=True)
class Outliers(OnImages):
    """List the images that are least like any others, the strangest first."""

    out: Out
    """The CSV to write: rank, path, similarity (mean cosine of its nearest images); and a page beside it (.html)."""
    n: Annotated[int, FROM_1] = 50
    """How many to list."""
    neighbours: Annotated[int, FROM_1] = 10
    """Nearest images that are looked at."""


@dataclass(frozen=True, kw_only=True)
class Mislabelled(OnImages):
    """List the images whose label other images speak against, the likeliest mistake first (by cleanlab)."""

    out: Out
    """The CSV to write: rank, path, label, suggested, quality (0 to 1, of the label); and a page beside it (.html)."""
    labels: Labels = None
    """A CSV with the columns path,label. Default: the folders that images lie in, CLASS/image.png."""
    seed: Annotated[int, SEED] = 0
    """Of the folds of cross-validation."""


@dataclass(frozen=True, kw_only=True)
class Labelling(Choosing):
    """Label images in the browser: the most telling ones first, one key an image, each answer on disk at once."""

    classes: Names
    """Names of the classes; the keys 1 to 9 stand for the first nine."""
    out: Out
    """The CSV of answers: path,label. Those in it already count, so that the same command resumes."""
    port: Annotated[int, Range(int, 0, 65535)] = 0
    """Port on 127.0.0.1; 0: one that is free."""
