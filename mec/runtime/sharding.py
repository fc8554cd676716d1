"""A network in shards, a part of each tensor on every rank (FSDP2), and its state whole, as one process has it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mec.runtime.distributed import Ranks


def shard(network: nn.Module, mesh: Any) -> nn.Module:
    """Each block, whole for its own passes only, and what is left, whole from a step's first pass to its last; in
    place. Blocks are the heads, and what lies in a list of modules and has modules of its own."""
    from torch.distributed.fsdp import fully_shard

    blocks: list[nn.Module] = [head for head in network.children() if isinstance(head, nn.Sequential)]
    lists = [part for part in network.modules() if isinstance(part, (nn.Sequential, nn.ModuleList))]
    blocks += [block for blocks_of in lists for block in blocks_of if [*block.children()]]
    for block in [*reversed(blocks), network]:  # from the innermost
        if next(block.parameters(), None) is not None:
            fully_shard(block, mesh=mesh["data_parallel"])
    return network


def follow(optimizer: torch.optim.Optimizer, before: Mapping[str, nn.Parameter], network: nn.Module) -> None:
    """An optimizer without state goes over from a network's parameters, by their names, to those that it has now."""
    names, now = {id(p): name for name, p in before.items()}, dict(network.named_parameters())
    for group in optimizer.param_groups:
        group["params"] = [now[names[id(p)]] for p in group["params"]]


def own(tensors: Iterable[Tensor]) -> list[Tensor]:
    """What this rank holds of tensors that may lie in shards."""
    return [t.to_local() if hasattr(t, "to_local") else t for t in tensors]


def whole(state: Any, ranks: Ranks) -> Any:
    """A state with its tensors whole, on the first rank's CPU; None elsewhere. All ranks have to ask for it, one tensor
    is whole on all of them at a time."""
    if isinstance(state, Mapping):
        return {name: whole(value, ranks) for name, value in state.items()}
    if hasattr(state, "full_tensor"):
        full = state.full_tensor()
        return None if ranks.rank else full.cpu()
    return state


@dataclass(frozen=True)
class Whole:
    """A module or an optimizer in shards as checkpoints have it: with the state of one process."""

    part: Any
    ranks: Ranks

    def state_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = whole(self.part.state_dict(), self.ranks)
        return found

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if isinstance(self.part, nn.Module):
            here = self.part.state_dict()
            state = {name: like(value, here.get(name)) for name, value in state.items()}
        else:
            trained = [p for group in self.part.param_groups for p in group["params"]]
            found = {i: {k: like(v, trained[i]) for k, v in of_one.items()} for i, of_one in state["state"].items()}
            state = {**state, "state": found}
        self.part.load_state_dict(state)


def like(value: Any, sharded: Any) -> Any:
    """The value in shards, where it has the shape of a tensor that is."""
    from torch.distributed.tensor import distribute_tensor

    if not hasattr(sharded, "full_tensor") or getattr(value, "shape", None) != sharded.shape:
        return value
    return distribute_tensor(value, sharded.device_mesh, sharded.placements)
