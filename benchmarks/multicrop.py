"""Do four small crops more help in the same time? CIFAR-10, two 32-px views against two and four of 16 px.

    python benchmarks/multicrop.py CIFAR10 [--minutes 4] [--seeds 3]     two runs a seed

CIFAR10 is a folder with train/CLASS/ and test/CLASS/. 10,000 images, the recipe that `auto` chooses, k-NN and linear
probe on features; everything but the crops is the same. A step of both is timed in turns, and each gets the steps that
fit the minutes. May be stopped: called again, it goes on.
"""

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path

import mec
from mec.data.opening import open_data
from mec.reports.comparison import timed_in_turns
from mec.runtime.device import start_fabric
from mec.runtime.distributed import ALONE
from mec.runtime.files import write_text
from mec.runtime.machine import keep_freed, machine, this_machine
from mec.training.plan import auto, with_method
from mec.training.run import read_settings
from mec.training.timing import steps_in

CROPS = {"two views": 0, "and four crops": 4}
PROTOCOLS = ("knn", "linear-fast")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--method", default="mec-joint")
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/multicrop"))
    asked = parser.parse_args()
    keep_freed()
    data = open_data(asked.data, limit=10_000)
    base = with_method(auto(data, this_machine("cpu"))[0], asked.method)
    recipes = {}
    for name, copies in CROPS.items():
        small = replace(base.views[0], size=16, scale=(0.08, 0.5), copies=copies)
        recipes[name] = replace(base, views=(*base.views, small) if copies else base.views)
    print(machine("cpu"))
    timed = asked.out / f"{asked.method}-pace.json"
    if not timed.exists():
        asked.out.mkdir(parents=True, exist_ok=True)
        write_text(timed, json.dumps(timed_in_turns(recipes, data, start_fabric("cpu"), None)))
    pace = json.loads(timed.read_text())
    print(", ".join(f"{name}: {seconds:.3f} s a step" for name, seconds in pace.items()), flush=True)
    found: dict[str, list[list[float]]] = {name: [] for name in CROPS}
    for seed in range(asked.seeds):
        for name, copies in CROPS.items():
            run = asked.out / f"{asked.method}-{copies}-{seed}"
            if not (run / "results.jsonl").exists():
                steps = steps_in(60 * asked.minutes, pace[name], ALONE)
                mec.pretrain(
                    data, recipe=recipes[name], out=run, steps=steps, seed=seed,
                    device="cpu", resume=run.exists(), quiet=True,
                )  # fmt: skip
            results = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
            results = [r for r in results if r["encoder"] == asked.method and r["metric"] == "top-1"]
            mine = {r["protocol"]: r["value"] for r in results}
            found[name].append([mine[p] for p in PROTOCOLS])
            shown = ", ".join(f"{p} {mine[p]:.1f}" for p in PROTOCOLS)
            settings = read_settings(run)
            epochs = settings.steps / settings.steps_per_epoch
            print(f"seed {seed}, {name}: {shown}, {settings.steps} steps, {epochs:.1f} epochs", flush=True)
    for i, protocol in enumerate(PROTOCOLS):
        for name, rows in found.items():
            values = [row[i] for row in rows]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            print(f"{protocol}, {name}: {statistics.mean(values):.1f}{spread}")


if __name__ == "__main__":
    main()
