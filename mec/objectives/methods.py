"""METHODS: rows of data, each an objective on a network with settings. No torch here: help texts list them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mec.errors import BadInput, nearest
from mec.recipes.fields import from_dict, from_yaml
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


METHODS = {
    name: from_dict(Method, row, name) for name, row in from_yaml(Path(__file__).with_name("methods.yaml")).items()
}


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
