"""Goals for the coding length on a CPU, against what it replaces; exits with 1 where one is missed.

    python benchmarks/coding.py            two cores: some minutes

Value and gradient, fp32, d 2048. The fused order 4 against the released loop with autograd; the exact forms against
the products that they cannot do without, and against the fused order 4.
"""

import sys

from mec.bench.coding import bench_coding

timings = bench_coding(device="cpu")
ms = {(t.name, t.m): t.median for t in timings if t.backward}

goals = [
    *((f"order 4 at m {m}", ms["released loop", m] / ms["order 4", m], ">=", goal)
      for m, goal in ((1024, 2.0), (2048, 2.7), (4096, 10.0))),
    ("joint exact over its products", ms["joint exact", 2048] / ms["joint products", 2048], "<=", 2.0),
    ("cross exact over its products", ms["cross exact", 2048] / ms["cross products", 2048], "<=", 2.6),
    ("joint exact over order 4", ms["joint exact", 2048] / ms["order 4", 2048], "<=", 1.0),
    ("cross exact over order 4, both sides", ms["cross exact", 2048] / ms["order 4, both sides", 2048], "<=", 1.0),
]  # fmt: skip
reached = [ratio >= goal if sign == ">=" else ratio <= goal for _, ratio, sign, goal in goals]
for (name, ratio, sign, goal), ok in zip(goals, reached):
    print(f"{name:36} {ratio:6.2f}  goal {sign} {goal:g}  {'reached' if ok else 'missed'}")
sys.exit(not all(reached))
