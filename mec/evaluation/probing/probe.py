"""The linear probe as published: a linear layer on a frozen backbone, trained on augmented views."""

import copy
import math
from dataclasses import replace

import torch

from mec.data.dataset import Data
from mec.evaluation.accuracy import wilson
from mec.evaluation.classifier import Training, new_head, suited, train_classifier, unfinished
from mec.evaluation.features import Features
from mec.evaluation.metrics import top_k
from mec.evaluation.results import Result, recipe_settings
from mec.evaluation.subject import Subject
from mec.networks.encoder_file import image_transform
from mec.runtime.progress import Console

PROBES = {  # source, base learning rate, and what differs from the defaults of `Training`
    "paper": Training("MEC paper, appendix C", 0.05, batch_size=4096, epochs=100, optimizer="lars", frozen=True),
    "released": Training("MEC's released benchmarks/linearprob", 0.03, batch_size=4096, optimizer="lars", frozen=True,
                         head_norm=True),
    "simclr": Training("SimCLR, appendix B.6", 0.1, batch_size=4096, epochs=90, nesterov=True, frozen=True,
                       schedule="cosine by step"),
    "simsiam": Training("SimSiam's probe, as mmselfsup has it", 0.1, batch_size=4096, epochs=90, optimizer="lars",
                        frozen=True),
    "barlow-twins": Training("Barlow Twins' evaluate.py", 0.3, scaled=False, weight_decay=1e-6, frozen=True),
    "vicreg": Training("VICReg's README and evaluate.py", 0.02, scaled=False, weight_decay=1e-6, frozen=True),
    "lightly": Training("lightly's ImageNet benchmarks", 0.1, epochs=90, frozen=True, schedule="cosine by step"),
}  # fmt: skip

ENOUGH = 3.0  # of `reach`, below which a probe hardly leaves its start


def reach(recipe: Training, images: int) -> float:
    """How far LARS can move weights in a training, in multiples of their norm: rate x trust, summed over steps.

    A cosine averages half of the full rate, and momentum multiplies a steady direction by 1 / (1 - momentum).

    >>> round(reach(PROBES["paper"], 1_281_167))
    125"""
    if recipe.optimizer != "lars":
        return math.inf
    batch = min(recipe.batch_size, images)
    lr = recipe.base_lr * (batch / 256 if recipe.scaled else 1.0)
    return recipe.epochs * math.ceil(images / batch) * lr / 2 * recipe.trust / (1 - recipe.momentum)


def train_probe(subject: Subject, data: Data, recipe: Training, *, seed: int = 0) -> list[Result]:
    """Top-1 and top-5 (%) of the last epoch, and of the epoch with the best top-1 on the test images.

    The backbone is left as it is, bit for bit. Test images are not augmented, so their features come once; the best
    epoch is chosen on validation images where there are some, else on the very images that it is reported on, as the
    released script does. Interrupted, it resumes from its last checkpoint (one every ten minutes) if called again.

    Raises BadInput: a setting that makes no sense; TrainingStopped: the loss is not finite."""
    assert data.test is not None
    recipe = suited(recipe, data)
    train = data.train.labelled()
    recipe.check_head(len(train))
    console = Console(stderr=True)
    if reach(recipe, len(train)) < ENOUGH:
        here, there = f"{reach(recipe, len(train)):.2g}", f"{reach(recipe, 1_281_167):.0f}"
        words = f"LARS can move the weights by about {here} times their length on {len(train):,} images; on ImageNet "
        words += f"it is {there}. A higher --base-lr, or --preset fast, suits so few images."
        console.print(words, highlight=False)
    transform = image_transform(replace(subject.info, interpolation="bilinear"))
    test = subject.features(data.test.labelled(), transform)
    head = new_head(test.x.shape[1], len(data.classes), recipe, seed)
    chosen_on = None if data.validation is None else subject.features(data.validation.labelled(), transform)
    state = unfinished(subject, "linear", data, train, recipe, seed)
    accuracies: list[tuple[float, ...]] = state.found  # top-1, top-5, and top-1 on validation images

    @torch.no_grad()
    def measure(epoch: int) -> None:
        def top(features: Features, *ks: int) -> list[float]:
            scores = torch.cat([head(part.to(subject.device)).cpu() for part in features.x.split(4096)]).numpy()
            return [top_k(scores, features.y.numpy(), k) for k in ks]

        accuracies.append((*top(test, 1, 5), *(top(chosen_on, 1) if chosen_on else [])))

    apart = replace(subject, encoder=copy.deepcopy(subject.encoder))  # its weights are laid out anew
    train_classifier(apart, head, train, recipe, seed=seed, after_epoch=measure, console=console, state=state)
    best = max(range(len(accuracies)), key=lambda i: (accuracies[i][2 if chosen_on else 0], -i))  # the first of equals
    results = []
    for which, index in (("last", len(accuracies) - 1), ("best", best)):
        settings = {**recipe_settings(recipe), "epoch": which, "epochs_done": index + 1, "train": len(train)}
        settings |= {"epoch_chosen_on": "validation"} if chosen_on else {}
        results += [
            Result(
                "linear", metric, value, seed=seed, settings=settings, images=len(test.x),
                interval=wilson(value, len(test.x)),
            )
            for metric, value in zip(("top-1", "top-5"), accuracies[index])
        ]  # fmt: skip
    state.remove()
    return results
