"""Models trained alike but for ε_d²: the paper's Figure 4, from measurements taken here.

python benchmarks/distortion.py --data digits       five small models: some minutes on a CPU
python benchmarks/distortion.py --help
"""

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from tyro.conf import arg

from mec.data.dataset import Data
from mec.data.opening import open_data
from mec.errors import BadInput, Diverged
from mec.evaluation.features import Features, extract, measured_parts
from mec.evaluation.pictures import draw_classes, draw_map
from mec.evaluation.probing.knn import knn
from mec.networks.encoder_file import load_encoder
from mec.recipes.recipe import Network, Recipe
from mec.recipes.table import DIGITS, recipe_named
from mec.runtime.files import SETTINGS, write_figure, write_json
from mec.runtime.flags import Device, Folder, Number, Place, Reals, reals, takes
from mec.runtime.machine import keep_freed
from mec.runtime.progress import Console
from mec.runtime.ranges import ABOVE_0, FROM_1, SEED
from mec.training import health
from mec.training.pretrain import pretrain
from mec.training.report import HEALTH
from mec.training.run import read_settings

MEASURED = 2_000  # most images in the bank, which is in the map, too, and in the test
PAPER = (0.12, 0.01)  # the two distortions of the paper's Figure 4


@dataclass(frozen=True, kw_only=True)
class DistortionFigure:
    """Models trained alike but for ε_d² (the paper's Figure 4): maps, spectrum, ‖C‖, gap of the series, accuracy."""

    data: str = "digits"
    """digits, a data set's name, or a folder with train/CLASS/ and val|test/CLASS/."""
    recipe: Annotated[str | Recipe | None, arg(metavar="NAME", constructor=str, help_behavior_hint="")] = None
    """Default: a small one for digits, else cifar10-paper; both have the series of order 4 and no target network."""
    epochs: Annotated[Number, FROM_1] = None
    """Passes over the images, for each model."""
    sweep: Annotated[Reals, ABOVE_0] = "0.01,0.03,0.12,0.5,2"
    """Values of ε_d², with commas; the paper's 0.12 and 0.01 are always among them."""
    seed: Annotated[int, SEED] = 0
    """Random seed for weights, data order and augmentation."""
    data_root: Folder = None
    """Where a torchvision data set's or imagenet's files are."""
    device: Device = "auto"
    """Where to train."""
    out: Place = Path("runs/figures/distortion")
    """Folder for distortion.png, distortion.json and the runs; those that are there are not trained again."""
    quiet: bool = False
    """Print nothing."""


@dataclass(frozen=True)
class Curve:
    """A run of the study: its distortion ε_d², how it ended, and figures over training."""

    distortion: float
    knn: float  # top-1 (%) of held-out images by 20 neighbours, NaN where it could not be measured
    diverged: bool  # or collapsed
    verdict: str
    steps: Sequence[int]
    norm_c: Sequence[float]
    gap: Sequence[float]  # series minus log-determinant, of the loss
    spectrum: Sequence[float]  # singular values of the training features, as shares of the largest


def studied(recipe: Recipe, data: Data, out: Path, options: DistortionFigure) -> tuple[Curve, Features | None]:
    """Train a run in `out` where that was not done before; what came of it, and its features of training images.
    Raises BadInput: the folder holds a run with another recipe, seed or data."""
    if (out / SETTINGS).exists():
        stored = read_settings(out)
        if (stored.recipe, stored.seed) != (recipe, options.seed) or not data.fits(stored.data_fingerprint):
            raise BadInput(f"{out} holds a run with other settings, seed or data. Choose another --out.")
    if not (out / HEALTH).exists():
        asked: dict[str, Any] = {"recipe": recipe, "out": out, "seed": options.seed, "device": options.device}
        with contextlib.suppress(Diverged):  # which health tells
            pretrain(data, resume=True, evaluate=False, quiet=True, **asked)
    lines = health.read_metrics(out)
    verdict, features, accuracy, shares = health.health(out), None, math.nan, list[float]()
    if not any("diverged" in line for line in lines):
        encoder, transform = load_encoder(out)
        features, test = (extract(encoder, part, transform) for part in measured_parts(data, MEASURED, MEASURED))
        accuracy = knn(features, test)[0].value
        values = torch.linalg.svdvals(features.unit())
        shares = (values / values[0].clamp_min(1e-30)).tolist()
    lines = [line for line in lines if "norm_c" in line]
    steps, norms, gaps = ([line.get(key, 0.0) for line in lines] for key in ("step", "norm_c", "series_gap"))
    lost = verdict.word in ("diverged", "collapsed")
    distortion = float(recipe.settings["distortion"])  # type: ignore[arg-type]
    return Curve(distortion, accuracy, lost, str(verdict), steps, norms, gaps, shares), features


