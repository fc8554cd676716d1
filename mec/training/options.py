"""What `mec pretrain` and `mec.pretrain` take: one dataclass, the home of every flag, its default and its words.

A new flag is one field here. With `Changes` it sets a value of the recipe; without, whoever needs it reads it. Flags
that are not `FREE` are kept in settings.json, and a resumed run has to be asked for the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_type_hints

from tyro.conf import Suppress, arg

from mec.errors import BadInput, plain
from mec.objectives.methods import METHODS
from mec.recipes.recipe import Recipe
from mec.runtime.flags import Folder, KeyValues, Labels, Minutes, Name, Number, OptionalNames, Real, flat, names
from mec.runtime.paths import data_name
from mec.runtime.ranges import ABOVE_0, FROM_0, FROM_1, SEED, Range
from mec.training.loggers import check_loggers

if TYPE_CHECKING:
    from torch.nn import Module
else:
    Module = Any  # the command line knows no torch


@dataclass(frozen=True)
class Changes:
    """Of a flag: the value of the recipe that it sets, as `--set` names it."""

    key: str


METHOD = arg(metavar="NAME", help_behavior_hint="", help=f"In place of the recipe's: {', '.join(METHODS)}.")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train an encoder on images, without labels."""

    recipe: Annotated[str | Recipe | None, arg(metavar="NAME", constructor=str, help_behavior_hint="")] = None
    """A name that `mec recipes` lists (from Python also a Recipe). Default: digits for digits, else auto, which is
    chosen from images and machine."""
    method: Annotated[str | None, METHOD] = None
    encoder: Annotated[Module | None, Suppress] = None
    """A module of your own, inputs -> features [m, e], in place of the recipe's backbone. An iterable of views needs
    it. It is trained in place and put into training mode."""
    out: Folder = None
    """Run folder. Default: runs/DATA-RECIPE, and -METHOD where one is given. On several machines it lies where all see
    it."""
    epochs: Annotated[Number, FROM_1, Changes("epochs")] = None
    """Passes over the images."""
    steps: Annotated[Number, FROM_1] = None
    """Training steps, in place of epochs and of a time budget."""
    time_budget: Annotated[Minutes, ABOVE_0] = None
    """Minutes to train; turned into a number of steps after a short timing, fewer where the machine becomes slower on
    the way, and stored."""
    minutes: Annotated[float | None, Suppress] = None
    """The time budget behind a number of steps that the caller chose; `auto` looks at it."""
    limit: Annotated[Number, FROM_1] = None
    """Use this many training images, stratified where there are labels."""
    batch_size: Annotated[Number, FROM_1, Changes("batch_size")] = None
    """Images a step, over all processes."""
    backbone: Annotated[Name, Changes("network.backbone")] = None
    """A timm name, or resnet10-fast, resnet10-tiny, resnet10."""
    views: Annotated[Literal["auto"] | None, arg(metavar="auto", help_behavior_hint="")] = None
    """auto: views that fit these images, found without labels by twelve short runs first (minutes on a CPU, of a time
    budget, too), which lie in the folder FOLDER-views; docs/views.md says when that helps. Default: the recipe's."""
    init: Annotated[str | Path | None, arg(metavar="RUN", constructor=str, help_behavior_hint="")] = None
    """Weights to start from, all that RUN means to `mec evaluate`: a run, a file, a timm name with weights. The
    backbone is theirs; what was taken and resized is told. Default: random ones."""
    init_lr: Annotated[Real, ABOVE_0] = None
    """With --init: learning rate of the encoder, times that of the heads, which are new; 0.1 is gentle. Default: 1."""
    freeze: Annotated[Number, FROM_1] = None
    """With --init: so many stages (blocks of a vision transformer) stand still, and the stem; their batch norms too."""
    seed: Annotated[Number, SEED] = None
    """Random seed for weights, data order and augmentation. Default: 0."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to train; auto is cuda where there is a device of it, else cpu. mps is a Mac's GPU."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """What each of several processes holds: ddp, the whole network; fsdp, for networks that fill a GPU, a part of
    parameters, gradients and optimizer state. A run may be resumed with the other (docs/clusters.md)."""
    checkpoint_activations: bool = False
    """Blocks of the encoder compute again in the backward pass what they would have kept: less memory, a quarter to a
    third more time, the same result."""
    resume: bool = False
    """Continue the run in the run folder from its last checkpoint: it ends with the weights it would have had anyway.
    A stop (Ctrl-C) saves one; a crash or a power cut costs five minutes at most."""
    set: KeyValues = ()
    """Change single values of the recipe, for example --set optimizer.base_lr=0.3 views.flip=0. May be repeated."""
    data_root: Folder = None
    """Where a torchvision data set's or imagenet's files are, or where to fetch shards to."""
    download: bool = False
    """Fetch a torchvision data set from its own home."""
    split: Name = None
    """The held-out part to measure on, by its folder's name. Default: test; where there is none, validation."""
    labels: Labels = None
    """A CSV with the columns path and label, and split (train, val, test) where there is one, in place of folders of
    classes. Without that column 30 % of each class, the same each time, are held out to measure on."""
    workers: Annotated[Number, FROM_0] = None
    """Processes that decode images. Default: one a core, at most 8."""
    save_minutes: Annotated[float, Range(float, 0)] = 5.0
    """Minutes between checkpoints inside an epoch."""
    keep_every: Annotated[Number, FROM_1] = None
    """Keep the encoder of every so many epochs, in the run's encoders/: RUN@300 is step 300's, RUN@last the last."""
    evaluate: bool = True
    """Measure with labels while training and at the end, where the data have any."""
    report: bool = True
    """Write report.html at the end: a page with curves, maps and figures, to look at and to send on."""
    logger: OptionalNames = None
    """Write to tensorboard, trackio, wandb or mlflow, too, with commas, each installed by an extra of its name. wandb
    sends to its server (WANDB_MODE=offline: to the run folder), mlflow to MLFLOW_TRACKING_URI. Default: none; of a
    resumed run those that it had."""
    quiet: bool = False
    """Print nothing."""

    FREE: ClassVar[tuple[str, ...]] = (
        "encoder", "out", "steps", "minutes", "device", "strategy", "checkpoint_activations", "resume", "download",
        "split", "workers", "save_minutes", "keep_every", "evaluate", "report", "logger", "quiet",
    )  # fmt: skip

    def __post_init__(self) -> None:
        object.__setattr__(self, "set", flat(self.set))

    def check(self) -> None:
        """Raises BadInput: two of a number of steps and a time budget; what goes with given weights, and none; a logger
        that is not known or not installed."""
        check_loggers(self.loggers)
        for flag in ("freeze", "init_lr"):
            if getattr(self, flag) is not None and self.init is None and not self.resume:
                raise BadInput(f"--{flag.replace('_', '-')} is {getattr(self, flag)}: it goes with --init RUN.")
        if self.init is not None and self.encoder is not None:
            words = "--init names weights of a backbone with a name"
            raise BadInput(f"{words}; load those of a module of your own yourself.")
        if self.backbone is not None and "." in self.backbone:
            words = f"--backbone is {self.backbone}, which names weights: --init {self.backbone} starts from them, "
            raise BadInput(f"{words}--backbone {self.backbone.partition('.')[0]} from random ones.")
        if self.steps is not None and self.time_budget is not None:
            raise BadInput(f"--steps is {self.steps}, --time-budget {self.time_budget:g}: give one of them.")

    @property
    def loggers(self) -> list[str]:
        return [] if self.logger is None else names(self.logger, "--logger")

    @property
    def asked(self) -> dict[str, Any]:
        """What decides the result, in the user's words, as settings.json keeps it."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in self.FREE}
        values["recipe"] = self.recipe if isinstance(self.recipe, str) else None
        for name in ("data_root", "labels", "init"):
            values[name] = None if getattr(self, name) is None else str(getattr(self, name))
        values["set"] = list(self.set)
        return values

    @property
    def changes(self) -> dict[str, Any]:
        """Values of the recipe, by their keys, that single flags set."""
        hints = get_type_hints(type(self), include_extras=True)
        marks = [(name, mark) for name, hint in hints.items() for mark in getattr(hint, "__metadata__", ())]
        set_by = {mark.key: getattr(self, name) for name, mark in marks if isinstance(mark, Changes)}
        return {key: value for key, value in set_by.items() if value is not None}

    def resuming(self, before: Mapping[str, Any]) -> Options:
        """These options, with what the run was first asked for where nothing was said now."""
        names = ("seed", "limit", "data_root", "labels", "init", "init_lr", "freeze")
        kept: dict[str, Any] = {name: before.get(name) for name in names if getattr(self, name) is None}
        return replace(self, **kept)

    def named(self, data: Any) -> str:
        """The name that the recipe goes by; digits have one of their own, all else is `auto` by default."""
        if self.recipe is not None:
            return self.recipe if isinstance(self.recipe, str) else "custom"
        return "digits" if getattr(data, "suits", str(data)) == "digits" else "auto"

    def folder(self, data: Any) -> Path:
        """The run folder: as given, or runs/DATA-RECIPE, and the method where it is not the recipe's own."""
        if self.out:
            return Path(self.out)
        name = getattr(data, "name", "views")
        if isinstance(data, (str, Path)):
            name = data_name(Path(data).resolve())
        return Path("runs") / "-".join(filter(None, [plain(name), self.named(data), self.method]))
