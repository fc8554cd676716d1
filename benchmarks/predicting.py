"""Does spreading labels over neighbours help, is confidence right, and do flagged images hold the errors?

    python benchmarks/predicting.py RUN DATA [--labels CSV] [--limit N] [--seeds 5] [--budgets 20,50,100,200]

Labels of images drawn at random from the training images (of at most 3,000), all the others predicted, as by `mec
predict`: without, with, and with images without a label where cross-validation prefers that (auto). Top-1 on the
others, calibration error on them (points, ten bins of equal mass), what the same measure gives where every confidence
is exactly right (images drawn right with that chance: bins of few images never agree), the error of all seeds' images
taken together, as cross-validation told it, and for auto the share of images called unsure and of the errors that these
hold. Mean ± sample standard deviation over seeds.
"""

import argparse

import numpy as np

import mec
from mec.answers.classifying import calibration_error, fit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("data")
    parser.add_argument("--labels")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budgets", default="20,50,100,200")
    asked = parser.parse_args()
    if asked.labels:
        found = mec.features(asked.run, asked.data, labels=asked.labels)
    else:
        found = mec.features(asked.run, mec.open_data(asked.data, limit=asked.limit).train)
    x, y = found.unit().numpy().astype(np.float64), found.y.numpy()
    columns = "labels | alone | spread | auto | spread in | calibration error | of a perfect one | of all | as told"
    print(f"| {columns} | unsure | hold of errors |")
    for count in map(int, asked.budgets.split(",")):
        lines, pooled = [], []
        for seed in range(asked.seeds):
            order = np.random.default_rng(seed).permutation(len(y))[:3000]
            own, rest = order[:count], order[count:]
            line = []
            for unlabelled in ("no", "yes", "auto"):
                model = fit(x[own], y[own], int(y.max()) + 1, others=x[rest], unlabelled=unlabelled, seed=seed)
                chance = model.probabilities(x[rest])
                right, confidence = chance.argmax(1) == y[rest], chance.max(1)
                line.append(100 * right.mean())
            told = calibration_error(model.confidence.ravel(), (model.predicted == y[own]).ravel())
            unsure = confidence < model.unsure
            held = 100 * (unsure & ~right).sum() / max(1, (~right).sum())
            error = calibration_error(confidence, right)
            drawn = np.random.default_rng(seed).random((100, len(confidence))) < confidence
            perfect = np.mean([calibration_error(confidence, outcome) for outcome in drawn])
            pooled.append((confidence, right))
            lines.append([*line, 100 * model.spread, error, perfect, told, 100 * unsure.mean(), held])
        mean, spread = np.mean(lines, 0), np.std(lines, 0, ddof=1)
        cells = [f"{m:.1f} ± {s:.1f}" for m, s in zip(mean, spread)]
        cells.insert(6, f"{calibration_error(*map(np.concatenate, zip(*pooled))):.1f}")
        print(f"| {count} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
