"""Which images are worth labelling? Accuracy over the number of labels, by way of choosing them.

    python benchmarks/choosing.py RUN DATA [--labels CSV] [--limit N] [--seeds 10] [--budgets 5,10,...] [--out FILE]

DATA as for `mec.open_data`; without a held-out part a third of the images, drawn anew for each seed, is tested on. A
seed draws the pool (80 % of the training images, or the other two thirds) that all ways choose from, and what random
and k-means draw. Logistic regression (C 10) of unit features of the images chosen; top-1 on the held-out images, mean
± sample standard deviation over seeds. May be stopped: what is in FILE (a line a figure) is not measured again.
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression

import mec
from mec.answers.choosing import WAYS, choose
from mec.runtime.records import append_records, read_records

NESTED = ("coding-chosen", "farthest", "random")  # a smaller choice begins a larger one


def parts(arguments: argparse.Namespace) -> tuple[mec.Features, mec.Features | None]:
    """Features and labels of the training and the held-out images."""
    if arguments.labels:
        return mec.features(arguments.run, arguments.data, labels=arguments.labels), None
    data = mec.open_data(arguments.data, limit=arguments.limit)
    return mec.features(arguments.run, data.train), mec.features(arguments.run, data.test) if data.test else None


def drawn(train: mec.Features, test: mec.Features | None, seed: int) -> tuple[np.ndarray, ...]:
    """Pool x [n, e], y [n], held-out x, y."""
    order = np.random.default_rng(100 + seed).permutation(len(train.y))
    x, y = train.unit().numpy().astype(np.float64), train.y.numpy()
    pool = order[: int((0.8 if test else 2 / 3) * len(y))]
    if test is None:
        rest = order[len(pool) :]
        return x[pool], y[pool], x[rest], y[rest]
    return x[pool], y[pool], test.unit().numpy().astype(np.float64), test.y.numpy()


def accuracy(x: np.ndarray, y: np.ndarray, test: np.ndarray, labels: np.ndarray) -> float:
    if len({*y.tolist()}) == 1:
        return 100 * float((labels == y[0]).mean())
    return 100 * float((LogisticRegression(C=10, max_iter=2000).fit(x, y).predict(test) == labels).mean())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("data")
    parser.add_argument("--labels")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--budgets", default="5,10,20,50,100,200")
    parser.add_argument("--out", type=Path, default=Path("choosing.jsonl"))
    arguments = parser.parse_args()
    train, test = parts(arguments)
    found = {(r["way"], r["labels"], r["seed"]): r["top-1"] for r in read_records(arguments.out)}
    budgets = [int(word) for word in arguments.budgets.split(",")]
    for seed in range(arguments.seeds):
        x, y, held_out, labels = drawn(train, test, seed)
        fit = [count for count in budgets if count < len(y)]
        for way in WAYS:
            todo = [count for count in fit if (way, count, seed) not in found]
            most = choose(x, max(todo), way=way, seed=seed) if todo and way in NESTED else None
            for count in todo:
                rows = choose(x, count, way=way, seed=seed) if most is None else most[:count]
                found[way, count, seed] = accuracy(x[rows], y[rows], held_out, labels)
                line = {"way": way, "labels": count, "seed": seed, "top-1": found[way, count, seed]}
                append_records(arguments.out, [line])
    table = defaultdict(list)
    for (way, count, _), value in found.items():
        table[way, count].append(value)
    print("| way | " + " | ".join(map(str, budgets)) + " |")
    for way in WAYS:
        cells = [f"{np.mean(v):.1f} ± {np.std(v, ddof=1):.1f}" if (v := table[way, c]) else "" for c in budgets]
        print(f"| `{way}` | " + " | ".join(cells) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
