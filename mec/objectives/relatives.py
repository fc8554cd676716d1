"""The formulas nearest to MEC: coding rates, spectra and covariances of views. Pure functions, but for CorInfoMax.

Each takes V views of the same m images, [V, m, d], of this rank; value and gradient are those of the rows of all ranks.
Values are unscaled; the setting `scale` of a method multiplies them. How each relates to MEC: docs/relations.md.
"""

import torch
from torch import Tensor, nn

from mec.errors import BadInput
from mec.objectives.checks import check_order, check_pair, check_stack, check_stacks, needed
from mec.objectives.coding import at_least_float32, full_precision, log_det_symmetric
from mec.objectives.matched import centred_columns, mean_of_rows, pairs, unit_rows
from mec.runtime.distributed import ALONE, Ranks
from mec.runtime.ranges import ABOVE_0, AT_LEAST_0, FROM_1, SHARE, Count, NotNegative, Positive, Share


def mmcr(views: Tensor, *, local: NotNegative = 0.0, ranks: Ranks = ALONE) -> Tensor:
    """Minus the nuclear norm of the view average: maximum manifold capacity.

    Averaging an image's views before looking at the spectrum came with it; MEC's joint form does so as well, with a
    logarithm of 1 + λσ² where this has σ (`joint_coding` with exponent ½ and a distortion that goes to 0).

    Args:
        views: [V, m, d]. Rows are normalised here; their average is not.
        local: weight of the mean nuclear norm of each image's own views, which is kept small; >= 0.
    Returns: [], dimensionless: -Σ σ(Ȳ) + local · mean_i ‖views of image i‖_*; at least -sqrt(m min(m, d)).
    Raises: BadInput (not [V, m, d], or a weight that is not finite or negative).
    Source: Yerxa et al., NeurIPS 2023, and its code; the weight is 0 there by default.

    >>> mmcr(torch.eye(4).expand(2, 4, 4))  # views agree, images at right angles: four singular values of 1
    tensor(-4.)"""
    check_stack(views)
    AT_LEAST_0.check(local=local)
    with full_precision(views):
        units = unit_rows(views)
        average = ranks.gather(units.mean(0))
        loss: Tensor = -torch.linalg.svdvals(average).sum()
        if local:
            loss = loss + local * mean_of_rows(torch.linalg.svdvals(units.transpose(0, 1)).sum(1), ranks)
        return loss


def emp_ssl(views: Tensor, *, distance: Positive = 0.2, agreement: NotNegative = 200.0, ranks: Ranks = ALONE) -> Tensor:
    """Each view's rows spread out, and views agree with their average: EMP-SSL.

    Args:
        views: [V, m, d]. Rows are normalised here.
        distance: ε² of the coding rate; in MEC's terms ε_d² = ε² / d; > 0.
        agreement: weight of the mean cosine of a view with the average of its image's views; >= 0.
    Returns: [], in nats: -agreement · mean_v cos(z_v, z̄) - mean_v ½ log det(I + d / (m ε²) Z_vᵀ Z_v).
    Raises: BadInput (not [V, m, d], or a setting out of its range).
    Source: Tong et al., 2023, and its code, where 0.2 is ε² and not ε.

    >>> round(emp_ssl(torch.eye(4).expand(2, 4, 4), distance=1.0, agreement=1.0).item(), 4)  # -1 - 2 log 2
    -2.3863"""
    check_stack(views)
    ABOVE_0.check(distance=distance)
    AT_LEAST_0.check(agreement=agreement)
    with full_precision(views):
        units = unit_rows(views)
        average = unit_rows(units.mean(0))
        cosine = mean_of_rows((units * average).sum(2).mean(0), ranks)
        return -agreement * cosine - coding_rate(units, distance, ranks)


def coding_rate(views: Tensor, distance: float, ranks: Ranks) -> Tensor:
    """Mean over views of ½ log det(I + d / (m ε²) Z_vᵀ Z_v), in nats."""
    shares = ranks.shares(views.shape[1])
    lam = views.shape[2] / (shares.total * distance)
    return torch.stack([log_det_symmetric(rows, lam, shares) for rows in views]).mean() / 2


