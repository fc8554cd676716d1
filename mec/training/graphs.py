"""The forward and the backward pass of a network as one launch each, for GPUs that outrun the process that feeds them.

A step of a small network on small images is over a thousand launches, which take the process three times as long as
the GPU takes for the work (docs/log.md). A CUDA graph holds them all; its inputs and outputs have fixed places.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mec.networks.siamese import Siamese


def captured(
    network: Siamese, views: Sequence[Tensor], bf16: bool
) -> Callable[[Sequence[Tensor]], tuple[Tensor, Tensor | None]]:
    """`network` as a function of views of these shapes, by graphs; its weights, and what they become, are shared.

    What it returns is written over by the next call.

    Raises RuntimeError: the network does what cannot be captured: it waits for the GPU, or is not the same each
    time.
    """
    with contextlib.suppress(AttributeError):  # torch < 2.10: it does not warn of the graphs' own stream
        torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    flat = Flat(network)
    try:
        with torch.autocast("cuda", torch.bfloat16, enabled=bf16, cache_enabled=False):
            torch.cuda.make_graphed_callables(flat, tuple(view.clone() for view in views), allow_unused_input=True)
    finally:
        network.load_state_dict(before)  # warming up moved the running statistics

    def call(views: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        online, *target = flat(*views)
        return online, target[0].detach() if target else None

    return call


class Flat(nn.Module):
    """The network as a graph wants it: tensors in, tensors out."""

    def __init__(self, network: Siamese):
        super().__init__()
        self.network = network

    def forward(self, *views: Tensor) -> tuple[Tensor, ...]:
        online, target = self.network(views)
        return (online,) if target is None else (online, target)
