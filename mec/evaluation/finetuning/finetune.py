"""Fine-tuning with all labels: the backbone and a new linear layer, from end to end."""

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from mec.data.dataset import Data, Split
from mec.evaluation.accuracy import accuracies
from mec.evaluation.classifier import Training, new_head, suited, train_classifier, unfinished
from mec.evaluation.features import extract, tell_skipped
from mec.evaluation.metrics import top_k
from mec.evaluation.results import Result, recipe_settings
from mec.evaluation.subject import Subject
from mec.networks.encoder_file import image_transform
from mec.runtime.checkpoints import Checkpoints
from mec.runtime.progress import Console

_SIMCLR = Training(
    "SimCLR, appendix B.8", 0.01, scaled=False, batch_size=256, steps=20_000, nesterov=True, schedule="cosine by step",
    norm_rule=True, interpolation="bicubic",
)  # fmt: skip
FINETUNES = {
    "simclr": _SIMCLR,
    "simclr-random": replace(_SIMCLR, source=f"{_SIMCLR.source}: from random weights", base_lr=0.1, steps=40_000),
    "budget": Training(
        "ssl-transfer's finetune.py", 0.01, scaled=False, batch_size=64, steps=5_000, nesterov=True,
        schedule="cosine by step", interpolation="bicubic", resize=1.0,
    ),
}  # fmt: skip


def with_decay(recipe: Training, lr: float, decay: float) -> Training:
    """A point of the grid: weight decay is given before it is divided by the learning rate."""
    return replace(recipe, base_lr=lr, weight_decay=decay / lr)


def finetuned(
    subject: Subject, train: Split, classes: int, recipe: Training, *, seed: int = 0, state: Checkpoints | None = None
) -> tuple[nn.Module, nn.Module]:
    """A copy of the subject's backbone and a head, both trained; the subject stays as it was.
    The seed decides the head, the order of the data and its augmentation; an interrupted training resumes from `state`.
    """
    tuned = replace(subject, encoder=copy.deepcopy(subject.encoder))
    head = new_head(subject.info.feature_size, classes, recipe, seed)
    train_classifier(tuned, head, train, recipe, seed=seed, console=Console(stderr=True), state=state)
    return tuned.encoder, head


def finetune(subject: Subject, data: Data, recipe: Training, *, seed: int = 0) -> list[Result]:
    """Top-1, top-5 and balanced accuracy (%) on the test images after fine-tuning on all labelled training images.
    Raises BadInput: a setting that makes no sense; TrainingStopped: the loss is not finite."""
    return tuned_results(subject, data, data.train.labelled(), suited(recipe, data), protocol="finetune", seed=seed)


def tuned_results(
    subject: Subject, data: Data, train: Split, recipe: Training, *, protocol: str, seed: int
) -> list[Result]:
    """Fine-tune on these images of the data set and measure on its test images.
    Interrupted, it resumes from its last checkpoint (one every ten minutes) when it is called again."""
    assert data.test is not None
    state = unfinished(subject, protocol, data, train, recipe, seed)
    encoder, head = finetuned(subject, train, len(data.classes), recipe, seed=seed, state=state)
    transform = image_transform(replace(subject.info, interpolation=recipe.interpolation), recipe.resize)
    classifier, test = nn.Sequential(encoder, head), data.test.labelled()
    with torch.no_grad():
        where: Any = {"device": subject.device, "workers": subject.workers, "ranks": subject.ranks}
        found = extract(classifier, test, transform, **where)
    tell_skipped([found], Console(stderr=True))
    scores, labels = found.x.numpy(), found.y.numpy()
    settings = {**recipe_settings(recipe), "train": len(train)}
    state.remove()
    best = scores.argmax(1)  # of equal scores the lowest class, as `top_k` has it
    return accuracies(protocol, best, labels, top_5=top_k(scores, labels, 5), seed=seed, settings=settings)