def simdino(
    online: Tensor, target: Tensor | None, *, distance: Positive = 0.5, agreement: NotNegative = 1.0,
    labels: Tensor | None = None, ranks: Ranks = ALONE,
) -> Tensor:  # fmt: skip
    """Student and teacher agree on different views, and their averages spread out: SimDINO, in the loop's call.

    Args:
        online: [V, m, d] of the student. Rows are normalised here.
        target: [T, m, d] of the teacher for the first T views, without gradient; normalised here.
        distance: ε² of the coding rate; > 0.
        agreement: weight of the mean cosine of student and teacher over pairs of different views; >= 0.
    Returns: [], in nats: -agreement · mean cos - γ mean_v ½ log det(I + d / (m ε²) Ȳ_vᵀ Ȳ_v), where Ȳ_v is the mean of
        student and teacher on view v, and γ = (d + m) / (d m).
    Raises: BadInput (shapes that do not fit, no target, or a setting out of its range).
    Source: Wu et al., ICML 2025, and its code."""
    teacher = needed(target, "simdino")
    check_stacks(online, teacher)
    ABOVE_0.check(distance=distance)
    AT_LEAST_0.check(agreement=agreement)
    with full_precision(online):
        student, teacher = unit_rows(online), unit_rows(teacher).detach()
        cosines = [(student[v] * teacher[t]).sum(1) for v, t in pairs(len(student), len(teacher))]
        m, d = ranks.shares(online.shape[1]).total, online.shape[2]
        rate = coding_rate((student[: len(teacher)] + teacher) / 2, distance, ranks)
        return -agreement * mean_of_rows(torch.stack(cosines).mean(0), ranks) - (d + m) / (d * m) * rate


def matrix_ssl(
    online: Tensor, target: Tensor, *, order: Count | None = 4, own: NotNegative = 1.0, centred: bool = True,
    ranks: Ranks = ALONE,
) -> Tensor:  # fmt: skip
    """Matrix cross-entropies: of the identity with the views' cross-covariance, and of one view's with the other's.

    Without `own`, without centring and at all orders it is MEC's cross exact form at a distortion of 1.

    Args:
        online, target: [m, d], row i the same image. Rows are normalised here.
        order: terms kept of the series of the logarithm, 1 or more; None for the logarithm itself.
        own: γ >= 0, weight of the cross-entropy of the views' own covariances.
        centred: whether the mean row is taken out of the covariances.
    Returns: [], dimensionless: -Tr log(I + C_12) - γ Tr((I + C_11) log(I + C_22)), C_ab = P_aᵀ J P_b / m.
    Raises: BadInput (shapes differ, order < 1, or a negative weight).
    Source: Zhang et al., ICML 2024, and its code, with I in place of its I / 2."""
    check_pair(online, target)
    check_order(order)
    AT_LEAST_0.check(own=own)
    with full_precision(online):
        p, z = unit_rows(online), unit_rows(target)
        m = ranks.shares(len(p)).total
        a, b = (centred_columns(x, ranks)[0] if centred else x for x in (p, z))
        cross = ranks.sum(a.T @ b) / m
        if order is None:
            loss: Tensor = -torch.linalg.slogdet(cross + torch.eye(len(cross), dtype=cross.dtype, device=cross.device))[
                1
            ]
        else:
            loss = -log_of(cross, order).diagonal().sum()
        if own:
            first, second = ranks.sum(torch.stack([a.T @ a, b.T @ b])) / m
            logarithm = log_of(second, order)
            loss = loss - own * (logarithm.diagonal().sum() + (first * logarithm.T).sum())
        return loss


def log_of(c: Tensor, order: int | None) -> Tensor:
    """log(I + c): the first terms of its series, or, of a symmetric c, all of it."""
    if order is None:
        values, vectors = torch.linalg.eigh(c)
        found: Tensor = (vectors * values.log1p()) @ vectors.T
        return found
    power, total = c, c
    for k in range(2, order + 1):
        power = power @ c
        total = total + power * ((-1) ** (k + 1) / k)
    return total


def frossl(views: Tensor, *, invariance: NotNegative = 1.0, ranks: Ranks = ALONE) -> Tensor:
    """Covariances near a multiple of the identity, by their Frobenius norm, and views that agree: FroSSL.

    Args:
        views: [V, m, d]. Columns are brought to length 1 here.
        invariance: weight of agreement; >= 0.
    Returns: [], dimensionless: Σ_v [2 log ‖cov_v / Tr cov_v‖_F + invariance · V d · MSE(z_v, z̄)].
    Raises: BadInput (not [V, m, d], or a weight that is not finite or negative).
    Source: Skean et al., ECCV 2024, and its code."""
    check_stack(views)
    AT_LEAST_0.check(invariance=invariance)
    with full_precision(views):
        x = at_least_float32(views)
        x = x / ranks.sum(x.square().sum(1, keepdim=True)).sqrt().clamp(min=1e-12)
        count, (m, d) = len(x), (ranks.shares(x.shape[1]).total, x.shape[2])
        covariances = ranks.sum(x.transpose(1, 2) @ x)
        traces = covariances.diagonal(dim1=1, dim2=2).sum(1).detach()
        spread: Tensor = 2 * (torch.linalg.matrix_norm(covariances) / traces).log().sum()
        apart = ranks.sum((x - x.mean(0)).square().sum()) / (m * d)
        return spread + invariance * count * d * apart


