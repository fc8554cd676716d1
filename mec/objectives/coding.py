"""Coding length: the log-determinant and its series, batch-wise [m, m] and feature-wise [d, d].

Notation (docs/objective.md): m images, d the embedding size, rows are embeddings, ε_d² the distortion,
λ = 1 / (m ε_d²), μ = (m + d) / 2. Each kernel below gives a value and its gradient in one fused pass, works on the
smaller of the two sides (Sylvester: the paper's Eqn 4), and differentiates once: asking for a second derivative
raises. Reduced precision is lifted to float32; float64 stays. Rows may lie on several ranks: `ranks` or `shares`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from mec.objectives.checks import check_distortion, check_matrix, check_order
from mec.runtime.distributed import ALONE, Ranks, Shares
from mec.runtime.ranges import Positive

Distortion = Positive | Literal["guaranteed"]  # ε_d², or a name for one: `distortion_for`
INVERTED = range(128, 1025)  # sizes of a side whose inverse and one product beat solving (benchmarks/inverse.py)
ABOVE_ONE = 1.01  # "just above 1", with room for the rounding of bf16 rows


def coding_length(z: Tensor, distortion: Distortion, order: int | None = None, *, ranks: Ranks = ALONE) -> Tensor:
    """Nats needed to code the rows of z up to the given distortion: μ log det(I + λ z zᵀ).

    Args:
        z: [m, d], one embedding a row. Taken as it comes: normalise the rows first for the paper's quantity.
        distortion: ε_d², the squared decoding error allowed for a unit row, per dimension; > 0. Or "guaranteed":
            large enough for the series of unit rows to converge, `distortion_for`.
        order: terms kept of the series, 1 or more; None for the log-determinant itself. The series converges
            where the largest eigenvalue of λ z zᵀ is below 1.

    Returns:
        [], in nats; at most μ r log(1 + λ m / r) for unit rows, r = min(m, d).

    Raises:
        BadInput: z is not a matrix, distortion not finite or <= 0, or order < 1.

    Source:
        Liu et al., NeurIPS 2022, Eqn 1 (exact) and Eqn 2 (series).

    >>> round(coding_length(torch.eye(4), distortion=0.25).item(), 4)  # 4 orthonormal rows: μ = 4, λ = 1
    11.0904"""
    check_matrix("z", z)
    check_distortion(distortion)
    check_order(order)
    shares = ranks.shares(len(z))
    m, d = shares.total, z.shape[1]
    lam = 1 / (m * distortion_for(distortion, m, d))
    z = at_least_float32(z)
    value = log_det_symmetric(z, lam, shares) if order is None else log_det_cross(z, z, lam, order, shares)
    return (m + d) / 2 * value


def distortion_for(distortion: Distortion, m: int, d: int) -> float:
    """ε_d² as a number, of m images and embeddings of size d.

    "guaranteed" is the paper's choice for d > m, ε_d² = d / m, and else just above 1: either way the series of unit
    rows converges, since ‖C‖₂ <= λ m = 1 / ε_d² < 1 (appendix H, Eqn 11 to 17).

    >>> distortion_for("guaranteed", 1024, 2048), distortion_for("guaranteed", 4096, 2048), distortion_for(0.06, 8, 8)
    (2.0, 1.01, 0.06)"""
    if isinstance(distortion, str):
        return d / m if d > m else ABOVE_ONE
    return float(distortion)


def log_det_symmetric(rows: Tensor, lam: float, shares: Shares | None = None) -> Tensor:
    """log det(I + λ rows rowsᵀ) of rows [m, d], by one Cholesky factorisation of the smaller side."""
    several = shares is not None and shares.ranks.size > 1
    with full_precision(rows):
        value: Tensor = _OnRanks.apply(rows, None, lam, None, shares) if several else _LogDetSymmetric.apply(rows, lam)
        return value


def log_det_cross(
    online: Tensor, target: Tensor, lam: float, order: int | None, shares: Shares | None = None
) -> Tensor:
    """log abs det(I + C) with C = λ online targetᵀ, both [m, d]; or the first `order` terms of its series."""
    with full_precision(online):
        if order == 1:  # Tr C needs no product of matrices
            trace = (online * target).sum()
            value: Tensor = lam * (trace if shares is None else shares.ranks.sum(trace))
        elif shares is not None and shares.ranks.size > 1:
            value = _OnRanks.apply(online, target, lam, order, shares)
        else:
            value = _LogDetCross.apply(online, target, lam, order)
        return value


def sum_of_powers(rows: Tensor, lam: float, exponent: float, ranks: Ranks = ALONE) -> Tensor:
    """Σ ((1 + λσ²)^a - 1) / a over the singular values σ of the rows [m, d] of all ranks, a > 0 the exponent.
    By the eigenvalues of the smaller side, whose gradient needs no gaps between them. Dearer than a logarithm, which
    takes a factorisation only: two to three times on a CPU for batches of 128 and more (benchmarks/inverse.py)."""
    with full_precision(rows):
        m, d = ranks.shares(len(rows)).total, rows.shape[1]
        if m <= d:
            rows = ranks.gather(rows)
            gram = rows @ rows.T
        else:
            gram = ranks.sum(rows.T @ rows)
        spectrum = torch.linalg.eigvalsh(gram).clamp(min=0)
        return torch.expm1(exponent * torch.log1p(lam * spectrum)).sum() / exponent


class _LogDetSymmetric(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, lam: float) -> Tensor:
        batch_wise = rows.shape[0] <= rows.shape[1]
        gram = rows @ rows.T if batch_wise else rows.T @ rows
        gram.mul_(lam).diagonal().add_(1)
        # cholesky_ex does not raise: NaN in, NaN out, so that the caller's own check of the loss can speak.
        factor = torch.linalg.cholesky_ex(gram).L
        ctx.save_for_backward(rows, factor)
        ctx.lam, ctx.batch_wise = lam, batch_wise
        value: Tensor = 2 * factor.diagonal().log().sum()
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        rows, factor = ctx.saved_tensors
        with torch.no_grad():
            if len(factor) in INVERTED:  # the condition is at most 1 + 1 / ε_d²: as exact as solving
                inverse = torch.cholesky_inverse(factor)
                solved = inverse @ rows if ctx.batch_wise else rows @ inverse
            elif ctx.batch_wise:
                solved = torch.cholesky_solve(rows, factor)  # (I + λ R Rᵀ)⁻¹ R
            else:
                solved = torch.cholesky_solve(rows.T, factor).T  # R (I + λ Rᵀ R)⁻¹, the same matrix
            to_rows = 2 * ctx.lam * grad * solved
        return once(to_rows, grad, rows), None


class _LogDetCross(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, online: Tensor, target: Tensor, lam: float, order: int | None) -> Tensor:
        batch_wise = online.shape[0] <= online.shape[1]
        # Equal traces of every power, whichever side is taken.
        cross = online @ target.T if batch_wise else target.T @ online
        cross.mul_(lam)
        if order is None:
            value, lu, pivots = factored(cross)
            kept = [lu, torch.lu_unpack(lu, pivots, unpack_data=False)[0].argmax(1)]  # where the rows of L U are
        else:
            value, *kept = series_value_and_slope(cross, order, any(ctx.needs_input_grad[:2]))
        ctx.save_for_backward(online, target, *kept)
        ctx.lam, ctx.batch_wise = lam, batch_wise
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        online, target, *kept = ctx.saved_tensors
        # With S the slope, or (I + C)⁻¹: batch-wise Sᵀ target and S online, feature-wise the same of [d, m], turned.
        sides = (target, True), (online, False)
        if not ctx.batch_wise:
            sides = (target.T, False), (online.T, True)
        found: list[Tensor | None] = [None, None]
        with torch.no_grad(), full_precision(online):  # backward() may be called inside an autocast, too
            for side, (rows, turned) in enumerate(sides):
                if ctx.needs_input_grad[side]:
                    slope, *places = kept  # or the factors L U of I + C, and where its rows are
                    to = solved(slope, places[0], rows, turned) if places else (slope.T if turned else slope) @ rows
                    found[side] = (to if ctx.batch_wise else to.T).mul_(ctx.lam * grad)
        return (*(None if to is None else once(to, grad, online, target) for to in found), None, None)


def once(gradient: Tensor, *depends_on: Tensor) -> Tensor:
    """The gradient, refusing to be differentiated again. (Compiled graphs refuse that themselves.)"""
    return gradient if torch.compiler.is_compiling() else _Once.apply(gradient, *depends_on)


class _Once(torch.autograd.Function):
    """Hands a gradient on; differentiating it again raises. (torch's once_differentiable may give zero instead.)"""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *depends_on: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        raise RuntimeError("coding lengths differentiate once: no second derivative (create_graph) is implemented.")


def series_value_and_slope(cross: Tensor, order: int, with_slope: bool = True) -> tuple[Tensor, ...]:
    """Σ_{k=1..n} (-1)^{k+1} Tr(Cᵏ) / k, and the transpose of its gradient, Σ_{k<n} (-C)ᵏ, where it is asked for.

    The slope is a geometric sum in X = -C, so it factors. With n = s q + r (`blocks`):

        P = Σ_{k<sq} Xᵏ = (I + X + ... + X^{s-1}) (I + X^s + ... + X^{s(q-1)}),   Σ_{k<n} Xᵏ = I + ... + X^{r-1} + X^r P

    Traces cost no product, Tr(A B) = <A, Bᵀ>: of X^{si+j} from the powers at hand; and the last r of them from P, since
    Tr X^{sq+j} = <P, X^{j+1}ᵀ> - <P, X^jᵀ> + Tr X^j. In all s + q - 2 products beyond C, one more where r > 0: two at
    order 4, four at 8, six at 16. The value alone takes one less, where r is 0."""
    size, number, rest = blocks(order)
    x = -cross
    small = [x]  # X, X², ..., X^s; with one block the last is not needed
    while len(small) < (size if number > 1 else size - 1):
        small.append(small[-1] @ x)
    large = [small[-1]] if number > 1 else []  # X^s, X^2s, ..., X^{s(q-1)}
    while len(large) < number - 1:
        large.append(large[-1] @ small[-1])

    traces = [x.diagonal().sum()]
    turned = [power.T.contiguous() for power in (small if number > 1 else small[:1])]
    traces += [inner(power, turned[0]) for power in small[: size - 1]]
    traces += [inner(power, by) for power in large for by in turned]
    weights = -1 / torch.arange(1, order + 1, dtype=x.dtype, device=x.device)
    if not (with_slope or rest):
        return ((weights * torch.stack(traces)).sum(),)
    slope = one_plus(small[: size - 1], like=x)
    if number > 1:  # S (I + L) = S + S L
        slope = torch.addmm(slope, slope, functools.reduce(torch.add, large))
    if rest:
        sums = [inner(slope, power) for power in turned[: rest + 1]]
        traces += [sums[j + 1] - sums[j] + traces[j] for j in range(rest)]
        slope = one_plus(small[: rest - 1], like=x) + small[rest - 1] @ slope
    return (weights * torch.stack(traces)).sum(), slope


def blocks(order: int) -> tuple[int, int, int]:
    """(s, q, r) with s q + r = order, r < s, for the fewest products; (order, 1, 0) is power by power.

    >>> [blocks(n) for n in (3, 4, 6, 7, 16)]
    [(3, 1, 0), (2, 2, 0), (2, 3, 0), (2, 3, 1), (4, 4, 0)]"""
    choices = [(s, order // s, order % s) for s in range(2, order // 2 + 1)]
    return min([*choices, (order, 1, 0)], key=lambda c: c[0] - 2 if c[1] == 1 else c[0] + c[1] - 2 + (c[2] > 0))


def one_plus(matrices: Sequence[Tensor], like: Tensor) -> Tensor:
    """I + the sum of the matrices, [n, n] as `like`."""
    total = functools.reduce(torch.add, matrices).clone() if matrices else torch.zeros_like(like)
    total.diagonal().add_(1)
    return total


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Tr(a bᵀ), without the product."""
    found: Tensor = torch.linalg.vecdot(a, b).sum()
    return found


def factored(cross: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log abs det(I + C), and I + C = P L U: L and U in one matrix, and the pivots."""
    shifted = cross.clone()
    shifted.diagonal().add_(1)
    lu, pivots, _ = torch.linalg.lu_factor_ex(shifted)
    return lu.diagonal().abs().log().sum(), lu, pivots


def solved(lu: Tensor, places: Tensor, rows: Tensor, transposed: bool) -> Tensor:
    """(P L U)⁻¹ rows, or (P L U)⁻ᵀ rows, of [n, k].
    Solved from the right, for the transpose of the answer: that takes and gives rows as they lie in memory, where
    torch.linalg.lu_solve copies and swaps them in the other order (1.7 times as long on a CPU)."""
    solve: Callable[..., Tensor] = functools.partial(torch.linalg.solve_triangular, left=False)
    if transposed:
        return solve(lu, solve(lu, rows.T, upper=True), upper=False, unitriangular=True).T[places]
    return solve(lu.T, solve(lu.T, rows[places.argsort()].T, upper=True, unitriangular=True), upper=False).T


class _OnRanks(torch.autograd.Function):
    """Value on every rank, and the gradient of each rank's own rows; target None is the symmetric form."""

    @staticmethod
    def forward(
        ctx: Any, online: Tensor, target: Tensor | None, lam: float, order: int | None, shares: Shares
    ) -> Tensor:
        wanted = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        if target is None:
            value, *gradients = *symmetric_on_ranks(online, lam, shares), None
        else:
            value, *gradients = cross_on_ranks(online, target, lam, order, shares, wanted)
        ctx.save_for_backward(online, *gradients)
        ctx.shares = shares
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        online, *gradients = ctx.saved_tensors
        total = ctx.shares.ranks.sum(grad)  # every rank holds the value: what all of them ask of it adds up
        return *(None if g is None else once(total * g, grad, online) for g in gradients), None, None, None


def symmetric_on_ranks(rows: Tensor, lam: float, shares: Shares) -> tuple[Tensor, Tensor]:
    """log det(I + λ R Rᵀ), and its gradient to this rank's rows of R.
    Either all rows are gathered and the Gram matrix [m, m] is made by row blocks, or [d, d] is summed over ranks: what
    moves less (a gather brings each number once, a sum twice). Every rank factorises; each solves for its own rows."""
    m, d = shares.total, rows.shape[1]
    if m * d + m * m < 2 * d * d:
        everyone = shares.gather(rows)
        gram = shares.gather(rows @ everyone.T)
        start = torch.eye(m, dtype=rows.dtype, device=rows.device)[shares.mine]
    else:
        everyone, gram, start = None, shares.ranks.sum(rows.T @ rows), rows
    gram.mul_(lam).diagonal().add_(1)
    factor = torch.linalg.cholesky_ex(gram).L
    solved = torch.cholesky_solve(start.T, factor).T
    return 2 * factor.diagonal().log().sum(), 2 * lam * (solved if everyone is None else solved @ everyone)


def cross_on_ranks(
    online: Tensor, target: Tensor, lam: float, order: int | None, shares: Shares, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """log abs det(I + C) or its series, and the gradients, where wanted, to this rank's rows of online and target.

    With A = C = λ P Zᵀ [m, m], its row blocks gathered, or A = λ Zᵀ P [d, d], summed over ranks, whichever moves less,
    and f(A) = (I + A)⁻¹ or the series Σ_{k<n} (-A)ᵏ, the gradients are

        batch-wise    λ (I_r f(A)ᵀ) Z and λ (I_r f(A)) P, with I_r this rank's rows of the identity
        feature-wise  λ Z_r f(A)ᵀ     and λ P_r f(A)

    so that a rank only ever multiplies, or solves for, as many rows as it holds."""
    m, d = shares.total, online.shape[1]
    if 2 * m * d + m * m < 2 * d * d:
        everyone = shares.gather(torch.cat([online, target], 1)).tensor_split(2, 1)
        matrix = shares.gather(online @ everyone[1].T).mul_(lam)
        identity = torch.eye(m, dtype=online.dtype, device=online.device)[shares.mine]
        starts = identity, identity
        turned = matrix[:, shares.mine].T
        known = [identity, -turned], [identity, -matrix[shares.mine]]  # the first powers, for nothing
        other = -matrix[shares.mine]
    else:
        everyone = None
        matrix = shares.ranks.sum(target.T @ online).mul_(lam)
        starts = target, online
        known = [target], [online]
        other = -lam * online

    if order is None:
        value, lu, pivots = factored(matrix)
        parts = [
            torch.linalg.lu_solve(lu, pivots, start.T, adjoint=adjoint).T if want else None
            for start, adjoint, want in zip(starts, (False, True), wanted)
        ]
    elif everyone is None and m > d * shares.ranks.size:  # powers of [d, d] cost less than those of so many rows
        value, *slopes = series_value_and_slope(matrix, order, any(wanted))
        parts = [target @ slopes[0].T if wanted[0] else None, online @ slopes[0] if wanted[1] else None]
    else:
        first, traces = geometric(known[0], -matrix.T, order, other)
        weights = -1 / torch.arange(1, order + 1, dtype=matrix.dtype, device=matrix.device)
        value = shares.ranks.sum((weights * traces).sum())
        parts = [first if wanted[0] else None, geometric(known[1], -matrix, order)[0] if wanted[1] else None]
    if everyone is not None:
        parts = [None if part is None else part @ rows for part, rows in zip(parts, reversed(everyone))]
    to_online, to_target = (None if part is None else lam * part for part in parts)
    return value, to_online, to_target


def geometric(
    known: Sequence[Tensor], matrix: Tensor, terms: int, other: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Σ_{k<terms} R Xᵏ of rows R, and <R Xᵏ, other> of each k; `known` are the first of the R Xᵏ."""
    total, traces = torch.zeros_like(known[0]), []
    power = known[0]
    for k in range(terms):
        power = known[k] if k < len(known) else power @ matrix
        total += power
        if other is not None:
            traces.append((power * other).sum())
    return total, torch.stack(traces) if traces else total.new_zeros(0)


def at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def full_precision(x: Tensor) -> torch.autocast:
    """Log-determinants need float32: out of any autocast."""
    return torch.autocast(x.device.type, enabled=False)
