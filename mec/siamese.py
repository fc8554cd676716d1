"""Online and target network: views -> matched embeddings. It says which embeddings there are, not how they score."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mec.errors import BadInput
from mec.heads import predictor, projector
from mec.recipe import Network


class Siamese(nn.Module):
    """Encoder, projector and predictor (online); with target="momentum" a slow copy of the first two.

    Each view is a forward pass of its own, so that batch statistics are per view. The target network runs in train
    mode, by the statistics of its own batch; only its parameters follow the online ones (released code).
    """

    def __init__(
        self,
        encoder: nn.Module,
        features: int,
        *,
        projector_widths: tuple[int, ...] = (),
        predictor_widths: tuple[int, ...] = (),
        target: str | None = None,
        target_views: int = 2,
    ):
        super().__init__()
        self.encoder = encoder
        self.projector = projector(features, projector_widths)
        embedding = projector_widths[-1] if projector_widths else features
        if predictor_widths and predictor_widths[-1] != embedding:
            raise BadInput(
                f"network.predictor ends with {predictor_widths[-1]}, embeddings have {embedding}: they are compared,"
                f" so the predictor's last width is {embedding}."
            )
        self.predictor = predictor(embedding, predictor_widths) if predictor_widths else nn.Identity()
        self.target = target
        self.target_views = target_views
        self.target_encoder = self.target_projector = None
        if target == "momentum":
            self.target_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
            self.target_projector = copy.deepcopy(self.projector).requires_grad_(False)

    def forward(self, views: Sequence[Tensor], *, with_target: bool = True) -> tuple[Tensor, Tensor | None]:
        """V views, each [m, ...] -> online [V, m, d] and target [T, m, d], or None where there is no target."""
        projected = [self.projector(self.encoder(view)) for view in views]
        online = torch.stack([self.predictor(z) for z in projected])
        if self.target is None or not with_target:
            return online, None
        if self.target == "stop-gradient":
            return online, torch.stack(projected[: self.target_views]).detach()
        assert self.target_encoder is not None
        assert self.target_projector is not None
        with torch.no_grad():
            target = [self.target_projector(self.target_encoder(view)) for view in views[: self.target_views]]
        return online, torch.stack(target)

    @torch.no_grad()
    def update_target(self, momentum: float) -> None:
        """θ' <- momentum θ' + (1 - momentum) θ, parameters only; called after the optimizer's step."""
        if self.target_encoder is None or self.target_projector is None:
            return
        slow = [*self.target_encoder.parameters(), *self.target_projector.parameters()]
        fast = [*self.encoder.parameters(), *self.projector.parameters()]
        torch._foreach_lerp_([p.data for p in slow], [p.data for p in fast], 1 - momentum)


def build_siamese(network: Network, encoder: nn.Module, features: int) -> Siamese:
    """The network of a recipe around a given encoder of feature size `features`."""
    return Siamese(
        encoder,
        features,
        projector_widths=network.projector,
        predictor_widths=network.predictor,
        target=network.target,
    )
