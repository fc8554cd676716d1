"""The stability grid: where each form of the objective trains, diverges, and how well it does.

    python benchmarks/stability.py [--cifar10 FOLDER] [--minutes N]      one core, about ten minutes; resumable

Digits at 8 px, a network of three convolutions, embeddings of 128: batch x ε_d² x learning rate as used, one seed,
three on the corners. Divergence is a loss below the exact lower bound, RankMe of the held-out embeddings below 5 % of
min(d, rows), or a loss that is not finite.
"""

import itertools
import sys
import time
from pathlib import Path

from small import FORMS, cifar_views, digits_views, mean_spread, out_folder, recipe, trained, written

from mec.data import Data, open_data
from mec.studies import Outcome

BATCHES, DISTORTIONS, RATES = (64, 256, 628), (0.01, 0.06, 0.25, 1.0), (0.03, 0.1, 0.5, 1.0)
EPOCHS = {64: 6, 256: 15, 628: 25}  # 114, 60 and 50 steps
CIFAR_IMAGES, CIFAR_EPOCHS = 5_000, 6
CIFAR_CORNER = tuple(itertools.product((256,), (0.06,), (0.1, 1.0)))


def cells(seeds: int) -> list[tuple[int, float, float, int]]:
    """Batch, ε_d², rate, seed: every cell once, then the corners with more seeds."""
    grid = list(itertools.product(BATCHES, DISTORTIONS, RATES))
    corners = list(itertools.product(*((axis[0], axis[-1]) for axis in (BATCHES, DISTORTIONS, RATES))))
    return [(*cell, 0) for cell in grid] + [(*cell, seed) for seed in range(1, seeds) for cell in corners]


def run(name: str, data: Data, views, out: Path, epochs, todo, until: float) -> tuple[list[dict], list[Outcome]]:
    rows, outcomes = [], []
    for (batch, distortion, rate, seed), form in itertools.product(todo, FORMS):
        if time.monotonic() > until:
            break
        method, settings, asymmetric = FORMS[form]
        chosen = recipe(
            method, settings, asymmetric, distortion=distortion, batch=batch, lr=rate, epochs=epochs[batch],
            views=views, warm_up="warm-up" in form,
        )  # fmt: skip
        label = f"{name} {form} batch {batch} distortion {distortion:g} lr {rate:g} seed {seed}"
        outcomes.append(trained(label, chosen, data, out, seed))
        rows.append(
            {"form": form, "batch": batch, "distortion": distortion, "lr": rate, "seed": seed, "data": data.name}
        )
    return rows, outcomes


def table(rows: list[dict], outcomes: list[Outcome]) -> str:
    """Divergent runs and accuracy by form: all cells, then by ε_d², by rate and by batch."""
    pairs = list(zip(rows, outcomes))
    lines = ["| form | runs | diverged | why | k-NN (all) | k-NN (best cell) |", "|---|---|---|---|---|---|"]
    for form in FORMS:
        mine = [(r, o) for r, o in pairs if r["form"] == form]
        if not mine:
            continue
        why = [o.diverged for _, o in mine if o.diverged]
        reasons = ", ".join(f"{why.count(w)} {w}" for w in dict.fromkeys(why)) or "-"
        best = max(mine, key=lambda pair: -1.0 if pair[1].knn != pair[1].knn or pair[1].diverged else pair[1].knn)
        where = f"{best[1].knn:.1f} (batch {best[0]['batch']}, ε_d² {best[0]['distortion']:g}, lr {best[0]['lr']:g})"
        accuracy = mean_spread(o.knn for _, o in mine)
        lines.append(f"| {form} | {len(mine)} | {len(why)} | {reasons} | {accuracy} | {where} |")
    for axis in ("distortion", "lr", "batch"):
        values = sorted({r[axis] for r, _ in pairs})
        if len(values) < 2:
            continue
        lines += ["", f"| {axis}: diverged of runs; k-NN | " + " | ".join(f"{v:g}" for v in values) + " |"]
        lines += ["|---" * (len(values) + 1) + "|"]
        for form in FORMS:
            cells = []
            for value in values:
                mine = [o for r, o in pairs if r["form"] == form and r[axis] == value]
                bad = sum(bool(o.diverged) for o in mine)
                cells.append(f"{bad} of {len(mine)}; {mean_spread(o.knn for o in mine)}")
            lines.append(f"| {form} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def corners(rows: list[dict], outcomes: list[Outcome]) -> str:
    """The corners that have several seeds: mean and sample standard deviation over them, and how many diverged."""
    keys = dict.fromkeys((r["batch"], r["distortion"], r["lr"]) for r in rows if r["seed"] > 0)
    lines = ["| batch, ε_d², lr | " + " | ".join(FORMS) + " |", "|---" * (len(FORMS) + 1) + "|"]
    for key in keys:
        cells = []
        for form in FORMS:
            mine = [
                o for r, o in zip(rows, outcomes) if r["form"] == form and (r["batch"], r["distortion"], r["lr"]) == key
            ]
            bad = sum(bool(o.diverged) for o in mine)
            cells.append(mean_spread(o.knn for o in mine) + (f" ({bad} of {len(mine)} diverged)" if bad else ""))
        lines.append(f"| {key[0]}, {key[1]:g}, {key[2]:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    out, options = out_folder("runs/stability", __doc__)
    until = time.monotonic() + 60 * options.minutes
    todo = cells(seeds=3)
    found = run("digits", open_data("digits"), digits_views(), out, EPOCHS, todo, until)
    written(out, "digits", *found)
    print(table(*found), corners(*found), sep="\n\n")
    finished = len(found[0]) == len(todo) * len(FORMS)
    if options.cifar10 is not None:
        data = open_data(str(options.cifar10), limit=CIFAR_IMAGES)
        todo = [(*cell, 0) for cell in CIFAR_CORNER]
        cifar = run("cifar10", data, cifar_views(), out, {256: CIFAR_EPOCHS}, todo, until)
        written(out, "cifar10", *cifar)
        print(table(*cifar))
        finished &= len(cifar[0]) == len(todo) * len(FORMS)
    sys.exit(0 if finished else 1)
