"""METHODS: rows of data, each an objective on a network with settings. No torch here: help texts list them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mec.errors import BadInput, nearest
from mec.recipes.recipe import Setting, Target


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
