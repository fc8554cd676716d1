"""Is training healthy? Measured on the batch's own embeddings, without labels, and said in plain words; what to change
after a verdict: something else than was done, with numbers that can be typed as they are."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mec.errors import BadInput
from mec.objectives.coding import distortion_for
from mec.objectives.matched import unit_rows
from mec.objectives.mec import lower_bound, maximum_entropy_coding
from mec.objectives.methods import method_named
from mec.recipes.recipe import Recipe
from mec.recipes.table import AUTO, RECIPES
from mec.runtime.records import read_records
from mec.training.run import RunSettings, read_settings

METRICS = "metrics.jsonl"
BEYOND = "which no exact coding length reaches"  # of a loss that a series invents
COLLAPSED_SHARE = 0.05  # effective rank below this share of the largest possible: collapse
ONE_DIRECTION = 1.1  # effective rank: a collapse whatever share of the largest it is
NARROW_SHARE = 0.10  # below this: worth a warning; and a collapse where different images look alike, too
ORDER_1_SHARE = 0.15  # the same where nothing in the objective asks for spread: it only goes down
ALIKE, HALF_ALIKE = 0.97, 0.5  # mean cosine of different images
FEW_STEPS = 20  # a run of fewer is hardly trained, whatever its figures
HARDLY_AGREE = 0.2  # mean cosine of two views of an image
LITTLE = 0.15  # of what there was to gain, by which views agree more than before training
CLEAR = 0.9  # where views agreed so much more than images before training, little was there to gain
WAIT_SHARE = 0.3  # of the time spent waiting for data: worth a word
FAR = 10  # times the recipe's own rate, or a part of it: the rate is named before anything else
ENOUGH_STEPS = 500  # that are advised at least to a run that hardly trained
LOOK = "Look at the images (copies of one, or empty?) and at the views (--set views.scale='[0.7,1]' makes milder ones)"


@dataclass(frozen=True)
class Verdict:
    """How training went, by what evidence, since which step, and what to change."""

    word: Literal["collapsed", "diverged", "hardly trained", "narrow", "healthy", "unknown"]
    evidence: str
    advice: str = ""
    step: int | None = None  # where it began; None where nothing is wrong

    @property
    def healthy(self) -> bool:
        return self.word == "healthy"

    @property
    def words(self) -> str:
        return f"{self.word}: {self.evidence}"

    def __str__(self) -> str:
        return f"{self.words} {self.advice}".rstrip()

    def record(self) -> dict[str, Any]:
        """What health.json holds."""
        return {"healthy": self.healthy, **asdict(self), "words": self.words}


@torch.no_grad()
def measure(
    online: Tensor, target: Tensor | None, distortion: float = 0.06, order: int | None = None
) -> dict[str, float]:
    """Figures of one batch: embeddings online [V, m, d] and target [T, m, d] or None; order of a series, if it is one.

    Returns:
        coding_ratio: value of the joint form over its maximum, in [0, 1]; 1 = views agree and images spread evenly.
        coding_ratio_if_collapsed: what it would be if all images looked alike and views agreed.
        effective_rank: exp of the entropy of the singular values (RankMe) of the unit embeddings of one view.
        effective_rank_limit: the largest it can be, min(m, d).
        embedding_std: mean over dimensions of the standard deviation of unit rows, times sqrt(d): 1 spread, 0 alike.
        agreement: mean cosine of two views of an image.
        similarity: mean cosine of two different images.
        norm_c: the spectral norm of C = λ online targetᵀ, which a series needs below 1 to surely converge.
        series_gap: with an order, the series' loss minus the exact one (dimensionless) on these rows: what truncation
            hides or, below zero, invents.
    All but the limits are NaN where an embedding is not finite: the loss has the word then, not an eigenvalue solver.
    """
    if online.device.type == "mps":  # which knows no float64
        online, target = online.cpu(), None if target is None else target.cpu()
    z = unit_rows(online)
    others = z if target is None else unit_rows(target)
    first, other = z[0], others[min(1, len(others) - 1)]
    m, d = first.shape
    r = min(m, d)
    limit = r * math.log1p(1 / (r * distortion))
    limits = {"coding_ratio_if_collapsed": math.log1p(1 / distortion) / limit, "effective_rank_limit": float(r)}
    if not (first.isfinite().all() and other.isfinite().all()):
        names = ["coding_ratio", "effective_rank", "embedding_std", "agreement", "similarity", "norm_c"]
        names += [] if order is None else ["series_gap"]
        return {**limits, **dict.fromkeys(names, math.nan)}
    gap = {}
    if order is not None:
        series, exact = (maximum_entropy_coding(first, other, distortion=distortion, order=n) for n in (order, None))
        gap["series_gap"] = float(series - exact)
    average, lam = (first + other) / 2, 1 / (m * distortion)
    side = average @ average.T if m <= d else average.T @ average
    spectrum = torch.linalg.eigvalsh(side.double()).clamp_min(0)
    mean = first.mean(0)
    return {
        **limits, "coding_ratio": float(torch.log1p(lam * spectrum).sum()) / limit,
        "effective_rank": effective_rank(first), "agreement": float((first * other).sum(1).mean()),
        "embedding_std": float(first.std(0, unbiased=False).mean()) * math.sqrt(d),
        "similarity": float((m * mean.square().sum() - 1) / (m - 1)) if m > 1 else 1.0,
        "norm_c": spectral_norm(first, other) * lam, **gap,
    }  # fmt: skip


def effective_rank(rows: Tensor) -> float:
    """exp of the entropy of the singular values of rows [m, d]: how many directions they use (RankMe)."""
    singular = torch.linalg.svdvals(rows)
    shares = singular / singular.sum().clamp_min(1e-12) + 1e-7
    return float(torch.exp(-(shares * shares.log()).sum()))


def spectral_norm(online: Tensor, target: Tensor, iterations: int = 8) -> float:
    """‖online targetᵀ‖₂ by power iterations that never form the product; from below, from a fixed start."""
    # Not ones: embeddings are centred by the projector's last BN, so ones lie in the null space of online targetᵀ.
    start = torch.randn(target.shape[0], generator=torch.Generator().manual_seed(0), dtype=target.dtype)
    vector = start.to(target.device)
    norm = torch.zeros((), dtype=target.dtype, device=target.device)
    for _ in range(iterations):
        image = online @ (target.T @ vector)
        norm = image.norm() / vector.norm().clamp_min(1e-30)
        vector = target @ (online.T @ image)
        vector = vector / vector.norm().clamp_min(1e-30)
    return float(norm)


def health(run: str | Path) -> Verdict:
    """How the run in a folder trained, from its metrics.jsonl, in plain words.
    Raises FileNotFoundError: no such folder. BadInput: it is not the folder of a run."""
    folder = Path(run)
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: no such run folder.")
    settings = read_settings(folder)
    recipe = settings.recipe
    return judge(read_metrics(folder), {**method_named(recipe.method).settings, **recipe.settings}, settings)


def own_rate(name: str) -> float:
    """The base rate that a recipe has by itself; for one without a name, that of `auto`."""
    return RECIPES.get(name, AUTO).optimizer.base_lr


def lower_rate(recipe: Recipe, name: str) -> str:
    """The flag with a base rate to try after one that was too high: a third of it, or the recipe's own if lower."""
    return f"--set optimizer.base_lr={min(recipe.optimizer.base_lr / 3, own_rate(name)):.2g}"


