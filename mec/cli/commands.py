"""The command line: parse, look up, call one function. Heavy imports wait until a command runs."""

from __future__ import annotations

import functools
import inspect
import operator
import os
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro
from tyro.conf import Positional, UseAppendAction, arg, subcommand

from mec.cli.parsing import columns, parse, refused
from mec.errors import BadInput, TrainingStopped
from mec.evaluation.protocols import PROTOCOLS, protocol_list
from mec.runtime.flags import DataSet, Name, Number, OptionalReals, integers, reals
from mec.version import __version__

Folder = Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")]
File = Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")]
Append = Annotated[tuple[tuple[str, ...], ...], UseAppendAction]


@dataclass(frozen=True)
class Pretrain:
    """Train an encoder on images, without labels."""

    more: ClassVar[str] = """\
  mec pretrain digits                                  small and real: about a minute on a CPU
  mec pretrain photos/                                 your own folder, nested in any way
  mec pretrain photos/ --time-budget 30                as well as it goes in 30 minutes
  mec pretrain cifar10 --data-root data --download     a torchvision data set
  mec pretrain photos/ --resume                        go on after a stop or a crash
  torchrun --nproc-per-node 2 -m mec pretrain photos/  on several processes or GPUs

The run folder (default runs/DATA-RECIPE) gets settings.json, metrics.jsonl, results.jsonl, health.json,
skipped.jsonl, TensorBoard events, checkpoints and encoder.safetensors.
Labels, if the folder has train/CLASS/ and val/CLASS/ or test/CLASS/, are only used to measure (but by supervised).
--set changes any value that `mec recipes NAME` shows: --set optimizer.base_lr=0.3 views.flip=0, for example.
--set settings.distortion=guaranteed is the smallest with which every series surely converges (d/m for embeddings
larger than the batch, else just above 1).
--set micro_batch_size=64 saves memory: loss and gradient stay those of the whole batch, but batch norm then
sees the statistics of 64 images."""

    data: DataSet
    """digits, a data set's name (cifar10, stl10, imagenet, ...), a folder of images, or what `mec pack` wrote."""
    recipe: Name = None
    """A name that `mec recipes` lists. Default: digits for digits, else auto (chosen from images and machine)."""
    method: Name = None
    """In place of the recipe's: mec (the paper's form), mec-exact or mec-joint,
    or simsiam, byol, simclr, moco-v2, moco-v3, barlow-twins, vicreg, swav, dino, unigrad, supervised."""
    out: Folder = None
    """Run folder. Default: runs/DATA-RECIPE, and -METHOD where one is given."""
    epochs: Number = None
    """Passes over the images."""
    time_budget: Annotated[float | None, arg(metavar="MIN", help_behavior_hint="")] = None
    """Minutes to train; turned into a number of steps after a short timing, and stored."""
    limit: Number = None
    """Use this many training images, stratified where there are labels."""
    batch_size: Number = None
    """Images a step, over all processes."""
    backbone: Name = None
    """A timm name, or resnet10-fast, resnet10-tiny, resnet10-half, resnet10."""
    seed: Number = None
    """Of weights, order and views. Default: 0."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train."""
    resume: bool = False
    """Go on with the run in the run folder from its last checkpoint: it ends with the weights it would have had anyway.
    A stop (Ctrl-C) saves one; a crash or a power cut costs five minutes at most."""
    set: Annotated[Append, arg(metavar="KEY=VALUE ...")] = ()
    """Change single values of the recipe, for example --set optimizer.base_lr=0.3 views.flip=0. May be repeated."""
    data_root: Folder = None
    """Where a torchvision data set's or imagenet's files are, or where to fetch shards to."""
    download: bool = False
    """Fetch a torchvision data set from its own home."""
    workers: Number = None
    """Processes that decode images. Default: one a core, at most 8."""

    def run(self) -> None:
        from mec.runtime.memory import keep_freed
        from mec.training.pretrain import pretrain

        keep_freed()
        pretrain(
            self.data,
            recipe=self.recipe,
            method=self.method,
            out=self.out,
            epochs=self.epochs,
            time_budget=self.time_budget,
            limit=self.limit,
            batch_size=self.batch_size,
            backbone=self.backbone,
            seed=self.seed,
            device=self.device,
            resume=self.resume,
            settings=[text for group in self.set for text in group],
            data_root=self.data_root,
            download=self.download,
            workers=self.workers,
        )


