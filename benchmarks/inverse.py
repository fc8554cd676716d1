"""The joint form's gradient by solving and by an inverse and one product, and its value by a power in place of the log.

python benchmarks/inverse.py      one thread; half a minute

Both sides in turns, ms of CPU time, the median of seven: at which sizes `mec.objectives.coding.INVERTED` is right, and
what `settings.exponent` costs (value and gradient, forward and backward).
"""

import statistics
import time
from collections.abc import Callable

import torch

from mec.objectives.coding import log_det_symmetric, sum_of_powers
from mec.runtime.machine import machine

LAM_M = 50.0  # λ m = 1 / ε_d² of mec-joint's distortion, 0.02


def in_turns(*sides: Callable[[], object]) -> list[float]:
    """Milliseconds of each, the median of seven after one to warm up."""
    taken: list[list[float]] = [[] for _ in sides]
    for _ in range(8):
        for side, times in zip(sides, taken):
            start = time.thread_time()
            side()
            times.append(1e3 * (time.thread_time() - start))
    return [statistics.median(times[1:]) for times in taken]


def main() -> None:
    torch.set_num_threads(1)
    print(machine("cpu"))
    print("    d     m   solve  inverse  ratio |    log   power  ratio")
    for d in (512, 2048):
        for m in (64, 128, 256, 512):
            rows = torch.nn.functional.normalize(torch.randn(m, d), dim=1).requires_grad_()
            held, lam = rows.detach(), LAM_M / m
            factor = torch.linalg.cholesky(torch.eye(m) + lam * held @ held.T)
            solve, inverse = in_turns(
                lambda r=held, f=factor: torch.cholesky_solve(r, f),
                lambda r=held, f=factor: torch.cholesky_inverse(f) @ r,
            )
            log, power = in_turns(
                lambda r=rows, x=lam: log_det_symmetric(r, x).backward(),
                lambda r=rows, x=lam: sum_of_powers(r, x, 0.5).backward(),
            )
            numbers = f"{solve:7.2f} {inverse:8.2f} {solve / inverse:6.2f} | {log:6.1f} {power:7.1f} {power / log:6.1f}"
            print(f"{d:5} {m:5} {numbers}", flush=True)


if __name__ == "__main__":
    main()