def after_divergence(recipe: Recipe, name: str, step: int) -> str:
    """What to do about a loss that is not finite, or a gradient, at a step (1, 2, ...)."""
    if step <= 1:
        return f"No update was made before it, so that the rate is not the cause. {LOOK}, and at --set and --encoder."
    other = "" if recipe.method == "mec-joint" else ", or with --method mec-joint, which needs no series"
    return f"Start again with a new --out and a lower learning rate, {lower_rate(recipe, name)}{other}."


def advice(word: str, run: RunSettings | None, settings: Mapping[str, Any], step: int, apart: float = 1.0) -> str:
    """What to change after a verdict that is not `healthy`.

    Args:
        word: of the verdict; `truncated` is a series that is below its exact form.
        run: what was done, if it is known.
        settings: of the objective, as run.
        step: where it began.
        apart: how much more views of an image agree than different images, at the end."""
    method, distortion = run.recipe.method if run else "", settings.get("distortion")
    number = distortion if isinstance(distortion, (int, float)) else None
    lower = lower_rate(run.recipe, run.recipe_name) if run else "--set optimizer.base_lr=..."
    if word == "diverged":
        again = f"Start again with a lower learning rate, {lower}."
        return after_divergence(run.recipe, run.recipe_name, step) if run else again
    if word == "truncated":
        larger = f", --set settings.distortion={2 * number:.2g}" if number else ", a larger --set settings.distortion"
        return f"Use --method mec-joint (no series){larger}, or a lower learning rate, {lower}."
    if word == "collapsed" and step <= 1 and run is not None:
        return f"It was so before the first update. {LOOK}."
    if word == "collapsed" and settings.get("order") == 1:
        predictor = "" if method == "mec" else "; or a predictor and a target network (--method mec)"
        return (
            "Order 1 only asks views to agree, which images that all look alike do best: use --set settings.order=4, "
            f"or --method mec-joint{predictor}."
        )
    if word == "collapsed":
        smaller = f", or ask for more directions, --set settings.distortion={number / 2:.2g}" if number else ""
        other = smaller if method == "mec-joint" else ", or use --method mec-joint, which resists collapse"
        return f"Lower the learning rate, {lower}{other}."
    longer = "--epochs"
    if run:  # twice as many as were done, and enough for `ENOUGH_STEPS` steps
        longer += f" {max(1, math.ceil(max(2 * run.steps, ENOUGH_STEPS) / run.steps_per_epoch))}"
    if word == "narrow":
        wider = f"A smaller --set settings.distortion={number / 2:.2g}" if number else "--method mec-joint"
        return f"{wider} or longer training, {longer}, widens it."
    if run is not None and not 1 / FAR <= run.recipe.optimizer.base_lr / own_rate(run.recipe_name) <= FAR:
        own, now = own_rate(run.recipe_name), run.recipe.optimizer.base_lr
        return f"The learning rate is far from the recipe's own: --set optimizer.base_lr={own:g} (it was {now:g})."
    if apart < 0.05 and run is not None and run.steps >= ENOUGH_STEPS:
        return f"{LOOK}."
    return f"Train longer, {longer}. If that was long enough: {LOOK[0].lower()}{LOOK[1:]}."


