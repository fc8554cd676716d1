"""OBJECTIVES: how the loop calls every formula.

A formula scores matched embeddings and knows nothing of networks. An objective is how the loop calls it:

    objective(online [V, m, d], target [T, m, d] | None, *, labels=None, ranks=ALONE, **settings) -> []

with this rank's rows; target views are the first T online views. `over_pairs` lifts a formula on two sets. One with
memory is a module, made for an embedding size d; `build` makes either.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

import torch
from torch import Tensor

from mec.errors import BadInput
from mec.objectives.baselines import barlow_twins, cross_entropy, info_nce, negative_cosine, nt_xent, vicreg
from mec.objectives.checks import check_stacks
from mec.objectives.matched import pairs, pairs_without_target
from mec.objectives.mec import joint_coding, maximum_entropy_coding
from mec.objectives.memory import DINO, QueuedInfoNCE, SwAV, UniGrad
from mec.objectives.relatives import CorInfoMax, emp_ssl, frossl, matrix_ssl, mmcr, simdino, w_mse
from mec.recipes.recipe import Setting
from mec.runtime.distributed import ALONE, Ranks


def over_pairs(formula: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Lift a formula on two sets to the loop's call: its mean over pairs of views.
    With a target: all (v, t), v != t, gradient as the target allows. Without: all v < t of which one is global,
    gradient to both. A formula with a parameter `ranks` gets this rank's rows; one without gets those of all ranks."""
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


@functools.wraps(joint_coding)
def joint_objective(
    online: Tensor, target: Tensor | None, *, labels: Tensor | None = None, ranks: Ranks = ALONE, **settings: Any
) -> Tensor:
    """`joint_coding` of all views at once; with a target, of each p_v with the z_t of another view, averaged."""
    check_stacks(online, target)
    if target is None:
        return joint_coding(online, ranks=ranks, **settings)
    stacks = [torch.stack([online[v], target[t]]) for v, t in pairs(len(online), len(target))]
    return torch.stack([joint_coding(views, ranks=ranks, **settings) for views in stacks]).mean()


def lifted(what: Callable[..., Any]) -> Callable[..., Any]:
    """How the loop calls a formula: one on two sets, or on all views, is lifted; others and modules stay."""
    parameters = () if isinstance(what, type) else inspect.signature(what).parameters
    if isinstance(what, type) or "labels" in parameters:
        return what
    return over_views(what) if "views" in parameters else over_pairs(what)


OBJECTIVES: dict[str, Callable[..., Any]] = {
    **{"joint_coding": joint_objective, "queued_info_nce": QueuedInfoNCE},
    **{module.__name__.lower(): module for module in (SwAV, DINO, UniGrad, CorInfoMax)},
}
OBJECTIVES |= {formula.__name__: lifted(formula) for formula in (
    maximum_entropy_coding, negative_cosine, nt_xent, info_nce, barlow_twins, vicreg, cross_entropy, mmcr, emp_ssl,
    simdino, matrix_ssl, frossl, w_mse,
)}  # fmt: skip


def objective_of(what: str | Callable[..., Any]) -> Callable[..., Any]:
    """How the loop calls a method's objective: a row of OBJECTIVES, by its name; or a method's own, `lifted`."""
    return OBJECTIVES[what] if isinstance(what, str) else lifted(what)


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


def parts(objective: Any) -> list[Callable[..., Any]]:
    """What has the settings: the formula; of a module, its making and its call."""
    return [objective] if not isinstance(objective, type) else [getattr(objective, n) for n in ("__init__", "forward")]


def setting_names(objective: Callable[..., Any]) -> frozenset[str]:
    """The keyword-only settings of a formula or an objective: of a module, of making and of calling it."""
    return frozenset().union(*map(keywords, parts(objective)))


def setting_types(objective: Callable[..., Any]) -> dict[str, Any]:
    """The type hint of each of `setting_names`, with the range of its numbers."""
    hints: dict[str, Any] = {}
    for part in parts(objective):
        hints |= get_type_hints(part, localns={"Tensor": Tensor}, include_extras=True)
    return {name: hints[name] for name in setting_names(objective)}


def keywords(function: Callable[..., Any]) -> frozenset[str]:
    parameters = inspect.signature(function).parameters.values()
    return frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY) - {"labels", "ranks", "weights"}
