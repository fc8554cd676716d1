"""How well the objectives' gradients agree, on embeddings of a run before and after training.

    python benchmarks/relations.py runs/digits-digits docs/images/gradient-agreement.png

Two views of one batch of the run's images; the cosine of the objectives' gradients at the first view's unit
embeddings, the second view held still; then the same of what is left of each without its part along the negative
cosine's, the pull that all of them share. Prints the tables, and draws them.
"""

import argparse
from pathlib import Path

import torch
from torch.nn import functional as F

from mec.data.opening import open_data
from mec.objectives import UniGrad, barlow_twins, info_nce, negative_cosine, nt_xent, vicreg
from mec.objectives.matched import unit_rows
from mec.objectives.mec import joint_coding, maximum_entropy_coding
from mec.runtime.checkpoints import in_run
from mec.runtime.distributed import ALONE
from mec.runtime.files import atomic
from mec.training.options import Options
from mec.training.pretrain import build_network, make_batches
from mec.training.run import read_settings

ROWS = 256
FORMULAS = {
    "negative cosine": negative_cosine,
    "MEC, order 2": lambda a, b: maximum_entropy_coding(a, b, order=2),
    "MEC, order 4": lambda a, b: maximum_entropy_coding(a, b, order=4),
    "MEC, exact": lambda a, b: maximum_entropy_coding(a, b, order=None),
    "joint, 0.06": lambda a, b: joint_coding(torch.stack([a, b])),
    "joint, 0.25": lambda a, b: joint_coding(torch.stack([a, b]), distortion=0.25),
    "SimCLR": nt_xent,
    "MoCo v3": info_nce,
    "Barlow Twins": barlow_twins,
    "Barlow Twins, l2": lambda a, b: barlow_twins(a, b, normalise="l2"),
    "VICReg": lambda a, b: vicreg(a * a.shape[1] ** 0.5, b * b.shape[1] ** 0.5),  # of entries of size 1
    "UniGrad": lambda a, b: UniGrad(a.shape[1]).to(a)(torch.stack([a, b]), torch.stack([b, b])),
}


def embeddings(run: Path) -> dict[str, torch.Tensor]:
    """Unit rows [2, m, d] of two views, by the untrained and by the trained network."""
    settings = read_settings(run)
    images = open_data(settings.asked["data"], root=settings.asked.get("data_root"))
    batches = make_batches(
        None, images, settings.recipe, Options(seed=settings.seed, workers=0), torch.device("cpu"), ALONE
    )
    torch.manual_seed(settings.seed)
    network, _ = build_network(settings.recipe, None, batches, images, settings.recipe_name)
    steps = -(-ROWS // settings.recipe.batch_size)
    views = [b.views for b in batches.batches(0, steps, lambda n: slice(0, n))]
    whole = [torch.cat(parts)[:ROWS] for parts in zip(*views)]
    found = {}
    for name in ("before training", "after training"):
        if name == "after training":
            state, _ = in_run(run).newest()
            network.load_state_dict(state["network"])
        with torch.no_grad():
            found[name] = unit_rows(network(whole[:2])[0]).double()
    return found


def directions(views: torch.Tensor) -> torch.Tensor:
    """[n, m d] gradients at the first view, each of length 1; the first is the negative cosine's."""
    gradients = []
    for formula in FORMULAS.values():
        first = views[0].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(formula(first, views[1]), first)
        along = gradient - (gradient * views[0]).sum(1, keepdim=True) * views[0]  # what can move a unit row
        gradients.append(along.flatten())
    return F.normalize(torch.stack(gradients), dim=1)


def agreements(views: torch.Tensor) -> dict[str, torch.Tensor]:
    """Cosines [n, n] of the gradients, and [n - 1, n - 1] of what is left of them without the pull."""
    rows = directions(views)
    left = F.normalize(rows[1:] - (rows[1:] @ rows[0])[:, None] * rows[0], dim=1)
    return {"whole": rows @ rows.T, "without the pull": left @ left.T}


def gap_of_equation_25(views: torch.Tensor, distortion: float = 0.06) -> tuple[float, float]:
    """Σ C_ij C_ji, which the traces of Eqn 25 have, and Σ C_ij², which is printed; C = λ Z1ᵀ Z2."""
    c = views[0].T @ views[1] / (views.shape[1] * distortion)
    return float((c * c.T).sum()), float(c.square().sum())


def draw(tables: dict[str, torch.Tensor], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 12), layout="constrained")
    for axis, (title, table) in zip(figure.subplots(2, 2).flat, tables.items()):
        names = list(FORMULAS)[-len(table) :]
        axis.imshow(table, vmin=-1, vmax=1, cmap="RdBu")
        axis.set_xticks(range(len(names)), names, rotation=60, ha="right")
        axis.set_yticks(range(len(names)), names)
        axis.set_title(title)
        for i, row in enumerate(table.tolist()):
            for j, value in enumerate(row):
                ink = "white" if abs(value) > 0.6 else "black"
                axis.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color=ink)
    with atomic(path) as part:
        figure.savefig(part, format="png", dpi=80)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run folder with a checkpoint")
    parser.add_argument("picture", type=Path, help="to write")
    asked = parser.parse_args()
    run, picture = asked.run, asked.picture
    tables = {}
    for moment, views in embeddings(run).items():
        traces, printed = gap_of_equation_25(views)
        print(f"{moment}: Eqn 25's second-order sum {traces:.1f} as traces, {printed:.1f} as printed")
        for part, table in agreements(views).items():
            tables[f"{moment}, {part}"] = table
            print(f" {part}")
            for row, values in zip(list(FORMULAS)[-len(table) :], table.tolist()):
                print(f"  {row:18}" + " ".join(f"{v:5.2f}" for v in values))
    draw(tables, picture)
    print(f"Written: {picture}")
