"""What an objective costs a rank and step, and where each form stops scaling; the model of it held against local ranks.

    python benchmarks/scale.py --check [--ranks 1,2,4] [--rounds 7]     two minutes on two quiet cores
    python benchmarks/scale.py --table [--teraflops 60] [--gigabytes 50]

A step of an objective is products, a factorisation that every rank makes for itself, solving for the rank's own rows,
passes over matrices, and what the ranks exchange. Each is counted from the code (mec/objectives/coding.py), in
floating-point operations or bytes; its seconds are these by a rate. --check measures the rates on as many local ranks
at once (gloo, a thread each), predicts the step by them and times it: medians, all sides in one run. --table counts for
1 to 1,024 ranks, with the rates of a GPU and its network as given, beside what the backbone takes.
"""

import argparse
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from reporting import report
from rich.table import Column, Table
from torch import Tensor

from mec.objectives.coding import INVERTED, log_det_cross, log_det_symmetric
from mec.runtime.distributed import current
from mec.runtime.machine import keep_freed, machine

BYTES = 4  # of a float32
FORMS = ("joint", "order 4")
SIZES = ((512, 2048), (1024, 1024), (4096, 512))  # images of all ranks, size of an embedding
BACKBONES = {"ResNet-50, two views of 224 px": (2 * 3 * 2 * 4.1e9, 25.6e6), "ViT-L/16": (2 * 3 * 2 * 61.6e9, 304e6)}
RATES = ("product", "factor", "solve", "touch", "gather", "sum")


@dataclass(frozen=True)
class Cost:
    """Of one rank and step: operations by kind, bytes that passes over matrices read and write, bytes received."""

    product: float
    factor: float = 0.0
    solve: float = 0.0
    touch: float = 0.0
    gather: float = 0.0
    sum: float = 0.0

    def seconds(self, rates: dict[str, float]) -> float:
        return sum(getattr(self, kind) / rates[kind] for kind in RATES)


def cost(form: str, m: int, d: int, ranks: int) -> tuple[str, Cost]:
    """Which side the form works on, and what that takes, of m images on all ranks: as `coding.py` does it."""
    own, both = m / ranks, 1 if form == "joint" else 2
    batch_wise = m <= d if ranks == 1 else both * m * d + m * m < 2 * d * d
    kind, n = ("batch-wise", m) if batch_wise else ("feature-wise", d)
    received = (ranks - 1) / ranks * BYTES
    moved = {"gather": received * (both * m * d + m * m)} if batch_wise else {"sum": 2 * received * d * d}
    moved = moved if ranks > 1 else {"sum": 0.0}
    gram = 2 * own * m * d if batch_wise else 2 * own * d * d
    if form == "joint":
        touch = BYTES * (8 * n * n + 6 * own * d)
        if ranks > 1:
            back = gram if batch_wise else 0
            return kind, Cost(gram + back, n**3 / 3, 2 * n * n * own, touch, **moved)
        if n in INVERTED:  # by an inverse and a product
            return kind, Cost(gram + 2 * n * n * max(m, d), n**3, 0, touch)
        return kind, Cost(gram, n**3 / 3, 2 * n * n * max(m, d), touch)
    if ranks == 1 or (not batch_wise and m > d * ranks):  # by powers of the matrix
        powers = 2 * 2 * n**3 + both * 2 * n * n * (own if ranks > 1 else max(m, d))
        return kind, Cost(gram + powers, touch=BYTES * (20 * n * n + 4 * own * d), **moved)
    # Of each side the rank's rows times the matrix: two products where the first power is known, else three.
    powers = both * (2 if batch_wise else 3) * 2 * own * n * n + (both * gram if batch_wise else 0)
    return kind, Cost(gram + powers, touch=BYTES * (6 * n * n + 36 * own * n + 4 * own * d), **moved)


def timed(work: Callable[[], object], rounds: int) -> float:
    """Median seconds of all ranks that do it at once, the first time left out."""
    found = []
    for _ in range(rounds + 1):
        if dist.is_initialized():
            dist.barrier()
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return statistics.median(found[1:])


