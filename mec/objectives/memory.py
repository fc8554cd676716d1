"""Objectives with memory: a queue, prototypes, a running mean. Modules, made for an embedding size, called by the loop:

    objective(online [V, m, d], target [T, m, d] | None, *, ranks=ALONE, **settings) -> []

with this rank's rows; target views are the first T online views, and every view is scored against the others' targets.
What they remember lies in buffers, is the same on every rank, and moves with each call.
"""

from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mec.errors import BadInput
from mec.objectives.checks import check_stacks, needed
from mec.objectives.coding import at_least_float32, full_precision
from mec.objectives.matched import GLOBAL_VIEWS, mean_of_rows, pairs, unit_rows
from mec.runtime import ranges
from mec.runtime.distributed import ALONE, Ranks
from mec.runtime.ranges import Count, NotNegative, Positive, Range, Share, Whole

FROM_2 = Range(int, 2)


class QueuedInfoNCE(nn.Module):
    """Each prediction against its key and a queue of earlier keys: MoCo v2.

    One queue for each view that keys come from. The batch's own other keys are no negatives, and enter the queue after
    the loss.

    Args:
        embedding: d, of queries and keys.
        queue: how many keys are kept, a multiple of the global batch; at first random unit rows.
    Source: He et al., CVPR 2020, Eqn 1; Chen et al., arXiv 2003.04297 for the settings."""

    def __init__(self, embedding: int, *, queue: Count = 1024):
        super().__init__()
        ranges.FROM_1.check(embedding=embedding, queue=queue)
        self.keys = nn.Buffer(unit_rows(torch.randn(GLOBAL_VIEWS, queue, embedding)))
        self.pointer = nn.Buffer(torch.zeros((), dtype=torch.long))

    def forward(
        self, online: Tensor, target: Tensor | None, *, temperature: Positive = 0.2, key_views: Literal[1, 2] = 2,
        labels: Tensor | None = None, ranks: Ranks = ALONE,
    ) -> Tensor:  # fmt: skip
        """
        Args:
            online: [V, m, d] queries. Rows are normalised here.
            target: [T, m, d] keys, without gradient.
            temperature: cosines are divided by it; > 0.
            key_views: 1 for keys of the second view only, as MoCo has it; 2 for both directions.
        Returns: [], in nats: a cross-entropy over 1 + queue candidates, above 0.
        Raises: BadInput (shapes or settings that do not fit, no target, or a batch that does not divide the queue)."""
        check_stacks(online, target, self.keys.shape[2])
        ranges.ABOVE_0.check(temperature=temperature)
        if key_views not in (1, 2):
            raise BadInput(f"key_views is {key_views!r}: 1 or 2.")
        with full_precision(online):
            queries, keys = unit_rows(online), unit_rows(needed(target, "moco-v2")).detach()
            losses = []
            for v, t in [pair for pair in pairs(len(queries), len(keys)) if key_views == 2 or pair[1] == 1]:
                positive = (queries[v] * keys[t]).sum(1, keepdim=True)
                # A clone: the backward pass needs the keys as they are now.
                logits = torch.cat([positive, queries[v] @ self.keys[t].clone().T], 1) / temperature
                first = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
                losses.append(F.cross_entropy(logits, first, reduction="none"))
            loss = mean_of_rows(torch.stack(losses).mean(0), ranks)
            self.write(ranks.gather(keys, dim=1))
            return loss

    @torch.no_grad()
    def write(self, keys: Tensor) -> None:
        start, m = int(self.pointer), keys.shape[1]
        check_queue(self.keys.shape[1], m)
        self.keys[: len(keys), start : start + m] = keys
        self.pointer.fill_((start + m) % self.keys.shape[1])


def check_queue(length: int, batch: int) -> None:
    if length % batch:
        raise BadInput(
            f"queue {length} with batches of {batch}: the queue is a multiple of the batch: take another "
            f"batch size, or --set settings.queue={max(1, length // batch) * batch}"
        )


