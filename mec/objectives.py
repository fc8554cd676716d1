"""Every objective: pure functions on embeddings, OBJECTIVES (how the loop calls them), METHODS (rows of data).

A formula scores matched embeddings and knows nothing of networks or ranks. An objective is how the loop calls it:

    objective(online [V, m, d], target [T, m, d] | None, *, labels=None, ranks=ALONE, **settings) -> []

with this rank's rows; target views are the first T online views. `over_pairs` lifts a formula on two sets.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mec.coding import (
    Distortion,
    at_least_float32,
    check_settings,
    distortion_for,
    full_precision,
    log_det_cross,
    log_det_symmetric,
)
from mec.distributed import ALONE, Ranks
from mec.errors import BadInput, nearest
from mec.recipe import Setting


def maximum_entropy_coding(
    online: Tensor, target: Tensor, *, distortion: Distortion = 0.06, order: int | None = 4, ranks: Ranks = ALONE
) -> Tensor:
    """Minus the coding length shared by matched views, scaled so that order 1 is minus the mean cosine.

    Args:
        online: [m, d] predictions, one row an image. Rows are normalised here.
        target: [m, d] embeddings of the other view, rows in the same order.
        distortion: ε_d², the squared decoding error allowed for a unit row, per dimension; > 0. λ = 1 / (m ε_d²).
            Or "guaranteed": d / m where d > m, else just above 1, with which every series converges.
        order: terms kept of the series, 1 or more; None for log abs det itself. The series surely converges where
            ‖λ online targetᵀ‖₂ < 1, which ε_d² > 1 guarantees; a loss below
            -r ε_d² log(1 + 1 / (r ε_d²)), r = min(m, d), is truncation error, not entropy.
        ranks: the processes that share the batch, each with its own rows; m is their sum. The work is split.

    Returns:
        [], dimensionless: -log det(I + C) / (λ m), C = λ online targetᵀ. Nats = -λ m μ times it, μ = (m + d) / 2.

    Raises:
        BadInput: shapes differ, distortion <= 0, or order < 1.

    Source:
        Liu et al., NeurIPS 2022, Eqn 3, and Eqn 4 for the smaller side; scaled as in the official code.

    >>> z = torch.eye(4)
    >>> maximum_entropy_coding(z, z, distortion=1.0, order=1)
    tensor(-1.)
    """
    check_pair(online, target)
    check_settings(distortion, order)
    shares = ranks.shares(len(online))
    distortion = distortion_for(distortion, shares.total, online.shape[1])
    lam = 1 / (shares.total * distortion)
    with full_precision(online):
        online, target = unit_rows(online), unit_rows(target)
        return -distortion * log_det_cross(online, target, lam, order, shares)  # 1 / (λ m) = ε_d²


def joint_coding(
    views: Tensor, *, distortion: Distortion = 0.06, weights: Tensor | None = None, ranks: Ranks = ALONE
) -> Tensor:
    """Minus the exact coding length of the view average, scaled as `maximum_entropy_coding`.

    The average Ȳ of unit embeddings is long where views agree and the log-determinant is large where images differ,
    so one bounded quantity asks for both. Its first order is the agreement of the views (two views: -(1 + cos) / 2).

    Args:
        views: [V, m, d], V views of the same m images. Rows are normalised here; their average is not.
        distortion: ε_d² > 0 or "guaranteed", as in `maximum_entropy_coding`.
        weights: [V], adding up to 1; None for equal ones.
        ranks: the processes that share the batch, each with its own rows; m is their sum. The work is split.

    Returns:
        [], dimensionless: -log det(I + λ ȲȲᵀ) / (λ m); between -r ε_d² log(1 + 1 / (r ε_d²)) and 0, r = min(m, d).

    Raises:
        BadInput: not [V, m, d], distortion <= 0, or weights that do not fit.

    Source:
        Eqn 1 of Liu et al., NeurIPS 2022, of the view average: this project's form, docs/objective.md.

    >>> views = torch.eye(4).expand(2, 4, 4)
    >>> round(joint_coding(views, distortion=0.25).item(), 4)  # aligned and evenly spread: the bound, -log 2
    -0.6931
    """
    check_stack(views)
    check_settings(distortion)
    if weights is not None and (weights.shape != views.shape[:1] or abs(weights.sum().item() - 1) > 1e-4):
        raise BadInput(f"weights are {weights.tolist()} for {views.shape[0]} views: one number a view, adding up to 1.")
    shares = ranks.shares(views.shape[1])
    distortion = distortion_for(distortion, shares.total, views.shape[2])
    with full_precision(views):
        units = unit_rows(views)
        average = units.mean(0) if weights is None else torch.einsum("v,vmd->md", weights.to(units), units)
        return -distortion * log_det_symmetric(average, 1 / (shares.total * distortion), shares)


def lower_bound(m: int, d: int, distortion: float) -> float:
    """What no exact form of the loss can go below: -r ε_d² log(1 + 1 / (r ε_d²)), r = min(m, d)."""
    r = min(m, d)
    return -r * distortion * float(torch.log1p(torch.tensor(1 / (r * distortion), dtype=torch.float64)))


def unit_rows(x: Tensor) -> Tensor:
    return F.normalize(at_least_float32(x), dim=-1)


def check_pair(online: Tensor, target: Tensor) -> None:
    if online.ndim != 2 or online.shape != target.shape or 0 in online.shape:
        raise BadInput(f"online is {[*online.shape]}, target {[*target.shape]}: both are [m, d], row i the same image.")


def check_stack(views: Tensor) -> None:
    if views.ndim != 3 or 0 in views.shape:
        raise BadInput(f"views is {[*views.shape]}: it is [V, m, d], V views of the same m images.")


def over_pairs(formula: Callable[..., Tensor], *, splits: bool = False) -> Callable[..., Tensor]:
    """Lift a formula on two sets to the loop's call: its mean over pairs of views.

    With a target: all (v, t), v != t, gradient as the target allows. Without: all v < t, gradient to both.
    `splits`: the formula takes this rank's rows and `ranks`, and splits its work; others get the rows of all ranks.
    """

    @functools.wraps(formula)  # so that its settings can be read off its signature
    def objective(online: Tensor, target: Tensor | None, *, labels=None, ranks: Ranks = ALONE, **settings) -> Tensor:
        check_stack(online)
        if splits:
            settings["ranks"] = ranks
        else:
            online, target = ranks.gather(online, dim=1), None if target is None else ranks.gather(target, dim=1)
        if target is None:
            views = len(online)
            losses = [formula(online[v], online[t], **settings) for v in range(views) for t in range(v + 1, views)]
        else:
            losses = [formula(online[v], target[t], **settings) for v, t in pairs(len(online), len(target))]
        return torch.stack(losses).mean()

    return objective


def joint_objective(
    online: Tensor, target: Tensor | None, *, labels=None, ranks: Ranks = ALONE, distortion: Distortion = 0.06
) -> Tensor:
    """`joint_coding` of all views at once; with a target, of each p_v with the z_t of another view, averaged."""
    check_stack(online)
    if target is None:
        return joint_coding(online, distortion=distortion, ranks=ranks)
    losses = [
        joint_coding(torch.stack([online[v], target[t]]), distortion=distortion, ranks=ranks)
        for v, t in pairs(len(online), len(target))
    ]
    return torch.stack(losses).mean()


def pairs(views: int, targets: int) -> list[tuple[int, int]]:
    """(v, t) of every prediction with the target of another view."""
    return [(v, t) for t in range(targets) for v in range(views) if v != t]


def setting_names(function: Callable) -> frozenset[str]:
    """The keyword-only settings of a formula or an objective."""
    parameters = inspect.signature(function).parameters.values()
    return frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY) - {"labels", "ranks", "weights"}


OBJECTIVES: dict[str, Callable[..., Tensor]] = {
    "maximum_entropy_coding": over_pairs(maximum_entropy_coding, splits=True),
    "joint_coding": joint_objective,
}


@dataclass(frozen=True)
class Method:
    """A row of data: which objective, on which network, with which settings."""

    objective: str
    settings: Mapping[str, Setting] = field(default_factory=dict)
    predictor: bool = False
    target: Literal["momentum", "stop-gradient"] | None = None


METHODS: dict[str, Method] = {
    "mec": Method(
        "maximum_entropy_coding", {"distortion": 0.06, "order": 4}, predictor=True, target="momentum"
    ),  # the paper, appendix C
    "mec-exact": Method(
        "maximum_entropy_coding", {"distortion": 0.06, "order": None}, predictor=True, target="momentum"
    ),
    "mec-joint": Method("joint_coding", {"distortion": 0.02}),
}


def method_named(name: str) -> Method:
    if name not in METHODS:
        raise BadInput(f"no method is called {name!r}. {nearest(name, METHODS)}")
    return METHODS[name]
