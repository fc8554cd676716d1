"""MEC's formulas, OBJECTIVES (how the loop calls all of them), METHODS (rows of data). Others: siblings.py.

A formula scores matched embeddings and knows nothing of networks. An objective is how the loop calls it:

    objective(online [V, m, d], target [T, m, d] | None, *, labels=None, ranks=ALONE, **settings) -> []

with this rank's rows; target views are the first T online views. `over_pairs` lifts a formula on two sets. One with
memory is a module, made for an embedding size d; `build` makes either.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_type_hints

import torch
from torch import Tensor, nn

from mec.coding import (
    Distortion,
    check_settings,
    distortion_for,
    full_precision,
    log_det_cross,
    log_det_symmetric,
)
from mec.distributed import ALONE, Ranks
from mec.errors import BadInput, nearest
from mec.matched import Normalise, check_pair, check_stack, normalised, pairs, pairs_without_target, unit_rows
from mec.recipe import Setting, Target
from mec.siblings import (
    Dino,
    QueuedInfoNCE,
    SwAV,
    UniGrad,
    barlow_twins,
    cross_entropy,
    info_nce,
    negative_cosine,
    nt_xent,
    vicreg,
)


def maximum_entropy_coding(
    online: Tensor,
    target: Tensor,
    *,
    distortion: Distortion = 0.06,
    order: int | None = 4,
    normalise: Normalise = "l2",
    ranks: Ranks = ALONE,
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
        normalise: l2, rows of length 1; bn, columns standardised and divided by sqrt(d), so that rows have that
            length in the mean; both, columns standardised, then rows of length 1 (appendix H's table).
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
        online, target = normalised(online, normalise, ranks), normalised(target, normalise, ranks)
        return -distortion * log_det_cross(online, target, lam, order, shares)  # 1 / (λ m) = ε_d²


def joint_coding(
    views: Tensor,
    *,
    distortion: Distortion = 0.06,
    weights: Tensor | None = None,
    normalise: Normalise = "l2",
    ranks: Ranks = ALONE,
) -> Tensor:
    """Minus the exact coding length of the view average, scaled as `maximum_entropy_coding`.

    The average Ȳ of unit embeddings is long where views agree and the log-determinant is large where images differ,
    so one bounded quantity asks for both. Its first order is the agreement of the views (two views: -(1 + cos) / 2).

    Args:
        views: [V, m, d], V views of the same m images. Rows are normalised here; their average is not.
        distortion: ε_d² > 0 or "guaranteed", as in `maximum_entropy_coding`.
        weights: [V], adding up to 1; None for equal ones.
        normalise: as in `maximum_entropy_coding`.
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
        units = unit_rows(views) if normalise == "l2" else torch.stack([normalised(x, normalise, ranks) for x in views])
        average = units.mean(0) if weights is None else torch.einsum("v,vmd->md", weights.to(units), units)
        return -distortion * log_det_symmetric(average, 1 / (shares.total * distortion), shares)


def lower_bound(m: int, d: int, distortion: float) -> float:
    """What no exact form of the loss can go below: -r ε_d² log(1 + 1 / (r ε_d²)), r = min(m, d)."""
    r = min(m, d)
    return -r * distortion * float(torch.log1p(torch.tensor(1 / (r * distortion), dtype=torch.float64)))


