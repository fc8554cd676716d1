"""Which settings give the best encoder after so many steps? Trials by successive halving; every one is kept.

    python benchmarks/search.py CIFAR10 --group rate --steps 400 [--rounds 3] [--seed 0] [--out runs/search]

CIFAR10 is a folder with train/CLASS/ and test/CLASS/. 10,000 of its training images without labels; what `auto` chooses
on a CPU, but for the changes that a trial names; one thread. After a round the better half of the trials goes on to the
next, with four times the steps, by k-NN among training images: a fifth of them asked, the others the bank. Test figures
are told beside it and choose nothing. Several of these commands may run side by side, each takes trials that no other
has; all may be stopped, and go on when called again. FOLDER/trials.jsonl has a line a trial. The seconds of CPU that
a step takes are told too: what is dearer has to be better than the same time spent on steps.
"""

import argparse
import fcntl
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch

import mec
from mec.data.dataset import Data
from mec.errors import Diverged
from mec.networks.backbones import ONE_BLOCK, POOLED, SMALL
from mec.reports.trials import accuracy_among_training_images
from mec.runtime.machine import keep_freed, machine
from mec.training import health

GROWTH = 4  # steps of a round, times those of the one before


NETWORKS = {  # widths that the product does not have, by the names that trials give them
    "fast-512": {**ONE_BLOCK, "channels": (32, 64, 128, 512)},
    "fast-narrow": {**ONE_BLOCK, "channels": (24, 48, 96, 192)},
    "fast-wide": {**ONE_BLOCK, "channels": (48, 96, 192, 384)},
    "fast-late": {**ONE_BLOCK, "channels": (32, 64, 192, 512)},
}


def grid(*choices: Sequence[str]) -> list[str]:
    """Every combination, one of each; a choice is some changes as `--set` takes them, with spaces between, or "".
    `method=NAME` among them is the method, `test=PX` the size of the images that are measured."""
    found = [""]
    for choice in choices:
        found = [f"{before} {one}".strip() for before in found for one in choice]
    return found


def rates(*values: float) -> list[str]:
    """Base rates: as used at batch 128, half as much."""
    return [f"optimizer.base_lr={value:g}" for value in values]


RATES = rates(1, 3)
DISTORTIONS = [  # with the scale that keeps the slope where views agree and spread evenly
    "settings.distortion=0.02",
    "settings.distortion=0.006 settings.scale=1.5",
    "settings.distortion=0.002 settings.scale=3.5",
    "settings.distortion=0.0002 settings.scale=35",
]
HALF = "batch_size=64"  # of images: four views of them are as many passes as two of 128
GROUPS: dict[str, list[str]] = {
    "rate": rates(0.3, 1, 3, 6, 10),
    "objective": grid(DISTORTIONS, ["", *(f"settings.agreement={w}" for w in (0.5, 1, 4))], RATES),
    "views": grid(
        [
            "",
            f"views.copies=4 {HALF}",
            f"views.copies=4 views.scale=[0.25,0.25] {HALF}",
            "views.copies=8 batch_size=32",
        ],
        RATES,
    ),
    "long": grid([f"optimizer.weight_decay={x:g}" for x in (1e-4, 5e-4)], ["views.grey=0.2", "views.grey=0.1"], RATES),
    "batch": grid(["batch_size=64", "batch_size=128", "batch_size=256"], RATES),
    "short": [  # one change each
        "",
        "optimizer.average=0.99",
        "views.size=24 test=32",
        "views.size=24",
        "views.scale=[0.2,1.0]",
        "views.grey=0.1",
        "views.jitter=0.5",
        "batch_size=64",
        "batch_size=256",
        "optimizer.weight_decay=0.0005",
        "network.backbone=fast-512",
        "network.backbone=fast-wide",
        "network.backbone=fast-late",
        "settings.distortion=0.002 settings.scale=3.5 settings.agreement=1",
        "network.projector=[1024,128]",
        "optimizer.momentum=0.95",
    ],
    "size": grid([f"views.size={side}" for side in (16, 20, 24, 28, 32)]),
    "head": grid(
        [f"network.projector=[{widths}]" for widths in ("2048,64", "2048,128", "2048,512", "2048,2048")],
        ["network.projector_output=bn", "network.projector_output=linear"],
        RATES,
    ),
    "centred": grid(["settings.centred=false", "settings.centred=true"], RATES),
    "exponent": grid(["", *(f"settings.exponent={a}" for a in (0.25, 0.5))], DISTORTIONS[::3], RATES),
    "average": ["", "optimizer.average=0.99", "optimizer.average=0.998"],
    # As many trials of each rival: three rates, and two or three values of what its authors tune.
    "simclr": grid(["method=simclr"], [f"settings.temperature={t}" for t in (0.1, 0.2, 0.5)], rates(0.3, 1, 3)),
    "vicreg": grid(["method=vicreg"], [f"settings.covariance={c}" for c in (0.5, 1, 4)], rates(0.3, 1, 3)),
    "mmcr": grid(["method=mmcr"], ["", f"views.copies=4 {HALF}", "views.copies=8 batch_size=32"], rates(0.3, 1, 3)),
    "emp-ssl": grid(["method=emp-ssl"], [f"settings.agreement={w}" for w in (20, 60, 200)], rates(0.3, 1, 3)),
    "frossl": grid(["method=frossl"], [f"settings.invariance={w}" for w in (0.5, 1.4, 4)], rates(0.3, 1, 3)),
    "corinfomax": grid(["method=corinfomax"], [f"settings.invariance={w}" for w in (100, 250, 1000)], rates(0.3, 1, 3)),
}