@dataclass(frozen=True)
class Evaluate:
    """Measure an encoder by a protocol; results are added to the results.jsonl of its folder."""

    more: ClassVar[str] = """\
  mec evaluate runs/digits-digits knn digits
  mec evaluate runs/photos-auto fewshot labelled/ --labels-per-class 1,5,20
  mec evaluate runs/photos-auto linear labelled/
  mec evaluate random:resnet50 knn labelled/
  mec evaluate runs/photos-auto sot --data-root OTB2015/ --video mp4
  mec evaluate checkpoint.pth.tar transfer all --data-root data

RUN is a run folder, an encoder.safetensors, what `mec export` wrote, or
  checkpoint.pth.tar      the official MEC layout, or the state dict of a torchvision ResNet; nothing is unpickled
  random:NAME             a timm backbone, randomly initialised: the baseline of no training
  pixels                  raw pixels as features: the baseline of no encoder
  NAME:FILE, NAME         a timm or torchvision model with the weights of a file, or of their local caches

PROTOCOL is one of those below; `mec evaluate RUN PROTOCOL --help` shows its flags. A folder of labelled images has
train/CLASS/ and val/CLASS/ or test/CLASS/.

{protocols}"""

    run_folder: Annotated[Positional[str], arg(metavar="RUN")]
    """A run folder, a file of weights, or a model's name."""
    protocol: Annotated[Positional[str], arg(metavar="PROTOCOL")]
    """How to measure; its data and flags follow."""
    chosen: Annotated[Any, tyro.conf.Suppress] = None
    """The protocol's dataclass, with its data and flags."""

    @classmethod
    def parsed(cls, words: list[str]) -> Evaluate:
        """From RUN PROTOCOL FLAGS; each protocol's flags are parsed by its own dataclass."""
        if len(words) < 2 or {"-h", "--help"} & {*words[:2]}:
            text = f"{cls.__doc__}\n\n{cls.more}".replace("{protocols}", protocol_list(columns()))
            return parse(cls, words, prog="mec evaluate", text=text)
        run, word, *rest = words
        if word not in PROTOCOLS:
            refused(word, "protocol", PROTOCOLS, "mec evaluate")
        kind = PROTOCOLS[word]
        return cls(run, word, parse(kind, rest, prog=f"mec evaluate RUN {word}", text=inspect.getdoc(kind) or ""))

    def run(self) -> None:
        from mec.evaluation.evaluate import results_of

        for result in results_of(self.run_folder, self.chosen, say=print):
            print(result.line())


@dataclass(frozen=True)
class Recipes:
    """List the recipes: method, backbone, batch, epochs, expected figures, source."""

    more: ClassVar[str] = """\
  mec recipes                  all, a few lines each
  mec recipes imagenet-100ep   one in full; its keys are those that --set takes"""

    name: Annotated[Positional[str | None], arg(metavar="[NAME]", help_behavior_hint="")] = None
    """One recipe to show in full, as JSON whose keys --set takes."""

    def run(self) -> None:
        import json
        from dataclasses import asdict

        from mec.recipes.table import RECIPES, recipe_named

        if self.name is not None:
            print(json.dumps(asdict(recipe_named(self.name)), indent=1, ensure_ascii=False))
            return
        for name, recipe in RECIPES.items():
            network = recipe.network
            shape = f"{network.backbone}, batch {recipe.batch_size}, {recipe.epochs} epochs"
            print(f"{name}\n  {recipe.method}, {'sizes by data and machine' if name == 'auto' else shape}")
            if recipe.expects:
                print("  expects " + ", ".join(f"{k} {v:g}" for k, v in recipe.expects.items()))
            print(f"  source: {recipe.source}")