def over_pairs(formula: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Lift a formula on two sets to the loop's call: its mean over pairs of views.

    With a target: all (v, t), v != t, gradient as the target allows. Without: all v < t of which one is global,
    gradient to both. A formula with a parameter `ranks` gets this rank's rows; one without gets those of all ranks.
    """
    by_rank = "ranks" in inspect.signature(formula).parameters

    @functools.wraps(formula)  # so that its settings can be read off its signature
    def objective(online: Tensor, target: Tensor | None, *, labels=None, ranks: Ranks = ALONE, **settings) -> Tensor:
        check_stack(online)
        if by_rank:
            settings["ranks"] = ranks
        else:
            online = ranks.gather(online, dim=1)
            target = None if target is None else ranks.gather(target, dim=1)
        chosen = pairs_without_target(len(online)) if target is None else pairs(len(online), len(target))
        other = online if target is None else target
        return torch.stack([formula(online[v], other[t], **settings) for v, t in chosen]).mean()

    return objective


def joint_objective(
    online: Tensor,
    target: Tensor | None,
    *,
    labels=None,
    ranks: Ranks = ALONE,
    distortion: Distortion = 0.06,
    normalise: Normalise = "l2",
) -> Tensor:
    """`joint_coding` of all views at once; with a target, of each p_v with the z_t of another view, averaged."""
    check_stack(online)
    if target is None:
        return joint_coding(online, distortion=distortion, normalise=normalise, ranks=ranks)
    losses = [
        joint_coding(torch.stack([online[v], target[t]]), distortion=distortion, normalise=normalise, ranks=ranks)
        for v, t in pairs(len(online), len(target))
    ]
    return torch.stack(losses).mean()


OBJECTIVES: dict[str, Callable[..., Any]] = {
    "maximum_entropy_coding": over_pairs(maximum_entropy_coding),
    "joint_coding": joint_objective,
    "negative_cosine": over_pairs(negative_cosine),
    "nt_xent": over_pairs(nt_xent),
    "info_nce": over_pairs(info_nce),
    "barlow_twins": over_pairs(barlow_twins),
    "vicreg": over_pairs(vicreg),
    "queued_info_nce": QueuedInfoNCE,
    "swav": SwAV,
    "dino": Dino,
    "unigrad": UniGrad,
    "cross_entropy": cross_entropy,
}


def build(name: str, embedding: int, settings: Mapping[str, Setting]) -> tuple[Callable[..., Tensor], dict[str, Any]]:
    """The objective of this name for embeddings of this size, and the settings that go with each call.

    Raises:
        BadInput: a setting that it does not take, or a size that does not fit.
    """
    made = OBJECTIVES[name]
    for setting in settings:
        if setting not in setting_names(made):
            raise BadInput(f"{name} has no setting {setting!r}. It takes: {', '.join(sorted(setting_names(made)))}.")
    if not isinstance(made, type):
        return made, dict(settings)
    sizes = {k: v for k, v in settings.items() if k in keywords(made)}
    return made(embedding, **sizes), {k: v for k, v in settings.items() if k not in sizes}


def setting_names(objective: Callable) -> frozenset[str]:
    """The keyword-only settings of a formula or an objective: of a module, of making and of calling it."""
    if isinstance(objective, type) and issubclass(objective, nn.Module):
        return keywords(objective) | keywords(objective.forward)
    return keywords(objective)


def setting_types(objective: Callable) -> dict[str, Any]:
    """The type hint of each of `setting_names`."""
    if isinstance(objective, type) and issubclass(objective, nn.Module):
        hints = {**get_type_hints(objective.__init__), **get_type_hints(objective.forward)}
    else:
        hints = get_type_hints(objective)
    return {name: hints[name] for name in setting_names(objective)}


def keywords(function: Callable) -> frozenset[str]:
    parameters = inspect.signature(function).parameters.values()
    return frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY) - {"labels", "ranks", "weights"}


@dataclass(frozen=True)
class Method:
    """A row of data: which objective, on which network, with which settings.

    `scale`, among the settings, multiplies the loss; it is chosen so that learning rates that suit MEC, whose loss lies
    between -1 and 0, suit this method as well. Recipes of published runs have the published one.
    """

    objective: str
    settings: Mapping[str, Setting] = field(default_factory=dict)
    predictor: Literal["narrow", "wide"] | None = None  # a bottleneck (SimSiam), or as wide as the projector (BYOL)
    target: Target | None = None
    network: Mapping[str, Any] = field(default_factory=dict)  # fields of Network that differ from its defaults
    labels: bool = False  # learns from labels: the network gives a logit for each class
    keeps: Literal["online", "target"] = "online"  # the encoder that is stored and measured


METHODS: dict[str, Method] = {
    "mec": Method(
        "maximum_entropy_coding", {"distortion": "guaranteed", "order": 4}, predictor="narrow", target="momentum"
    ),  # the paper, appendix C, but for its distortion of 0.06, with which small runs diverge (docs/log.md)
    "mec-exact": Method(
        "maximum_entropy_coding", {"distortion": 0.06, "order": None}, predictor="narrow", target="momentum"
    ),
    "mec-joint": Method("joint_coding", {"distortion": 0.02}),
    "simsiam": Method("negative_cosine", predictor="narrow", target="stop-gradient"),
    "byol": Method("negative_cosine", predictor="wide", target="momentum", network={"projector_output": "linear"}),
    "simclr": Method("nt_xent", {"temperature": 0.2}, network={"projector_output": "linear"}),
    "moco-v2": Method("queued_info_nce", target="momentum", network={"projector_output": "linear"}),
    "moco-v3": Method("info_nce", {"temperature": 0.2}, predictor="wide", target="momentum"),
    "barlow-twins": Method("barlow_twins", {"scale": 0.001}, network={"projector_output": "linear"}),
    "vicreg": Method("vicreg", {"scale": 0.04}, network={"projector_output": "linear"}),
    "swav": Method("swav", {"scale": 0.1}, network={"projector_output": "linear"}),
    "dino": Method(
        "dino", target="momentum", network={"projector_output": "linear", "prototypes": 1024}, keeps="target"
    ),
    "unigrad": Method(
        "unigrad", {"weight": 20.0, "scale": 0.05}, target="momentum", network={"projector_output": "linear"}
    ),  # the published weight is 100, for embeddings of 2048
    "supervised": Method("cross_entropy", network={"projector_output": "linear-bias"}, labels=True),
}


def method_named(name: str) -> Method:
    if name not in METHODS:
        raise BadInput(f"no method is called {name!r}. {nearest(name, METHODS)}")
    return METHODS[name]
