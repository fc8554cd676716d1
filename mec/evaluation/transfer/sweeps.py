"""Transfer to other data sets: a linear model on frozen features, or fine-tuning, by a grid and held-out images.

Protocol of SimCLR's appendix B.8, which the paper's transfer table follows: choose on the held-out part, fit once more
on all training images, test once.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mec.data.dataset import Split, stratified
from mec.errors import BadInput, Diverged
from mec.evaluation.accuracy import wilson
from mec.evaluation.classifier import Training
from mec.evaluation.features import extract
from mec.evaluation.finetuning.finetune import finetuned
from mec.evaluation.metrics import METRICS
from mec.evaluation.probing.logistic import PENALTIES, Logistic, coefficients_of, logistic_path, model, prepare, solve
from mec.evaluation.results import Result
from mec.evaluation.subject import Subject
from mec.evaluation.transfer.sets import Choices, Parts, names_of, open_set, require_sets
from mec.networks.encoder_file import EncoderInfo, image_transform
from mec.runtime.checkpoints import Checkpoints
from mec.runtime.files import write_text
from mec.runtime.locks import only_one
from mec.runtime.progress import say as say_plainly
from mec.runtime.records import Ledger
from mec.version import __version__


@dataclass(frozen=True)
class Finetuning:
    """A fine-tuning recipe: SGD with Nesterov momentum 0.9, cosine to 0 over `steps`, all layers, every pair tried."""

    source: str
    steps: int
    batch_size: int
    learning_rates: tuple[float, ...]
    weight_decays: tuple[float, ...]  # each divided by the learning rate before use
    norm_rule: bool  # momentum of batch norm's statistics min(10 / steps an epoch, 0.1), or as it is
    resize: float  # shorter side before the central crop when testing, over the crop's side


def spaced(low: float, high: float, count: int) -> tuple[float, ...]:
    return tuple(np.logspace(low, high, count).tolist())


FINETUNING: dict[str, Finetuning] = {
    "paper": Finetuning(
        "SimCLR (ICML 2020), appendix B.8",
        20_000, 256, spaced(-4, -1, 7), (0.0, *spaced(-6, -3, 7)), True, 256 / 224,
    ),
    "random": Finetuning(  # the randomly initialised baseline
        "SimCLR (ICML 2020), appendix B.8: random initialisation",
        40_000, 256, spaced(-3, 0, 7), spaced(-5, -1.5, 8), True, 256 / 224,
    ),
    "budget": Finetuning(
        "ssl-transfer (linusericsson), finetune.py: a quarter of the steps and of the batch, 20 pairs",
        5_000, 64, spaced(-4, -1, 4), (0.0, *spaced(-6, -3, 4)), False, 1.0,
    ),
}  # fmt: skip


def transfer(
    subject: Subject, options: Any, finetuning: Finetuning | None = None, say: Callable[[str], None] = say_plainly
) -> Iterator[Result]:
    """One result per data set, each as soon as it is there. Interrupted, it resumes when it is run again.

    Args:
        subject: the encoder; it is left as it is.
        options: a `protocols.Transfer`.
        finetuning: the recipe to fine-tune by; None: logistic regression on frozen features.
        say: gets lines for the reader.
    Raises BadInput: data sets are absent (all of them in one message, before anything runs), or broken."""
    names, root, folder = names_of(options.data), Path(options.data_root), subject.folder / "transfer"
    choices = Choices(options.seed, options.background, options.difficult_as_absent)
    if not (options.download and subject.ranks.rank):
        require_sets(names, root, download=options.download)
    subject.ranks.wait()  # until the first process has fetched what can be
    standardise, limit = options.standardise, options.limit
    for name in names:
        parts = limited_parts(open_set(name, root, choices), limit, choices.seed)
        mode = "linear" if finetuning is None else "finetune"
        settings: dict[str, Any] = {
            "mode": mode, "set": name, "preset": transfer_preset(finetuning, standardise, choices), **asdict(choices),
            "limit": limit, "image_size": subject.info.image_size, "standardise": standardise,
        }  # fmt: skip
        if finetuning is not None:
            settings["recipe"] = asdict(finetuning)
        about = {"checkpoint": subject.checkpoint, "data_fingerprint": parts.fingerprint, "version": __version__}
        moments = {"mean": subject.info.mean, "std": subject.info.std}
        ledger = Ledger(folder, f"{name}-{mode}", {**settings, **about, **moments}, writes=subject.ranks.rank == 0)
        subject.ranks.wait()  # until all have read what is known
        if parts.drawn:
            write_text(folder / f"{name}-split.json", json.dumps({"seed": choices.seed, **parts.drawn}) + "\n")
        sizes = f"{len(parts.fit)} + {len(parts.held_out)} training images, {len(parts.test)} to test"
        say(f"{name}: {sizes}, {parts.metric}")
        with nullcontext() if subject.ranks.rank else only_one(ledger.path):
            if finetuning is None:
                found = linear_transfer(subject, parts, ledger, standardise=standardise, say=say)
            else:
                found = finetune_transfer(subject, parts, ledger, finetuning, seed=choices.seed, say=say)
        if subject.ranks.rank:  # the first process tells
            continue
        value, n = found.pop("value"), len(parts.test)
        yield Result(
            "transfer", parts.metric, value, data=name, seed=choices.seed, settings=settings | found, images=n,
            data_fingerprint=parts.fingerprint, interval=wilson(value, n) if parts.metric == "top-1" else None,
        )  # fmt: skip


def transfer_preset(finetuning: Finetuning | None, standardise: bool, choices: Choices) -> str:
    """What a result is called among others of its mode: "paper" follows the paper's protocol."""
    if finetuning is None:
        name = "standardised" if standardise else "paper"
    else:
        name = next((name for name, recipe in FINETUNING.items() if recipe == finetuning), "custom")
    return name if choices == Choices(choices.seed) else f"{name}, changed"