@dataclass(frozen=True)
class Health:
    """Say in plain words whether a run trained well, with its figures over time."""

    more: ClassVar[str] = """\
  mec health runs/photos-auto

What its lines say:
  agreement       mean cosine of two views of one image; near 1 is good
  similarity      mean cosine of different images; near 0 is good, near 1 is collapse
  effective_rank  how many directions the embeddings use (RankMe)
  coding_ratio    coding length over the most that is possible
  norm_c          spectral norm of the cross matrix; a series converges surely below 1
  series_gap      loss of the series minus the exact one; far below 0, the series invents entropy"""

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """A run folder."""

    def run(self) -> None:
        from mec.training import health
        from mec.training.report import judged_settings
        from mec.training.run import read_settings

        if not self.run_folder.exists():
            raise FileNotFoundError(f"{self.run_folder}: no such run folder.")
        settings, lines = read_settings(self.run_folder), health.read_metrics(self.run_folder)
        for name in (
            "loss",
            "agreement",
            "similarity",
            "effective_rank",
            "coding_ratio",
            "norm_c",
            "series_gap",
            "gradient_norm",
            "knn",
        ):
            values = [line[name] for line in lines if name in line]
            if values:
                print(f"{name:15} {values[0]:10.4g} -> {values[-1]:<10.4g} {health.sparkline(values)}")
        verdict = health.judge(lines, judged_settings(settings))
        print(f"Training was {verdict}")


@dataclass(frozen=True)
class Embed:
    """Turn a folder of images into features: an .npz with `paths` and `features`."""

    more: ClassVar[str] = """\
  mec embed runs/photos-auto photos/ --out features.npz"""

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """A run folder, or an encoder.safetensors."""
    folder: Annotated[Positional[Path], arg(metavar="FOLDER")]
    """Images, nested in any way."""
    out: Path
    """The .npz to write. Read it with numpy.load(FILE): data["features"][i] belongs to data["paths"][i]."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the encoder runs."""
    workers: int = 0
    """Processes that decode images."""

    def run(self) -> None:
        from mec.exports.embed import embed

        embed(self.run_folder, self.folder, self.out, device=self.device, workers=self.workers)


@dataclass(frozen=True)
class Export:
    """Write the encoder's weights for other tools; outputs are compared where the tool is at hand."""

    more: ClassVar[str] = """\
  mec export runs/photos-auto --to timm
  mec export runs/imagenet-100ep --to torchvision   ResNets of 18 layers and more
  mec export runs/imagenet-100ep --to detectron2

Prints the lines of Python that load the file; for detectron2 it writes the configurations that go with it."""

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """A run folder, or an encoder.safetensors."""
    to: Literal["torchvision", "timm", "detectron2"]
    """The names and layout to write."""
    out: File = None
    """Default: RUN/encoder-torchvision.pth, RUN/encoder-timm.safetensors or RUN/encoder-detectron2.pkl."""

    def run(self) -> None:
        from mec.exports.weights import export

        export(self.run_folder, self.to, self.out)


@dataclass(frozen=True)
class Compare:
    """Train several methods on the same images, views, backbone and budget, and show them side by side."""

    more: ClassVar[str] = """\
  mec compare digits --methods mec-joint,simclr,byol --epochs 45 --seeds 3
  mec compare cifar10/ --limit 10000 --methods mec,mec-joint,simclr --time-budget 8 --seeds 3 --lrs 0.3,1,3

The same command goes on after a stop; more methods or seeds may be added to it. With several --lrs, each is tried
first with one seed, and the one that tells training images apart best is kept (k-NN; test images choose nothing).
The folder gets a run a trial, compare.json, pace.json, results.jsonl and compare.png."""

    data: DataSet
    """digits, a data set's name, or a folder with train/CLASS/ and val|test/CLASS/."""
    methods: str
    """Names with commas, of mec, mec-exact, mec-joint, simsiam, byol, simclr, moco-v2, moco-v3
    and barlow-twins, vicreg, swav, dino, unigrad, supervised."""
    epochs: Number = None
    """Passes over the images, for each run."""
    time_budget: Annotated[float | None, arg(metavar="MIN", help_behavior_hint="")] = None
    """Minutes of training for each run, in place of --epochs: a step of each method is timed first, in turns."""
    seeds: int = 1
    """Runs a method: seeds 0, 1, ..."""
    lrs: OptionalReals = None
    """Base learning rates with commas, to choose from for each method. Default: the recipe's for all."""
    sweep_share: float = 0.375
    """Of the budget, for each rate tried."""
    recipe: Name = None
    """A name that `mec recipes` lists: views, backbone, batch. Default: digits for digits, else auto."""
    limit: Number = None
    """Use this many training images."""
    batch_size: Number = None
    """Images a step."""
    backbone: Name = None
    """A timm name, or resnet10-fast, resnet10-tiny, resnet10-half, resnet10."""
    out: Folder = None
    """Folder of the comparison. Default: runs/compare-DATA."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train."""
    set: Annotated[Append, arg(metavar="KEY=VALUE ...")] = ()
    """Change single values of the recipe, for all methods. May be repeated."""
    data_root: Folder = None
    """Where a torchvision data set's or imagenet's files are."""
    workers: Number = None
    """Processes that decode images."""

    def run(self) -> None:
        from mec.reports.comparison import compare
        from mec.runtime.memory import keep_freed

        keep_freed()
        compare(
            self.data,
            methods=[name.strip() for name in self.methods.split(",")],
            epochs=self.epochs,
            time_budget=self.time_budget,
            seeds=self.seeds,
            lrs=() if self.lrs is None else tuple(reals(self.lrs, "--lrs")),
            sweep_share=self.sweep_share,
            recipe=self.recipe,
            limit=self.limit,
            batch_size=self.batch_size,
            backbone=self.backbone,
            settings=[text for group in self.set for text in group],
            out=self.out,
            device=self.device,
            data_root=self.data_root,
            workers=self.workers,
        )