def name_of(trial: str, steps: int, seed: int) -> str:
    return f"{trial.replace(' ', ',') or 'auto'},steps={steps},seed={seed}"


def parts_of(trial: str) -> tuple[str | None, int | None, list[str]]:
    """Its method and the size of its test images, if it names them, and its other changes."""
    own = dict(part.split("=", 1) for part in trial.split() if part.startswith(("method=", "test=")))
    rest = [part for part in trial.split() if not part.startswith(("method=", "test="))]
    return own.get("method"), int(own["test"]) if "test" in own else None, rest


def finished(trial: str, steps: int, data: Data, asked: argparse.Namespace) -> dict | None:
    """A line of trials.jsonl: read, or trained for; None where another process is at it."""
    out, seed = asked.out, asked.seed
    folder = out / name_of(trial, steps, seed)
    done = folder / "trial.json"
    out.mkdir(parents=True, exist_ok=True)
    with open(out / f"{folder.name}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        if done.exists():
            return json.loads(done.read_text())
        line = {"changes": trial, "steps": steps, "seed": seed, "chosen by": -math.inf}
        start = time.process_time()
        try:
            method, size, changes = parts_of(trial)
            mec.pretrain(
                data, method=method, out=folder, steps=steps, seed=seed, device="cpu", quiet=True,
                resume=folder.exists(), set=changes, workers=0, evaluate=False,
            )  # fmt: skip
        except Diverged as error:
            line["diverged"] = str(error).splitlines()[0]
        else:
            spent = time.process_time() - start
            line |= {"cpu minutes": round(spent / 60, 2), "step": round(spent / steps, 3)}
            line["chosen by"] = round(accuracy_among_training_images(folder, data, "cpu", size), 2)
            for protocol in ("knn", "linear") if asked.linear else ("knn",):
                found = mec.evaluate(folder, protocol, data, device="cpu", image_size=size)
                line[protocol] = next(round(result.value, 2) for result in found if result.metric == "top-1")
            last = [x for x in health.read_metrics(folder) if "effective_rank" in x][-1]
            line |= {key: round(last[key], 3) for key in ("agreement", "effective_rank") if key in last}
        done.write_text(json.dumps(line))
        with open(out / "trials.jsonl", "a") as lines:
            lines.write(json.dumps(line) + "\n")
        return line


def table(lines: Sequence[dict]) -> str:
    keys = ("steps", "seed", "chosen by", "knn", "linear", "agreement", "effective_rank", "cpu minutes", "step")
    rows = [" | ".join(["changes", *keys])]
    rows += [" | ".join([line["changes"] or "auto", *(str(line.get(key, "-")) for key in keys)]) for line in lines]
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--group", choices=[*GROUPS])
    which.add_argument("--trial", help="changes, as a group has them: 'views.size=20'")
    parser.add_argument("--steps", type=int, default=1000, help="of the first round")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, default=10_000, help="training images")
    parser.add_argument("--linear", action="store_true", help="also the linear probe on test images: minutes a trial")
    parser.add_argument("--out", type=Path, default=Path("runs/search"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed()
    SMALL.update(NETWORKS)
    POOLED.update(NETWORKS)
    data = mec.open_data(asked.data, limit=asked.limit)
    print(machine("cpu"), flush=True)
    trials = GROUPS[asked.group] if asked.group else [asked.trial]
    for turn in range(asked.rounds):
        steps, lines = asked.steps * GROWTH**turn, []
        for trial in trials:
            line = finished(trial, steps, data, asked)
            if line is not None:
                lines.append(line)
                print(json.dumps(line), flush=True)
        while len(lines) < len(trials):  # the others of this round are under way elsewhere
            time.sleep(20)
            lines = [x for x in (finished(t, steps, data, asked) for t in trials) if x is not None]
        lines.sort(key=lambda line: -line["chosen by"])
        print(table(lines), flush=True)
        trials = [line["changes"] for line in lines[: math.ceil(len(lines) / 2)]]


if __name__ == "__main__":
    main()