# The digits recipe at the images' own 8 px, trained as the paper's CIFAR-10 models are: order 4, no target.
SMALL_DIGITS = replace(
    DIGITS, method="mec", settings={"order": 4}, views=tuple(replace(view, size=8) for view in DIGITS.views),
    network=Network("resnet10-tiny", projector=(256, 128)), epochs=8, expects={},
)  # fmt: skip


@takes(DistortionFigure)
def distortion_study(options: DistortionFigure) -> Path:
    """Train models alike but for ε_d² (runs in `out`, resumable), and draw them: `out`/distortion.png.

    Args:
    {options}

    Raises:
        BadInput: no labels to colour and measure by, or the recipe is not of a coding length."""
    out, recipe = Path(options.out), options.recipe
    console = Console(quiet=options.quiet, highlight=False)
    images = open_data(options.data, root=options.data_root)
    if not images.can_be_measured:
        raise BadInput(f"{options.data} has no labels: the figure colours by class and measures accuracy.")
    if isinstance(recipe, Recipe):
        base = recipe
    elif recipe is None and images.suits == "digits":
        base = SMALL_DIGITS
    else:
        base = recipe_named(recipe or "cifar10-paper")
    base = base if options.epochs is None else replace(base, epochs=options.epochs)
    curves: list[Curve] = []
    maps: dict[str, Features | None] = {}
    for distortion in sorted({*reals(options.sweep, "--sweep"), *PAPER}):
        chosen = replace(base, settings={**base.settings, "distortion": distortion})
        curve, features = studied(chosen, images, out / f"distortion-{distortion:g}", options)
        console.print(f"ε_d² {distortion:g}: k-NN {curve.knn:.1f} %, {curve.verdict}", soft_wrap=True)
        curves.append(curve)
        if distortion in PAPER:
            accuracy = "" if features is None else f": k-NN {curve.knn:.1f} %"
            maps[f"ε_d² {distortion:g}{accuracy}"] = features
    write_json(out / "distortion.json", [asdict(c) for c in curves])
    distortion_figure(curves, dict(reversed(maps.items())), images.classes, out / "distortion.png")
    console.print(f"Written: {out / 'distortion.png'}, {out / 'distortion.json'}", soft_wrap=True)
    return out / "distortion.png"


def distortion_figure(curves: Sequence[Curve], maps: Mapping[str, Any], classes: Sequence[str], path: Path) -> None:
    """The paper's Figure 4: maps of training features, accuracy over ε_d², spectrum, ‖C‖₂ and the series' gap.
    A run without features, since it diverged, has an empty map that says so."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 8.2), layout="constrained")
    axes = figure.subplots(2, 3)
    for axis, (name, part) in zip(axes[0], maps.items()):
        if part is None:
            axis.set(title=name, xticks=[], yticks=[])
            axis.text(0.5, 0.5, "diverged: no features", ha="center", va="center", transform=axis.transAxes)
        else:
            draw_map(axis, name, part, classes)
    accuracy, (spectra, norms, gaps) = axes[0][2], axes[1]
    measured = [c for c in curves if c.knn == c.knn]
    accuracy.plot([c.distortion for c in measured], [c.knn for c in measured], "-", color="grey")
    shades = colormaps["viridis"].resampled(len(curves) + 1)
    for number, curve in enumerate(curves):
        style = {"color": shades(number), "label": f"ε_d² {curve.distortion:g}"}
        marker = "x" if curve.diverged else "o"
        accuracy.plot([curve.distortion], [curve.knn], marker, color=style["color"], markersize=8)
        if curve.spectrum:
            spectra.plot(range(1, len(curve.spectrum) + 1), curve.spectrum, **style)
        norms.plot(curve.steps, curve.norm_c, **style)
        gaps.plot(curve.steps, curve.gap, **style)
    accuracy.set(xlabel="ε_d²", ylabel="k-NN accuracy, %", xscale="log", title="accuracy (cross: diverged)")
    spectra.set(xlabel="direction", yscale="log", ylim=(1e-4, 1.5), title="singular values of the features")
    norms.axhline(1, color="grey", linestyle=":")
    norms.set(xlabel="step", yscale="log", title="‖C‖₂ (the series surely converges below 1)")
    gaps.axhline(0, color="grey", linestyle=":")
    gaps.set(xlabel="step", title="loss of the series minus exact loss")
    gaps.set_yscale("symlog", linthresh=0.01)
    norms.legend(frameon=False, fontsize="small")
    draw_classes(figure, classes)
    write_figure(figure, path)


def main() -> None:
    keep_freed()
    distortion_study(**vars(tyro.cli(DistortionFigure)))


if __name__ == "__main__":
    main()