@dataclass(frozen=True)
class Pack:
    """Write a folder of images as tar files with an index, checked, which train the same and are easier to move."""

    more: ClassVar[str] = """\
  mec pack photos/ packed/                       bytes as they are, in tars of about 256 MB
  mec pack photos/ packed/ --resize 256          shorter side at most 256 px: decoded several times as fast
  mec pretrain packed/                           reads them; so do a quoted pattern and a URL:
  mec pretrain 'packed/train-{000000..000007}.tar'
  mec pretrain https://example.org/packed/       fetched once, to --data-root DIR or the cache, checksums compared

The tars have the webdataset layout: KEY.jpg, and KEY.cls where there are labels. Each image was decoded before it was
packed; those that cannot be read are listed in quarantine.jsonl."""

    folder: Annotated[Positional[Path], arg(metavar="FOLDER")]
    """Images, nested in any way; train/CLASS/ and val|test/CLASS/ keep their labels."""
    out: Annotated[Positional[Path], arg(metavar="OUT")]
    """Folder for the shards: new, or empty."""
    resize: Annotated[int | None, arg(metavar="PX", help_behavior_hint="")] = None
    """Make images whose shorter side is longer than this smaller. Default: keep the bytes."""
    quality: int = 90
    """JPEG quality of images that are made smaller."""
    shard_size: Annotated[float, arg(metavar="MB")] = 256
    """About how large a tar becomes."""

    def run(self) -> None:
        from mec.data.pack import pack

        pack(self.folder, self.out, resize=self.resize, quality=self.quality, shard_size=self.shard_size)


@dataclass(frozen=True)
class BenchCoding:
    """Coding lengths: the released loop with autograd, ours at several orders, the exact forms."""

    rows: str = "1024,2048,4096"
    """Numbers of images m, with commas."""
    sizes: str = "2048"
    """Embedding sizes d, with commas."""
    repeats: int = 7
    """Rounds in which each contender runs once; medians and ranges are over them."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to time."""
    out: Path = Path("runs/bench")
    """Folder for coding.json and coding.png."""

    def run(self) -> None:
        from mec.bench.coding import bench_coding

        rows, sizes = integers(self.rows, "--rows"), integers(self.sizes, "--sizes")
        bench_coding(rows, sizes, device=self.device, repeats=self.repeats, out=self.out)


@dataclass(frozen=True)
class BenchStep:
    """Training steps: forward, objective, backward, optimizer, target network, with each method's published heads."""

    methods: str = "mec,mec-joint,byol,barlow-twins"
    """Names with commas; ratios are to the first."""
    recipes: Literal["imagenet", "cifar10"] = "imagenet"
    """Whose heads, backbone and view size."""
    batch_size: int = 32
    """Images."""
    image_size: Number = None
    """px, in place of the recipe's."""
    backbone: Name = None
    """In place of the recipe's."""
    repeats: int = 7
    """Rounds in which each contender runs once; medians and ranges are over them."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to time."""
    out: Path = Path("runs/bench")
    """Folder for step.json."""

    def run(self) -> None:
        from mec.bench.step import bench_step

        bench_step(
            [name.strip() for name in self.methods.split(",")],
            data=self.recipes,
            batch_size=self.batch_size,
            image_size=self.image_size,
            backbone=self.backbone,
            device=self.device,
            repeats=self.repeats,
            out=self.out,
        )


