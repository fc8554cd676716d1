"""What a step of training takes by precision and optimizer, on the images themselves: bf16 or fp32, Muon or SGD.

    python benchmarks/precision.py cifar10/ --limit 10000      `auto` at 24 px; two minutes
    python benchmarks/precision.py digits

The recipe that `mec pretrain DATA` has here, changed in these two; all sides in one run, in turns; ratios are of
medians, to the first. A step is forward, objective, backward and optimizer, the wait for its batch too. FOLDER gets
precision.json. `auto` precision takes bf16 where the processor has units for it: elsewhere bf16 is very slow.
"""

import argparse
import contextlib
from collections.abc import Sequence
from pathlib import Path

from reporting import in_turns, report
from rich.table import Column, Table

from mec.data.opening import open_data
from mec.runtime.device import start_fabric
from mec.runtime.distributed import ALONE
from mec.runtime.machine import has_bf16_units, machine
from mec.training.options import Options
from mec.training.plan import planned
from mec.training.pretrain import make_trainer
from mec.training.timing import trial_steps


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA", help="what `mec pretrain` takes")
    parser.add_argument("--limit", type=int, help="images")
    parser.add_argument("--time-budget", type=float, default=20, help="minutes, that `auto` chooses for")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    asked = parser.parse_args(words)
    fabric = start_fabric(asked.device)
    kind = fabric.device.type
    data = open_data(asked.data, limit=asked.limit, download=False)
    precisions = ("fp32", "bf16") if has_bf16_units(kind) else ("fp32",)
    sides = [(precision, name) for precision in precisions for name in ("sgd", "muon")]
    with contextlib.ExitStack() as opened:
        steps = {}
        for precision, name in sides:
            changes = (f"precision={precision}", f"optimizer.name={name}")
            options = Options(time_budget=asked.time_budget, set=changes)
            recipe, _ = planned(options.named(data), data, options, kind)
            trainer, _ = make_trainer(None, data, recipe, "auto", options, fabric, ALONE)
            steps[precision, name] = opened.enter_context(contextlib.closing(trial_steps(trainer, asked.repeats + 1)))
        found = in_turns({side: (lambda each=each: next(each)) for side, each in steps.items()}, asked.repeats, kind)
    first = found[sides[0]][0]
    title = f"{data.name}, {recipe.network.backbone}, {recipe.views[0].size} px, batch {recipe.batch_size}: s a step"
    columns = ("precision", "optimizer", Column("median (range)", justify="right"), Column("times", justify="right"))
    shown = Table(*columns, title=title)
    for (precision, name), (median, low, high) in found.items():
        shown.add_row(precision, name, f"{median:.4f} ({low:.4f}-{high:.4f})", f"{median / first:.2f}")
    rows = [{"precision": p, "optimizer": n, "seconds": seconds} for (p, n), seconds in found.items()]
    report(machine(kind), [shown], {"data": data.name, "steps": rows}, asked.out / "precision.json")


if __name__ == "__main__":
    main()
