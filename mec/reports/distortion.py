"""Runs side by side that differ in a setting: trained where they are missing, and what came of each."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mec.data.dataset import Data, Split
from mec.data.opening import open_data
from mec.errors import BadInput, Diverged
from mec.evaluation.features import Features, extract, measured_parts
from mec.evaluation.map import draw_classes, draw_map
from mec.evaluation.probing.knn import knn
from mec.networks.backbones import build_encoder
from mec.networks.encoder_file import image_transform, load_encoder, read_info
from mec.networks.siamese import Siamese, build_siamese
from mec.recipes.fields import from_file
from mec.recipes.recipe import Network, Recipe
from mec.recipes.table import RECIPES, recipe_named
from mec.reports.options import DistortionFigure
from mec.runtime.checkpoints import in_run
from mec.runtime.files import read_json, write_figure, write_json
from mec.runtime.flags import Device, reals, takes
from mec.runtime.progress import Console
from mec.training import health
from mec.training.pretrain import pretrain
from mec.training.run import read_settings

OUTCOME = "outcome.json"
MEASURED = 2_000  # most images in the bank, in the test, and in a map
PAPER = (0.12, 0.01)  # the two distortions of the paper's Figure 4


@dataclass(frozen=True)
class Outcome:
    """What came of one run. Figures are NaN where a run ended before they could be measured."""

    diverged: str  # why it is called diverged: "not finite", "below the bound", "few directions"; "" where it is not
    knn: float  # top-1 (%) of held-out images by 20 neighbours among the training images
    rank: float  # RankMe of the held-out images' embeddings
    rank_limit: float  # min(rows, d)
    loss: float
    loss_bound: float
    steps: int
    seconds: float


def outcome_of(
    recipe: Recipe, data: Data, out: Path, *, seed: int = 0, encoder: nn.Module | None = None, device: Device = "auto"
) -> Outcome:
    """Train a run in `out`, or read what came of it where that was done before.

    Raises:
        BadInput: the folder holds a run with another recipe, seed or data.
    """
    if (out / "settings.json").exists():
        stored = read_settings(out)
        if (stored.recipe, stored.seed) != (recipe, seed) or not data.fits(stored.data_fingerprint):
            raise BadInput(f"{out} holds a run with other settings, seed or data. Choose another --out.")
        if (out / OUTCOME).exists():
            return from_file(Outcome, read_json(out / OUTCOME), out / OUTCOME)
    began, stopped = time.monotonic(), None
    asked: dict[str, Any] = {"recipe": recipe, "encoder": encoder, "out": out, "seed": seed, "device": device}
    try:
        pretrain(data, resume=True, evaluate=False, quiet=True, **asked)
    except Diverged as error:
        stopped = error.loss
    found = replace(look(recipe, data, out, encoder, stopped), seconds=time.monotonic() - began)
    write_json(out / OUTCOME, asdict(found))
    return found


def look(recipe: Recipe, data: Data, out: Path, encoder: nn.Module | None, stopped: float | None) -> Outcome:
    """The outcome of a run that is over, or was stopped at a loss: its last figures, its encoder on held-out images."""
    lines = [line for line in health.read_metrics(out) if "loss" in line]
    last = lines[-1] if lines else {}
    loss = float(last.get("loss", math.nan)) if stopped is None else stopped
    bound = float(last.get("loss_bound", math.nan))
    accuracy = rank = limit = math.nan
    if stopped is None and math.isfinite(loss):
        bank, test = measured_parts(data, MEASURED, MEASURED)
        network, transform = network_of(out, recipe, encoder)
        features = [extract(network.encoder, part, transform) for part in (bank, test)]
        accuracy = knn(*features)[0].value
        embeddings = extract(nn.Sequential(network.encoder, network.projector), test, transform).unit()
        rank, limit = health.effective_rank(embeddings), float(min(embeddings.shape))
    why = ""
    if rank < health.COLLAPSED_SHARE * limit:
        why = "few directions"
    elif loss < bound * (1 + 1e-3):
        why = "below the bound"
    elif stopped is not None or not math.isfinite(loss) or not math.isfinite(rank):
        why = "not finite"
    return Outcome(why, accuracy, rank, limit, loss, bound, int(last.get("step", 0)), 0.0)


def network_of(out: Path, recipe: Recipe, encoder: nn.Module | None) -> tuple[Siamese, Callable[[Any], Tensor]]:
    """The whole network of a run after its last checkpoint, and the transform for its images."""
    info, found = read_info(out), in_run(out).newest()
    assert found is not None
    if encoder is None:
        encoder = build_encoder(info.backbone, info.image_size, info.small_stem)
    network = build_siamese(recipe.network, encoder, info.feature_size)
    network.load_state_dict(found[0]["network"])
    return network.cpu().eval(), image_transform(info)


def small_digits() -> Recipe:
    """The digits recipe at the images' own 8 px, trained as the paper's CIFAR-10 models are: order 4, no target."""
    digits = RECIPES["digits"]
    views = tuple(replace(view, size=8) for view in digits.views)
    network = Network("resnet10-tiny", projector=(256, 128))
    own = replace(digits, views=views, network=network, epochs=8, expects={})
    return replace(own, method="mec", settings={"order": 4})


@takes(DistortionFigure)
def distortion_study(options: DistortionFigure) -> Path:
    """Train models alike but for ε_d² (runs in `out`, resumable), and draw them: `out`/distortion.png.

    Args:
    {options}

    Raises:
        BadInput: no labels to colour and measure by, or the recipe is not of a coding length.
    """
    out, recipe = Path(options.out), options.recipe
    console = Console(quiet=options.quiet, markup=False, highlight=False)
    images = open_data(options.data, root=options.data_root)
    if not images.can_be_measured:
        raise BadInput(f"{options.data} has no labels: the figure colours by class and measures accuracy.")
    if isinstance(recipe, Recipe):
        base = recipe
    elif recipe is None and images.suits == "digits":
        base = small_digits()
    else:
        base = recipe_named(recipe or "cifar10-paper")
    base = base if options.epochs is None else replace(base, epochs=options.epochs)
    curves: list[Curve] = []
    maps: dict[str, Features | None] = {}
    for distortion in sorted({*reals(options.sweep, "--sweep"), *PAPER}):
        run = out / f"distortion-{distortion:g}"
        chosen = replace(base, settings={**base.settings, "distortion": distortion})
        found = outcome_of(chosen, images, run, seed=options.seed, device=options.device)
        console.print(in_words(f"ε_d² {distortion:g}", found))
        features = None if math.isnan(found.knn) else training_features(run, images.train.labelled())
        lines = [line for line in health.read_metrics(run) if "norm_c" in line]
        steps, norms, gaps = ([line.get(key, 0.0) for line in lines] for key in ("step", "norm_c", "series_gap"))
        shares = [] if features is None else spectrum(features.x)
        curves.append(Curve(distortion, found.knn, bool(found.diverged), steps, norms, gaps, shares))
        if distortion in PAPER:
            accuracy = "" if features is None else f": k-NN {found.knn:.1f} %"
            maps[f"ε_d² {distortion:g}{accuracy}"] = features
    write_json(out / "distortion.json", [asdict(c) for c in curves])
    distortion_figure(curves, dict(reversed(maps.items())), images.classes, out / "distortion.png")
    console.print(f"Written: {out / 'distortion.png'}, {out / 'distortion.json'}", soft_wrap=True)
    return out / "distortion.png"


def in_words(name: str, found: Outcome) -> str:
    end = f"diverged ({found.diverged})" if found.diverged else "sound"
    return (
        f"{name}: {end}, k-NN {found.knn:.1f} %, effective rank {found.rank:.1f} of {found.rank_limit:.0f}, "
        f"loss {found.loss:.3f} (bound {found.loss_bound:.3f}), {found.steps} steps, {found.seconds:.0f} s"
    )


def training_features(run: Path, split: Split) -> Features:
    encoder, transform = load_encoder(run)
    step = -(-len(split) // MEASURED)
    return extract(encoder, split.take(torch.arange(0, len(split), step).numpy()), transform)


def spectrum(x: Tensor) -> list[float]:
    """Singular values of unit rows [n, e], largest first, as shares of the largest."""
    values = torch.linalg.svdvals(nn.functional.normalize(x, dim=1))
    return (values / values[0].clamp_min(1e-30)).tolist()


@dataclass(frozen=True)
class Curve:
    """A run of the distortion study: its distortion ε_d², end, and figures over training."""

    distortion: float
    knn: float  # %, NaN where it could not be measured
    diverged: bool
    steps: Sequence[int]
    norm_c: Sequence[float]
    gap: Sequence[float]  # series minus log-determinant, of the loss
    spectrum: Sequence[float]  # of the training features, as shares of the largest


def distortion_figure(
    curves: Sequence[Curve], maps: Mapping[str, Features | None], classes: Sequence[str], path: Path
) -> None:
    """The paper's Figure 4: maps of training features, accuracy over ε_d², spectrum, ‖C‖₂ and the series' gap.

    A run without features, since it diverged, has an empty map that says so.
    """
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
    spectra.legend(frameon=False, fontsize="small")
    draw_classes(figure, classes)
    write_figure(figure, path)
