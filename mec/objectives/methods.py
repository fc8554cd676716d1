"""METHODS: rows of data, each an objective on a network with settings. No torch here: help texts list them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mec.errors import BadInput, nearest
from mec.recipes.recipe import Setting, Target


@dataclass(frozen=True)
class Method:
    """A row of data: which objective, on which network, with which settings.

    `scale`, among the settings, multiplies the loss; it is chosen so that learning rates that suit MEC, whose loss lies
    between -1 and 0, suit this method as well. Recipes of published runs have the published one."""

    objective: str | Callable[..., Any]  # a row of OBJECTIVES, or a formula or objective of this method alone
    about: str = ""  # one line, for help texts
    settings: Mapping[str, Setting] = field(default_factory=dict)
    predictor: Literal["narrow", "wide"] | None = None  # a bottleneck (SimSiam), or as wide as the projector (BYOL)
    target: Target | None = None
    network: Mapping[str, Any] = field(default_factory=dict)  # fields of Network that differ from its defaults
    labels: bool = False  # learns from labels: the network gives a logit for each class
    keeps: Literal["online", "target"] = "online"  # the encoder that is stored and measured
    paper: Mapping[str, Setting] = field(default_factory=dict)  # published settings that these are not
    differs: str = ""  # why, and what to write for the published ones


LINEAR: dict[str, Any] = {"projector_output": "linear"}

# fmt: off
METHODS: dict[str, Method] = {
    "mec": Method(
        "maximum_entropy_coding",
        "the paper's series of order 4; distortion `guaranteed`, not its 0.06; predictor, momentum target",
        {"distortion": "guaranteed", "order": 4}, predictor="narrow", target="momentum", paper={"distortion": 0.06},
        # The paper, appendix C, but for this: small runs diverge with 0.06 (docs/log.md).
        differs="ε_d² is the smallest with which its series surely converges; the paper's 0.06 needs its large "
        "batches: --set settings.distortion=0.06",
    ),
    "mec-exact": Method(
        "maximum_entropy_coding", "the same with the log-determinant itself, and the paper's distortion of 0.06",
        {"distortion": 0.06, "order": None}, predictor="narrow", target="momentum",
    ),
    "mec-joint": Method(
        "joint_coding", "coding length of the views' average, exact; no predictor, no target", {"distortion": 0.02},
    ),
    "simsiam": Method(
        "negative_cosine", "cosine; narrow predictor, stop-gradient", predictor="narrow", target="stop-gradient",
    ),
    "byol": Method(
        "negative_cosine", "cosine; wide predictor, momentum target",
        predictor="wide", target="momentum", network=LINEAR,
    ),
    "simclr": Method("nt_xent", "contrast with all rows of both views", {"temperature": 0.2}, network=LINEAR),
    "moco-v2": Method(
        "queued_info_nce", "contrast with a queue of earlier keys; momentum target",
        target="momentum", network=LINEAR, paper={"queue": 65536},
        differs="the queue has 1,024 keys, for small data; the paper's: --set settings.queue=65536",
    ),
    "moco-v3": Method(
        "info_nce", "contrast with the batch; wide predictor, momentum target",
        {"temperature": 0.2}, predictor="wide", target="momentum",
    ),
    "barlow-twins": Method(
        "barlow_twins", "cross-correlation of dimensions near the identity", {"scale": 0.001}, network=LINEAR,
    ),
    "vicreg": Method("vicreg", "variance, invariance, covariance", {"scale": 0.04}, network=LINEAR),
    "swav": Method(
        "swav", "prediction of the other view's cluster code",
        {"scale": 0.1}, network=LINEAR, paper={"prototypes": 3000},
        differs="there are 128 prototypes, for small data; the paper's: --set settings.prototypes=3000",
    ),
    "dino": Method(
        "dino", "prediction of the target's centred, sharpened output; the target is kept",
        target="momentum", network={**LINEAR, "prototypes": 1024}, keeps="target",
    ),
    "unigrad": Method(
        "unigrad", "cosine, and a penalty by the averaged correlation; momentum target",
        {"weight": 20.0, "scale": 0.05}, target="momentum", network=LINEAR, paper={"weight": 100.0},
        differs="the penalty's weight is 20; the paper's, for embeddings of 2048: --set settings.weight=100",
    ),
    "mmcr": Method("mmcr", "nuclear norm of the views' average", {"scale": 0.01}, network=LINEAR),
    "emp-ssl": Method(
        "emp_ssl", "coding rate of each view, cosine with the views' average", {"scale": 0.005}, network=LINEAR,
    ),
    "simdino": Method(
        "simdino", "cosine with a momentum teacher, coding rate of both; the teacher is kept",
        target="momentum", network=LINEAR, keeps="target",
    ),
    "corinfomax": Method(
        "corinfomax", "log-determinant of running covariances, squared distance; of two views, more are not looked at",
        {"scale": 0.1}, network=LINEAR,
    ),
    "matrix-ssl": Method(
        "matrix_ssl", "matrix cross-entropies of covariances, order 4; predictor, momentum target",
        predictor="narrow", target="momentum",
    ),
    "frossl": Method(
        "frossl", "Frobenius norm of covariances, distance to the views' average", {"scale": 0.1}, network=LINEAR,
    ),
    "w-mse": Method(
        "w_mse", "distance of whitened views", {"shrink": 0.1, "scale": 0.5}, network=LINEAR, paper={"shrink": 0.0},
        differs="a tenth of the identity is mixed into covariances, so that embeddings may have more numbers than a "
        "batch has images; the paper's: --set settings.shrink=0 network.projector=[1024,64]",
    ),
    "supervised": Method(
        "cross_entropy", "cross-entropy with labels", network={"projector_output": "linear-bias"}, labels=True,
    ),
}
# fmt: on


def method_named(name: str) -> Method:
    """Raises BadInput: no such method; names the nearest."""
    if name not in METHODS:
        raise BadInput(f"no method is called {name!r}. {nearest(name, METHODS)}")
    return METHODS[name]


def methods_in_words() -> str:
    width = max(map(len, METHODS))
    return "\n".join(f"{name:{width}}  {method.about}" for name, method in METHODS.items())


def differs_from_paper(name: str, settings: Mapping[str, Setting]) -> str:
    """What a run of this method has other than its paper without having been asked for it, in a line; "" for nothing.

    settings: the recipe's, which come over the method's.

    >>> differs_from_paper("unigrad", {})
    "unigrad: the penalty's weight is 20; the paper's, for embeddings of 2048: --set settings.weight=100"
    >>> differs_from_paper("unigrad", {"weight": 20.0})
    ''"""
    method = method_named(name)
    return f"{name}: {method.differs}" if method.paper.keys() - settings.keys() else ""
