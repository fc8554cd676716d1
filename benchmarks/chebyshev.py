"""A series that converges for every distortion: Chebyshev's, tried against the exact form. docs/log.md has the verdict.

    python benchmarks/chebyshev.py [SIZE]      two cores: a minute

On [0, b] with b = 1 / ε_d², where all eigenvalues of λ ZZᵀ lie, t = 2 x / b - 1, a = 1 + 2 / b, q = a - sqrt(a² - 1):

    log(1 + x) = log(b / (4 q)) + 2 Σ_{k>=1} (-1)^{k+1} qᵏ T_k(t) / k,   |tail after n| <= 2 q^{n+1} / ((n + 1)(1 - q))

so n terms err by at most r times that in log det. The gradient is a polynomial of degree n - 1 in the Gram matrix.
"""

import argparse
import math
import statistics
import time

import numpy as np
import torch
from torch import Tensor

from mec.objectives.coding import coding_length, inner
from mec.objectives.matched import unit_rows
from mec.runtime.machine import machine


def coefficients(b: float, order: int) -> np.ndarray:
    """Of T_0 ... T_order on [0, b]."""
    a = 1 + 2 / b
    q = a - math.sqrt(a * a - 1)
    return np.array([math.log(b / (4 * q)), *(2 * (-1) ** (k + 1) * q**k / k for k in range(1, order + 1))])


def bound(b: float, order: int) -> float:
    """The most that the series errs by for any x in [0, b]."""
    a = 1 + 2 / b
    q = a - math.sqrt(a * a - 1)
    return 2 * q ** (order + 1) / ((order + 1) * (1 - q))


def value_and_gradient(rows: Tensor, lam: float, b: float, order: int) -> tuple[Tensor, Tensor]:
    """The series of log det(I + λ rows rowsᵀ), and its gradient, by Paterson-Stockmeyer in powers of t."""
    batch_wise = rows.shape[0] <= rows.shape[1]
    gram = rows @ rows.T if batch_wise else rows.T @ rows
    t = gram.mul_(2 * lam / b)
    t.diagonal().sub_(1)
    c = np.polynomial.chebyshev.cheb2poly(coefficients(b, order))  # of powers of t
    size = max(1, round(math.sqrt(order)))
    powers = [t]
    while len(powers) < size:
        powers.append(powers[-1] @ t)

    def polynomial(weights: np.ndarray) -> Tensor:
        blocks = [weights[i : i + size] for i in range(0, len(weights), size)]
        total = None
        for block in reversed(blocks):
            part = torch.zeros_like(t) if total is None else total @ powers[-1]
            for weight, power in zip(block[1:], powers):
                part.add_(power, alpha=float(weight))
            part.diagonal().add_(float(block[0]))
            total = part
        assert total is not None
        return total

    slope = polynomial(c[1:] * np.arange(1, order + 1))  # of log det over t
    # The value needs no product more: p(t) = c_0 + t s(t) with s of degree order - 1; but that is a second polynomial.
    rest = polynomial(c[1:])
    value = c[0] * len(t) + inner(rest, t)
    gradient = (4 * lam / b) * (slope @ rows if batch_wise else rows @ slope)
    return value, gradient


def timed(function, repeats: int = 5) -> tuple[float, tuple[Tensor, Tensor]]:
    seconds = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        found = function()
        seconds.append(time.perf_counter() - began)
    return 1000 * statistics.median(seconds[1:]), found


def exact(rows: Tensor, distortion: float) -> tuple[Tensor, Tensor]:
    leaf = rows.detach().requires_grad_()
    value = coding_length(leaf, distortion) / (sum(rows.shape) / 2)
    value.backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", type=int, nargs="?", default=1024, help="m and d")
    m = d = parser.parse_args().size
    for x in np.linspace(0, 50, 501):  # the bound holds
        for order in (2, 4, 8, 16):
            series = np.polynomial.chebyshev.chebval(2 * x / 50 - 1, coefficients(50, order))
            assert abs(series - math.log1p(x)) <= bound(50, order) * (1 + 1e-9)
    print(", ".join(f"{k} {v}" for k, v in machine("cpu").items()))
    spread = unit_rows(torch.randn(m, d, generator=torch.Generator().manual_seed(0)))
    # A third of the length in one shared direction and a decaying spectrum: as early in training.
    narrow = unit_rows(spread * torch.linspace(0, 1, d).pow(4) + 0.3 * spread[:1])
    print(
        f"m = d = {m}, fp32; ms of value and gradient; relative errors of value and gradient; the bound's, of the value"
    )
    for name, rows in (("random", spread), ("narrow", narrow)):
        for distortion in (0.02, 0.06, 0.25):
            lam, b = 1 / (m * distortion), 1 / distortion
            took, (value, gradient) = timed(lambda r=rows, e=distortion: exact(r, e))
            largest = float(torch.linalg.matrix_norm(rows, ord=2)) ** 2 * lam
            print(f"{name}, ε_d² {distortion:g}, largest eigenvalue {largest:.2f}: exact {took:.0f} ms")
            for order in (4, 8, 16):  # beyond, the powers of t lose all digits in fp32
                took, (series, slope) = timed(lambda r=rows, lam=lam, b=b, n=order: value_and_gradient(r, lam, b, n), 3)
                errors = abs(float(series / value) - 1), float((slope - gradient).norm() / gradient.norm())
                most = min(m, d) * bound(b, order) / float(value)
                assert abs(float(series - value)) <= min(m, d) * bound(b, order) * 1.01 + 1e-3 * float(value)
                print(f"  order {order:2}: {took:6.0f} ms, {errors[0]:.2g}, {errors[1]:.2g}; bound {most:.2g}")