@dataclass(frozen=True)
class BenchData:
    """From disk to views: images a second of each stage, alone and together, and which one limits."""

    data: DataSet
    """digits, a data set's name, a folder of images, or what `mec pack` wrote."""
    recipe: str = "auto"
    """Whose views to make."""
    images: int = 256
    """How many images to time."""
    workers: Number = None
    """Processes that decode. Default: none, one, and one a core, each timed."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the views end."""
    data_root: Folder = None
    """Where a torchvision data set's or imagenet's files are."""
    out: Path = Path("runs/bench")
    """Folder for data.json."""

    def run(self) -> None:
        from mec.bench.data import bench_data
        from mec.data.opening import open_data

        data = open_data(self.data, root=self.data_root)
        bench_data(data, recipe=self.recipe, images=self.images, workers=self.workers, device=self.device, out=self.out)


@dataclass(frozen=True)
class Bench:
    """Time what this package does."""

    more: ClassVar[str] = """\
  mec bench coding                                     m 1024 to 4096 at d 2048: some minutes on a CPU
  mec bench coding --rows 256,1024 --sizes 512 --repeats 15
  mec bench step --batch-size 16                       a training step of each method on ResNet-50 at 224 px
  mec bench step --recipes cifar10 --batch-size 128 --methods mec-joint,byol,simclr
  mec bench data photos/                               reading, decoding, crops, colour: which one limits

  coding  the released loop with autograd, ours at several orders, the exact forms; `products` is the least that an
          exact form has to do, its matrix and one product for the gradient of each side
  step    forward, objective, backward, optimizer, target network, with the heads that each method was published with
  data    the stages of the data path, alone and together

Leave the machine alone meanwhile: other work on its cores spoils every figure."""

    what: (
        Annotated[BenchCoding, subcommand("coding")]
        | Annotated[BenchStep, subcommand("step")]
        | Annotated[BenchData, subcommand("data")]
    )

    def run(self) -> None:
        self.what.run()


@dataclass(frozen=True)
class Table:
    """The paper's tables: results of any number of runs beside the published rows."""

    more: ClassVar[str] = """\
  mec table 7 runs/imagenet-mec                        ImageNet, linear probing
  mec table 8 runs/*/ --format latex --out table8.tex  transfer to eleven data sets

The best figure of a column is bold, the second best italic (underlined in LaTeX and HTML); what was not measured is
shown as missing, and quick looks (--limit) are left out. Of several results for one cell the latest counts."""

    number: Positional[Literal["7", "8"]]
    """Of the paper's table."""
    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN")] = ()
    """Run folders, or results.jsonl files; none: the published rows alone."""
    format: Literal["markdown", "latex", "html"] = "markdown"
    """How to write it."""
    out: File = None
    """A file, in place of the screen."""

    def run(self) -> None:
        from mec.reports import tables

        text = tables.FORMATS[self.format](tables.TABLES[self.number](tables.read(self.runs)))
        if self.out is None:
            print(text, end="")
            return
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.out.write_text(text)
        print(f"Written: {self.out}")