def judge(metrics: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], run: RunSettings | None = None) -> Verdict:
    """A verdict from the lines of metrics.jsonl that carry health figures, and the line of a divergence.

    Args:
        metrics: lines in the order of steps, each with `step`, `loss` and the figures of `measure`.
        settings: of the objective; `order` and `distortion` count.
        run: what was done, so that the advice is something else."""

    def found(kind: Any, words: str, step: int, difference: float = 1.0) -> Verdict:
        advised = advice(kind, run, settings, step, difference)
        return Verdict("diverged" if kind == "truncated" else kind, words, advised, step)

    lines = [line for line in metrics if "effective_rank" in line]
    bad = [line for line in metrics if "diverged" in line]
    bad += [line for line in lines[-1:] if not (math.isfinite(line["loss"]) and math.isfinite(line["effective_rank"]))]
    if bad and not (lines and all(is_collapsed(line, settings) for line in lines)):
        what, step = bad[0].get("diverged", f"the loss is {bad[0]['loss']:.4g}"), bad[0]["step"]
        return found("truncated" if BEYOND in what else "diverged", f"{what} at step {step}.", step)
    if not lines:
        return Verdict("unknown", "no health figure was recorded.", "Train for more steps.")
    last = lines[-1]
    rank, limit = last["effective_rank"], last["effective_rank_limit"]
    if is_collapsed(last, settings):
        step = since(lines, lambda line: is_collapsed(line, settings))
        what = "all images look alike" if last["similarity"] > 0.9 else "embeddings use few directions"
        words = f"{what} since step {step} (effective rank {rank:.1f} of {limit:.0f}, cosine of different images "
        return found("collapsed", f"{words}{last['similarity']:.2f}).", step)
    series = settings.get("order") is not None and settings.get("distortion") is not None
    bound = last.get("loss_bound")
    if series and bound is not None and last["loss"] < bound * (1 + 1e-3):
        step = since(lines, lambda line: line["loss"] < line["loss_bound"])
        words = (
            f"the loss {last['loss']:.3g} is below {bound:.3g}, the least that an exact coding length "
            f"allows, since step {step}; ‖C‖ is {last['norm_c']:.1f}, "
            "and the series surely converges only below 1: what is being maximised is its truncation error."
        )
        return found("truncated", words, step)
    if weak := hardly_trained(lines, "the weights given" if run and run.asked.get("init") else "before training"):
        return found("hardly trained", weak[1], weak[0], apart(last))
    figures = (
        f"views agree (cosine {last['agreement']:.2f}), different images differ "
        f"({last['similarity']:.2f}), effective rank {rank:.0f} of {limit:.0f}, "
        f"coding ratio {last['coding_ratio']:.2f} (collapse would be {last['coding_ratio_if_collapsed']:.2f})."
    )
    if is_narrow(last):
        step = since(lines, is_narrow)
        words = f"the effective rank is low, {rank:.1f} of {limit:.0f}, since step {step}; {figures}"
        return found("narrow", words, step)
    waited = last.get("data_wait", 0)
    wait = f"It waited for data {waited:.0%} of the time: more --workers may help." if waited > WAIT_SHARE else ""
    return Verdict("healthy", figures, wait)


def is_narrow(line: Mapping[str, Any]) -> bool:
    return line["effective_rank"] / line["effective_rank_limit"] < NARROW_SHARE


def apart(line: Mapping[str, Any]) -> float:
    """How much more two views of an image agree than two images do: 0 where nothing is told apart."""
    return line["agreement"] - line["similarity"]