def w_mse(views: Tensor, *, shrink: Share = 0.0, ranks: Ranks = ALONE) -> Tensor:
    """Mean squared distance of whitened, then normalised, embeddings of every two views: W-MSE.

    The whole batch is whitened at once, each view by the inverse Cholesky factor of its covariance.

    Args:
        views: [V, m, d], m above d.
        shrink: share of the identity that is mixed into covariances; from 0 to 1.
    Returns: [], dimensionless, from 0 to 4: the mean over pairs of 2 - 2 cos.
    Raises: BadInput (not [V, m, d], fewer than two views, or no more images than dimensions).
    Source: Ermolov et al., ICML 2021, and its code, which whitens parts of the batch."""
    check_stacks(views, None)
    SHARE.check(shrink=shrink)
    m, d = ranks.shares(views.shape[1]).total, views.shape[2]
    if m <= d and not shrink:
        raise BadInput(f"w-mse got {m} images and embeddings of {d} numbers: whitening takes more images than numbers.")
    with full_precision(views):
        whitened = []
        for rows in at_least_float32(views):
            centred, _ = centred_columns(rows, ranks)
            covariance = ranks.sum(centred.T @ centred) / (m - 1)
            mixed = (1 - shrink) * covariance + shrink * torch.eye(d, dtype=rows.dtype, device=rows.device)
            factor = torch.linalg.cholesky_ex(mixed).L
            whitened.append(unit_rows(torch.linalg.solve_triangular(factor, centred.T, upper=False).T))
        losses = [2 - 2 * (a * b).sum(1) for v, a in enumerate(whitened) for b in whitened[v + 1 :]]
        return mean_of_rows(torch.stack(losses).mean(0), ranks)


class CorInfoMax(nn.Module):
    """Log-determinants of running covariances of the views, and agreement: CorInfoMax, in the loop's call.

    The covariances and means of the steps before are kept, but the new batch is nearly all of them.

    Args:
        embedding: d.
    Source: Ozsoy et al., NeurIPS 2022, and its code, with the unit rows of its CIFAR settings."""

    def __init__(self, embedding: int):
        super().__init__()
        FROM_1.check(embedding=embedding)
        self.means = nn.Buffer(torch.zeros(2, embedding, dtype=torch.float64))
        self.covariances = nn.Buffer(torch.eye(embedding, dtype=torch.float64).repeat(2, 1, 1))

    def forward(
        self, online: Tensor, target: Tensor | None, *, invariance: NotNegative = 250.0, kept: Share = 0.01,
        floor: Positive = 1e-8, labels: Tensor | None = None, ranks: Ranks = ALONE,
    ) -> Tensor:  # fmt: skip
        """
        Args:
            online: [V, m, d]; the first two views are taken. Rows are normalised here.
            target: not looked at.
            invariance: weight of the mean squared difference of the views; >= 0.
            kept: how much of the old means and covariances is kept; from 0 to 1.
            floor: added to the diagonal of covariances; > 0.
        Returns: [], dimensionless: invariance · MSE(z_1, z_2) - Σ_v log det(R_v + floor I) / d.
        Raises: BadInput (shapes or settings that do not fit)."""
        check_stacks(online, None, self.means.shape[1])
        AT_LEAST_0.check(invariance=invariance)
        SHARE.check(kept=kept)
        ABOVE_0.check(floor=floor)
        with full_precision(online):
            z = unit_rows(online[:2])
            m, d = ranks.shares(z.shape[1]).total, z.shape[2]
            rows = z.double()  # eigenvalues down to the floor
            means = kept * self.means + (1 - kept) * ranks.sum(rows.sum(1)) / m
            centred = rows - means[:, None]
            covariances = kept * self.covariances + (1 - kept) * ranks.sum(centred.transpose(1, 2) @ centred) / m
            factors = torch.linalg.cholesky_ex(covariances + floor * torch.eye(d, dtype=rows.dtype, device=rows.device))
            spread = 2 * factors.L.diagonal(dim1=1, dim2=2).log().sum() / d
            apart = mean_of_rows((z[0] - z[1]).square().mean(1), ranks)
            with torch.no_grad():
                self.means.copy_(means)
                self.covariances.copy_(covariances)
            loss: Tensor = invariance * apart - spread.to(z.dtype)
            return loss
