"""Estimators of entropy as training objectives, on rows of known entropy: the tables and picture of docs/objective.md.

    python benchmarks/entropy.py [FILE]      one thread; two minutes

Rows are Gaussian with the eigenvalues 1, 1/2, ... 1/d of the covariance over their sum, so that their entropy is known
and their mean squared length is 1, as that of embeddings. Tables: bias over rows and dimensions; the gradient against
the true one; milliseconds; what gradient ascent makes of a few points, and what each gives for clusters.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import torch
from inverse import in_turns
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from torch import Tensor
from torch.nn import functional as F

from mec.objectives import coding_length
from mec.runtime.files import atomic
from mec.runtime.machine import machine

GAUSSIAN = math.log(2 * math.pi * math.e)  # twice the entropy, in nats, of a normal variable of variance 1
DIMENSIONS, SIZES = (2, 16, 128), [32, 128, 512, 2048]
SHAPES = [(256, 128), (1024, 128), (256, 512), (1024, 512)]  # of the rows that are timed
WIDTH = 1.0  # σ² of the kernel exp(-‖x - x'‖² / 2σ²): the limit is the coding length's for ε_d² = σ² / 4


def log_det(rows: Tensor) -> Tensor:
    """½ log det(2πe Σ) of rows [m, d] with Σ = XᵀX / m; minus infinity for m < d."""
    m, d = rows.shape
    return (torch.linalg.slogdet(rows.T @ rows / m).logabsdet + d * GAUSSIAN) / 2


def coded(rows: Tensor, distortion: float) -> Tensor:
    """½ log det(I + Σ / ε_d²), and the entropy of the noise that it allows: that of rows and noise."""
    m, d = rows.shape
    return coding_length(rows, distortion) / (m + d) + d * (GAUSSIAN + math.log(distortion)) / 2


def neighbours(rows: Tensor, k: int) -> Tensor:
    """ψ(m) - ψ(k) + log V_d + d · mean log r_k. Kozachenko and Leonenko 1987; Kraskov et al. 2004."""
    m, d = rows.shape
    index = torch.cdist(rows.detach(), rows.detach()).kthvalue(k + 1, dim=1).indices  # the first is the row itself
    far = (rows - rows[index]).square().sum(1)
    ball = d / 2 * math.log(math.pi) - math.lgamma(d / 2 + 1)
    counts = torch.digamma(torch.tensor([m, k], dtype=rows.dtype))
    return counts[0] - counts[1] + ball + d / 2 * far.log().mean()


def renyi(rows: Tensor) -> Tensor:
    """-log Tr A², A = K / m of the Gaussian kernel, and what turns it to entropy. Sánchez Giraldo et al. 2015."""
    squared = rows.square().sum(1)
    distances = squared[:, None] + squared - 2 * rows @ rows.T
    return (-distances / WIDTH).exp().mean().log().neg() + rows.shape[1] * (GAUSSIAN + math.log(WIDTH / 4)) / 2


def smaller_gram(rows: Tensor) -> Tensor:
    """XᵀX or XXᵀ, whichever is smaller, over its trace: a density matrix."""
    gram = rows.T @ rows if len(rows) > rows.shape[1] else rows @ rows.T
    return gram / gram.trace()


def renyi_linear(rows: Tensor) -> Tensor:
    """-log Tr A², A of the linear kernel. Skean et al. 2024 (FroSSL) train with it."""
    return -smaller_gram(rows).square().sum().log()


def von_neumann(rows: Tensor) -> Tensor:
    """-Tr A log A, A of the linear kernel. Bach 2022; Kim et al. 2023 train with it."""
    return torch.special.entr(torch.linalg.eigvalsh(smaller_gram(rows)).clamp(min=1e-12)).sum()


def spectrum(d: int) -> Tensor:
    """[d] eigenvalues of the covariance, with sum 1."""
    values = 1 / torch.arange(1, d + 1, dtype=torch.float64)
    return values / values.sum()


def entropy(s: Tensor) -> float:
    """Of a Gaussian with these eigenvalues, in nats a row."""
    return float((GAUSSIAN + s.log()).sum() / 2)


ESTIMATORS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], float]]] = {  # and what each tends to
    "Gaussian log-det": (log_det, entropy),
    "coding length, ε_d² 0.02": (lambda x: coded(x, 0.02), lambda s: entropy(s + 0.02)),
    "coding length, ε_d² 0.25": (lambda x: coded(x, 0.25), lambda s: entropy(s + 0.25)),
    "k-NN, k = 1": (lambda x: neighbours(x, 1), entropy),
    "k-NN, k = 3": (lambda x: neighbours(x, 3), entropy),
    "Rényi 2, Gaussian kernel": (renyi, lambda s: entropy(s + WIDTH / 4)),
    "Rényi 2, linear kernel": (renyi_linear, lambda s: float(-s.square().sum().log())),
    "von Neumann, linear kernel": (von_neumann, lambda s: float(torch.special.entr(s).sum())),
}

Table = list[tuple[str, list[float]]]


def drawn(m: int, d: int, seed: int) -> tuple[Tensor, Tensor]:
    """White rows [m, d], and the square roots [d] of the eigenvalues that they are to be multiplied by."""
    white = torch.randn(m, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return white, spectrum(d).sqrt()


def bias(d: int, sizes: list[int], repeats: int) -> Table:
    """What each tends to minus the entropy, then the mean estimate minus what it tends to; nats a row. Of so many draws
    at least, of more where rows are few: 4,096 rows or more."""
    rows: Table = []
    for name, (estimate, limit) in ESTIMATORS.items():
        found = [limit(spectrum(d)) - entropy(spectrum(d))]
        for m in sizes:
            values = [estimate(torch.mul(*drawn(m, d, seed))) for seed in range(max(repeats, 4096 // m))]
            rank_is_full = name != "Gaussian log-det" or m > d
            found.append(float(torch.stack(values).mean()) - limit(spectrum(d)) if rank_is_full else -math.inf)
        rows.append((name, found))
    return rows


def gradients(d: int, m: int, repeats: int) -> Table:
    """Cosine with the true gradient, and size over its size: at the rows X = W A, then at the map A.

    The true ones are Σ⁻¹x / m at a row x, minus the slope of the log-density, and A⁻ᵀ at the map: entropy is
    log |det A| and what does not depend on it."""
    rows: Table = []
    for name, (estimate, _) in ESTIMATORS.items():
        found = torch.zeros(4, dtype=torch.float64)
        for seed in range(repeats):
            white, roots = drawn(m, d, seed)
            x = (white * roots).requires_grad_()
            (slope,) = torch.autograd.grad(estimate(x), x)
            for place, (given, true) in enumerate(
                [(slope, x.detach() / roots**2 / m), (white.T @ slope, torch.diag(1 / roots))]
            ):
                found[2 * place] += F.cosine_similarity(given.flatten(), true.flatten(), dim=0) / repeats
                found[2 * place + 1] += given.norm() / true.norm() / repeats
        rows.append((name, found.tolist()))
    return rows


def cost(sizes: list[tuple[int, int]]) -> Table:
    """Milliseconds of value and gradient on float32 rows [m, d], one after the other in turns."""
    columns = []
    for m, d in sizes:
        x = torch.randn(m, d).mul(d**-0.5).requires_grad_()
        columns.append(in_turns(*(lambda e=e, x=x: torch.autograd.grad(e(x), x) for e, _ in ESTIMATORS.values())))
    return list(zip(ESTIMATORS, [list(row) for row in zip(*columns)]))


def ascended(estimate: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> Tensor:
    """Unit rows [n, d] after so many steps of Adam up the estimate, the rate falling to 0."""
    free = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([free], lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        (-estimate(F.normalize(free, dim=1))).backward()
        optimizer.step()
        schedule.step()
    return F.normalize(free.detach(), dim=1)


def nearest(rows: Tensor) -> Tensor:
    """[n] degrees from each unit row to the nearest other."""
    cosines = (rows @ rows.T).fill_diagonal_(-1)
    return cosines.amax(1).clamp(-1, 1).arccos().rad2deg()


def places(rows: Tensor) -> int:
    """How many points [n, d] there are, those within a degree of each other counted once."""
    close = rows @ rows.T > math.cos(math.radians(1))
    return sum(not bool(close[i, :i].any()) for i in range(len(rows)))


def circle(steps: int) -> tuple[Table, dict[str, Tensor]]:
    """Twelve points on a circle, from one random start: how many places they take, the least, median and largest angle
    to the nearest other (30 degrees where they are evenly spread), and the effective rank. And where they end."""
    generator = torch.Generator().manual_seed(0)
    start = F.normalize(torch.randn(12, 2, dtype=torch.float64, generator=generator), dim=1)
    ends = {"start": start} | {name: ascended(e, start, steps) for name, (e, _) in ESTIMATORS.items()}
    table: Table = []
    for name, rows in ends.items():
        angles = nearest(rows)
        least, most = float(angles.min()), float(angles.max())
        table.append((name, [places(rows), least, float(angles.median()), most, float(von_neumann(rows).exp())]))
    return table, ends


def clusters(steps: int, n: int = 64, d: int = 16, parts: int = 8) -> Table:
    """Points in tight clusters, then moved: the mean cosine within what were clusters, the median angle to the nearest
    other in degrees, and the effective rank."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.eye(d, dtype=torch.float64)[torch.arange(n) % parts]
    start = F.normalize(centres + 0.02 * torch.randn(n, d, dtype=torch.float64, generator=generator), dim=1)
    same = (torch.arange(n)[:, None] - torch.arange(n)) % parts == 0
    ends = {"start": start} | {name: ascended(e, start, steps) for name, (e, _) in ESTIMATORS.items()}
    table: Table = []
    for name, rows in ends.items():
        within = ((rows @ rows.T)[same].sum() - n) / (same.sum() - n)
        table.append((name, [float(within), float(nearest(rows).median()), float(von_neumann(rows).exp())]))
    return table


