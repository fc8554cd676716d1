"""The formulas that MEC is set against: pure functions of matched embeddings. Those with memory: memory.py.

Each scores two matched sets [m, d] and returns its mean over rows. With `ranks` the rows are this rank's, and the value
and gradient those of all rows: what can be split is split, the rest is gathered or summed with gradient. Values are
unscaled; the setting `scale` of a method multiplies them (1 unless said), as published losses are multiples.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from mec.errors import BadInput
from mec.objectives.checks import check_labels, check_pair, check_stack
from mec.objectives.coding import at_least_float32, full_precision
from mec.objectives.matched import Normalise, centred_columns, mean_of_rows, normalised, row_numbers, unit_rows
from mec.runtime.distributed import ALONE, Ranks
from mec.runtime.ranges import ABOVE_0, AT_LEAST_0, SHARE, NotNegative, Positive, Share


def negative_cosine(online: Tensor, target: Tensor, *, ranks: Ranks = ALONE) -> Tensor:
    """Minus the mean cosine of matched rows: SimSiam and, times 2 and plus 2, one direction of BYOL.

    Args:
        online, target: [m, d], row i the same image. Rows are normalised here.
    Returns: [], dimensionless, from -1 (views agree) to 1.
    Raises: BadInput (shapes differ).
    Source: Chen and He, CVPR 2021, Eqn 1; Grill et al., NeurIPS 2020, Eqn 2 is 2 + 2 times it.

    >>> negative_cosine(torch.eye(3), 2 * torch.eye(3))
    tensor(-1.)"""
    check_pair(online, target)
    return mean_of_rows(-(unit_rows(online) * unit_rows(target)).sum(1), ranks)


def nt_xent(online: Tensor, target: Tensor, *, temperature: Positive = 0.2, ranks: Ranks = ALONE) -> Tensor:
    """Each row among all 2m rows, itself left out, has to find its partner: SimCLR.

    Args:
        online, target: [m, d], two views; both are anchors, and candidates for all. Rows are normalised here.
        temperature: cosines are divided by it; > 0.
    Returns: [], in nats: a cross-entropy over 2m - 1 candidates, above 0.
    Raises: BadInput (shapes differ, or temperature is not finite and above 0).
    Source: Chen et al., ICML 2020, Eqn 1."""
    check_pair(online, target)
    ABOVE_0.check(temperature=temperature)
    with full_precision(online):
        mine = torch.stack([unit_rows(online), unit_rows(target)])
        everyone = ranks.gather(mine, dim=1)
        m, here, losses = everyone.shape[1], row_numbers(online, ranks), []
        for side in (0, 1):
            logits = mine[side] @ everyone.flatten(0, 1).T / temperature
            itself = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, (here + side * m)[:, None], True)
            partner = here + (1 - side) * m
            losses.append(F.cross_entropy(logits.masked_fill(itself, -torch.inf), partner, reduction="none"))
        return mean_of_rows(torch.stack(losses).mean(0), ranks)


def info_nce(online: Tensor, target: Tensor, *, temperature: Positive = 0.2, ranks: Ranks = ALONE) -> Tensor:
    """Each prediction has to find its own target among those of all images: MoCo v3, one direction.

    MEC's eq. 26 has this shape, with the positive counted once for each negative (docs/relations.md).

    Args:
        online: [m, d] predictions, one row an image. Rows are normalised here.
        target: [m, d] embeddings of the other view, rows in the same order.
        temperature: cosines are divided by it; > 0.
    Returns: [], in nats: a cross-entropy over m candidates, above 0. The paper multiplies it by 2 · temperature.
    Raises: BadInput (shapes differ, or temperature is not finite and above 0).
    Source: Chen, Xie and He, ICCV 2021, Eqn 1 and Algorithm 1."""
    check_pair(online, target)
    ABOVE_0.check(temperature=temperature)
    with full_precision(online):
        logits = unit_rows(online) @ ranks.gather(unit_rows(target)).T / temperature
        return mean_of_rows(F.cross_entropy(logits, row_numbers(online, ranks), reduction="none"), ranks)


def barlow_twins(
    online: Tensor, target: Tensor, *, off_diagonal: NotNegative = 0.0051, normalise: Normalise = "bn",
    ranks: Ranks = ALONE,
) -> Tensor:  # fmt: skip
    """Distance of the cross-correlation of dimensions from the identity: Barlow Twins.

    Args:
        online, target: [m, d], two views.
        off_diagonal: weight of the squares off the diagonal; >= 0.
        normalise: bn standardises columns, as published; l2 takes unit rows, times sqrt(d), so that again the
            diagonal is 1 in the mean where views agree; both, one after the other (MEC's appendix H).
    Returns: [], dimensionless, 0 or above: a sum over d and d (d - 1) entries.
    Raises: BadInput (shapes differ, the weight is not finite or negative, or no such normalisation).
    Source: Zbontar et al., ICML 2021, Eqn 1.

    >>> barlow_twins(torch.eye(4), torch.eye(4), normalise="l2")
    tensor(0.)"""
    check_pair(online, target)
    AT_LEAST_0.check(off_diagonal=off_diagonal)
    with full_precision(online):
        a, b = normalised(online, normalise, ranks), normalised(target, normalise, ranks)
        d = a.shape[1]
        correlation = ranks.sum(a.T @ b) * (d / ranks.sum(a.new_tensor(float(len(a)))))
        diagonal = correlation.diagonal()
        off = correlation - torch.diag(diagonal)
        return (1 - diagonal).square().sum() + off_diagonal * off.square().sum()


def vicreg(
    online: Tensor, target: Tensor, *, invariance: NotNegative = 25.0, variance: NotNegative = 25.0,
    covariance: NotNegative = 1.0, ranks: Ranks = ALONE,
) -> Tensor:  # fmt: skip
    """Views agree, each dimension varies, dimensions do not vary together: VICReg.

    As in the official code: agreement is a mean over dimensions, and the variance terms of the two sides are halved.

    Args:
        online, target: [m, d], two views, m >= 2. Rows are not normalised.
        invariance: weight of the mean squared difference of the views; >= 0, as are the next two.
        variance: weight of what standard deviations lack to 1.
        covariance: weight of the squared covariances off the diagonal, summed over both views.
    Returns: [], 0 or above, in the weights' units.
    Raises: BadInput (shapes differ, one image only, or a weight that is not finite or negative).
    Source: Bardes, Ponce and LeCun, ICLR 2022, Eqn 6; scaled as in the official code.

    >>> z = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    >>> vicreg(z, z)  # equal views, each dimension varies, and alone
    tensor(0.)"""
    check_pair(online, target)
    AT_LEAST_0.check(invariance=invariance, variance=variance, covariance=covariance)
    with full_precision(online):
        a, b = at_least_float32(online), at_least_float32(target)
        agreement = mean_of_rows((a - b).square().mean(1), ranks)
        (spread_a, overlap_a), (spread_b, overlap_b) = (variance_and_covariance(x, ranks) for x in (a, b))
        return invariance * agreement + variance * (spread_a + spread_b) / 2 + covariance * (overlap_a + overlap_b)


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
    online: Tensor, target: Tensor | None = None, *, labels: Tensor | None = None, label_smoothing: Share = 0.0,
    ranks: Ranks = ALONE,
) -> Tensor:  # fmt: skip
    """Supervised learning in the loop's call: mean cross-entropy of the logits of all views with the labels.

    Args:
        online: [V, m, classes], logits of V views of the same m images.
        target: not looked at.
        labels: [m], the class of each image, from 0.
        label_smoothing: share of the target probability that is spread evenly over classes; from 0 to 1.
    Returns: [], in nats, 0 or above.
    Raises: BadInput (no labels, shapes that do not match, a class without logit, or a smoothing outside 0 to 1).
    Source: Szegedy et al., CVPR 2016, section 7, for the smoothing."""
    check_stack(online, "online")
    SHARE.check(label_smoothing=label_smoothing)
    if labels is None:
        raise BadInput("supervised needs labels: images in train/CLASS/, or a data set that has them.")
    check_labels(labels, *online.shape[1:])
    with full_precision(online):
        logits = at_least_float32(online)
        losses = [F.cross_entropy(view, labels, reduction="none", label_smoothing=label_smoothing) for view in logits]
        return mean_of_rows(torch.stack(losses).mean(0), ranks)