class SwAV(nn.Module):
    """Predict the cluster code of another view: SwAV.

    Codes come from the first two views, balanced over prototypes by Sinkhorn's iterations over all ranks' rows, with
    the help of a queue of earlier embeddings where there is one; every other view predicts them.

    Args:
        embedding: d.
        prototypes: κ, trained unit rows [κ, d]; at least 2.
        queue: how many earlier embeddings of each view help to balance, a multiple of the global batch; 0 for none.
    Source: Caron et al., NeurIPS 2020, Eqn 1 to 3."""

    def __init__(self, embedding: int, *, prototypes: Annotated[int, FROM_2] = 128, queue: Whole = 0):
        super().__init__()
        ranges.FROM_1.check(embedding=embedding)
        FROM_2.check(prototypes=prototypes)
        ranges.FROM_0.check(queue=queue)
        self.prototypes = nn.Parameter(unit_rows(torch.randn(prototypes, embedding)))
        self.queue = nn.Buffer(torch.zeros(GLOBAL_VIEWS, queue, embedding))

    def forward(
        self, online: Tensor, target: Tensor | None = None, *, temperature: Positive = 0.1,
        sharpness: Positive = 0.05, iterations: Count = 3, use_queue: Share = 1.0, labels: Tensor | None = None,
        ranks: Ranks = ALONE,
    ) -> Tensor:  # fmt: skip
        """
        Args:
            online: [V, m, d]. Rows are normalised here.
            target: not looked at.
            temperature: cosines are divided by it before they predict; > 0.
            sharpness: ε, by which they are divided before they are balanced; > 0.
            iterations: of Sinkhorn; at least 1.
            use_queue: below 1 the queue is neither filled nor used: Linear(0, 1, epochs) starts it then.
        Returns: [], in nats: a cross-entropy over κ prototypes, above 0.
        Raises: BadInput (shapes or settings that do not fit, or a batch that does not divide the queue)."""
        check_stacks(online, None, self.prototypes.shape[1])
        ranges.ABOVE_0.check(temperature=temperature, sharpness=sharpness)
        ranges.FROM_1.check(iterations=iterations)
        ranges.SHARE.check(use_queue=use_queue)
        with full_precision(online):
            with torch.no_grad():
                self.prototypes.copy_(unit_rows(self.prototypes))
            units = unit_rows(online)
            scores = units @ self.prototypes.T
            codes = self.codes(units.detach(), scores.detach(), sharpness, iterations, use_queue >= 1, ranks)
            log_p = F.log_softmax(scores / temperature, dim=2)
            losses = [-(codes[t] * log_p[v]).sum(1) for v, t in pairs(len(units), len(codes))]
            return mean_of_rows(torch.stack(losses).mean(0), ranks)

    @torch.no_grad()
    def codes(
        self, units: Tensor, scores: Tensor, sharpness: float, iterations: int, queued: bool, ranks: Ranks
    ) -> Tensor:
        """[T, m, κ], each row adding up to 1; the queue moves on."""
        m, length = scores.shape[1], self.queue.shape[1]
        newest = ranks.gather(units[:GLOBAL_VIEWS], dim=1) if queued and length else None
        if newest is not None:
            check_queue(length, newest.shape[1])
        found = []
        for t in range(min(len(units), GLOBAL_VIEWS)):
            rows = scores[t]
            if newest is not None and self.queue[t, -1].any():  # full: no row is still zero
                rows = torch.cat([rows, self.queue[t, ranks.share(length)] @ self.prototypes.T])
            found.append(sinkhorn(rows / sharpness, iterations, ranks)[:m])
        if newest is not None:
            self.queue.copy_(torch.cat([newest, self.queue], 1)[:, :length])
        return torch.stack(found)


@torch.no_grad()
def sinkhorn(logits: Tensor, iterations: int = 3, ranks: Ranks = ALONE) -> Tensor:
    """exp(logits [m, κ]), columns and rows scaled in turn to equal sums, ending on rows that add up to 1.
    In logarithms, so that nothing overflows. Columns are summed over the rows of all ranks."""
    x = at_least_float32(logits)
    for _ in range(iterations):
        x = x - ranks.gather(torch.logsumexp(x, 0, keepdim=True)).logsumexp(0)
        x = x - x.logsumexp(1, keepdim=True)
    return x.exp()


