"""The path of 45 logistic regressions against scikit-learn's, warm-started both; exits with 1 where a goal is missed.

    python benchmarks/logistic.py            two cores: some minutes

10,000 rows of 512 features, 10 classes: rectified mixtures of Gaussians, as a pooled ResNet-18 gives them. scikit-learn
gets the path from strong to weak, tol 1e-6, at most 5,000 iterations, and float32 features (the faster of the two for
it; --float64 for the other).
"""

import argparse
import json
import platform
import statistics
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import scipy
import sklearn
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from mec.evaluation.metrics import top_k
from mec.evaluation.probing.logistic import PENALTIES, Logistic, logistic_path, loss_and_slope, prepare

parser = argparse.ArgumentParser()
parser.add_argument("--repeats", type=int, default=2, help="rounds; in each both sides run once")
parser.add_argument("--rows", type=int, default=10_000)
parser.add_argument("--every", type=int, default=1, help="take each n-th penalty only, for a quick look")
parser.add_argument("--float64", action="store_true")
parser.add_argument("--features", type=Path, help="an .npz with x [n, e] and y [n] in place of made ones")
parser.add_argument("--out", type=Path, default=Path("runs/bench"))
options = parser.parse_args()
penalties = PENALTIES[:: options.every]


def made(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    y = random.integers(0, 10, n)
    fixed = np.random.default_rng(0)
    centres, mix = fixed.normal(size=(10, 64)), fixed.normal(size=(64, 512)) / 8
    x = np.maximum((0.45 * centres[y] + random.normal(size=(n, 64))) @ mix + 0.3 * random.normal(size=(n, 512)), 0)
    return x.astype(np.float32), y


if options.features:
    stored = np.load(options.features)
    order = np.random.default_rng(0).permutation(len(stored["y"]))
    x, y = stored["x"][order].astype(np.float32), stored["y"][order]
    n = options.rows
    (x, y), (x_held, y_held) = (x[:n], y[:n]), (x[n : n + 2_000], y[n : n + 2_000])
else:
    (x, y), (x_held, y_held) = made(options.rows, 1), made(2_000, 2)
classes = int(y.max()) + 1


def objective(fitted: Logistic, x: np.ndarray, y: np.ndarray) -> float:
    """The objective in float64, from raw features."""
    loss, _ = loss_and_slope(torch.from_numpy(fitted.scores(x)), torch.as_tensor(y))
    return float(loss) + fitted.penalty / 2 * float((fitted.weight**2).sum())


def ours() -> list[Logistic]:
    return list(logistic_path(prepare(x, y, classes), penalties))


def scikit_learns() -> list[Logistic]:
    given = x.astype(np.float64) if options.float64 else x
    model, found = LogisticRegression(tol=1e-6, max_iter=5000, warm_start=True), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for penalty in penalties:
            model.C = 1 / penalty
            model.fit(given, y)
            found.append(Logistic(penalty, model.coef_.T.astype(np.float64), model.intercept_.copy(), 0.0,
                                  int(model.n_iter_[0])))  # fmt: skip
    return found


sides = {"ours": ours, "scikit-learn": scikit_learns}
seconds: dict[str, list[float]] = {name: [] for name in sides}
busy: dict[str, list[float]] = {name: [] for name in sides}  # of all cores: tells where other work took its share
paths = {}
for _ in range(options.repeats):
    for name, side in sides.items():
        began, busy_before = time.perf_counter(), time.process_time()
        paths[name] = side()
        seconds[name].append(time.perf_counter() - began)
        busy[name].append(time.process_time() - busy_before)
        print(f"{name}: {seconds[name][-1]:.1f} s, {busy[name][-1]:.1f} s of CPU", flush=True)

gaps, accuracies = [], {name: [] for name in sides}
print(f"{'penalty':>9} {'ours':>12} {'scikit-learn':>12} {'above':>9} {'steps':>11} {'held-out top-1':>15}")
for mine, theirs in zip(paths["ours"], paths["scikit-learn"]):
    values = [objective(model, x, y) for model in (mine, theirs)]
    gaps.append(values[0] / values[1] - 1)
    for name, model in zip(sides, (mine, theirs)):
        accuracies[name].append(top_k(model.scores(x_held), y_held))
    print(f"{mine.penalty:9.2g} {values[0]:12.6g} {values[1]:12.6g} {gaps[-1]:9.1e} {mine.steps:5} {theirs.steps:5} "
          f"{accuracies['ours'][-1]:7.2f} {accuracies['scikit-learn'][-1]:7.2f}")  # fmt: skip

best = int(np.argmax(accuracies["ours"]))
difference = abs(accuracies["ours"][best] - accuracies["scikit-learn"][best])
ratio = statistics.median(seconds["scikit-learn"]) / statistics.median(seconds["ours"])
where = {"machine": platform.processor() or platform.machine(), "threads": torch.get_num_threads(),
         "torch": torch.__version__, "scikit-learn": sklearn.__version__, "scipy": scipy.__version__,
         "numpy": np.__version__, "features": f"{[*x.shape]}, {classes} classes",
         "scikit-learn gets": "float64" if options.float64 else "float32"}  # fmt: skip
print(", ".join(f"{k} {v}" for k, v in where.items()))
print(f"ratio of CPU seconds {statistics.median(busy['scikit-learn']) / statistics.median(busy['ours']):.2f}")
for name, values in seconds.items():
    print(f"{name:12} median {statistics.median(values):.1f} s ({min(values):.1f}-{max(values):.1f}), n {len(values)}")
goals = [
    ("times faster than scikit-learn", ratio, ">=", 3.0),
    ("largest objective above scikit-learn's, relative", max(gaps), "<=", 1e-3),
    ("accuracy apart at the chosen penalty, points", difference, "<=", 0.1),
]
reached = [value >= goal if sign == ">=" else value <= goal for _, value, sign, goal in goals]
for (name, value, sign, goal), ok in zip(goals, reached):
    print(f"{name:50} {value:9.2g}  goal {sign} {goal:g}  {'reached' if ok else 'missed'}")
options.out.mkdir(parents=True, exist_ok=True)
found = {
    "machine": where,
    "seconds": seconds,
    "cpu_seconds": busy,
    "ratio": ratio,
    "largest_gap": max(gaps),
    "accuracy_apart": difference,
}
(options.out / "logistic.json").write_text(json.dumps(found, indent=1) + "\n")
sys.exit(not all(reached))
