"""How long a step takes on the real data, and how many fit a budget."""

import contextlib
import copy
import time
from collections.abc import Generator

import numpy as np

from mec.runtime.device import wait_for
from mec.runtime.distributed import Ranks
from mec.training.trainer import Trainer

WARM_STEPS = 4  # not timed: the first steps choose kernels and touch memory for the first time
TIMED_TOGETHER = {"cpu": 1, "cuda": 8, "mps": 8}  # steps; a GPU works through several while the process is ahead of it


def steps_within(minutes: float, trainer: Trainer, seconds: float = 8.0) -> tuple[int, str]:
    """How many steps fit a time budget, from a few steps on the real data; weights and state are put back."""
    times, waits, held = [], [], 0.0
    before = began = time.monotonic()
    together = TIMED_TOGETHER[trainer.fabric.device.type]
    # Workers bring batches in bursts, one long wait and then as many at once: several bursts are waited for.
    burst = getattr(trainer.batches, "workers", 0)
    warm, enough = max(WARM_STEPS, burst, together), max(2 * WARM_STEPS, 4 * burst, 4 * together)
    with contextlib.closing(trial_steps(trainer, max(50 * together, enough + 1), together)) as trials:
        for step, waited in enumerate(trials):
            held += waited
            if (step + 1) % together:
                continue
            now = time.monotonic()
            times.append((now - before - held) / together)
            waits.append(held / together)
            before, held = now, 0.0
            if trainer.ranks.any(now - began > seconds) and step >= enough:
                break
    warm = -(-warm // together)
    each = float(np.median(times[warm:]) + np.mean(waits[warm:]))
    steps = steps_in(60 * minutes - (time.monotonic() - began), each, trainer.ranks)
    epochs = steps / trainer.batches.steps_per_epoch
    return steps, f"{steps:,} steps ({epochs:.1f} epochs): {each:.3f} s a step, {minutes:g} minutes"


def steps_in(seconds: float, each: float, ranks: Ranks) -> int:
    """Steps that fit, the same on all ranks; a twentieth is left for checkpoints and for the accuracy on the way."""
    return int(ranks.from_first(max(1, int(0.95 * seconds / each))))


def data_seconds(trainer: Trainer) -> float:
    """Seconds that a batch of views takes to come, alone; workers bring bursts of them, and the first is left out."""
    burst = max(1, getattr(trainer.batches, "workers", 1))
    source = trainer.batches.batches(0, 4 * burst, trainer.ranks.share)
    began = 0.0
    for number, _ in enumerate(source):
        if number == burst - 1:
            began = time.monotonic()
    return (time.monotonic() - began) / (3 * burst)


def trial_steps(trainer: Trainer, most: int, together: int = 1) -> Generator[float]:
    """Steps on the real data at a rate of 0, one each time it is advanced; closed, weights and state are put back.
    Yields the seconds that a step waited for its batch; so many steps `together` are all done when the last is given.
    """
    parts = trainer.parts()
    before = {name: copy.deepcopy(part.state_dict()) for name, part in parts.items()}
    trainer.set_lr(0.0)
    try:
        source = trainer.batches.batches(0, most, trainer.ranks.share)
        for step in range(most):
            began = time.monotonic()
            batch = next(source)
            waited = time.monotonic() - began
            trainer.loss_and_gradient(batch, step, trainer.at(step, 1000)["settings"])
            trainer.optimizer.step()
            trainer.optimizer.zero_grad(set_to_none=True)
            trainer.network.update_target(1.0)
            if (step + 1) % together == 0:
                wait_for(trainer.fabric.device.type)
            yield waited
    finally:
        for name, part in parts.items():
            part.load_state_dict(before[name])
