"""MEC's formulas: pure functions of matched embeddings. With `ranks`, m is the sum of their rows, the work is split."""

import math

import torch
from torch import Tensor

from mec.errors import BadInput
from mec.objectives import coding
from mec.objectives.checks import check_distortion, check_order, check_pair, check_stack
from mec.objectives.coding import Distortion, distortion_for, full_precision, sum_of_powers
from mec.objectives.matched import Normalise, centred_columns, mean_of_rows, normalised, unit_rows
from mec.runtime.distributed import ALONE, Ranks
from mec.runtime.ranges import AT_LEAST_0, FROM_1, SHARE, Count, NotNegative, Share


def maximum_entropy_coding(
    online: Tensor, target: Tensor, *, distortion: Distortion = 0.06, order: Count | None = 4,
    normalise: Normalise = "l2", ranks: Ranks = ALONE,
) -> Tensor:  # fmt: skip
    """Minus the coding length shared by matched views, scaled so that order 1 is minus the mean cosine.

    Args:
        online: [m, d] predictions, one row an image. Rows are normalised here.
        target: [m, d] embeddings of the other view, rows in the same order.
        distortion: ε_d², the squared decoding error allowed for a unit row, per dimension; > 0. λ = 1 / (m ε_d²).
            Or "guaranteed": d / m where d > m, else just above 1, with which every series converges.
        order: terms kept of the series, 1 or more; None for log abs det itself. The series surely converges where
            ‖λ online targetᵀ‖₂ < 1, which ε_d² > 1 guarantees; a loss below
            -r ε_d² log(1 + 1 / (r ε_d²)), r = min(m, d), is truncation error, not entropy.
        normalise: l2, rows of length 1; bn, columns standardised and divided by sqrt(d), so that rows have that
            length in the mean; both, columns standardised, then rows of length 1 (appendix H's table).

    Returns:
        [], dimensionless: -log det(I + C) / (λ m), C = λ online targetᵀ. Nats = -λ m μ times it, μ = (m + d) / 2.

    Raises:
        BadInput: shapes differ, distortion not finite or <= 0, order < 1, or no such normalisation.

    Source:
        Liu et al., NeurIPS 2022, Eqn 3, and Eqn 4 for the smaller side; scaled as in the official code.

    >>> z = torch.eye(4)
    >>> maximum_entropy_coding(z, z, distortion=1.0, order=1)
    tensor(-1.)"""
    check_pair(online, target)
    check_distortion(distortion)
    check_order(order)
    shares = ranks.shares(len(online))
    distortion = distortion_for(distortion, shares.total, online.shape[1])
    lam = 1 / (shares.total * distortion)
    with full_precision(online):
        online, target = normalised(online, normalise, ranks), normalised(target, normalise, ranks)
        return -distortion * coding.log_det_cross(online, target, lam, order, shares)  # 1 / (λ m) = ε_d²


def joint_coding(
    views: Tensor, *, distortion: Distortion = 0.06, exponent: Share = 0.0, agreement: NotNegative = 0.0,
    centred: bool = False, weights: Tensor | None = None, normalise: Normalise = "l2", ranks: Ranks = ALONE,
) -> Tensor:  # fmt: skip
    """Minus the exact coding length of the view average, scaled as `maximum_entropy_coding`.

    The average Ȳ of unit embeddings is long where views agree and the log-determinant is large where images differ,
    so one bounded quantity asks for both. Its first order is the agreement of the views (two views: -(1 + cos) / 2).
    `exponent` and `agreement` open a family that has the form's relatives at its corners (docs/relations.md).

    Args:
        views: [V, m, d], V views of the same m images. Rows are normalised here; their average is not.
        distortion: ε_d² > 0 or "guaranteed", as in `maximum_entropy_coding`.
        exponent: a, from 0 to 1: ((1 + λσ²)^a - 1) / a takes the place of log(1 + λσ²), σ the singular values of Ȳ.
            0 is the logarithm, 1 the mean square length of Ȳ's rows; at ½, as ε_d² goes to 0, the sum of σ (MMCR).
        agreement: w >= 0, a weight for agreement of its own: w times the mean length of Ȳ's rows, which is the mean
            cosine of a view with the average of its image's views, is added to what is maximised.
        centred: whether the mean row is taken from Ȳ before the spectrum is looked at.
        weights: [V], 0 or above, adding up to 1; None for equal ones.
        normalise: as in `maximum_entropy_coding`.

    Returns:
        [], dimensionless: -Σ log(1 + λσ²) / (λ m) - w · mean ‖ȳ‖; from `lower_bound` to 0.

    Raises:
        BadInput: not [V, m, d], a setting out of its range, or weights that do not fit.

    Source:
        Eqn 1 of Liu et al., NeurIPS 2022, of the view average: this project's form, docs/objective.md.

    >>> views = torch.eye(4).expand(2, 4, 4)
    >>> round(joint_coding(views, distortion=0.25).item(), 4)  # aligned and evenly spread: the bound, -log 2
    -0.6931"""
    check_stack(views)
    check_distortion(distortion)
    SHARE.check(exponent=exponent)
    AT_LEAST_0.check(agreement=agreement)
    if weights is not None:
        one = weights.shape == (len(views),) and bool((weights >= 0).all()) and abs(weights.sum().item() - 1) <= 1e-4
        if not one:
            raise BadInput(f"weights are {weights.tolist()} for {len(views)} views: a share for each, adding up to 1.")
    shares = ranks.shares(views.shape[1])
    distortion = distortion_for(distortion, shares.total, views.shape[2])
    with full_precision(views):
        units = unit_rows(views) if normalise == "l2" else torch.stack([normalised(x, normalise, ranks) for x in views])
        average = units.mean(0) if weights is None else torch.einsum("v,vmd->md", weights.to(units), units)
        rows, lam = centred_columns(average, ranks)[0] if centred else average, 1 / (shares.total * distortion)
        spread = sum_of_powers(rows, lam, exponent, ranks) if exponent else coding.log_det_symmetric(rows, lam, shares)
        loss = -distortion * spread
        return loss - agreement * mean_of_rows(torch.linalg.vector_norm(average, dim=1), ranks) if agreement else loss


def lower_bound(
    m: int, d: int, distortion: Distortion, *, exponent: Share = 0.0, agreement: NotNegative = 0.0,
    centred: bool = False,
) -> float:  # fmt: skip
    """What no exact form of the loss can go below: that of views that agree and spread evenly.

    Args:
        m: images.
        d: embedding size.
        distortion: ε_d² > 0 or "guaranteed", as in `maximum_entropy_coding`.
        exponent, agreement, centred: as in `joint_coding`.
    Returns: -r ε_d² log(1 + 1 / (r ε_d²)) - w, r = min(m, d), or min(m - 1, d) where rows are centred; or with the
        power in place of the logarithm. Dimensionless; w the weight of agreement.
    Raises: BadInput (m, d or distortion that is not above 0).
    Source: docs/objective.md: the largest log-determinant for a given trace, where all eigenvalues are equal.

    >>> round(lower_bound(4, 4, 0.25), 4)
    -0.6931"""
    FROM_1.check(m=m, d=d)
    check_distortion(distortion)
    SHARE.check(exponent=exponent)
    AT_LEAST_0.check(agreement=agreement)
    scale = max(1, min(m - centred, d)) * distortion_for(distortion, m, d)
    each = math.expm1(exponent * math.log1p(1 / scale)) / exponent if exponent else math.log1p(1 / scale)
    return -scale * each - agreement
