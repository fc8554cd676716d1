"""The stability grid: where each form of the objective trains, diverges, and how well it does.

    python benchmarks/stability.py [--cifar10 FOLDER] [--minutes N]      one core, some minutes; resumable

Digits at 8 px, two layers on the pixels, embeddings of 128: batch x ε_d² x learning rate as used, one seed, three on
the corners. Divergence is RankMe of the held-out embeddings below 5 % of min(d, rows), a loss below the exact lower
bound, or one that is not finite.
"""

from __future__ import annotations

import itertools

from small import FORMS, Outcome, Study, cifar_views, digits_views, mean_spread, options, recipe

from mec.data.opening import open_data

BATCHES, DISTORTIONS, RATES = (64, 256, 628), (0.01, 0.06, 0.25, 1.0), (0.03, 0.1, 0.5, 1.0)
EPOCHS = {64: 4, 256: 15, 628: 25}  # 76, 60 and 50 steps
CIFAR_IMAGES, CIFAR_EPOCHS = 5_000, 6
CIFAR_CORNER = tuple(itertools.product((256,), (0.06,), (0.1, 1.0)))


def cells(seeds: int) -> list[tuple[int, float, float, int]]:
    """Batch, ε_d², rate, seed: the corners, every other cell, then the corners with more seeds."""
    corners = list(itertools.product(*((axis[0], axis[-1]) for axis in (BATCHES, DISTORTIONS, RATES))))
    inside = [cell for cell in itertools.product(BATCHES, DISTORTIONS, RATES) if cell not in corners]
    return [(*cell, 0) for cell in corners + inside] + [(*c, seed) for seed in range(1, seeds) for c in corners]


def run(study: Study, epochs: dict[int, int], todo) -> list[tuple[dict, Outcome]]:
    found = []
    for (batch, distortion, rate, seed), form in itertools.product(todo, FORMS):
        method, settings, asymmetric = FORMS[form]
        chosen = recipe(
            method, settings, asymmetric, distortion=distortion, batch=batch, lr=rate, epochs=epochs[batch],
            views=study.views, warm_up="warm-up" in form,
        )  # fmt: skip
        cell = {"form": form, "batch": batch, "distortion": distortion, "lr": rate, "seed": seed}
        outcome = study.outcome(cell, chosen)
        if outcome is not None:
            found.append((cell, outcome))
    return found


def table(found: list[tuple[dict, Outcome]]) -> str:
    """Divergent runs and accuracy by form: all cells, then by ε_d², by rate and by batch."""
    lines = ["| form | runs | diverged | why | k-NN (all) | k-NN (best sound cell) |", "|---|---|---|---|---|---|"]
    for form in FORMS:
        mine = [(cell, o) for cell, o in found if cell["form"] == form]
        why = [o.diverged for _, o in mine if o.diverged]
        reasons = ", ".join(f"{why.count(w)} {w}" for w in dict.fromkeys(why)) or "-"
        accuracy = mean_spread(o.knn for _, o in mine)
        sound = [(o.knn, cell) for cell, o in mine if not o.diverged]
        best, cell = max(sound, key=lambda pair: pair[0], default=(float("nan"), None))
        where = (
            "-"
            if cell is None
            else f"{best:.1f} (batch {cell['batch']}, ε_d² {cell['distortion']:g}, lr {cell['lr']:g})"
        )
        lines.append(f"| {form} | {len(mine)} | {len(why)} | {reasons} | {accuracy} | {where} |")
    for axis in ("distortion", "lr", "batch"):
        values = sorted({cell[axis] for cell, _ in found})
        if len(values) < 2:
            continue
        lines += ["", f"| {axis}: diverged of runs; k-NN | " + " | ".join(f"{v:g}" for v in values) + " |"]
        lines += ["|---" * (len(values) + 1) + "|"]
        for form in FORMS:
            parts = []
            for value in values:
                mine = [o for cell, o in found if cell["form"] == form and cell[axis] == value]
                parts.append(
                    f"{sum(bool(o.diverged) for o in mine)} of {len(mine)}; {mean_spread(o.knn for o in mine)}"
                )
            lines.append(f"| {form} | " + " | ".join(parts) + " |")
    return "\n".join(lines)


def corners(found: list[tuple[dict, Outcome]]) -> str:
    """The corners that have several seeds: mean and sample standard deviation over them, and how many diverged."""

    def place(cell: dict) -> tuple:
        return cell["batch"], cell["distortion"], cell["lr"]

    lines = ["| batch, ε_d², lr | " + " | ".join(FORMS) + " |", "|---" * (len(FORMS) + 1) + "|"]
    for key in dict.fromkeys(place(cell) for cell, _ in found if cell["seed"] > 0):
        parts = []
        for form in FORMS:
            mine = [o for cell, o in found if cell["form"] == form and place(cell) == key]
            bad = sum(bool(o.diverged) for o in mine)
            parts.append(mean_spread(o.knn for o in mine) + (f" ({bad} of {len(mine)} diverged)" if bad else ""))
        lines.append(f"| {key[0]}, {key[1]:g}, {key[2]:g} | " + " | ".join(parts) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    chosen = options(__doc__)
    digits = Study(open_data("digits"), digits_views(), chosen.out / "stability-digits.jsonl", chosen.until)
    found = run(digits, EPOCHS, cells(seeds=3))
    print(table(found), corners(found), sep="\n\n")
    if chosen.cifar10 is not None:
        data = open_data(str(chosen.cifar10), limit=CIFAR_IMAGES)
        cifar = Study(data, cifar_views(), chosen.out / "stability-cifar10.jsonl", chosen.until)
        print(table(run(cifar, {256: CIFAR_EPOCHS}, [(*cell, 0) for cell in CIFAR_CORNER])))