def limited_parts(parts: Parts, limit: int | None, seed: int) -> Parts:
    """At most so many training images, held out in proportion, and as many test images."""
    if limit is None:
        return parts
    share = limit / (len(parts.fit) + len(parts.held_out))

    def cut(split: Split, count: int) -> Split:
        labels = split.labels if split.labels is not None and split.labels.ndim == 1 else None
        return split.take(stratified(labels, len(split), max(1, min(count, len(split))), seed))

    fit, held_out = (cut(part, round(share * len(part))) for part in (parts.fit, parts.held_out))
    return replace(parts, fit=fit, held_out=held_out, test=cut(parts.test, limit))


def best_of(found: dict[Any, float], parts: Parts) -> Any:
    """The key of the highest figure; of equal ones the first.
    Raises BadInput: no figure is a number."""
    numbers = {key: value for key, value in found.items() if not math.isnan(value)}
    if not numbers:
        raise BadInput(
            f"{parts.name}: nothing to choose by: {parts.metric} is no number on the {len(parts.held_out)} held-out "
            "images at any setting. Either every trial diverged, or no class has a positive image there."
        )
    return max(numbers, key=lambda key: numbers[key])


def at_end(chosen: float, what: str, grid: Sequence[float], parts: Parts, say: Callable[[str], None]) -> bool:
    """Whether the chosen value is the grid's first or last, which is told where there are several."""
    found = chosen in (grid[0], grid[-1])
    if found and len(grid) > 1:
        say(f"{parts.name}: {what} {chosen:g} is at an end of the grid; a better one may lie beyond it.")
    return found


def square(info: EncoderInfo, resize: float) -> Callable[[Any], Tensor]:
    """PIL image -> [3, s, s], s the encoder's: shorter side to `resize` times s (bicubic, as SimCLR), central crop."""
    return image_transform(replace(info, interpolation="bicubic"), resize, crop=True)


Labelled = tuple[Tensor, np.ndarray]  # features [n, e], and labels


def linear_transfer(
    subject: Subject, parts: Parts, ledger: Ledger, *, standardise: bool, say: Callable[[str], None]
) -> dict[str, Any]:
    """Value on the test images, and what was chosen."""
    if "test" in ledger.known:
        return dict(ledger.known["test"])
    transform = square(subject.info, 1.0)
    fit, held_out, test = (
        (subject.features(Split(split.images), transform, whole=True).x, split.y)
        for split in (parts.fit, parts.held_out, parts.test)
    )
    how: dict[str, Any] = {"standardise": standardise, "device": subject.device, "say": say}
    if subject.ranks.rank:  # the first process solves; the others go on with the features of the next set
        return {}
    return ledger.once("test", lambda: logistic_transfer(fit, held_out, test, parts, ledger, **how))


