"""The objectives timed: the released loop with autograd, ours at several orders, the exact forms.

    python benchmarks/coding.py                two cores: some minutes; exits with 1 where a goal is missed
    python benchmarks/coding.py --rows 256,1024 --sizes 512 --repeats 15 --device cuda

Value, and value with gradient, fp32, on random unit rows; all contenders in one run, in turns. `products` is the least
that an exact form has to do: its matrix, and one product for the gradient of each side. FOLDER gets coding.json and
coding.png. On a CPU, where m 1024 to 4096 at d 2048 are among the sizes, goals follow: the fused order 4 against the
released loop, the exact forms against their products and against order 4.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path

import torch
from reporting import in_turns, report
from rich.table import Column, Table
from torch import Tensor

from mec.errors import BadInput
from mec.objectives.coding import log_det_cross, log_det_symmetric
from mec.objectives.matched import unit_rows
from mec.runtime.device import chosen_device
from mec.runtime.files import write_figure
from mec.runtime.machine import machine

RELEASED = "released loop"
DISTORTION = 0.06  # the paper's


@dataclass(frozen=True)
class Contender:
    """Something to time: a value from online and target [m, d], and how many of the two get a gradient."""

    name: str
    value: Callable[[Tensor, Tensor, float], Tensor]
    gradients: int = 1  # 1: online only, as with a target network; 2: both


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one contender at one size; `ratio` is the median over that of `against`, in the same run."""

    name: str
    m: int
    d: int
    backward: bool
    median: float
    low: float
    high: float
    against: str
    ratio: float


def products(online: Tensor, target: Tensor, lam: float) -> Tensor:
    """The products that no exact form can do without: one for the matrix, one for each side's gradient."""
    matrix = online @ target.T if len(online) <= online.shape[1] else target.T @ online
    if matrix.requires_grad:
        turned = matrix.detach().T
        matrix.register_hook(lambda _: turned)  # as of Tr(C²) / 2
    return matrix.diagonal().sum()


def released_loop(online: Tensor, target: Tensor, lam: float, order: int = 4) -> Tensor:
    """Algorithm 1 of appendix A, batch-wise, power by power, its gradient left to autograd."""
    matrix = lam * (online @ target.T)
    power, total = matrix, torch.zeros_like(matrix)
    for k in range(1, order + 1):
        if k > 1:
            power = power @ matrix
        total = total + power / k if k % 2 else total - power / k
    return total.trace()


def of_order(order: int | None) -> Callable[[Tensor, Tensor, float], Tensor]:
    return lambda online, target, lam: log_det_cross(online, target, lam, order)


CONTENDERS = (
    Contender(RELEASED, released_loop),
    *(Contender(f"order {n}", of_order(n)) for n in (1, 2, 4, 8)),
    Contender("order 4, both sides", of_order(4), gradients=2),
    Contender("cross products", products, gradients=2),
    Contender("cross exact", of_order(None), gradients=2),
    Contender("joint products", lambda online, target, lam: products(online, online.detach(), lam)),
    Contender("joint exact", lambda online, target, lam: log_det_symmetric(online, lam)),
)

AGAINST = {"cross exact": "cross products", "joint exact": "joint products"}  # the others: the released loop


def time_coding(
    rows: Sequence[int], sizes: Sequence[int], *, device: str = "cpu", repeats: int = 7, seed: int = 0
) -> list[Timing]:
    """Every contender at every m in rows and d in sizes, forward alone and with backward, on random unit rows, fp32.
    Raises BadInput: a size or the number of repeats is below 1."""
    for name, values in {"--rows": rows, "--sizes": sizes, "--repeats": [repeats]}.items():
        if min(values) < 1:
            raise BadInput(f"{name} is {min(values)}: it is at least 1.")
    generator = torch.Generator().manual_seed(seed)
    timings = []
    for m, d in product(rows, sizes):
        online, target = (unit_rows(torch.randn(m, d, generator=generator)).to(device) for _ in range(2))
        lam = 1 / (m * DISTORTION)
        for backward in (False, True):
            runs = {c.name: partial(once, c, online, target, lam, backward) for c in CONTENDERS}
            found = in_turns(runs, repeats, device, per_second=1000)
            for name, (median, low, high) in found.items():
                against = AGAINST.get(name, RELEASED)
                ratio = median / found[against][0]
                timings.append(Timing(name, m, d, backward, median, low, high, against, ratio))
    return timings


