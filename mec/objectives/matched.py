"""What objectives on matched rows share: normalisation, sums over ranks, which views are paired.

Rows are embeddings, row i of every view the same image; a rank holds its own rows, and numbers are those of all.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mec.errors import BadInput
from mec.objectives.coding import at_least_float32
from mec.runtime.distributed import ALONE, Ranks

Normalise = Literal["l2", "bn", "both"]
GLOBAL_VIEWS = 2  # the first views show most of an image and may be targets; later ones are small crops
BN_EPS = 1e-5  # of torch's batch norm; part of the value


def unit_rows(x: Tensor) -> Tensor:
    """Rows of length 1; a row of zeros has no direction: it stays, and asks for nothing (1 / eps would be its rate)."""
    found: Tensor = F.normalize(at_least_float32(x), dim=-1)
    return torch.where((x != 0).any(-1, keepdim=True), found, found.detach()) if x.requires_grad else found


def normalised(x: Tensor, how: Normalise = "l2", ranks: Ranks = ALONE) -> Tensor:
    """Rows [m, d] of mean square length 1: each of length 1 (l2), columns standardised (bn), or both in turn (both)."""
    if how not in ("l2", "bn", "both"):
        raise BadInput(f"normalise is {how!r}: l2, bn or both.")
    if how == "l2":
        return unit_rows(x)
    # Batch norm without affine, by the biased variance of the rows of all ranks.
    centred, m = centred_columns(at_least_float32(x), ranks)
    columns = centred * torch.rsqrt(ranks.sum(centred.square().sum(0)) / m + BN_EPS)
    return unit_rows(columns) if how == "both" else columns / x.shape[-1] ** 0.5


def centred_columns(x: Tensor, ranks: Ranks = ALONE) -> tuple[Tensor, Tensor]:
    """This rank's rows less the mean row of all, and the number of all rows."""
    summed = ranks.sum(torch.cat([x.sum(0), x.new_tensor([len(x)])]))
    total, m = summed[:-1], summed[-1].detach()
    return x - total / m, m


def mean_of_rows(x: Tensor, ranks: Ranks = ALONE) -> Tensor:
    """The mean of numbers [m], one a row, over the rows of all ranks; the same on each."""
    total, m = ranks.sum(torch.stack([x.sum(), x.new_tensor(float(len(x)))]))
    mean: Tensor = total / m.detach()
    return mean


def row_numbers(x: Tensor, ranks: Ranks = ALONE) -> Tensor:
    """[m] the numbers of this rank's rows among those of all."""
    start = int(ranks.shares(len(x)).mine.start)
    return torch.arange(start, start + len(x), device=x.device)


def pairs(views: int, targets: int) -> list[tuple[int, int]]:
    """(v, t) of every prediction with the target of another view."""
    return [(v, t) for t in range(targets) for v in range(views) if v != t]


def pairs_without_target(views: int) -> list[tuple[int, int]]:
    """(v, t), v < t, of every two views of which one is global: two small crops may show nothing in common."""
    return [(v, t) for v in range(min(views, GLOBAL_VIEWS)) for t in range(v + 1, views)]