def logistic_transfer(
    fit: Labelled, held_out: Labelled, test: Labelled, parts: Parts, ledger: Ledger,
    *, standardise: bool = False, device: str = "cpu", say: Callable[[str], None] = say_plainly,
) -> dict[str, Any]:  # fmt: skip
    """The 45 penalties on `fit`, the best on `held_out` fitted on both, its figure on `test`."""
    (x, y), (x_held, y_held), (x_test, y_test) = fit, held_out, test
    metric, classes = METRICS[parts.metric], len(parts.classes)
    shift, scale = standard(x) if standardise else (0.0, 1.0)
    problem = prepare((x - shift) / scale, y, classes, device=device)
    held = (x_held - shift) / scale
    keys = {penalty: f"penalty {penalty:.6g}" for penalty in PENALTIES}
    unknown = [penalty for penalty in PENALTIES if keys[penalty] not in ledger.known]

    def judged(fitted: Logistic) -> float:
        return metric(fitted.scores(held), y_held)

    highest, best = -math.inf, None
    for fitted in logistic_path(problem, PENALTIES[PENALTIES.index(unknown[0]) :] if unknown else ()):
        figure = ledger.once(keys[fitted.penalty], partial(judged, fitted))
        if figure > highest:
            highest, best = figure, fitted
    figures = {penalty: ledger.known[key] for penalty, key in keys.items()}
    chosen = best_of(figures, parts)
    edge = at_end(chosen, "penalty", PENALTIES, parts, say)

    x, y = torch.cat([x, x_held]), np.concatenate([y, y_held])
    shift, scale = standard(x) if standardise else (0.0, 1.0)
    problem = prepare((x - shift) / scale, y, classes, device=device)
    start = coefficients_of(best, problem) if best is not None and best.penalty == chosen and not standardise else None
    value = metric(model(problem, chosen, *solve(problem, chosen, start)).scores((x_test - shift) / scale), y_test)
    return {"value": value, "penalty": chosen, "held_out": figures[chosen], "end_of_grid": edge, "train": len(y)}


def standard(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each feature; 1 for a constant one."""
    spread = x.std(0, correction=0)
    return x.mean(0), torch.where(spread == 0, 1, spread)


def finetune_transfer(
    subject: Subject, parts: Parts, ledger: Ledger, recipe: Finetuning, *, seed: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Value on the test images, and what was chosen."""
    transform = square(subject.info, recipe.resize)
    metric = METRICS[parts.metric]

    def figure(train: Split, judged: Split, rate: float, decay: float) -> float | None:
        part = "test" if judged is parts.test else "held-out"
        state = Checkpoints(ledger.path.with_suffix(f".{part}-{rate:.6g}-{decay:.6g}.pt"))
        how: dict[str, Any] = {"rate": rate, "decay": decay, "seed": seed, "state": state}
        tuned, value = finetuned_or_none(subject, train, len(parts.classes), recipe, **how), None
        if tuned is not None:
            where: dict[str, Any] = {"device": subject.device, "workers": subject.workers, "ranks": subject.ranks}
            value = metric(extract(tuned, Split(judged.images), transform, **where, whole=True).x.numpy(), judged.y)
        state.remove()
        return value

    figures: dict[tuple[float, float], float] = {}
    for rate in recipe.learning_rates:
        for decay in recipe.weight_decays:
            key = f"learning rate {rate:.6g}, weight decay {decay:.6g}"
            known = key in ledger.known
            found = ledger.once(key, partial(figure, parts.fit, parts.held_out, rate, decay))
            figures[rate, decay] = float("nan") if found is None else found
            if not known:
                say(f"{parts.name}, {key}: " + ("diverged" if found is None else f"{found:.1f} % held out"))
    rate, decay = best_of(figures, parts)
    edge = at_end(rate, "learning rate", recipe.learning_rates, parts, say)
    value = ledger.once("test", partial(figure, parts.together(), parts.test, rate, decay))
    if value is None:
        raise BadInput(f"{parts.name}: the chosen learning rate {rate:g} diverged when fitted on all training images.")
    return {"value": value, "learning_rate": rate, "weight_decay": decay, "held_out": figures[rate, decay],
            "end_of_grid": edge, "train": len(parts.fit) + len(parts.held_out)}  # fmt: skip


def finetuned_or_none(
    subject: Subject, train: Split, classes: int, recipe: Finetuning, *, rate: float, decay: float, seed: int,
    state: Checkpoints | None = None,
) -> nn.Module | None:  # fmt: skip
    """A copy of the encoder with a linear layer, trained on the images; None where it diverged."""
    training = Training(
        recipe.source, rate, scaled=False, batch_size=recipe.batch_size, steps=recipe.steps, nesterov=True,
        weight_decay=decay / rate, schedule="cosine by step", norm_rule=recipe.norm_rule, interpolation="bicubic",
    )  # fmt: skip
    try:
        tuned = nn.Sequential(*finetuned(subject, train, classes, training, seed=seed, state=state))
    except Diverged:
        return None
    return tuned if all(bool(torch.isfinite(p).all()) for p in tuned.parameters()) else None