def once(contender: Contender, online: Tensor, target: Tensor, lam: float, backward: bool) -> None:
    """One value, and its gradient where asked for."""
    online = online.detach().requires_grad_(backward)
    target = target.detach().requires_grad_(backward and contender.gradients == 2)
    value = contender.value(online, target, lam)
    if backward:
        value.backward()


def timing_table(timings: Sequence[Timing], m: int, d: int) -> Table:
    found = Table(
        "",
        *[Column(name, justify="right") for name in ("value", "value + gradient", "ratio")],
        title=f"m {m}, d {d}: median ms (range), fp32",
    )
    found.add_column("to")
    forward, both = ({t.name: t for t in timings if t.backward == b} for b in (False, True))
    for name, timing in both.items():
        cells = [f"{t.median:.1f} ({t.low:.1f}-{t.high:.1f})" for t in (forward[name], timing)]
        found.add_row(name, *cells, f"{timing.ratio:.2f}", timing.against)
    return found


def timing_plot(timings: Sequence[Timing], path: Path) -> None:
    """Median milliseconds over m, both logarithmic, a line a contender and a panel an embedding size d."""
    from matplotlib.figure import Figure

    sizes = sorted({t.d for t in timings})
    figure = Figure(figsize=(1.6 + 4.6 * len(sizes), 4.4), layout="constrained")
    axes = figure.subplots(1, len(sizes), squeeze=False, sharey=True)[0]
    for axis, d in zip(axes, sizes):
        for name in dict.fromkeys(t.name for t in timings):
            points = sorted((t.m, t.median, t.low, t.high) for t in timings if (t.name, t.d) == (name, d))
            m, median, low, high = zip(*points)
            dashed = name.endswith("products")  # not an objective: what none can do without
            (line,) = axis.plot(m, median, "o--" if dashed else "o-", markersize=4, label=name)
            axis.fill_between(m, low, high, alpha=0.15, color=line.get_color())
        axis.set(title=f"embeddings of {d}", xlabel="images m", xscale="log", yscale="log")
        axis.set_xticks(sorted({t.m for t in timings if t.d == d}), labels=sorted({t.m for t in timings if t.d == d}))
        axis.minorticks_off()
    axes[0].set_ylabel("value and gradient, ms")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper", frameon=False)
    write_figure(figure, path)


def goals(timings: Sequence[Timing]) -> list[tuple[str, float, str, float]]:
    """Of a CPU at d 2048: a name, the ratio, and what it is held to."""
    ms = {(t.name, t.m): t.median for t in timings if t.backward and t.d == 2048}
    return [
        *((f"order 4 at m {m}", ms[RELEASED, m] / ms["order 4", m], ">=", goal)
          for m, goal in ((1024, 2.0), (2048, 2.7), (4096, 10.0))),
        ("joint exact over its products", ms["joint exact", 2048] / ms["joint products", 2048], "<=", 2.0),
        ("cross exact over its products", ms["cross exact", 2048] / ms["cross products", 2048], "<=", 2.6),
        ("joint exact over order 4", ms["joint exact", 2048] / ms["order 4", 2048], "<=", 1.0),
        ("cross exact over order 4, both sides", ms["cross exact", 2048] / ms["order 4, both sides", 2048], "<=", 1.0),
    ]  # fmt: skip


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=numbers, default=[1024, 2048, 4096], help="images m, with commas")
    parser.add_argument("--sizes", type=numbers, default=[2048], help="of embeddings, d")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    asked = parser.parse_args(words)
    device = chosen_device(asked.device)
    timings = time_coding(asked.rows, asked.sizes, device=device, repeats=asked.repeats)
    kinds = dict.fromkeys((t.m, t.d) for t in timings)
    tables = [timing_table([t for t in timings if (t.m, t.d) == kind], *kind) for kind in kinds]
    asked.out.mkdir(parents=True, exist_ok=True)
    timing_plot([t for t in timings if t.backward], asked.out / "coding.png")
    written = {"timings": [asdict(t) for t in timings]}
    report(machine(device), tables, written, asked.out / "coding.json", asked.out / "coding.png")
    missed = False
    if device == "cpu" and {(m, 2048) for m in (1024, 2048, 4096)} <= kinds.keys():
        for name, ratio, sign, goal in goals(timings):
            reached = ratio >= goal if sign == ">=" else ratio <= goal
            missed |= not reached
            print(f"{name:36} {ratio:6.2f}  goal {sign} {goal:g}  {'reached' if reached else 'missed'}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
