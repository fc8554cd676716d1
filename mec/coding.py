"""Coding length: the log-determinant and its series, batch-wise [m, m] and feature-wise [d, d].

Notation (docs/objective.md): m images, d the embedding size, rows are embeddings, ε_d² the distortion,
λ = 1 / (m ε_d²), μ = (m + d) / 2. Each kernel below gives a value and its gradient in one fused pass, works on the
smaller of the two sides (Sylvester: the paper's Eqn 4), and differentiates once: asking for a second derivative
raises. Reduced precision is lifted to float32; float64 stays.
"""

import functools
import numbers
from collections.abc import Sequence

import torch
from torch import Tensor

from mec.errors import BadInput


def coding_length(z: Tensor, distortion: float, order: int | None = None) -> Tensor:
    """Nats needed to code the rows of z up to the given distortion: μ log det(I + λ z zᵀ).

    Args:
        z: [m, d], one embedding a row. Taken as it comes: normalise the rows first for the paper's quantity.
        distortion: ε_d², the squared decoding error allowed for a unit row, per dimension; > 0.
        order: terms kept of the series, 1 or more; None for the log-determinant itself. The series converges
            where the largest eigenvalue of λ z zᵀ is below 1.

    Returns:
        [], in nats; at most μ r log(1 + λ m / r) for unit rows, r = min(m, d).

    Raises:
        BadInput: z is not a matrix, distortion <= 0, or order < 1.

    Source:
        Liu et al., NeurIPS 2022, Eqn 1 (exact) and Eqn 2 (series).

    >>> round(coding_length(torch.eye(4), distortion=0.25).item(), 4)  # 4 orthonormal rows: μ = 4, λ = 1
    11.0904
    """
    check_matrix("z", z)
    check_settings(distortion, order)
    m, d = z.shape
    lam = 1 / (m * distortion)
    z = at_least_float32(z)
    return (m + d) / 2 * (log_det_symmetric(z, lam) if order is None else log_det_cross(z, z, lam, order))


def log_det_symmetric(rows: Tensor, lam: float) -> Tensor:
    """log det(I + λ rows rowsᵀ) of rows [m, d], by one Cholesky factorisation of the smaller side."""
    with full_precision(rows):
        return _LogDetSymmetric.apply(rows, lam)


def log_det_cross(online: Tensor, target: Tensor, lam: float, order: int | None) -> Tensor:
    """log abs det(I + C) with C = λ online targetᵀ, both [m, d]; or the first `order` terms of its series."""
    with full_precision(online):
        return _LogDetCross.apply(online, target, lam, order)


def largest_coding_length(m: int, d: int, distortion: float) -> float:
    """The value that m unit rows of size d reach when they agree and spread evenly: μ r log(1 + λ m / r), in nats."""
    r = min(m, d)
    return (m + d) / 2 * r * float(torch.log1p(torch.tensor(1 / (r * distortion), dtype=torch.float64)))


class _LogDetSymmetric(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor, lam: float) -> Tensor:
        batch_wise = rows.shape[0] <= rows.shape[1]
        gram = rows @ rows.T if batch_wise else rows.T @ rows
        gram.mul_(lam).diagonal().add_(1)
        # cholesky_ex does not raise: NaN in, NaN out, so that the caller's own check of the loss can speak.
        factor = torch.linalg.cholesky_ex(gram).L
        ctx.save_for_backward(rows, factor)
        ctx.lam, ctx.batch_wise = lam, batch_wise
        return 2 * factor.diagonal().log().sum()

    @staticmethod
    def backward(ctx, grad):
        rows, factor = ctx.saved_tensors
        with torch.no_grad():
            if ctx.batch_wise:
                solved = torch.cholesky_solve(rows, factor)  # (I + λ R Rᵀ)⁻¹ R
            else:
                solved = torch.cholesky_solve(rows.T, factor).T  # R (I + λ Rᵀ R)⁻¹, the same matrix
            to_rows = 2 * ctx.lam * grad * solved
        return _Once.apply(to_rows, grad, rows), None


class _LogDetCross(torch.autograd.Function):
    @staticmethod
    def forward(ctx, online: Tensor, target: Tensor, lam: float, order: int | None) -> Tensor:
        batch_wise = online.shape[0] <= online.shape[1]
        # Equal traces of every power, whichever side is taken.
        cross = online @ target.T if batch_wise else target.T @ online
        cross.mul_(lam)
        if order is None:
            value, slope = exact_value_and_slope(cross)
        else:
            value, slope = series_value_and_slope(cross, order)
        ctx.save_for_backward(online, target, slope)
        ctx.lam, ctx.batch_wise = lam, batch_wise
        return value

    @staticmethod
    def backward(ctx, grad):
        online, target, slope = ctx.saved_tensors
        scale = ctx.lam * grad
        to_online = to_target = None
        with torch.no_grad(), full_precision(slope):  # backward() may be called inside an autocast, too
            if ctx.needs_input_grad[0]:
                to_online = scale * (slope.T @ target if ctx.batch_wise else target @ slope.T)
            if ctx.needs_input_grad[1]:
                to_target = scale * (slope @ online if ctx.batch_wise else online @ slope)
        return (
            *(None if to is None else _Once.apply(to, grad, online, target) for to in (to_online, to_target)),
            None,
            None,
        )


