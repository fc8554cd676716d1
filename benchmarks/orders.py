"""Accuracy over the order of the series, with and without predictor and target network: digits, three seeds.

    python benchmarks/orders.py [--minutes N]      one core, some minutes; resumable

Order 1 on a symmetric network is expected to collapse, and `mec health` has to say so.
"""

import itertools
import time

from small import digits_views, mean_spread, out_folder, recipe, trained, written

from mec import health
from mec.closing import judged_settings
from mec.data import open_data
from mec.run import read_settings

OBJECTIVES = {
    **{f"order {n}": ("mec", {"order": n}) for n in (1, 2, 4)},
    "cross exact": ("mec-exact", {"order": None}),
    "joint": ("mec-joint", {}),
}
NETWORKS = {"predictor and target": True, "neither": False}
SEEDS = (0, 1, 2)
BATCH, RATE, EPOCHS = 64, 0.5, 10
# The paper's, for which the series is bound to be rough here, and one for which it surely converges.
DISTORTIONS = (0.06, 1.01)

if __name__ == "__main__":
    out, options = out_folder("runs/orders", __doc__)
    until = time.monotonic() + 60 * options.minutes
    data = open_data("digits")
    rows, outcomes, verdicts = [], [], []
    for seed, distortion, network, name in itertools.product(SEEDS, DISTORTIONS, NETWORKS, OBJECTIVES):
        if time.monotonic() > until:
            break
        method, settings = OBJECTIVES[name]
        chosen = recipe(
            method, settings, NETWORKS[network], distortion=distortion, batch=BATCH, lr=RATE, epochs=EPOCHS,
            views=digits_views(),
        )  # fmt: skip
        label = f"{name} {network} distortion {distortion:g} seed {seed}"
        outcomes.append(trained(label, chosen, data, out, seed))
        rows.append({"objective": name, "network": network, "distortion": distortion, "seed": seed})
        run = out / label.replace(" ", "-").replace(",", "")
        verdict = health.judge(health.read_metrics(run), judged_settings(read_settings(run)))
        verdicts.append(verdict.words.split(":")[0])
    written(out, "orders", [{**r, "health": v} for r, v in zip(rows, verdicts)], outcomes)

    for distortion, network in itertools.product(DISTORTIONS, NETWORKS):
        print(
            f"\nε_d² {distortion:g}, {network}\n| objective | k-NN | effective rank | mec health |\n|---|---|---|---|"
        )
        for name in OBJECTIVES:
            mine = [
                (o, v)
                for r, o, v in zip(rows, outcomes, verdicts)
                if (r["objective"], r["network"], r["distortion"]) == (name, network, distortion)
            ]
            said = [v for _, v in mine]
            words = ", ".join(f"{said.count(v)} {v}" for v in dict.fromkeys(said))
            print(
                f"| {name} | {mean_spread(o.knn for o, _ in mine)} | {mean_spread(o.rank for o, _ in mine)} | {words} |"
            )
