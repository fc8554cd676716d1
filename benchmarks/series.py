"""The coding length's series against the log-determinant: the paper's Figure 6, on this machine.

    python benchmarks/series.py                            on random unit rows; two cores: a minute
    python benchmarks/series.py --run runs/digits-digits   and on the features of a run's encoder

Value alone, the orders in turns. FOLDER gets series.json and series.png. docs/results.md has what was found.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

import torch
from reporting import in_turns, report
from rich.table import Column, Table
from torch import Tensor

from mec.data.opening import open_data
from mec.errors import BadInput
from mec.evaluation.features import extract
from mec.networks.encoder_file import load_encoder
from mec.objectives.coding import coding_length
from mec.objectives.matched import unit_rows
from mec.runtime.device import chosen_device
from mec.runtime.files import write_figure
from mec.runtime.flags import integers
from mec.runtime.machine import machine
from mec.training.run import read_settings

ORDERS = (1, 2, 4)
RANDOM = "random unit rows"
# Appendix D, of 2048 samples: the log-determinant's time; of each order relative error, and of the first the time.
PAPER_ROWS, PAPER_FOUND = 2048, ("35.48 ms", "0.11 ms, 2.56 %", "0.22 %", "0.07 %")
DIFFERS = (
    "The paper does not state its inputs, embedding size, ε_d² or machine. The error grows with λ and with how few "
    "directions the rows have; its milliseconds are a GPU's."
)


@dataclass(frozen=True)
class Approximation:
    """One order at one number of rows m [m, d]; order None is the log-determinant."""

    rows: str  # which inputs
    m: int
    d: int
    order: int | None
    value: float  # nats
    error: float  # relative to the log-determinant's value
    median: float  # ms, value alone
    low: float
    high: float


def approximations(name: str, rows: Tensor, counts: list[int], distortion: float, repeats: int) -> list[Approximation]:
    """Every order at every number of rows, the orders taking turns."""
    found = []
    orders: tuple[int | None, ...] = (None, *ORDERS)
    for m in counts:
        z = unit_rows(rows[:m])
        values = {order: float(coding_length(z, distortion, order)) for order in orders}
        runs = {order: partial(coding_length, z, distortion, order) for order in orders}
        for order, times in in_turns(runs, repeats, z.device.type, per_second=1000).items():
            error = abs(values[order] / values[None] - 1)
            found.append(Approximation(name, len(z), z.shape[1], order, values[order], error, *times))
    return found


def features_of(run: Path, data: str | None, root: str | Path | None, most: int) -> tuple[str, Tensor]:
    """Features [n, e] of a run's own training images, or of another data set's."""
    asked = read_settings(run).asked
    name = data or asked.get("data")
    if name is None:
        raise BadInput(f"{run} was not trained on images by name: say which to use, --data FOLDER.")
    limit = most if data is not None else min(most, asked.get("limit") or most)
    images = open_data(name, root=root or asked.get("data_root"), limit=limit).train
    encoder, transform = load_encoder(run)
    return f"features of {run.name}", extract(encoder, images, transform).x


def approximation_table(found: Sequence[Approximation], distortion: float) -> Table:
    """Times and errors by number of rows, the paper's beside ours at its own number."""
    first = found[0]
    columns = [Column(name, justify="right") for name in ("m", "log-determinant", *(f"order {n}" for n in ORDERS))]
    table = Table(*columns, title=f"{first.rows}, d {first.d}, ε_d² {distortion:g}: ms, relative error")
    for m in dict.fromkeys(a.m for a in found):
        at = {a.order: a for a in found if a.m == m}
        cells = [f"{at[n].median:.2f} ms, {100 * at[n].error:.3g} %" for n in ORDERS]
        table.add_row(str(m), f"{at[None].median:.2f} ms", *cells)
        if m == PAPER_ROWS and first.rows == RANDOM:
            table.add_row(f"{m}, paper", *PAPER_FOUND)
    return table


def approximation_figure(found: Sequence[Approximation], distortion: float, path: Path) -> None:
    """Milliseconds, and relative error, over the number of rows; the orders of the series and the log-determinant."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.4, 5), layout="constrained")
    times, errors = figure.subplots(1, 2)
    inputs = list(dict.fromkeys(a.rows for a in found))
    orders = list(dict.fromkeys(a.order for a in found))
    for name, dashes in zip(inputs, ("-", "--", ":")):
        for order, shade in zip(orders, ("black", "tab:blue", "tab:orange", "tab:green")):
            points = [a for a in found if (a.rows, a.order) == (name, order)]
            m = [a.m for a in points]
            label = "log-determinant" if order is None else f"order {order}"
            if name == inputs[0]:
                times.plot(m, [a.median for a in points], "o-", markersize=4, color=shade, label=label)
                times.fill_between(m, [a.low for a in points], [a.high for a in points], alpha=0.15, color=shade)
            if order is not None:
                label = f"{label}, {name} (d {points[0].d})"
                errors.plot(m, [100 * a.error for a in points], f"o{dashes}", markersize=4, color=shade, label=label)
    ticks = sorted({a.m for a in found if a.rows == inputs[0]})
    for axis in (times, errors):
        axis.set(xlabel="rows m", xscale="log", yscale="log")
        axis.set_xticks(ticks, labels=ticks)
        axis.minorticks_off()
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False, fontsize="small")
    times.set(ylabel="value, ms", title=f"{inputs[0]}, d {found[0].d}")
    errors.set(ylabel="relative error, %", title=f"against the log-determinant, ε_d² {distortion:g}")
    write_figure(figure, path)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="128,256,512,1024,2048,4096", help="numbers of rows m, with commas")
    parser.add_argument("--size", type=int, default=2048, help="embedding size d of the random unit rows")
    parser.add_argument("--distortion", type=float, default=0.06, help="ε_d²; the paper's is 0.06")
    parser.add_argument("--run", type=Path, help="a run folder: measure on its encoder's features, too")
    parser.add_argument("--data", help="images for those features; default: those that the run was trained on")
    parser.add_argument("--data-root", help="where a torchvision data set's or imagenet's files are")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; medians and ranges are over them")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    asked = parser.parse_args(words)
    counts, device, distortion = integers(asked.rows, "--rows"), chosen_device(asked.device), asked.distortion
    if min(*counts, asked.size, asked.repeats) < 1:
        parser.error("--rows, --size and --repeats are whole numbers, at least 1")
    measured = partial(approximations, distortion=distortion, repeats=asked.repeats)
    rows = torch.randn(max(counts), asked.size, generator=torch.Generator().manual_seed(0)).to(device)
    found = measured(RANDOM, rows, counts)
    if asked.run is not None:
        name, features = features_of(asked.run, asked.data, asked.data_root, max(counts))
        kept = [m for m in counts if m < len(features)] + [len(features)]
        found += measured(name, features.to(device), kept)
    tables = [approximation_table([*of], distortion) for _, of in groupby(found, lambda a: a.rows)]
    asked.out.mkdir(parents=True, exist_ok=True)
    approximation_figure(found, distortion, asked.out / "series.png")
    written = {"distortion": distortion, "approximations": [asdict(a) for a in found]}
    report(machine(device), [*tables, DIFFERS], written, asked.out / "series.json", asked.out / "series.png")


if __name__ == "__main__":
    main()