class _Once(torch.autograd.Function):
    """Hands a gradient on; differentiating it again raises. (torch's once_differentiable may give zero instead.)"""

    @staticmethod
    def forward(ctx, gradient: Tensor, *depends_on: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx, grad):
        raise RuntimeError("coding lengths differentiate once: no second derivative (create_graph) is implemented.")


def series_value_and_slope(cross: Tensor, order: int) -> tuple[Tensor, Tensor]:
    """Σ_{k=1..n} (-1)^{k+1} Tr(Cᵏ) / k, and the transpose of its gradient, Σ_{k<n} (-C)ᵏ.

    The slope is a geometric sum in X = -C, so it factors. With n = s q + r (`blocks`):

        P = Σ_{k<sq} Xᵏ = (I + X + ... + X^{s-1}) (I + X^s + ... + X^{s(q-1)}),   Σ_{k<n} Xᵏ = I + ... + X^{r-1} + X^r P

    Traces cost no product, Tr(A B) = <A, Bᵀ>: of X^{si+j} from the powers at hand; and the last r of them from P, since
    Tr X^{sq+j} = <P, X^{j+1}ᵀ> - <P, X^jᵀ> + Tr X^j. In all s + q - 2 products beyond C, one more where r > 0: two at
    order 4, four at 8, six at 16.
    """
    size, number, rest = blocks(order)
    x = -cross
    small = [x]  # X, X², ..., X^s; with one block the last is not needed
    while len(small) < (size if number > 1 else size - 1):
        small.append(small[-1] @ x)
    large = [small[-1]] if number > 1 else []  # X^s, X^2s, ..., X^{s(q-1)}
    while len(large) < number - 1:
        large.append(large[-1] @ small[-1])

    traces = [x.diagonal().sum()]
    traces += [inner(power, x) for power in small[: size - 1]]
    traces += [inner(power, by) for power in large for by in small]
    slope = one_plus(small[: size - 1], like=x)
    if number > 1:
        slope = slope @ one_plus(large, like=x)
    if rest:
        sums = [inner(slope, power) for power in small[: rest + 1]]
        traces += [sums[j + 1] - sums[j] + traces[j] for j in range(rest)]
        slope = one_plus(small[: rest - 1], like=x) + small[rest - 1] @ slope
    weights = -1 / torch.arange(1, order + 1, dtype=x.dtype, device=x.device)
    return (weights * torch.stack(traces)).sum(), slope


@functools.cache
def blocks(order: int) -> tuple[int, int, int]:
    """(s, q, r) with s q + r = order, r < s, for the fewest products; (order, 1, 0) is power by power.

    >>> [blocks(n) for n in (3, 4, 6, 7, 16)]
    [(3, 1, 0), (4, 1, 0), (2, 3, 0), (2, 3, 1), (4, 4, 0)]
    """
    choices = [(s, order // s, order % s) for s in range(2, order // 2 + 1)]
    return min([(order, 1, 0), *choices], key=lambda c: c[0] - 2 if c[1] == 1 else c[0] + c[1] - 2 + (c[2] > 0))


def one_plus(matrices: Sequence[Tensor], like: Tensor) -> Tensor:
    """I + the sum of the matrices, [n, n] as `like`."""
    total = torch.zeros_like(like) if not matrices else matrices[0].clone()
    for matrix in matrices[1:]:
        total += matrix
    total.diagonal().add_(1)
    return total


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Tr(a b), without the product."""
    return (a * b.T).sum()


def exact_value_and_slope(cross: Tensor) -> tuple[Tensor, Tensor]:
    """log abs det(I + C) and (I + C)⁻¹, from one LU factorisation."""
    shifted = cross.clone()
    shifted.diagonal().add_(1)
    lu, pivots, _ = torch.linalg.lu_factor_ex(shifted)
    value = lu.diagonal().abs().log().sum()
    eye = torch.eye(cross.shape[0], dtype=cross.dtype, device=cross.device)
    return value, torch.linalg.lu_solve(lu, pivots, eye)


def at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def full_precision(x: Tensor):
    """Log-determinants need float32: out of any autocast."""
    return torch.autocast(x.device.type, enabled=False)


def check_matrix(name: str, x: Tensor) -> None:
    if x.ndim != 2 or 0 in x.shape:
        raise BadInput(f"{name} is {[*x.shape]}: it is [m, d], one embedding a row, at least one of each.")


def check_settings(distortion: float, order: int | None = None) -> None:
    if not isinstance(distortion, numbers.Real) or not float(distortion) > 0:
        raise BadInput(f"distortion is {distortion}: ε_d² is above 0; the paper trains with 0.06.")
    if order is not None and (not isinstance(order, int) or order < 1):
        raise BadInput(f"order is {order}: it is a whole number of at least 1, or None for the log-determinant itself.")