def worth(m: int = 512, d: int = 16) -> Table:
    """What each gives for unit rows in d tight clusters at right angles, minus that for rows drawn evenly from the
    sphere; nats a row. Tight: noise of 0.01 and of 0.0001 an entry."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(m, d, dtype=torch.float64, generator=generator)
    centres, even = torch.eye(d, dtype=torch.float64)[torch.arange(m) % d], F.normalize(noise, dim=1)
    tight = [F.normalize(centres + size * noise, dim=1) for size in (1e-2, 1e-4)]
    return [(name, [float(e(rows) - e(even)) for rows in tight]) for name, (e, _) in ESTIMATORS.items()]


def show(title: str, columns: list[str], table: Table) -> None:
    """As the pages have them: a line a row, between bars."""
    print(f"\n{title}\n\n| estimator | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for name, values in table:
        print(f"| {name} | {' | '.join('none' if math.isinf(v) else f'{v:.3g}' for v in values)} |", flush=True)


def draw(biases: dict[int, Table], ends: dict[str, Tensor], path: Path) -> None:
    """Above, the bias over rows for each dimension; below, where the points on the circle end."""
    figure = Figure(figsize=(12, 5.6), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1.5, 1))
    for axes, (d, table) in zip(above.subplots(1, len(biases)), biases.items()):
        for (name, values), style in zip(table, ("k-", "C0-", "C0--", "C1-", "C1--", "C2-", "C3:", "C4:")):
            axes.plot(SIZES, values[1:], style, label=name)
        axes.axhline(0, color="grey", linewidth=0.5)
        axes.set(xscale="log", xlabel="rows", title=f"d = {d}")
        axes.set_yscale("symlog", linthresh=0.01)
        axes.set_ylabel("estimate minus its limit, nats", fontsize="small")
    above.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize="small", frameon=False)
    for axes, (name, rows) in zip(below.subplots(1, len(ends)), ends.items()):
        axes.add_patch(Circle((0, 0), 1, fill=False, color="lightgrey"))
        axes.scatter(*rows.T, s=60, alpha=0.35, linewidths=0)
        axes.set(xlim=(-1.2, 1.2), ylim=(-1.2, 1.2), aspect="equal", xticks=[], yticks=[])
        axes.set_title(name.replace(", ", ",\n"), fontsize="small")
        axes.set_frame_on(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as part:
        figure.savefig(part, format="png", dpi=80)


def main(path: Path, repeats: int = 10, steps: int = 1000) -> None:
    torch.set_num_threads(1)
    print(machine("cpu"))
    biases: dict[int, Table] = {}
    for d in DIMENSIONS:
        biases[d] = bias(d, SIZES, repeats)
        show(f"Bias, d = {d}, nats a row", ["limit - entropy", *(f"m = {m}" for m in SIZES)], biases[d])
    for m in (32, 128, 1024):
        columns = ["cosine, rows", "size, rows", "cosine, map", "size, map"]
        show(f"Gradient against the true one, d = 16, m = {m}", columns, gradients(16, m, repeats))
    show("Milliseconds of value and gradient", [f"[{m}, {d}]" for m, d in SHAPES], cost(SHAPES))
    table, ends = circle(steps)
    columns = ["places", "least angle", "median", "largest", "effective rank"]
    show("Twelve points on a circle after ascent", columns, table)
    columns = ["cosine within", "median angle", "effective rank"]
    show("64 points in 8 clusters after ascent, d = 16", columns, clusters(steps // 2))
    show("Clusters minus even rows, nats a row", ["noise 0.01", "noise 0.0001"], worth())
    draw(biases, ends, path)
    print(f"\nWritten: {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, default=Path("docs/images/entropy.png"))
    main(parser.parse_args().file)
