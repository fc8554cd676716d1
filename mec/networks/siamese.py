"""Online and target network: views -> matched embeddings. It says which embeddings there are, not how they score."""

import copy
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mec.errors import BadInput
from mec.networks.heads import predictor, projector
from mec.objectives.matched import GLOBAL_VIEWS
from mec.recipes.recipe import Network, Target


class Siamese(nn.Module):
    """Encoder, projector and predictor (online); with target="momentum" a slow copy of the first two.

    Each view is a forward pass of its own, so that batch statistics are per view, unless `together`: then views of one
    size share a pass and its statistics, and heads see all views at once (multi-crop as SwAV and DINO have it). The
    target network runs in train mode, by the statistics of its own batch; only its parameters follow the online ones
    (released code). It sees the first views, the global ones; small crops go through the online network only."""

    def __init__(
        self, encoder: nn.Module, projector: nn.Module, predictor: nn.Module | None = None, *,
        embedding: int, target: Target | None = None, together: bool = False,  # embedding: d, of the projector
    ):  # fmt: skip
        super().__init__()
        self.encoder, self.projector = encoder, projector
        self.predictor = nn.Identity() if predictor is None else predictor
        self.embedding, self.target, self.together = embedding, target, together
        self.target_encoder = self.target_projector = None
        if target == "momentum":
            self.target_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
            self.target_projector = copy.deepcopy(self.projector).requires_grad_(False)

    def forward(self, views: Sequence[Tensor], *, with_target: bool = True) -> tuple[Tensor, Tensor | None]:
        """V views, each [m, ...] -> online [V, m, d] and target [T, m, d], or None where there is no target."""
        projected = self.projected(views, self.encoder, self.projector)
        if self.together:
            online = self.predictor(projected.flatten(0, 1)).unflatten(0, projected.shape[:2])
        else:
            online = torch.stack([self.predictor(z) for z in projected])
        if self.target is None or not with_target:
            return online, None
        if self.target == "stop-gradient":
            return online, projected[:GLOBAL_VIEWS].detach()
        assert self.target_encoder is not None
        assert self.target_projector is not None
        with torch.no_grad():
            return online, self.projected(views[:GLOBAL_VIEWS], self.target_encoder, self.target_projector)

    def projected(self, views: Sequence[Tensor], encoder: nn.Module, head: nn.Module) -> Tensor:
        """[V, m, d]."""
        if not self.together:
            return torch.stack([head(encoder(view)) for view in views])
        features: list[Tensor] = []
        for run in runs_of_one_shape(views):
            features += encoder(torch.cat(run)).unflatten(0, (len(run), -1)).unbind()
        projected: Tensor = head(torch.cat(features)).unflatten(0, (len(features), -1))
        return projected

    @torch.no_grad()
    def update_target(self, momentum: float) -> None:
        """θ' <- momentum θ' + (1 - momentum) θ, parameters only; called after the optimizer's step."""
        if self.target_encoder is None or self.target_projector is None:
            return
        slow = [*self.target_encoder.parameters(), *self.target_projector.parameters()]
        fast = [*self.encoder.parameters(), *self.projector.parameters()]
        torch._foreach_lerp_([p.data for p in slow], [p.data for p in fast], 1 - momentum)


def runs_of_one_shape(views: Sequence[Tensor]) -> list[list[Tensor]]:
    """Neighbouring views of one shape, together."""
    return [list(run) for _, run in itertools.groupby(views, key=lambda view: view.shape)]


def build_siamese(network: Network, encoder: nn.Module, features: int) -> Siamese:
    """The network of a recipe around a given encoder of feature size `features`.
    Raises BadInput: the predictor does not lead back to the embedding."""
    embedding = network.prototypes or (network.projector[-1] if network.projector else features)
    if network.predictor and network.predictor[-1] != embedding:
        raise BadInput(
            f"network.predictor ends with {network.predictor[-1]}, embeddings have {embedding}: they are compared, so "
            f"the predictor's last width is {embedding}."
        )
    kinds: dict[str, Any] = {"hidden": network.projector_hidden, "output": network.projector_output}
    head = projector(features, network.projector, prototypes=network.prototypes, **kinds)
    last = predictor(embedding, network.predictor, bias=network.predictor_bias) if network.predictor else None
    return Siamese(encoder, head, last, embedding=embedding, target=network.target, together=network.views_together)
