"""Are copies among a million images found within ten minutes on two cores?

    python benchmarks/duplicates.py [--rows 1000000] [--size 256]

Features drawn around 2,000 centres, 1 % of them near-copies of others (cosine above 0.999), grouped by what `mec
duplicates` calls, with faiss. Exits with 1 where a hundredth of the copies is missed or it takes longer.
"""

import argparse
import resource
import sys
import time

import numpy as np

from mec.answers.looking import alike

MINUTES, FOUND = 10, 0.99


def drawn(rows: int, size: int) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Unit rows [n, e], and the pairs of them that are near-copies."""
    draw = np.random.default_rng(0)
    centres = draw.standard_normal((2000, size), np.float32)
    x = np.empty((rows, size), np.float32)
    for start in range(0, rows, 50_000):
        part = x[start : start + 50_000]
        part[:] = centres[draw.integers(2000, size=len(part))] + draw.standard_normal(part.shape, np.float32)
    copies = rows // 100
    chosen = draw.permutation(rows)[: 2 * copies]
    x[chosen[copies:]] = x[chosen[:copies]] + 0.02 * draw.standard_normal((copies, size), np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x, [(min(pair), max(pair)) for pair in zip(chosen[:copies].tolist(), chosen[copies:].tolist())]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=256)
    arguments = parser.parse_args()
    x, pairs = drawn(arguments.rows, arguments.size)
    began, used = time.monotonic(), time.process_time()
    groups = {tuple(members.tolist()) for members in alike(x, 0.99)}
    minutes, busy = (time.monotonic() - began) / 60, (time.process_time() - used) / 60
    found = len(groups & {*pairs}) / len(pairs)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{arguments.rows:,} rows of {arguments.size}: {100 * found:.2f} % of {len(pairs):,} copies found, "
          f"{len(groups) - len(groups & {*pairs})} groups more; {minutes:.1f} minutes ({busy:.1f} of a core), "
          f"{peak:.1f} GiB at most")  # fmt: skip
    return int(found < FOUND or minutes > MINUTES)


if __name__ == "__main__":
    sys.exit(main())
