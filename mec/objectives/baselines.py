"""The objectives that MEC is set against: formulas (pure functions), and those with memory (small modules).

A formula scores two matched sets [m, d] and returns its mean over rows. With `ranks` the rows are this rank's, and the
value and gradient those of all rows: what can be split is split, the rest is gathered or summed with gradient. Values
are unscaled; the setting `scale` of a method multiplies them (1 unless said), as published losses are multiples.
A module with memory has the loop's call (objectives.py); its state is the same on every rank.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mec.errors import BadInput
from mec.objectives.coding import at_least_float32, full_precision
from mec.objectives.matched import (
    GLOBAL_VIEWS,
    Normalise,
    centred_columns,
    check_pair,
    check_positive,
    check_stack,
    first_row,
    mean_of_rows,
    needed,
    normalised,
    pairs,
    unit_rows,
)
from mec.runtime.distributed import ALONE, Ranks


def negative_cosine(online: Tensor, target: Tensor, *, ranks: Ranks = ALONE) -> Tensor:
    """Minus the mean cosine of matched rows: SimSiam (Chen and He 2021, Eqn 1); BYOL's loss (Grill et al. 2020, Eqn 2)
    is 2 + 2 times it, a direction.

    >>> negative_cosine(torch.eye(3), 2 * torch.eye(3))
    tensor(-1.)
    """
    check_pair(online, target)
    return mean_of_rows(-(unit_rows(online) * unit_rows(target)).sum(1), ranks)


def nt_xent(online: Tensor, target: Tensor, *, temperature: float = 0.2, ranks: Ranks = ALONE) -> Tensor:
    """Each row among all 2m rows, itself left out, has to find its partner: SimCLR (Chen et al. 2020, Eqn 1).

    Args:
        online, target: [m, d], two views; both are anchors, and candidates for all.
        temperature: cosines are divided by it; > 0.
    """
    check_pair(online, target)
    check_positive(temperature=temperature)
    with full_precision(online):
        mine = torch.stack([unit_rows(online), unit_rows(target)])
        everyone = ranks.gather(mine, dim=1)
        m, start = everyone.shape[1], first_row(online, ranks)
        here = torch.arange(start, start + len(online), device=online.device)
        losses = []
        for side in (0, 1):
            logits = mine[side] @ everyone.flatten(0, 1).T / temperature
            itself = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, (here + side * m)[:, None], True)
            partner = here + (1 - side) * m
            losses.append(F.cross_entropy(logits.masked_fill(itself, -torch.inf), partner, reduction="none"))
        return mean_of_rows(torch.stack(losses).mean(0), ranks)


def info_nce(online: Tensor, target: Tensor, *, temperature: float = 0.2, ranks: Ranks = ALONE) -> Tensor:
    """Each prediction has to find its own target among those of all images: MoCo v3 (Chen et al. 2021, Eqn 1).

    The paper's eq. 26 has this shape, with the positive counted once for each negative (docs/relations.md).
    """
    check_pair(online, target)
    check_positive(temperature=temperature)
    with full_precision(online):
        keys = ranks.gather(unit_rows(target))
        start = first_row(online, ranks)
        own = torch.arange(start, start + len(online), device=online.device)
        logits = unit_rows(online) @ keys.T / temperature
        return mean_of_rows(F.cross_entropy(logits, own, reduction="none"), ranks)


def barlow_twins(
    online: Tensor,
    target: Tensor,
    *,
    off_diagonal: float = 0.0051,
    normalise: Normalise = "bn",
    ranks: Ranks = ALONE,
) -> Tensor:
    """Distance of the cross-correlation of dimensions from the identity: Barlow Twins (Zbontar et al. 2021, Eqn 1).

    Args:
        online, target: [m, d], two views.
        off_diagonal: weight of the squares off the diagonal.
        normalise: bn standardises columns, as published; l2 takes unit rows, times sqrt(d), so that again the
            diagonal is 1 in the mean where views agree; both, one after the other (the paper's appendix H).

    >>> barlow_twins(torch.eye(4), torch.eye(4), normalise="l2")
    tensor(0.)
    """
    check_pair(online, target)
    with full_precision(online):
        a, b = normalised(online, normalise, ranks), normalised(target, normalise, ranks)
        d = a.shape[1]
        m = ranks.sum(a.new_tensor(float(len(a))))
        correlation = ranks.sum(a.T @ b) * (d / m)
        diagonal = correlation.diagonal()
        off = correlation - torch.diag(diagonal)
        return (1 - diagonal).square().sum() + off_diagonal * off.square().sum()


def vicreg(
    online: Tensor,
    target: Tensor,
    *,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    ranks: Ranks = ALONE,
) -> Tensor:
    """Views agree, each dimension varies, dimensions do not vary together: VICReg (Bardes et al. 2022, Eqn 6).

    As in the official code: agreement is a mean over dimensions, and the variance terms of the two sides are halved.
    Rows are not normalised.
    """
    check_pair(online, target)
    with full_precision(online):
        a, b = at_least_float32(online), at_least_float32(target)
        agreement = mean_of_rows((a - b).square().mean(1), ranks)
        spread, overlap = zip(*(variance_and_covariance(x, ranks) for x in (a, b)))
        return invariance * agreement + variance * (spread[0] + spread[1]) / 2 + covariance * (overlap[0] + overlap[1])


def variance_and_covariance(x: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor]:
    """What standard deviations lack to 1, in the mean; squared covariances off the diagonal, over d. Unbiased."""
    centred, m = centred_columns(x, ranks)
    if float(m) < 2:
        raise BadInput("vicreg got one image: a variance takes two.")
    matrix = ranks.sum(centred.T @ centred) / (m - 1)
    diagonal = matrix.diagonal()
    off = matrix - torch.diag(diagonal)
    return F.relu(1 - torch.sqrt(diagonal + 1e-4)).mean(), off.square().sum() / x.shape[1]


def cross_entropy(
    online: Tensor,
    target: Tensor | None = None,
    *,
    labels: Tensor | None = None,
    label_smoothing: float = 0.0,
    ranks: Ranks = ALONE,
) -> Tensor:
    """Supervised: mean cross-entropy of logits [V, m, classes] with labels [m]."""
    check_stack(online)
    if labels is None:
        raise BadInput("supervised needs labels: images in train/CLASS/, or a data set that has them.")
    with full_precision(online):
        logits = at_least_float32(online)
        losses = [F.cross_entropy(view, labels, reduction="none", label_smoothing=label_smoothing) for view in logits]
        return mean_of_rows(torch.stack(losses).mean(0), ranks)


class QueuedInfoNCE(nn.Module):
    """Each prediction against its key and a queue of earlier keys: MoCo v2 (He et al. 2020, Eqn 1).

    One queue for each view that keys come from. The batch's own other keys are no negatives, and enter the queue after
    the loss. The queue's length is a multiple of the global batch.
    """

    def __init__(self, embedding: int, *, queue: int = 1024):
        super().__init__()
        if queue < 1:
            raise BadInput(f"queue is {queue}: at least one batch of keys.")
        self.keys: Tensor
        self.pointer: Tensor
        self.register_buffer("keys", unit_rows(torch.randn(GLOBAL_VIEWS, queue, embedding)))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    def forward(
        self,
        online: Tensor,
        target: Tensor | None,
        *,
        temperature: float = 0.2,
        key_views: int = 2,  # 1: keys from the second view only, as MoCo has it
        labels: Tensor | None = None,
        ranks: Ranks = ALONE,
    ) -> Tensor:
        check_stack(online)
        check_positive(temperature=temperature)
        with full_precision(online):
            queries, keys = unit_rows(online), unit_rows(needed(target, "moco-v2")).detach()
            losses = []
            for v, t in pairs(len(queries), len(keys)):
                if key_views == 1 and t != 1:
                    continue
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
        m, length = keys.shape[1], self.keys.shape[1]
        if length % m:
            raise BadInput(
                f"queue {length} with batches of {m}: the queue is a multiple of the batch: take another "
                f"batch size, or --set settings.queue={max(1, length // m) * m}"
            )
        start = int(self.pointer)
        self.keys[: len(keys), start : start + m] = keys
        self.pointer.fill_((start + m) % length)


class SwAV(nn.Module):
    """Predict the cluster code of another view: SwAV (Caron et al. 2020, Eqns 1 to 3).

    Codes come from the first two views, balanced over prototypes by Sinkhorn's iterations over all ranks' rows, with
    the help of a queue of earlier embeddings where there is one; every other view predicts them.
    """

    def __init__(self, embedding: int, *, prototypes: int = 128, queue: int = 0):
        super().__init__()
        if prototypes < 2 or queue < 0:
            raise BadInput(f"prototypes is {prototypes}, queue {queue}: at least 2, at least 0.")
        self.prototypes = nn.Parameter(unit_rows(torch.randn(prototypes, embedding)))
        self.queue: Tensor
        self.register_buffer("queue", torch.zeros(GLOBAL_VIEWS, queue, embedding))

    def forward(
        self,
        online: Tensor,
        target: Tensor | None = None,
        *,
        temperature: float = 0.1,
        sharpness: float = 0.05,  # ε: scores are divided by it before they are balanced
        iterations: int = 3,
        use_queue: float = 1.0,  # below 1 it is neither filled nor used: Linear(0, 1, epochs) starts it then
        labels: Tensor | None = None,
        ranks: Ranks = ALONE,
    ) -> Tensor:
        check_stack(online)
        check_positive(temperature=temperature, sharpness=sharpness)
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
        if newest is not None and length % newest.shape[1]:
            batch = newest.shape[1]
            raise BadInput(
                f"queue {length} with batches of {batch}: the queue is a multiple of the batch: take another "
                f"batch size, or --set settings.queue={max(1, length // batch) * batch}"
            )
        found = []
        for t in range(min(len(units), GLOBAL_VIEWS)):
            rows = scores[t]
            if newest is not None and self.queue[t, -1].any():  # full: no row is still zero
                earlier = self.queue[t, ranks.share(length)]
                rows = torch.cat([rows, earlier @ self.prototypes.T])
            found.append(sinkhorn(rows / sharpness, iterations, ranks)[:m])
        if newest is not None:
            self.queue.copy_(torch.cat([newest, self.queue], 1)[:, :length])
        return torch.stack(found)


@torch.no_grad()
def sinkhorn(logits: Tensor, iterations: int = 3, ranks: Ranks = ALONE) -> Tensor:
    """exp(logits [m, κ]), columns and rows scaled in turn to equal sums, ending on rows that add up to 1.

    In logarithms, so that nothing overflows. Columns are summed over the rows of all ranks.
    """
    x = at_least_float32(logits)
    for _ in range(iterations):
        columns = ranks.gather(torch.logsumexp(x, 0, keepdim=True)).logsumexp(0)
        x = x - columns
        x = x - torch.logsumexp(x, 1, keepdim=True)
    return x.exp()


class Dino(nn.Module):
    """Predict the centred, sharpened output of the target: DINO (Caron et al. 2021, Eqn 3, Algorithm 1).

    Online and target are logits [V, m, κ] and [T, m, κ]; the network's last layer makes them. The centre of earlier
    batches is taken from the target's logits, then follows this batch's mean.
    """

    def __init__(self, embedding: int):
        super().__init__()
        self.centre: Tensor
        self.register_buffer("centre", torch.zeros(embedding))

    def forward(
        self,
        online: Tensor,
        target: Tensor | None,
        *,
        temperature: float = 0.1,
        target_temperature: float = 0.04,
        centre_momentum: float = 0.9,
        labels: Tensor | None = None,
        ranks: Ranks = ALONE,
    ) -> Tensor:
        check_stack(online)
        check_positive(temperature=temperature, target_temperature=target_temperature)
        with full_precision(online):
            logits = at_least_float32(needed(target, "dino")).detach()
            codes = F.softmax((logits - self.centre) / target_temperature, dim=2)
            log_p = F.log_softmax(at_least_float32(online) / temperature, dim=2)
            losses = [-(codes[t] * log_p[v]).sum(1) for v, t in pairs(len(log_p), len(codes))]
            loss = mean_of_rows(torch.stack(losses).mean(0), ranks)
            with torch.no_grad():
                rows = logits.flatten(0, 1)
                summed = ranks.sum(torch.cat([rows.sum(0), rows.new_tensor([len(rows)])]))
                mean = summed[:-1] / summed[-1]
                self.centre.mul_(centre_momentum).add_((1 - centre_momentum) * mean)
            return loss


class UniGrad(nn.Module):
    """Agreement, and a penalty by the averaged correlation of targets: UniGrad (Tao et al. 2022).

    Its gradient at the unit embedding u is -t + weight · F u, with F [d, d] constant; as a loss,
    -u·t + (weight / 2) uᵀ F u. F moves by this batch's targets before it is used. Tr F = 1.
    """

    def __init__(self, embedding: int):
        super().__init__()
        self.correlation: Tensor
        self.started: Tensor
        self.register_buffer("correlation", torch.zeros(embedding, embedding))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def forward(
        self,
        online: Tensor,
        target: Tensor | None,
        *,
        weight: float = 100.0,
        correlation_momentum: float = 0.99,
        labels: Tensor | None = None,
        ranks: Ranks = ALONE,
    ) -> Tensor:
        check_stack(online)
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
