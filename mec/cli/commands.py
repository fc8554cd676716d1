"""The commands: each a dataclass whose fields are its flags, and `run`, which calls one function."""

import inspect
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, Suppress, arg

from mec.cli.command import Command, Run
from mec.cli.parsing import columns, parse, refused
from mec.data.options import Packing
from mec.errors import BadInput
from mec.evaluation.detection.options import Finding
from mec.evaluation.protocols import PROTOCOLS, protocol_list
from mec.evaluation.tracking.options import Following
from mec.exports import export as options
from mec.exports.options import Embedding
from mec.recipes.recipe import Recipe
from mec.reports.options import Comparison
from mec.runtime.flags import DataSet, Device, Folder
from mec.runtime.paths import check_data, check_run
from mec.training.options import Options


@dataclass(frozen=True, kw_only=True)
class Pretrain(Options, Command):
    more = """\
  mec pretrain digits                                  small and real: about a minute on a CPU
  mec pretrain photos/                                 your own folder, nested in any way
  mec pretrain photos/ --labels labels.csv             measured with the labels of a CSV
  mec pretrain photos/ --time-budget 30                as well as it goes in 30 minutes
  mec pretrain cifar10 --data-root data --download     a torchvision data set
  mec pretrain photos/ --resume                        continue after a stop or a crash
  mec pretrain photos/ --init runs/other               start from given weights: a run, a file, a timm name
  mec pretrain photos/ --logger tensorboard            figures, verdict and pictures there, too
  torchrun --nproc-per-node 2 -m mec pretrain photos/  on several processes or GPUs

The run folder (default runs/DATA-RECIPE) gets settings.json, metrics.jsonl, results.jsonl, health.json,
skipped.jsonl, checkpoints, encoder.safetensors, and with --init start.safetensors.
Labels, if the folder has train/CLASS/ and val/CLASS/ or test/CLASS/, or a CSV has them, are only used to measure
(but by supervised).
--set changes any value that `mec recipes NAME` shows: --set optimizer.base_lr=0.3 views.flip=0, for example.
--set settings.distortion=guaranteed is the smallest with which every series surely converges (d/m for embeddings
larger than the batch, else just above 1).
--set micro_batch_size=64 saves memory: loss and gradient stay those of the whole batch, but batch norm then
sees the statistics of 64 images.

{methods}"""

    data: DataSet
    """digits, a data set's name (cifar10, stl10, imagenet, ...), a folder of images, a CSV or text with paths, or
    what `mec pack` wrote."""

    def run(self) -> None:
        check_data(self.data, None if self.download else self.data_root)
        super().run()


@dataclass(frozen=True)
class Evaluate(Command):
    """Measure an encoder by a protocol; results are added to the results.jsonl of its folder."""

    more = """\
  mec evaluate runs/digits-digits knn digits
  mec evaluate runs/photos-auto fewshot labelled/ --labels-per-class 1,5,20
  mec evaluate runs/photos-auto linear labelled/
  mec evaluate random:resnet50 knn labelled/
  mec evaluate runs/photos-auto sot --data-root OTB2015/ --video mp4
  mec evaluate checkpoint.pth.tar transfer all --data-root data
  torchrun --nproc-per-node 2 -m mec evaluate runs/a linear labelled/   on several processes or GPUs; embed likewise

RUN is a run folder, an encoder.safetensors, what `mec export` wrote, or
  checkpoint.pth.tar      a ResNet or a vision transformer in the layout of the official MEC, MoCo, SwAV, DINO, Barlow
                          Twins, VICReg, SimSiam, BYOL, VISSL, MMSelfSup, solo-learn, lightly, torchvision or timm: what
                          was taken and left is told; FILE@student takes another part; nothing is unpickled
  RUN@untrained           the run's own encoder before its first step: what training added
  RUN@300, RUN@last       that of a step, as --keep-every kept it; the last one
  RUN@all                 each that was kept, and a picture of the figures over the steps
  random:NAME             a timm backbone, randomly initialised: the baseline of no training
  pixels                  raw pixels as features: the raw-pixel baseline
  NAME:FILE, NAME         a timm (also with a tag, resnet18.a1_in1k) or torchvision model with the weights of a file,
                          or of their local caches

PROTOCOL is one of those below; `mec evaluate RUN PROTOCOL --help` shows its flags. A folder of labelled images has
train/CLASS/ and val/CLASS/ or test/CLASS/, or comes with --labels CSV (path,label).

{protocols}"""

    run_folder: Annotated[Positional[str], arg(metavar="RUN")]
    """A run folder, a file of weights, or a model's name."""
    protocol: Annotated[Positional[str], arg(metavar="PROTOCOL")]
    """How to measure; its data and flags follow."""
    chosen: Annotated[Any, Suppress] = None
    """The protocol's dataclass, with its data and flags."""

    @classmethod
    def parsed(cls, words: list[str]) -> "Evaluate":
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
        check_run(self.run_folder)
        root = None if getattr(self.chosen, "download", False) else getattr(self.chosen, "data_root", None)
        check_data(getattr(self.chosen, "data", None), root)
        from mec.evaluation.evaluate import results_of
        from mec.runtime.device import over_ranks
        from mec.runtime.progress import say

        with over_ranks(self.chosen.device):
            for result in results_of(self.run_folder, self.chosen, say=say):
                say(result.line())


