"""Runs side by side that differ in a setting: trained where they are missing, and what came of each."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from mec import checkpoint, health
from mec.checkpoint import image_transform, load_encoder, read_info, write_json
from mec.data import Data, Split, open_data
from mec.encoders import build_encoder
from mec.errors import BadInput, Diverged
from mec.evaluate import Features, extract, knn
from mec.evaluate.features import measured_parts
from mec.figures import Curve, distortion_figure
from mec.pretraining import pretrain
from mec.recipe import Network, Recipe
from mec.recipes import RECIPES, recipe_named
from mec.run import read_settings
from mec.siamese import Siamese, build_siamese

OUTCOME = "outcome.json"
MEASURED = 2_000  # most images in the bank, in the test, and in a map
PAPER = (0.12, 0.01)  # the two distortions of the paper's Figure 4
SWEEP = (0.01, 0.03, 0.12, 0.5, 2.0)


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
    recipe: Recipe, data: Data, out: Path, *, seed: int = 0, encoder: nn.Module | None = None, device: str = "auto"
) -> Outcome:
    """Train a run in `out`, or read what came of it where that was done before.

    Raises:
        BadInput: the folder holds a run with another recipe, seed or data.
    """
    if (out / "settings.json").exists():
        stored = read_settings(out)
        if (stored.recipe, stored.seed, stored.data_fingerprint) != (recipe, seed, data.fingerprint):
            raise BadInput(f"{out} holds a run with other settings, seed or data. Choose another --out.")
        if (out / OUTCOME).exists():
            return Outcome(**json.loads((out / OUTCOME).read_text()))
    began, stopped = time.monotonic(), None
    try:
        pretrain(
            data, recipe=recipe, encoder=encoder, out=out, seed=seed, device=device, resume=True, evaluate=False,
            quiet=True,
        )  # fmt: skip
    except Diverged as error:
        stopped = error.loss
    found = look(recipe, data, out, encoder, stopped)
    found = replace(found, seconds=time.monotonic() - began)
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
    info, found = read_info(out), checkpoint.newest(out)
    assert found is not None
    if encoder is None:
        encoder = build_encoder(info.backbone, info.image_size, info.small_stem)
    network = build_siamese(recipe.network, encoder, info.feature_size)
    network.load_state_dict(found[0]["network"])
    return network.cpu().eval(), image_transform(info)


# --- the paper's Figure 4: what the distortion does ---------------------------------------------------------------


def small_digits() -> Recipe:
    """The digits recipe at the images' own 8 px, trained as the paper's CIFAR-10 models are: order 4, no target."""
    views = tuple(replace(view, size=8) for view in RECIPES["digits"].views)
    return replace(
        RECIPES["digits"],
        method="mec",
        settings={"order": 4},
        views=views,
        network=Network("resnet10-tiny", projector=(256, 128)),
        epochs=8,
        expects={},
    )


def distortion_study(
    data: str | Path,
    out: Path,
    *,
    recipe: str | Recipe | None = None,
    epochs: int | None = None,
    sweep: Sequence[float] = SWEEP,
    seed: int = 0,
    device: str = "auto",
    data_root: Path | None = None,
    quiet: bool = False,
) -> Path:
    """Train models alike but for ε_d² (runs in `out`, resumable), and draw them: `out`/distortion.png.

    Recipe: a name or a Recipe; by default `small_digits` for digits, else cifar10-paper.

    Raises:
        BadInput: no labels to colour and measure by, or the recipe is not of a coding length.
    """
    console = Console(quiet=quiet, markup=False)
    images = open_data(str(data), root=data_root)
    if not images.can_be_measured:
        raise BadInput(f"{data} has no labels: the figure colours by class and measures accuracy.")
    if isinstance(recipe, Recipe):
        base = recipe
    elif recipe is None and images.suits == "digits":
        base = small_digits()
    else:
        base = recipe_named(recipe or "cifar10-paper")
    base = base if epochs is None else replace(base, epochs=epochs)
    curves: list[Curve] = []
    maps: dict[str, Features | None] = {}
    for distortion in sorted({*sweep, *PAPER}):
        run = out / f"distortion-{distortion:g}"
        chosen = replace(base, settings={**base.settings, "distortion": distortion})
        found = outcome_of(chosen, images, run, seed=seed, device=device)
        console.print(in_words(f"ε_d² {distortion:g}", found), highlight=False)
        features = None if math.isnan(found.knn) else training_features(run, images.train.labelled())
        lines = [line for line in health.read_metrics(run) if "norm_c" in line]
        curves.append(
            Curve(
                distortion=distortion,
                knn=found.knn,
                diverged=bool(found.diverged),
                steps=[line["step"] for line in lines],
                norm_c=[line["norm_c"] for line in lines],
                gap=[line.get("series_gap", 0.0) for line in lines],
                spectrum=[] if features is None else spectrum(features.x),
            )
        )
        if distortion in PAPER:
            accuracy = "" if features is None else f": k-NN {found.knn:.1f} %"
            maps[f"ε_d² {distortion:g}{accuracy}"] = features
    write_json(out / "distortion.json", [asdict(c) for c in curves])
    distortion_figure(curves, dict(reversed(maps.items())), images.classes, out / "distortion.png")
    console.print(f"Written: {out / 'distortion.png'}, {out / 'distortion.json'}", highlight=False)
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