@dataclass(frozen=True)
class CodingFigure:
    """Time and relative error of the coding length's series against the log-determinant (the paper's Figure 6)."""

    rows: str = "128,256,512,1024,2048,4096"
    """Numbers of rows m, with commas."""
    size: int = 2048
    """Embedding size d of the random unit rows."""
    distortion: float = 0.06
    """ε_d²; the paper's is 0.06."""
    run_folder: Annotated[Path | None, arg(name="run", metavar="RUN", help_behavior_hint="")] = None
    """A run folder: measure on its encoder's features, too."""
    data: Name = None
    """Images for those features. Default: those that the run was trained on."""
    data_root: Folder = None
    """Where a torchvision data set's or imagenet's files are."""
    repeats: int = 5
    """Rounds; medians and ranges are over them."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    out: Path = Path("runs/figures")
    """Folder for coding.png and coding.json."""

    def run(self) -> None:
        from mec.reports.approximation import approximation_study

        approximation_study(
            self.out,
            counts=integers(self.rows, "--rows"),
            size=self.size,
            run=self.run_folder,
            data=self.data,
            data_root=self.data_root,
            distortion=self.distortion,
            repeats=self.repeats,
            device=self.device,
        )


@dataclass(frozen=True)
class DistortionFigure:
    """Models trained alike but for ε_d² (the paper's Figure 4): maps, spectrum, ‖C‖, gap of the series, accuracy."""

    data: str = "digits"
    """digits, a data set's name, or a folder with train/CLASS/ and val|test/CLASS/."""
    recipe: Name = None
    """Default: a small one for digits, else cifar10-paper; both have the series of order 4 and no target network."""
    epochs: Number = None
    """Passes over the images, for each model."""
    sweep: str = "0.01,0.03,0.12,0.5,2"
    """Values of ε_d², with commas; the paper's 0.12 and 0.01 are always among them."""
    seed: int = 0
    """Of weights, order and views."""
    data_root: Folder = None
    """Where a torchvision data set's or imagenet's files are."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train."""
    out: Path = Path("runs/figures/distortion")
    """Folder for distortion.png, distortion.json and the runs; those that are there are not trained again."""

    def run(self) -> None:
        from mec.reports.distortion import distortion_study
        from mec.runtime.memory import keep_freed

        keep_freed()
        distortion_study(
            self.data,
            self.out,
            recipe=self.recipe,
            epochs=self.epochs,
            sweep=tuple(reals(self.sweep, "--sweep")),
            seed=self.seed,
            device=self.device,
            data_root=self.data_root,
        )


@dataclass(frozen=True)
class Figure:
    """Make a figure of the paper from measurements taken here."""

    more: ClassVar[str] = """\
  mec figure coding                                   on random unit rows: a minute on a CPU
  mec figure coding --run runs/digits-digits          and on an encoder's features
  mec figure distortion --data digits                 trains five small models: some minutes on a CPU"""

    which: Annotated[CodingFigure, subcommand("coding")] | Annotated[DistortionFigure, subcommand("distortion")]

    def run(self) -> None:
        self.which.run()


COMMANDS = {
    "pretrain": Pretrain,
    "evaluate": Evaluate,
    "recipes": Recipes,
    "health": Health,
    "embed": Embed,
    "export": Export,
    "pack": Pack,
    "compare": Compare,
    "bench": Bench,
    "table": Table,
    "figure": Figure,
}


DESCRIPTION = """Self-supervised learning of image encoders by maximum entropy coding.

Start here:
  mec pretrain digits            train on real images that come with the package, and see what was learned
  mec pretrain FOLDER            train on your own images; no labels needed
  mec COMMAND --help             what a command takes, with examples

Exit codes: 0 done, 1 failed (what was saved is named), 2 bad use. MEC_TRACEBACK=1 shows where an error arose;
mec --version says which version this is.
"""


def parsed(arguments: list[str]):
    """The command and its flags; bad ones exit with 2, --help with 0."""
    command = arguments[0] if arguments else "-"
    if command == "evaluate":
        return Evaluate.parsed(arguments[1:])
    if command in COMMANDS:
        kind: Any = COMMANDS[command]
        return parse(kind, arguments[1:], prog=f"mec {command}", text=f"{kind.__doc__}\n\n{kind.more}")
    if command == "--version":
        print(__version__)
        sys.exit(0)
    if not command.startswith("-"):
        refused(command, "command", COMMANDS, "mec")
    union: Any = functools.reduce(operator.or_, [Annotated[kind, subcommand(name)] for name, kind in COMMANDS.items()])
    return parse(union, arguments, prog="mec", text=DESCRIPTION)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code: 0 done, 1 failed, 2 bad use."""
    command = parsed(sys.argv[1:] if arguments is None else arguments)
    try:
        command.run()
        sys.stdout.flush()
    except BrokenPipeError:  # who reads the output has seen enough, as `| head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (BadInput, FileNotFoundError, FileExistsError, NotADirectoryError) as error:
        return _told(error, 2)
    except (TrainingStopped, OSError) as error:
        return _told(error, 1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 1
    return 0


def _told(error: BaseException, code: int) -> int:
    if os.environ.get("MEC_TRACEBACK"):
        traceback.print_exc()
    print(f"mec: {error}", file=sys.stderr)
    return code