@dataclass(frozen=True)
class Recipes(Command):
    """List the recipes: method, backbone, batch, epochs, expected figures, source."""

    more = """\
  mec recipes                  all, a few lines each
  mec recipes imagenet-100ep   one in full; its keys are those that --set takes
  mec recipes auto photos/     what `auto` would choose for these images on this machine, and why"""

    name: Annotated[Positional[str | None], arg(metavar="[NAME]", help_behavior_hint="")] = None
    """One recipe to show in full, as JSON whose keys --set takes."""
    data: Annotated[Positional[str | None], arg(metavar="[DATA]", help_behavior_hint="")] = None
    """With auto: the images that it is chosen for; the reasons go to the screen beside the JSON (stderr)."""
    data_root: Folder = None
    """Where a torchvision data set's or imagenet's files are."""
    device: Device = "auto"
    """Where it would train."""

    def run(self) -> None:
        import json
        from dataclasses import asdict

        from mec.recipes.table import RECIPES, recipe_named

        if self.name is not None:
            recipe, words = recipe_named(self.name), list[str]()
            if self.data is not None:
                recipe, words = self.chosen(self.data)
            elif self.name == "auto":
                words = ["auto: the sizes below are used by no run; `mec recipes auto DATA` shows its choice."]
            for line in words:
                print(line, file=sys.stderr)
            print(json.dumps(asdict(recipe), indent=1, ensure_ascii=False))
            return
        for name, recipe in RECIPES.items():
            shape = f"{recipe.network.backbone}, batch {recipe.batch_size}, {recipe.epochs} epochs"
            print(f"{name}\n  {recipe.method}, {'sizes by data and machine' if name == 'auto' else shape}")
            if recipe.expects:
                print("  expects " + ", ".join(f"{k} {v:g}" for k, v in recipe.expects.items()))
            print(f"  source: {recipe.source}")

    def chosen(self, data: str) -> tuple[Recipe, list[str]]:
        """What `auto` chooses for the data, and its reasons."""
        if self.name != "auto":
            raise BadInput(f"{self.name} is the same for all data: leave {data} out. Only auto depends on it.")
        check_data(data)
        from mec.data.opening import open_data
        from mec.runtime.device import chosen_device
        from mec.training.plan import planned

        recipe, why = planned("auto", open_data(data, root=self.data_root), Options(), chosen_device(self.device))
        return recipe, [f"  {reason}" for reason in why]


