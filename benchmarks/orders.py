"""Accuracy over the order of the series, with and without predictor and target network: digits, three seeds.

    python benchmarks/orders.py [--minutes N]      one core, a minute or two; resumable

Order 1 on a symmetric network is expected to collapse, and `mec health` has to say so.
"""

from __future__ import annotations

import itertools

from small import Study, digits_views, mean_spread, options, recipe

from mec.data.opening import open_data

OBJECTIVES = {
    **{f"order {n}": ("mec", {"order": n}) for n in (1, 2, 4)},
    "cross exact": ("mec-exact", {"order": None}),
    "joint": ("mec-joint", {}),
}
NETWORKS = {"predictor and target": True, "neither": False}
SEEDS = (0, 1, 2)
BATCH, RATE, EPOCHS = 64, 0.3, 20
DISTORTIONS = (0.06, 1.01)  # the paper's, and one for which every series surely converges

if __name__ == "__main__":
    chosen = options(__doc__)
    study = Study(open_data("digits"), digits_views(), chosen.out / "orders.jsonl", chosen.until)
    found = []
    for seed, distortion, network, name in itertools.product(SEEDS, DISTORTIONS, NETWORKS, OBJECTIVES):
        method, settings = OBJECTIVES[name]
        one = recipe(
            method, settings, NETWORKS[network], distortion=distortion, batch=BATCH, lr=RATE, epochs=EPOCHS,
            views=study.views,
        )  # fmt: skip
        cell = {"objective": name, "network": network, "distortion": distortion, "seed": seed}
        outcome = study.outcome(cell, one)
        if outcome is not None:
            found.append((cell, outcome))
    for distortion, network in itertools.product(DISTORTIONS, NETWORKS):
        print(f"\nε_d² {distortion:g}, {network}\n")
        print("| objective | k-NN | effective rank | loss | mec health |\n|---|---|---|---|---|")
        for name in OBJECTIVES:
            wanted = {"objective": name, "network": network, "distortion": distortion}
            mine = [o for cell, o in found if wanted.items() <= cell.items()]
            said = [o.health for o in mine]
            words = ", ".join(f"{said.count(v)} {v}" for v in dict.fromkeys(said))
            figures = [mean_spread(o.knn for o in mine), mean_spread(o.rank for o in mine)]
            print(f"| {name} | {' | '.join(figures)} | {mean_spread((o.loss for o in mine), 2)} | {words} |")
