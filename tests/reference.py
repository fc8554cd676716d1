"""The formulas as the paper and the protocols print them, slow and in float64: the judges of the fast code.

Everything is in the rows' notation of docs/objective.md: [m, d], row i the same image. Gradients are autograd's.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def constants(m: int, d: int, distortion: float) -> tuple[float, float]:
    """μ and λ."""
    return (m + d) / 2, 1 / (m * distortion)


def coding_length(z: Tensor, distortion: float) -> Tensor:
    """Eqn 1: μ log det(I_m + λ z zᵀ)."""
    mu, lam = constants(*z.shape, distortion)
    return mu * torch.logdet(torch.eye(len(z), dtype=z.dtype) + lam * z @ z.T)


def coding_length_series(z: Tensor, distortion: float, order: int) -> Tensor:
    """Eqn 2: μ Tr Σ_{k=1..n} (-1)^(k+1) / k (λ z zᵀ)^k."""
    mu, lam = constants(*z.shape, distortion)
    gram = lam * z @ z.T
    return mu * sum((-1) ** (k + 1) / k * torch.linalg.matrix_power(gram, k) for k in range(1, order + 1)).trace()


def algorithm_1(z1: Tensor, z2: Tensor, mu: float, lamda: float, n: int, feature_wise: bool = False) -> Tensor:
    """The pseudocode of appendix A, line by line; z1 and z2 are already normalised."""
    c = lamda * (z1.t().mm(z2) if feature_wise else z1.mm(z2.t()))
    power = c
    sum_p = torch.zeros_like(power)
    for k in range(1, n + 1):
        if k > 1:
            power = power.mm(c)
        if (k + 1) % 2 == 0:
            sum_p = sum_p + power / k
        else:
            sum_p = sum_p - power / k
    return -mu * sum_p.trace()


def released_loss(p1: Tensor, z2: Tensor, p2: Tensor, z1: Tensor, eps: float, order: int = 4) -> Tensor:
    """The official script: mean of the two directions' traces, over m, times -1/λ; no μ.

    Its eps (default 64) is the distortion times d: λ = d / (m eps).
    """
    p1, z2, p2, z1 = (F.normalize(x, dim=1) for x in (p1, z2, p2, z1))
    m, d = p1.shape
    lam = d / (m * eps)
    traces = (algorithm_1(p1, z2, -1.0, lam, order) + algorithm_1(p2, z1, -1.0, lam, order)) / 2
    return -1 / lam * traces / m


def exact_loss(online: Tensor, target: Tensor, distortion: float) -> Tensor:
    """Eqn 3 with every term: -log abs det(I + λ online targetᵀ) / (λ m), of normalised rows."""
    online, target = F.normalize(online, dim=1), F.normalize(target, dim=1)
    m = len(online)
    lam = 1 / (m * distortion)
    return -torch.linalg.slogdet(torch.eye(m, dtype=online.dtype) + lam * online @ target.T).logabsdet / (lam * m)


def joint_loss(views: Tensor, distortion: float, weights: Tensor | None = None) -> Tensor:
    """Eqn 1 of the average of the views' unit rows, scaled by -1 / (μ λ m)."""
    units = F.normalize(views, dim=2)
    share = torch.full((len(views),), 1 / len(views), dtype=views.dtype) if weights is None else weights
    average = sum(w * unit for w, unit in zip(share, units))
    m, d = average.shape
    mu, lam = constants(m, d, distortion)
    return -coding_length(average, distortion) / (mu * lam * m)


def even_spread(m: int, d: int) -> Tensor:
    """m unit rows whose Gram matrix has r = min(m, d) equal eigenvalues: an orthonormal set, or a harmonic frame."""
    if m <= d:
        return torch.linalg.qr(torch.randn(d, m, dtype=torch.float64)).Q.T
    if m % d == 0:
        return torch.linalg.qr(torch.randn(d, d, dtype=torch.float64)).Q.repeat(m // d, 1)
    assert d % 2 == 0
    angle = 2 * torch.pi * torch.outer(torch.arange(m), torch.arange(1, d // 2 + 1)).double() / m
    return torch.cat([angle.cos(), angle.sin()], 1) * (2 / d) ** 0.5