@dataclass(frozen=True)
class Health(Command):
    """Say in plain words whether a run trained well, with its figures over time."""

    more = """\
  mec health runs/photos-auto

The verdict: healthy; narrow (few directions); hardly trained (views agree little more than before training, the loss
moved no more than its noise, or few steps); collapsed; diverged. With evidence, since which step, and what to change.

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
        if not self.run_folder.exists():
            raise FileNotFoundError(f"{self.run_folder}: no such run folder.")
        from mec.training.health import health, read_metrics, sparkline

        verdict, lines = health(self.run_folder), read_metrics(self.run_folder)
        names = "loss agreement similarity effective_rank coding_ratio norm_c series_gap gradient_norm knn"
        for name in names.split():
            values = [line[name] for line in lines if name in line]
            if values:
                print(f"{name:15} {values[0]:10.4g} -> {values[-1]:<10.4g} {sparkline(values)}")
        print(f"Training was {verdict}")


@dataclass(frozen=True, kw_only=True)
class Embed(Embedding, Command):
    more = """\
  mec embed runs/photos-auto photos/ --out features.npz
  mec embed runs/photos-auto photos/ --labels labels.csv --out features.parquet
  mec embed runs/photos-auto photos/*.jpg --out features.csv

What was done stays in OUT.unfinished/ after a stop; the same command goes on from there."""

    run_folder: Run
    images: Annotated[Positional[tuple[str, ...]], arg(metavar="IMAGES")]
    """A folder, nested in any way; tars; a CSV with a column of paths; a text with a path a line; or files."""

    def run(self) -> None:
        check_run(self.run_folder)
        for images in self.images:
            check_data(images, names=False)
        if not self.images:
            raise BadInput("IMAGES are missing: a folder, tars, a CSV or text with paths, or files.")
        from mec.runtime.device import over_ranks

        with over_ranks(self.device):
            super().run()


@dataclass(frozen=True, kw_only=True)
class Detect(Finding, Command):
    more = """\
  mec evaluate runs/cells-auto voc --data-root cells/                                   train a detector
  mec detect runs/cells-auto new/ --out detections.json --pictures drawn/               use it"""

    run_folder: Annotated[Positional[str], arg(metavar="RUN")]
    """The folder of a trained detector (RUN/PROTOCOL-PRESET/lr-LR-seed-SEED), or one above with one alone."""
    images: Annotated[Positional[Path], arg(metavar="IMAGES")]
    """A folder of images, nested in any way, or an image."""

    def run(self) -> None:
        check_data(self.images, names=False)
        super().run()


@dataclass(frozen=True, kw_only=True)
class Track(Following, Command):
    more = """\
  mec track runs/photos-auto street.mp4 --box 310,95,40,88 --out tracks.txt --video followed.mp4
  mec track runs/photos-auto frames/ --mask first.png --out tracks.txt --video followed.gif
  mec detect runs/cells-auto frames/ --out detections.json
  mec track runs/cells-auto frames/ --detections detections.json --out tracks.txt"""

    run_folder: Annotated[Positional[str], arg(metavar="RUN")]
    """A run folder, a file of weights or a name, as for `mec evaluate`; pixels follows by colours alone."""
    frames: Annotated[Positional[Path], arg(metavar="VIDEO|FOLDER")]
    """A video file, or a folder of frames in the order of their names."""

    def run(self) -> None:
        check_run(self.run_folder)
        super().run()


@dataclass(frozen=True, kw_only=True)
class Export(options.Export, Command):
    more = """\
  mec export runs/photos-auto --to timm
  mec export runs/imagenet-100ep --to torchvision   ResNets of 18 layers and more
  mec export runs/imagenet-100ep --to detectron2
  mec export runs/photos-auto --to torch            a program that runs without the network's code
  mec export runs/photos-auto --to hub --push OWNER/NAME   for timm, with a card; nothing is sent without --push
  mec export runs/cells-auto/voc-small/lr-0.01-seed-0 --to onnx   a trained detector; also a run's encoder, a classifier

Prints the lines of Python that load the file; for detectron2 it writes the configurations that go with it."""

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """A run folder, or an encoder.safetensors; for onnx also the folder of a classifier or a detector."""
    to: options.Tool
    """The names and layout to write."""

    def run(self) -> None:
        if self.to != "onnx":  # which may be a detector's
            check_run(self.run_folder)
        super().run()


@dataclass(frozen=True, kw_only=True)
class Compare(Comparison, Command):
    more = """\
  mec compare digits --methods mec-joint,simclr,byol --epochs 45 --seeds 3
  mec compare cifar10/ --limit 10000 --methods mec,mec-joint,simclr --time-budget 8 --seeds 3 --lrs 0.3,1,3

The same command continues after a stop; more methods or seeds may be added to it. With several --lrs, each is tried
first with one seed, and the one that tells training images apart best is kept (k-NN; test images choose nothing).
The folder gets a run a trial, compare.json, pace.json, results.jsonl and compare.png.

{methods}"""

    data: DataSet
    """digits, a data set's name, or a folder with train/CLASS/ and val|test/CLASS/."""

    def run(self) -> None:
        check_data(self.data, self.data_root)
        super().run()


@dataclass(frozen=True, kw_only=True)
class Pack(Packing, Command):
    more = """\
  mec pack photos/ packed/                       bytes as they are, in tars of about 256 MB
  mec pack photos/ packed/ --resize 256          shorter side at most 256 px: decoded several times as fast
  mec pretrain packed/                           reads them; so do a quoted pattern and a URL:
  mec pretrain 'packed/train-{000000..000007}.tar'
  mec pretrain https://example.org/packed/       fetched once, to --data-root DIR or the cache, checksums compared
  mec pretrain s3://bucket/packed/               the same of S3 (pip install 'mec-ssl[s3]'), gs://, hf://

The tars have the webdataset layout: KEY.jpg, and KEY.cls where there are labels. Each image was decoded before it was
packed; those that cannot be read are listed in quarantine.jsonl."""

    folder: Annotated[Positional[Path], arg(metavar="FOLDER")]
    """Images, nested in any way, train/CLASS/ and val|test/CLASS/ keep their labels; or a CSV or text with paths."""
    out: Annotated[Positional[Path], arg(metavar="OUT")]
    """Folder for the shards: new, or empty."""

    def run(self) -> None:
        check_data(self.folder, names=False)
        super().run()
