"""All calls of torch.distributed but those of sharding.py: what ranks exchange, with the gradient that makes W one.

Convention: every rank holds the same global loss; the backward of a gather or a sum, and of a kernel that splits its
work (mec/objectives/coding.py), adds up what all ranks ask of it; the gradients of the ranks are then averaged (by DDP,
or by `average_gradients`). The mean of W copies of the same loss is that loss, so loss, gradient and state are those of
one process.
"""

import atexit
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.rendezvous import rendezvous
from torch.nn import functional as F

from mec.errors import BadInput

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """The processes that share a batch. `ALONE` is the single process; `current()` the group that was started."""

    rank: int = 0
    size: int = 1

    def gather(self, x: Tensor, dim: int = 0) -> Tensor:
        """Rows of all ranks along dim, in rank order, with gradient to the rows of each. Counts may differ."""
        return x if self.size == 1 else _Gather.apply(x.movedim(dim, 0).contiguous(), self).movedim(0, dim)

    def sum(self, x: Tensor) -> Tensor:
        """Sum over ranks, with gradient."""
        return x if self.size == 1 else _Sum.apply(x)

    def mean(self, x: Tensor) -> Tensor:
        """Mean over ranks, with gradient."""
        return self.sum(x) / self.size

    def shares(self, n: int) -> "Shares":
        """How the rows of a batch lie on the ranks, of which this one holds n."""
        if self.size == 1:
            return Shares(self, (n,))
        counts = [torch.zeros(1, dtype=torch.long, device=_device()) for _ in range(self.size)]
        dist.all_gather(counts, torch.tensor([n], device=_device()))
        return Shares(self, tuple(map(int, counts)))

    def share(self, n: int) -> slice:
        """This rank's part of n rows. Raises BadInput: n is no multiple of the ranks' number, rows would be lost."""
        each, left = divmod(n, self.size)
        if left:
            raise BadInput(f"{n} rows on {self.size} processes: the number has to be a multiple of theirs.")
        return slice(self.rank * each, (self.rank + 1) * each)

    def part(self, n: int) -> slice:
        """This rank's part of n rows, also where they do not divide among the ranks."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def any(self, flag: bool) -> bool:
        """Whether the flag is up on any rank; the same answer on all."""
        if self.size == 1:
            return flag
        raised = torch.tensor(float(flag), device=_device())
        dist.all_reduce(raised, op=dist.ReduceOp.MAX)
        return bool(raised)

    def from_first(self, number: float) -> float:
        """The first rank's number, on every rank."""
        if self.size == 1:
            return number
        box = torch.tensor(float(number), dtype=torch.float64, device=_device())
        dist.broadcast(box, src=0)
        return float(box)

    def values(self, value: Any) -> list[Any]:
        """What each rank gives, in rank order, as JSON carries it."""
        if self.size == 1:
            return [value]
        line = torch.frombuffer(bytearray(json.dumps(value).encode() + b"\n"), dtype=torch.uint8)
        return [json.loads(line) for line in bytes(self.gather(line.to(_device())).cpu().numpy()).splitlines()]

    def dealt(self, items: Sequence[T]) -> Sequence[T]:
        """Those of the items that are this rank's, dealt out in turn."""
        return items[self.rank :: self.size]

    def collected(self, found: list[Any]) -> list[Any]:
        """What the ranks found of what they were `dealt`, in the items' order, as JSON carries it; the same on all."""
        given = self.values(found)
        return [given[i % self.size][i // self.size] for i in range(sum(map(len, given)))]

    def wait(self) -> None:
        if self.size > 1:
            dist.barrier()


ALONE = Ranks()


def current() -> Ranks:
    """The group that torchrun, SLURM or a test started; `ALONE` if there is none."""
    if dist.is_available() and dist.is_initialized():
        return Ranks(dist.get_rank(), dist.get_world_size())
    return ALONE


def start_group(device: str, hours: float) -> None:
    """The group of the processes that torchrun or srun started, unless there is one; they wait so long for each other.
    torchrun keeps one store for all its restarts: those of a restart must not find the addresses of the dead. On
    several machines, whose counts of restarts may differ, TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 gives each a new store.
    """
    if not dist.is_initialized():
        store, rank, world = next(rendezvous("env://"))
        alone = os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if alone else ""
        store = dist.PrefixStore(f"mec/{attempt}", store)
        how: Any = {"rank": rank, "world_size": world, "timeout": timedelta(hours=hours)}
        dist.init_process_group("nccl" if device == "cuda" else "gloo", store=store, **how)
        if device == "cuda":
            atexit.register(dist.destroy_process_group)


_shared: list[Ranks] = []  # see `mec.runtime.device.over_ranks`


def shared() -> Ranks:
    """The processes that share a measurement, between `over_ranks`; `ALONE` elsewhere, whatever group there is."""
    return _shared[-1] if _shared else ALONE


def _device() -> torch.device:
    """Where tensors of the group live: NCCL takes none from the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


def average_gradients(parameters: Iterable[nn.Parameter], ranks: Ranks) -> None:
    """Mean over ranks of each gradient, in place; for parameters that DDP does not wrap (an objective's own)."""
    for parameter in parameters:
        if ranks.size > 1 and parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= ranks.size


@dataclass(frozen=True)
class Shares:
    """How the rows of one batch lie on the ranks: for kernels that split their work and know their own gradient."""

    ranks: Ranks
    counts: tuple[int, ...]

    @property
    def total(self) -> int:
        return sum(self.counts)

    @property
    def mine(self) -> slice:
        start = sum(self.counts[: self.ranks.rank])
        return slice(start, start + self.counts[self.ranks.rank])

    @torch.no_grad()
    def gather(self, x: Tensor) -> Tensor:
        """Rows of all ranks, in rank order, without gradient."""
        return x if self.ranks.size == 1 else _gathered(x.contiguous(), self.counts)


def _gathered(x: Tensor, counts: tuple[int, ...]) -> Tensor:
    if not max(counts):
        return x
    # Padded to the longest: gloo gathers equal shapes only.
    padded = F.pad(x, (0, 0) * (x.ndim - 1) + (0, max(counts) - x.shape[0]))
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:n] for part, n in zip(parts, counts)])


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, ranks: Ranks) -> Tensor:
        shares = ranks.shares(x.shape[0])
        ctx.mine = shares.mine
        return _gathered(x, shares.counts)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad[ctx.mine], None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        return _Sum.forward(ctx, grad)


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation by the statistics of the whole batch, on gloo and NCCL alike (torch's own refuses CPUs).

    Mean and squared deviations are summed over ranks in two passes, which loses no digits to cancellation."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"input is {[*input.shape]}: it has rows and channels at least.")

    def forward(self, input: Tensor) -> Tensor:
        out = self._normalise(input) if self.training else super().forward(input)
        for name in ("drop", "act"):  # of timm's BatchNormAct2d
            out = self._modules[name](out) if name in self._modules else out  # type: ignore[misc]
        return out

    def _normalise(self, input: Tensor) -> Tensor:
        weight, bias = (self.weight, self.bias) if self.affine else (None, None)
        out, mean, var, n = _BatchNorm.apply(input, weight, bias, self.eps, current())
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
                self.running_var.lerp_((var * n / (n - 1)).to(self.running_var.dtype), momentum)
        return out


class _BatchNorm(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps) * weight + bias over the rows of all ranks; keeps nothing but its input.

    Gives also mean, var (biased) and the number of values of a channel, which have no gradient."""

    @staticmethod
    def forward(ctx, input: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, ranks: Ranks):
        x, axes, shape = _channels(input)
        total = x.sum(axes)
        summed = ranks.sum(torch.cat([total, x.new_tensor([x.numel() / x.shape[1]])]))
        mean, n = summed[:-1] / summed[-1], summed[-1]
        centred = x - mean.view(shape)
        var = ranks.sum(centred.square().sum(axes)) / n
        scale = torch.rsqrt(var + eps)
        ctx.save_for_backward(input, weight, mean, scale, n)
        ctx.ranks = ranks
        out = centred.mul_((scale if weight is None else scale * weight).view(shape))
        if bias is not None:
            out = out.add_(bias.view(shape))
        ctx.mark_non_differentiable(mean, var, n)
        return out.to(input.dtype), mean, var, n

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor, *_):
        input, weight, mean, scale, n = ctx.saved_tensors
        x, axes, shape = _channels(input)
        grad = grad.to(x.dtype)
        normal = (x - mean.view(shape)).mul_(scale.view(shape))
        of_bias, of_weight = grad.sum(axes), (grad * normal).sum(axes)  # of this rank's rows, as those of other layers
        through = None
        if ctx.needs_input_grad[0]:
            both = ctx.ranks.sum(torch.cat([of_bias, of_weight])) / n
            through = normal.mul_(both[len(mean) :].view(shape)).add_(both[: len(mean)].view(shape))
            factor = scale if weight is None else scale * weight
            through = (grad - through).mul_(factor.view(shape)).to(input.dtype)
        return through, None if weight is None else of_weight, None if weight is None else of_bias, None, None


def _channels(input: Tensor) -> tuple[Tensor, list[int], tuple[int, ...]]:
    """The input in float32 at least, the axes that a channel is summed over, and the shape of a number a channel."""
    x = input if input.dtype == torch.float64 else input.float()
    return x, [0, *range(2, x.ndim)], (1, -1, *[1] * (x.ndim - 2))


def synchronise_batch_norm(module: nn.Module) -> nn.Module:
    """The module with every batch norm inside it replaced by `SyncBatchNorm`, in place; names and values are kept."""
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm) and not isinstance(child, SyncBatchNorm):
            new = SyncBatchNorm(child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats)
            # The very tensors: their device, precision and frozenness (the target network's) come along.
            new._parameters, new._buffers = child._parameters, child._buffers
            if hasattr(child, "act"):  # timm's BatchNormAct2d: norm, dropout and activation in one module
                new.drop, new.act = child.drop, child.act
            setattr(module, name, new.train(child.training))
        else:
            synchronise_batch_norm(child)
    return module