def measured_rates(rounds: int) -> dict[str, float]:
    """Operations, and received bytes, a second, of this rank while the others do the same."""
    ranks, n = current(), 1024
    a, rows = torch.randn(n, n), torch.randn(n // ranks.size, n)
    spd = a @ a.T + n * torch.eye(n)
    factor = torch.linalg.cholesky(spd)
    shared = (ranks.size - 1) / ranks.size
    works = {
        "product": (2 * len(rows) * n * n, lambda: rows @ a),
        "factor": (n**3 / 3, lambda: torch.linalg.cholesky_ex(spd)),
        "solve": (2 * len(rows) * n * n, lambda: torch.cholesky_solve(rows.T, factor)),
        "touch": (2 * BYTES * n * n, lambda: a * 2.0),
        "gather": (shared * BYTES * n * n, lambda: ranks.gather(rows)),
        "sum": (2 * shared * BYTES * n * n, lambda: ranks.sum(a)),
    }
    return {kind: amount / timed(work, rounds) if amount else math.inf for kind, (amount, work) in works.items()}


def step(form: str, m: int, d: int) -> Callable[[], None]:
    """Value and gradient of this rank's rows."""
    ranks = current()
    torch.manual_seed(ranks.rank)
    sides = [torch.nn.functional.normalize(torch.randn(m // ranks.size, d)).requires_grad_() for _ in range(2)]
    shares = ranks.shares(m // ranks.size) if ranks.size > 1 else None

    def work() -> None:
        value: Tensor = (
            log_det_symmetric(sides[0], 1 / (0.06 * m), shares)
            if form == "joint"
            else log_det_cross(sides[0], sides[1], 1 / (4 * m), 4, shares)
        )
        value.backward()

    return work


def of_rank(rank: int, size: int, folder: str, rounds: int) -> None:
    torch.set_num_threads(1)
    keep_freed()
    if size > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    rates = measured_rates(rounds)
    found = [(form, m, d, timed(step(form, m, d), rounds)) for m, d in SIZES for form in FORMS]
    if rank == 0:
        torch.save({"rates": rates, "found": found}, Path(folder) / "found.pt")
    if size > 1:
        dist.destroy_process_group()


def checked(sizes: Sequence[int], rounds: int) -> Iterator[dict[str, object]]:
    """A row for each number of ranks, form and size: seconds predicted and measured."""
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            mp.spawn(of_rank, (size, folder, rounds), nprocs=size)
            told = torch.load(Path(folder) / "found.pt", weights_only=True)
        for form, m, d, seconds in told["found"]:
            kind, amount = cost(form, m, d, size)
            predicted = amount.seconds(told["rates"])
            about = {"ranks": size, "form": form, "m": m, "d": d, "side": kind}
            yield {**about, "predicted": predicted, "measured": seconds, "rates": told["rates"]}


def check_table(rows: Sequence[dict]) -> Table:
    columns = ("ranks", "form", "m", "d", "side", Column("predicted, ms", justify="right"))
    shown = Table(
        *columns,
        Column("measured, ms", justify="right"),
        Column("ratio", justify="right"),
        title="A step of an objective",
    )
    for row in rows:
        numbers = (
            f"{1e3 * row['predicted']:.1f}",
            f"{1e3 * row['measured']:.1f}",
            f"{row['predicted'] / row['measured']:.2f}",
        )
        shown.add_row(*(str(row[name]) for name in ("ranks", "form", "m", "d", "side")), *numbers)
    return shown


def scaled(teraflops: float, gigabytes: float, own: int, d: int) -> Iterator[tuple[str, ...]]:
    """Rows of the table for so many images a rank; factorisations and solving at a quarter of the products' rate."""
    product, network = teraflops * 1e12, gigabytes * 1e9
    rates = {
        "product": product,
        "factor": product / 4,
        "solve": product / 4,
        "touch": 2e12,
        "gather": network,
        "sum": network,
    }
    for ranks in (4**k for k in range(6)):
        m = own * ranks
        for form in FORMS:
            kind, amount = cost(form, m, d, ranks)
            moved = (amount.gather + amount.sum) / 1e6
            work = (amount.product + amount.factor + amount.solve) / 1e9
            yield (
                f"{ranks:,}",
                f"{m:,}",
                form,
                kind,
                f"{work:,.0f}",
                f"{moved:,.0f}",
                f"{1e3 * amount.seconds(rates):,.1f}",
            )


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--ranks", default="1,2,4")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--teraflops", type=float, default=60.0, help="of products in float32 (TF32), as they come out")
    parser.add_argument("--gigabytes", type=float, default=50.0, help="a second that a rank receives")
    parser.add_argument("--images", type=int, default=32, help="a rank")
    parser.add_argument("--size", type=int, default=2048, help="of an embedding")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    asked = parser.parse_args(words)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    rows, tables = [], []
    if asked.check:
        rows = [*checked([int(word) for word in asked.ranks.split(",")], asked.rounds)]
        tables.append(check_table(rows))
    if asked.table:
        rates = f"{asked.teraflops:g} TFLOP/s, {asked.gigabytes:g} GB/s"
        numbers = (Column(word, justify="right") for word in ("GFLOP", "MB received", "ms"))
        title = f"{asked.images} images a rank, embeddings of {asked.size}, {rates}"
        table = Table("ranks", "images", "form", "side", *numbers, title=title)
        for line in scaled(asked.teraflops, asked.gigabytes, asked.images, asked.size):
            table.add_row(*line)
        beside = Table("beside it", "a step, ms", "MB of gradients received", "ms", title=rates)
        for name, (operations, parameters) in BACKBONES.items():
            seconds, moved = asked.images * operations / (asked.teraflops * 1e12), 2 * BYTES * parameters
            took = f"{1e3 * moved / asked.gigabytes / 1e9:,.1f}"
            beside.add_row(name, f"{1e3 * seconds:,.0f}", f"{moved / 1e6:,.0f}", took)
        tables += [table, beside]
    report(machine("cpu"), tables, {"steps": rows}, asked.out / "scale.json")


if __name__ == "__main__":
    main()
