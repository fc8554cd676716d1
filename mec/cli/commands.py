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
    data: DataSet
    """digits, a data set's name (cifar10, stl10, imagenet, ...), a folder of images, recordings or arrays, a CSV or
    text with paths, or what `mec pack` wrote."""

    def run(self) -> None:
        check_data(self.data, None if self.download else self.data_root)
        super().run()


@dataclass(frozen=True)
class Evaluate(Command):
    """Measure an encoder by a protocol; results are added to the results.jsonl of its folder."""

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
    run_folder: Annotated[Positional[str], arg(metavar="RUN")]
    """The folder of a trained detector (RUN/PROTOCOL-PRESET/lr-LR-seed-SEED), or one above with one alone."""
    images: Annotated[Positional[Path], arg(metavar="IMAGES")]
    """A folder of images, nested in any way, or an image."""

    def run(self) -> None:
        check_data(self.images, names=False)
        super().run()


@dataclass(frozen=True, kw_only=True)
class Track(Following, Command):
    run_folder: Annotated[Positional[str], arg(metavar="RUN")]
    """A run folder, a file of weights or a name, as for `mec evaluate`; pixels follows by colours alone."""
    frames: Annotated[Positional[Path], arg(metavar="VIDEO|FOLDER")]
    """A video file, or a folder of frames in the order of their names."""

    def run(self) -> None:
        check_run(self.run_folder)
        super().run()


@dataclass(frozen=True, kw_only=True)
class Export(options.Export, Command):
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
    data: DataSet
    """digits, a data set's name, or a folder with train/CLASS/ and val|test/CLASS/."""

    def run(self) -> None:
        check_data(self.data, self.data_root)
        super().run()


@dataclass(frozen=True, kw_only=True)
class Pack(Packing, Command):
    folder: Annotated[Positional[Path], arg(metavar="FOLDER")]
    """Images, nested in any way, train/CLASS/ and val|test/CLASS/ keep their labels; or a CSV or text with paths."""
    out: Annotated[Positional[Path], arg(metavar="OUT")]
    """Folder for the shards: new, or empty."""

    def run(self) -> None:
        check_data(self.folder, names=False)
        super().run()
