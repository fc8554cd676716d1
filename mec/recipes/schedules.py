"""A number as a function of progress: pure functions, evaluated per step."""

import math

from mec.recipes.recipe import Linear, Optimizer, Setting


def cosine(start: float, end: float, progress: float) -> float:
    """From start at progress 0 to end at progress 1, along half a cosine.

    >>> cosine(1.0, 0.0, 0.5)
    0.5"""
    return end + (start - end) * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0))) / 2


def learning_rate(optimizer: Optimizer, batch_size: int, step: float, steps: int, steps_per_epoch: int) -> float:
    """The rate of a step (0 to steps - 1): linear warm-up from warmup_lr, then cosine.
    The warm-up never takes more than a tenth of the run, so that short runs train at all."""
    scale = batch_size / 256
    warmup = min(optimizer.warmup_epochs * steps_per_epoch, steps / 10)
    if step < warmup:
        low = optimizer.warmup_lr
        return scale * (low + (optimizer.base_lr - low) * (step + 1) / (warmup + 1))
    return cosine(optimizer.base_lr * scale, optimizer.end_lr * scale, (step - warmup) / max(1.0, steps - warmup))


def setting(value: Setting, epoch: float) -> int | float | str | None:
    """What an objective's setting is at an epoch (a fraction of one counts)."""
    if not isinstance(value, Linear):
        return value
    return value.start + (value.end - value.start) * min(1.0, epoch / value.epochs)
