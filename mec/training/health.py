"""Is training healthy? Measured on the batch's own embeddings, without labels, and said in plain words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mec.errors import BadInput
from mec.objectives.coding import distortion_for
from mec.objectives.matched import unit_rows
from mec.objectives.mec import lower_bound, maximum_entropy_coding
from mec.objectives.methods import method_named
from mec.runtime.records import read_records
from mec.training.run import read_settings

COLLAPSED_SHARE = 0.05  # effective rank below this share of the largest possible: collapse
NARROW_SHARE = 0.10  # below this: worth a warning; and a collapse where different images look alike, too
ORDER_1_SHARE = 0.15  # the same where nothing in the objective asks for spread: it only goes down
ALIKE, HALF_ALIKE = 0.97, 0.5  # mean cosine of different images
WAIT_SHARE = 0.3  # of the time spent waiting for data: worth a word


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
        **limits,
        "coding_ratio": float(torch.log1p(lam * spectrum).sum()) / limit,
        "effective_rank": effective_rank(first),
        "embedding_std": float(first.std(0, unbiased=False).mean()) * math.sqrt(d),
        "agreement": float((first * other).sum(1).mean()),
        "similarity": float((m * mean.square().sum() - 1) / (m - 1)) if m > 1 else 1.0,
        "norm_c": spectral_norm(first, other) * lam,
        **gap,
    }


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
    """Whether the run in a folder trained well, from its metrics.jsonl, in plain words.

    Raises:
        FileNotFoundError: no such folder.
        BadInput: it is not the folder of a run.
    """
    folder = Path(run)
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: no such run folder.")
    recipe = read_settings(folder).recipe
    return judge(read_metrics(folder), {**method_named(recipe.method).settings, **recipe.settings})


@dataclass(frozen=True)
class Verdict:
    """Whether training was healthy, why, and what to change."""

    healthy: bool
    words: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.words} {self.advice}".rstrip()


def judge(metrics: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> Verdict:
    """A verdict from the lines of metrics.jsonl that carry health figures.

    Args:
        metrics: lines in the order of steps, each with `step`, `loss` and the figures of `measure`.
        settings: of the objective; `order` and `distortion` count.
    """
    lines = [line for line in metrics if "effective_rank" in line]
    if not lines:
        return Verdict(False, "unknown: no health figure was recorded.", "Train for more steps.")
    last = lines[-1]
    if not all(math.isfinite(last[k]) for k in ("loss", "effective_rank")):
        return Verdict(False, f"diverged: the loss is {last['loss']} at step {last['step']}.", DIVERGED)
    rank, limit = last["effective_rank"], last["effective_rank_limit"]
    if is_collapsed(last, settings):
        step = since(lines, lambda line: is_collapsed(line, settings))
        what = "all images look alike" if last["similarity"] > 0.9 else "embeddings use few directions"
        words = (
            f"collapsed: {what} since step {step} (effective rank {rank:.1f} of {limit:.0f}, "
            f"cosine of different images {last['similarity']:.2f})."
        )
        return Verdict(False, words, ORDER_1 if settings.get("order") == 1 else COLLAPSED)
    series = settings.get("order") is not None and settings.get("distortion") is not None
    bound = last.get("loss_bound")
    if series and bound is not None and last["loss"] < bound * (1 + 1e-3):
        words = (
            f"diverged: the loss {last['loss']:.3g} is below {bound:.3g}, the least that an exact coding length "
            f"allows, since step {since(lines, lambda x: x['loss'] < x['loss_bound'])}; ‖C‖ is {last['norm_c']:.1f}, "
            "and the series surely converges only below 1: what is being maximised is its truncation error."
        )
        return Verdict(False, words, RAN_AWAY)
    words = (
        f"healthy: views agree (cosine {last['agreement']:.2f}), different images differ "
        f"({last['similarity']:.2f}), effective rank {rank:.0f} of {limit:.0f}, "
        f"coding ratio {last['coding_ratio']:.2f} (collapse would be {last['coding_ratio_if_collapsed']:.2f})."
    )
    if rank / limit < NARROW_SHARE:
        return Verdict(True, words + " The effective rank is low.", NARROW)
    if last["agreement"] < 0.2:
        return Verdict(True, words + " Views hardly agree yet.", APART)
    if last.get("data_wait", 0) > WAIT_SHARE:
        return Verdict(True, words, f"It waited for data {last['data_wait']:.0%} of the time: more --workers may help.")
    return Verdict(True, words)


COLLAPSED = "Lower the learning rate (--set optimizer.base_lr=...), or use --method mec-joint, which resists collapse."
ORDER_1 = (
    "Order 1 only asks views to agree, which images that all look alike do best: use --set settings.order=4, or "
    "--method mec-joint; or a predictor and a target network (--method mec)."
)
DIVERGED = (
    "Start again with a lower learning rate (--set optimizer.base_lr=..., and a new --out), or use --method mec-joint."
)
RAN_AWAY = "Use --method mec-joint (no series), or a larger --set settings.distortion, or a lower learning rate."
NARROW = "A smaller --set settings.distortion or longer training widens it."
APART = "Train longer (--epochs), or with milder views (--set views.scale='[0.3,1]')."


def since(lines: Sequence[Mapping[str, Any]], is_bad) -> int:
    """The first step of the unbroken bad stretch that ends the run."""
    return [line["step"] for line in takewhile(is_bad, reversed(lines))][-1]


def is_collapsed(line: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether the figures of a step are those of a collapse: of all directions, or of nearly all."""
    share = line["effective_rank"] / line["effective_rank_limit"]
    least = ORDER_1_SHARE if settings.get("order") == 1 else COLLAPSED_SHARE
    return share < least or line["similarity"] > ALIKE or (share < NARROW_SHARE and line["similarity"] > HALF_ALIKE)


def exact_loss_bound(objective: Any, settings: Mapping[str, Any], m: int, d: int) -> float | None:
    """The least that a coding objective can honestly be, by its exact form or as a cosine; None for others."""
    if objective not in ("maximum_entropy_coding", "joint_coding"):
        return None
    if settings.get("order") == 1:  # minus the mean cosine of the views
        return -1.0
    return lower_bound(m, d, distortion_for(settings["distortion"], m, d))


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl."""
    path = run / "metrics.jsonl"
    if not path.exists():
        raise BadInput(f"{run}: no metrics.jsonl in it, so it is not the folder of a run.")
    return read_records(path)


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """Values as a line of bars.

    >>> sparkline([0, 1, 2, 3], width=4)
    '▁▃▆█'
    >>> sparkline([0, 7])
    '▁█'
    """
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return ""
    count = min(width, len(finite))
    picked = [finite[round(i * (len(finite) - 1) / max(1, count - 1))] for i in range(count)]
    low, high = min(picked), max(picked)
    return "".join("▁▂▃▄▅▆▇█"[round((v - low) / (high - low or 1) * 7)] for v in picked)