def hardly_trained(lines: Sequence[Mapping[str, Any]], start: str = "before training") -> tuple[int, str] | None:
    """Since which step a run hardly trained, and by what evidence; None where it trained.
    The first line is that of the untrained network, where it is of step 1: figures are taken before the update."""
    first, last = lines[0], lines[-1]
    if last["step"] < FEW_STEPS:
        return 1, f"there were {last['step']} steps only."
    if last["agreement"] < HARDLY_AGREE:
        words = f"views hardly agree yet (cosine {last['agreement']:.2f}, different images {last['similarity']:.2f})."
        return since(lines, lambda line: line["agreement"] < HARDLY_AGREE), words
    if first["step"] > 1 or len(lines) < 3:
        return None
    before = apart(first)
    least = before + LITTLE * (1 - before)
    if before < CLEAR and statistics.median(map(apart, lines[-3:])) < least:
        step = since(lines, lambda line: apart(line) < least or line is last)
        return step, (
            f"views agree little more than {start}: by {apart(last):.2f} more than different images do, "
            f"before by {before:.2f} (cosine {last['agreement']:.2f} and {last['similarity']:.2f})."
        )
    losses = [line["loss"] for line in lines]
    moved, noise = movement(losses) if len(losses) >= 8 else (1.0, 0.0)  # of fewer, noise cannot be told
    if moved <= noise:
        return 1, f"the loss did not move beyond its noise ({losses[0]:.4g} to {losses[-1]:.4g}, noise {noise:.2g})."
    return None


def movement(losses: Sequence[float]) -> tuple[float, float]:
    """How far the mean loss of a quarter of a run lies from another's, and how far noise alone may take it.
    Noise is read from second differences, which a steady descent does not have: of independent values of standard
    deviation s, their median size is 1.65 s."""
    quarters = [statistics.fmean(part) for part in np.array_split(np.asarray(losses), 4)]
    noise = float(np.median(np.abs(np.diff(losses, 2)))) / 1.65
    return max(quarters) - min(quarters), 4 * noise / math.sqrt(len(losses) / 4)


def since(lines: Sequence[Mapping[str, Any]], is_bad) -> int:
    """The first step of the unbroken bad stretch that ends the run."""
    return [line["step"] for line in takewhile(is_bad, reversed(lines))][-1]


def is_collapsed(line: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether the figures of a step are those of a collapse: of all directions, or of nearly all."""
    share = line["effective_rank"] / line["effective_rank_limit"]
    least = ORDER_1_SHARE if settings.get("order") == 1 else COLLAPSED_SHARE
    if line["effective_rank"] < ONE_DIRECTION and line["effective_rank_limit"] > 2:  # of a small batch no small share
        return True
    return share < least or line["similarity"] > ALIKE or (share < NARROW_SHARE and line["similarity"] > HALF_ALIKE)


def exact_loss_bound(objective: Any, settings: Mapping[str, Any], m: int, d: int) -> float | None:
    """The least that a coding objective can honestly be, by its exact form or as a cosine; None for others."""
    if objective not in ("maximum_entropy_coding", "joint_coding"):
        return None
    if settings.get("order") == 1:  # minus the mean cosine of the views
        return -1.0
    family = {name: settings[name] for name in ("exponent", "agreement", "centred") if name in settings}
    return lower_bound(m, d, distortion_for(settings["distortion"], m, d), **family)


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl."""
    path = run / METRICS
    if not path.exists():
        raise BadInput(f"{run}: no metrics.jsonl in it, so it is not the folder of a run.")
    return [_figures(record) for record in read_records(path, step=int)]


JUDGED = (  # figures that a verdict takes together
    "loss", "effective_rank", "effective_rank_limit", "similarity", "agreement", "norm_c", "coding_ratio",
    "coding_ratio_if_collapsed",
)  # fmt: skip


def _figures(record: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a line; without its rank, by which it is judged, where others are missing that go with it."""
    numbers = {k: v for k, v in record.items() if isinstance(v, float) or (type(v) is int and abs(v) < 2**53)}
    found: dict[str, Any] = {**numbers, **({"diverged": str(record["diverged"])} if "diverged" in record else {})}
    if not all(name in found for name in JUDGED) or found["effective_rank_limit"] <= 0:
        found.pop("effective_rank", None)
    return found


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """Values as a line of bars.

    >>> sparkline([0, 1, 2, 3], width=4)
    '▁▃▆█'"""
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return ""
    count = min(width, len(finite))
    picked = [finite[round(i * (len(finite) - 1) / max(1, count - 1))] for i in range(count)]
    low, high = min(picked), max(picked)
    return "".join("▁▂▃▄▅▆▇█"[round((v - low) / (high - low or 1) * 7)] for v in picked)