class DINO(nn.Module):
    """Predict the centred, sharpened output of the target: DINO.

    The centre of earlier batches is taken from the target's logits, then follows this batch's mean.

    Args:
        embedding: κ, the number of logits; the network's last layer makes them (`Network.prototypes`).
    Source: Caron et al., ICCV 2021, Eqn 3 and Algorithm 1."""

    def __init__(self, embedding: int):
        super().__init__()
        ranges.FROM_1.check(embedding=embedding)
        self.centre = nn.Buffer(torch.zeros(embedding))

    def forward(
        self, online: Tensor, target: Tensor | None, *, temperature: Positive = 0.1,
        target_temperature: Positive = 0.04, centre_momentum: Share = 0.9, labels: Tensor | None = None,
        ranks: Ranks = ALONE,
    ) -> Tensor:  # fmt: skip
        """
        Args:
            online: [V, m, κ] logits.
            target: [T, m, κ] logits of the target network, without gradient.
            temperature: the online logits are divided by it; > 0.
            target_temperature: the target's, less their centre, are divided by it; > 0.
            centre_momentum: how much of the old centre is kept; from 0 to 1.
        Returns: [], in nats: a cross-entropy over κ, above 0.
        Raises: BadInput (shapes or settings that do not fit, or no target)."""
        check_stacks(online, target, len(self.centre))
        ranges.ABOVE_0.check(temperature=temperature, target_temperature=target_temperature)
        ranges.SHARE.check(centre_momentum=centre_momentum)
        with full_precision(online):
            logits = at_least_float32(needed(target, "dino")).detach()
            codes = F.softmax((logits - self.centre) / target_temperature, dim=2)
            log_p = F.log_softmax(at_least_float32(online) / temperature, dim=2)
            losses = [-(codes[t] * log_p[v]).sum(1) for v, t in pairs(len(log_p), len(codes))]
            loss = mean_of_rows(torch.stack(losses).mean(0), ranks)
            with torch.no_grad():
                rows = logits.flatten(0, 1)
                summed = ranks.sum(torch.cat([rows.sum(0), rows.new_tensor([len(rows)])]))
                self.centre.mul_(centre_momentum).add_((1 - centre_momentum) * (summed[:-1] / summed[-1]))
            return loss


class UniGrad(nn.Module):
    """Agreement, and a penalty by the averaged correlation of targets: UniGrad.

    Its gradient at the unit embedding u is -t + weight · F u, with F [d, d] constant; as a loss,
    -u·t + (weight / 2) uᵀ F u. F moves by this batch's targets before it is used. Tr F = 1.

    Args:
        embedding: d.
    Source: Tao et al., CVPR 2022, the unified gradient."""

    def __init__(self, embedding: int):
        super().__init__()
        ranges.FROM_1.check(embedding=embedding)
        self.correlation = nn.Buffer(torch.zeros(embedding, embedding))
        self.started = nn.Buffer(torch.zeros((), dtype=torch.bool))

    def forward(
        self, online: Tensor, target: Tensor | None, *, weight: NotNegative = 100.0,
        correlation_momentum: Share = 0.99, labels: Tensor | None = None, ranks: Ranks = ALONE,
    ) -> Tensor:  # fmt: skip
        """
        Args:
            online: [V, m, d]. Rows are normalised here.
            target: [T, m, d], without gradient; normalised here.
            weight: of the penalty; >= 0.
            correlation_momentum: how much of the old F is kept; from 0 to 1.
        Returns: [], dimensionless, from -1 to 1 + weight / 2.
        Raises: BadInput (shapes or settings that do not fit, or no target)."""
        check_stacks(online, target, len(self.correlation))
        ranges.AT_LEAST_0.check(weight=weight)
        ranges.SHARE.check(correlation_momentum=correlation_momentum)
        with full_precision(online):
            units, targets = unit_rows(online), unit_rows(needed(target, "unigrad")).detach()
            with torch.no_grad():
                rows = targets.flatten(0, 1)
                n = ranks.sum(rows.new_tensor(float(len(rows))))
                now = ranks.sum(rows.T @ rows) / n
                kept = correlation_momentum if self.started else 0.0
                self.correlation.mul_(kept).add_((1 - kept) * now)
                self.started.fill_(True)
            matrix = self.correlation.clone()  # the backward pass needs it as it is now
            penalties = ((units @ matrix) * units).sum(2)
            losses = [
                -(units[v] * targets[t]).sum(1) + weight / 2 * penalties[v] for v, t in pairs(len(units), len(targets))
            ]
            return mean_of_rows(torch.stack(losses).mean(0), ranks)
