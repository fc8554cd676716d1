"""What `mec compare` and `mec figure` take, a dataclass each: the home of every flag, its default and its words."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from mec.errors import BadInput, nearest
from mec.objectives.methods import METHODS, method_named
from mec.runtime import flags
from mec.runtime.ranges import ABOVE_0, FROM_0, FROM_1, Range

SUITE = ("knn", "linear", "semi", "transfer", "voc", "coco", "sot", "vos", "mot", "mots", "posetrack")
METHODS_HELP = f"Names with commas between, of {', '.join(METHODS)}."


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Train several methods on the same images, network and budget; show them side by side."""

    methods: Annotated[flags.Names, flags.listed(metavar="A,B,...", help=METHODS_HELP)]
    epochs: Annotated[flags.Number, FROM_1] = None
    """Passes over the images, for each run."""
    time_budget: Annotated[flags.Minutes, ABOVE_0] = None
    """Minutes of training for each run, in place of --epochs: a step of each method is timed first, in turns."""
    seeds: Annotated[int, FROM_1] = 1
    """Runs a method: seeds 0, 1, ..."""
    lrs: Annotated[flags.OptionalReals, ABOVE_0] = None
    """Base learning rates with commas, to choose from for each method. Default: the recipe's for all."""
    sweep_share: Annotated[float, Range(float, 0, 1, above=True)] = 0.375  # 3 of 8 minutes
    """Share of the budget that each rate is tried for."""
    recipe: flags.Name = None
    """A name that `mec recipes` lists: views, backbone, batch. Default: digits for digits, else auto."""
    labels: flags.Labels = None
    """A CSV with the columns path and label, and split where there is one, in place of folders of classes."""
    limit: Annotated[flags.Number, FROM_1] = None
    """Use this many training images."""
    batch_size: Annotated[flags.Number, FROM_1] = None
    """Images a step."""
    backbone: flags.Name = None
    """A timm name, or resnet10-fast, resnet10-tiny, resnet10."""
    out: flags.Folder = None
    """Folder of the comparison. Default: runs/compare-DATA."""
    device: flags.Device = "auto"
    """Where to train."""
    set: flags.KeyValues = ()
    """Change single values of the recipe, for all methods. May be repeated."""
    data_root: flags.Folder = None
    """Where a torchvision data set's or imagenet's files are."""
    workers: Annotated[flags.Number, FROM_0] = None
    """Processes that decode images. Default: one a core, at most 8."""
    quiet: bool = False
    """Print nothing."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "set", flags.flat(self.set))

    @property
    def method_names(self) -> list[str]:
        return flags.names(self.methods, "--methods")

    @property
    def rates(self) -> list[float]:
        return [] if self.lrs is None else flags.reals(self.lrs, "--lrs")

    def check(self) -> None:
        """Raises BadInput: methods that are unknown or named twice, two budgets or none."""
        given = self.method_names
        if len(frozenset(given)) < len(given):
            raise BadInput(f"--methods is {','.join(given)}: different ones of {', '.join(METHODS)}.")
        for name in given:
            method_named(name)
        if (self.epochs is None) == (self.time_budget is None):
            raise BadInput("a comparison has one budget: --epochs N, or --time-budget MIN for each run.")

    @property
    def asked(self) -> dict[str, Any]:
        """What decides the result, as compare.json keeps it beside the data."""
        names = ("seeds", "epochs", "time_budget", "sweep_share", "recipe", "batch_size", "backbone", "set")
        return {"methods": self.method_names, "lrs": self.rates, **{name: getattr(self, name) for name in names}}


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Measure encoders by all of the paper's downstream tasks for which there are data."""

    data: flags.OptionalNames = None
    """Labelled images for knn, linear and semi, with commas: digits, names, folders. Default: imagenet."""
    data_root: flags.Folder = None
    """Folder with data sets and benchmarks in it, each in its published layout, to a depth of two folders."""
    only: flags.OptionalNames = None
    """Protocols to take, with commas: knn, linear, semi, transfer, voc, coco, sot, vos, mot, mots, posetrack. Default:
    all."""
    preset: Literal["paper", "quick"] = "paper"
    """paper: as published, days on a GPU. quick: a look at everything in minutes, marked so in results."""
    budget: Annotated[flags.Real, ABOVE_0] = None
    """Hours after which no further part is begun."""
    dry_run: bool = False
    """Show the plan, and stop."""
    device: flags.Device = "auto"
    """Where the encoders run."""
    out: flags.Place = Path("runs/suite")
    """Folder of the suite; results are also added to those of each run."""
    quiet: bool = False
    """Print nothing."""

    @property
    def chosen(self) -> list[str]:
        return [] if self.only is None else flags.names(self.only, "--only")

    def check(self) -> None:
        """Raises BadInput: --only names something else than a part."""
        for name in self.chosen:
            if name not in SUITE:
                raise BadInput(f"--only has {name!r}. {nearest(name, SUITE)}")


@dataclass(frozen=True, kw_only=True)
class Reporting:
    """Write a page of runs: curves, maps, neighbours and figures in one file to send on."""

    out: flags.File = None
    """The page. Default: report.html in the folder of the run, or of the comparison; of several runs in the working
    directory."""
