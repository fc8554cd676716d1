"""OBJECTIVES: how the loop calls every formula.

A formula scores matched embeddings and knows nothing of networks. An objective is how the loop calls it:

    objective(online [V, m, d], target [T, m, d] | None, *, labels=None, ranks=ALONE, **settings) -> []

with this rank's rows; target views are the first T online views. `over_pairs` lifts a formula on two sets. One with
memory is a module, made for an embedding size d; `build` makes either.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

import torch
from torch import Tensor, nn

from mec.errors import BadInput
from mec.objectives.baselines import barlow_twins, cross_entropy, info_nce, negative_cosine, nt_xent, vicreg
from mec.objectives.checks import check_stacks
from mec.objectives.coding import Distortion
from mec.objectives.matched import Normalise, pairs, pairs_without_target
from mec.objectives.mec import joint_coding, maximum_entropy_coding
from mec.objectives.memory import DINO, QueuedInfoNCE, SwAV, UniGrad
from mec.objectives.relatives import CorInfoMax, emp_ssl, frossl, matrix_ssl, mmcr, simdino, w_mse
from mec.recipes.recipe import Setting
from mec.runtime.distributed import ALONE, Ranks
from mec.runtime.ranges import NotNegative, Share


def over_pairs(formula: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Lift a formula on two sets to the loop's call: its mean over pairs of views.

    With a target: all (v, t), v != t, gradient as the target allows. Without: all v < t of which one is global,
    gradient to both. A formula with a parameter `ranks` gets this rank's rows; one without gets those of all ranks.
    """
    by_rank = "ranks" in inspect.signature(formula).parameters

    @functools.wraps(formula)  # so that its settings can be read off its signature
    def objective(
        online: Tensor, target: Tensor | None, *, labels: Tensor | None = None, ranks: Ranks = ALONE, **settings: Any
    ) -> Tensor:
        check_stacks(online, target)
        if by_rank:
            settings["ranks"] = ranks
        else:
            online = ranks.gather(online, dim=1)
            target = None if target is None else ranks.gather(target, dim=1)
        chosen = pairs_without_target(len(online)) if target is None else pairs(len(online), len(target))
        other = online if target is None else target
        return torch.stack([formula(online[v], other[t], **settings) for v, t in chosen]).mean()

    return objective


def over_views(formula: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Lift a formula on all views to the loop's call; views of a target network are further views."""

    @functools.wraps(formula)
    def objective(
        online: Tensor, target: Tensor | None, *, labels: Tensor | None = None, ranks: Ranks = ALONE, **settings: Any
    ) -> Tensor:
        check_stacks(online, target)
        return formula(online if target is None else torch.cat([online, target]), ranks=ranks, **settings)

    return objective


def joint_objective(
    online: Tensor,
    target: Tensor | None,
    *,
    labels: Tensor | None = None,
    ranks: Ranks = ALONE,
    distortion: Distortion = 0.06,
    exponent: Share = 0.0,
    agreement: NotNegative = 0.0,
    centred: bool = False,
    normalise: Normalise = "l2",
) -> Tensor:
    """`joint_coding` of all views at once; with a target, of each p_v with the z_t of another view, averaged."""
    check_stacks(online, target)
    stacks = [online] if target is None else [
        torch.stack([online[v], target[t]]) for v, t in pairs(len(online), len(target))
    ]  # fmt: skip
    losses = [
        joint_coding(
            views, distortion=distortion, exponent=exponent, agreement=agreement, centred=centred, normalise=normalise,
            ranks=ranks,
        )
        for views in stacks
    ]  # fmt: skip
    return losses[0] if target is None else torch.stack(losses).mean()


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
    "dino": DINO,
    "unigrad": UniGrad,
    "cross_entropy": cross_entropy,
    "mmcr": over_views(mmcr),
    "emp_ssl": over_views(emp_ssl),
    "simdino": simdino,
    "corinfomax": CorInfoMax,
    "matrix_ssl": over_pairs(matrix_ssl),
    "frossl": over_views(frossl),
    "w_mse": over_views(w_mse),
}


def objective_of(what: str | Callable[..., Any]) -> Callable[..., Any]:
    """How the loop calls a method's objective: a row of OBJECTIVES, by its name; or a method's own, lifted over pairs
    of views where it is a formula on two sets."""
    if isinstance(what, str):
        return OBJECTIVES[what]
    return what if isinstance(what, type) or "labels" in inspect.signature(what).parameters else over_pairs(what)


def build(
    objective: str | Callable[..., Any], embedding: int, settings: Mapping[str, Setting]
) -> tuple[Callable[..., Tensor], dict[str, Any]]:
    """A method's objective for embeddings of this size, and the settings that go with each call.
    Raises BadInput: a setting that it does not take, or a size that does not fit."""
    made, name = objective_of(objective), getattr(objective, "__name__", objective)
    for setting in settings:
        if setting not in setting_names(made):
            raise BadInput(f"{name} has no setting {setting!r}. It takes: {', '.join(sorted(setting_names(made)))}.")
    if not isinstance(made, type):
        return made, dict(settings)
    sizes = {k: v for k, v in settings.items() if k in keywords(made)}
    return made(embedding, **sizes), {k: v for k, v in settings.items() if k not in sizes}


def setting_names(objective: Callable[..., Any]) -> frozenset[str]:
    """The keyword-only settings of a formula or an objective: of a module, of making and of calling it."""
    if isinstance(objective, type) and issubclass(objective, nn.Module):
        return keywords(objective) | keywords(objective.forward)
    return keywords(objective)


def setting_types(objective: Callable[..., Any]) -> dict[str, Any]:
    """The type hint of each of `setting_names`, with the range of its numbers."""
    hints_of = functools.partial(get_type_hints, localns={"Tensor": Tensor}, include_extras=True)
    if isinstance(objective, type) and issubclass(objective, nn.Module):
        hints = {**hints_of(objective.__init__), **hints_of(objective.forward)}
    else:
        hints = hints_of(objective)
    return {name: hints[name] for name in setting_names(objective)}


def keywords(function: Callable[..., Any]) -> frozenset[str]:
    parameters = inspect.signature(function).parameters.values()
    return frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY) - {"labels", "ranks", "weights"}
