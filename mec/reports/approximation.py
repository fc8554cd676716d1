"""The paper's Figure 6: what the series of the coding length costs and misses, against the log-determinant itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from rich.table import Column, Table
from torch import Tensor

from mec.bench.turns import in_turns, report
from mec.data.opening import open_data
from mec.errors import BadInput
from mec.evaluation.features import extract
from mec.networks.encoder_file import load_encoder
from mec.objectives.coding import coding_length
from mec.objectives.matched import unit_rows
from mec.reports.options import ApproximationFigure
from mec.runtime.device import chosen_device
from mec.runtime.files import write_figure
from mec.runtime.flags import integers, takes
from mec.runtime.machine import machine
from mec.training.run import read_settings

DISTORTION = 0.06  # the paper's, appendix C
ORDERS = (1, 2, 4)
RANDOM = "random unit rows"

# Appendix D, of 2048 samples: milliseconds of order 1 and of the log-determinant; relative error (%) by order.
PAPER_ROWS, PAPER_ERROR = 2048, {1: 2.56, 2: 0.22, 4: 0.07}
PAPER_MS: dict[int | None, float] = {1: 0.11, None: 35.48}
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


def approximations(
    name: str, rows: Tensor, counts: Sequence[int], *, distortion: float = DISTORTION, repeats: int = 5
) -> list[Approximation]:
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


@takes(ApproximationFigure)
def approximation_study(options: ApproximationFigure) -> list[Approximation]:
    """Measure on random unit rows and, given a run, on its features of its training images; print, write, draw.

    Args:
    {options}

    Raises:
        BadInput: a number below 1.
    """
    counts, device, out = integers(options.rows, "--rows"), chosen_device(options.device), Path(options.out)
    distortion, repeats = options.distortion, options.repeats
    rows = torch.randn(max(counts), options.size, generator=torch.Generator().manual_seed(0)).to(device)
    found = approximations(RANDOM, rows, counts, distortion=distortion, repeats=repeats)
    if options.run_folder is not None:
        name, features = features_of(Path(options.run_folder), options.data, options.data_root, max(counts))
        kept = [m for m in counts if m < len(features)] + [len(features)]
        found += approximations(name, features.to(device), kept, distortion=distortion, repeats=repeats)
    inputs = dict.fromkeys(a.rows for a in found)
    tables = [approximation_table([a for a in found if a.rows == name], distortion) for name in inputs]
    written = {"distortion": distortion, "approximations": [asdict(a) for a in found]}
    out.mkdir(parents=True, exist_ok=True)
    approximation_figure(found, distortion, out / "coding.png")
    report(machine(device), [*tables, DIFFERS], written, out / "coding.json", out / "coding.png", width=110)
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
            times = {n: f"{PAPER_MS[n]:.2f} ms, " if n in PAPER_MS else "" for n in (None, *ORDERS)}
            cells = [f"{times[n]}{PAPER_ERROR[n]:.3g} %" for n in ORDERS]
            table.add_row(f"{m}, paper", times[None].rstrip(", "), *cells)
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
