"""Fine-tuning with 1 % or 10 % of the labels: which images have one, and the published recipes."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from mec.data.dataset import Data, Split
from mec.errors import BadInput
from mec.evaluation.classifier import Training, suited
from mec.evaluation.finetuning.finetune import tuned_results
from mec.evaluation.results import Result, labelled
from mec.evaluation.subject import Subject
from mec.runtime.files import read_text
from mec.views.views import uniforms

# fmt: off
_SIMCLR = Training("SimCLR, appendix B.5", 0.05, batch_size=4096, nesterov=True, schedule="cosine by step")
_SWAV = Training(
    "SwAV's README and eval_semisup.py", 0.02, head_lr=5.0, scaled=False, epochs=20,
    schedule="drops", drops=(12, 16), drop=0.2,
)
_VICREG = Training("VICReg's README and evaluate.py", 0.03, head_lr=0.08, scaled=False, epochs=20)
_BARLOW = Training("Barlow Twins' README and evaluate.py", 0.005, head_lr=0.5, scaled=False, epochs=20)
_PAPER = Training("MEC paper, appendix C", 0.05, batch_size=1024, epochs=50)
_VISSL = Training(
    "VISSL's configs/config/benchmark/semi_supervised", 0.05, epochs=70, nesterov=True, schedule="drops", drops=(30,),
)
# fmt: on

# For 1 % of the labels, and for 10 %; None where none is published.
SEMI: dict[str, tuple[Training, Training | None]] = {
    "paper": (_PAPER, _PAPER),
    "simclr": (replace(_SIMCLR, epochs=60), replace(_SIMCLR, epochs=30)),
    "barlow-twins": (_BARLOW, None),
    "vicreg": (_VICREG, replace(_VICREG, base_lr=0.01, head_lr=0.1)),
    "swav": (_SWAV, replace(_SWAV, base_lr=0.01, head_lr=0.2)),
    "vissl": (_VISSL, _VISSL),
}

FEW = 0.03  # share of the labels up to which a recipe for 1 % is taken


def semi_recipe(preset: str, share: float) -> Training:
    """The preset's recipe for a share of the labels. Raises BadInput: none is published for so many."""
    recipe = SEMI[preset][share > FEW]
    if recipe is None:
        raise BadInput(f"--preset {preset} is published for 1 % of the labels, not for {share:.0%}; take another.")
    return recipe


def semi(subject: Subject, data: Data, train: Split, recipe: Training, *, labels: str, seed: int = 0) -> list[Result]:
    """Top-1, top-5 and balanced accuracy (%) on all test images after fine-tuning on `train`, those with a label.
    Raises BadInput: a setting that makes no sense; TrainingStopped: the loss is not finite."""
    results = tuned_results(subject, data, train, suited(recipe, data), protocol="semi", seed=seed)
    return labelled(results, settings={**results[0].settings, "labels": labels})


def share_asked(labels: str, part: Split, everything: Split) -> float:
    """The share of the labels that was asked for; of a list, that of its images. A class keeps one image at least, so
    that of a small data set more than was asked for may be labelled."""
    return float(labels[:-1]) / 100 if labels.endswith("%") else len(part) / len(everything)


def labelled_part(split: Split, labels: str, seed: int) -> Split:
    """Of all labelled training images those that keep their label.

    labels: "1%", "10%" or another share, drawn; or a file of names, one per line, as SimCLR publishes them.

    Raises BadInput: not a share between 0 and 100 %, or a list that does not fit; FileNotFoundError: no such file."""
    if labels.endswith("%"):
        try:
            share = float(labels[:-1]) / 100
        except ValueError:
            share = 0.0
        if not 0 < share <= 1:
            raise BadInput(f"--labels is {labels!r}: a share such as 1% or 10%, or a file of names.")
        return split.take(share_of(split.y, share, seed))
    path = Path(labels)
    if not path.is_file():
        raise FileNotFoundError(
            f"{labels}: no such list of names. For ImageNet, 1percent.txt and 10percent.txt are in the folder "
            "imagenet_subsets of google-research/simclr; for other data give a share: --labels 1%"
        )
    return split.take(rows_listed(split, path))


def share_of(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Rows that keep their label, sorted: the same share of every class, at least one image each.

    With the same seed a smaller share is a subset of a larger one.

    >>> share_of(np.array([0] * 10 + [1] * 30), 0.1, seed=0).shape
    (4,)"""
    chance = uniforms(seed, 0, np.arange(len(labels)), 0, 1)[:, 0]
    chosen = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        chosen.append(members[np.argsort(chance[members], kind="stable")[: max(1, round(share * len(members)))]])
    return np.sort(np.concatenate(chosen))


def rows_listed(split: Split, path: Path) -> np.ndarray:
    """Rows of the images that a file names, sorted: one a line, `n04235860_14959.JPEG` or `CLASS/NAME`.
    Raises BadInput: the images have no file names, or the list names others, or none."""
    if split.images.pixels is not None:
        raise BadInput(f"{path}: these images are not single files with names; give a share, for example --labels 1%.")
    names = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    tails: dict[str, int] = {}
    seen: Counter[str] = Counter()
    for row in range(len(split)):
        *_, parent, name = Path(split.images.name(row)).parts
        tails[name] = tails[f"{parent}/{name}"] = row
        seen.update((name,))
    unknown = [name for name in names if name not in tails]
    if unknown or not names:
        raise BadInput(
            f"{path}: {len(unknown)} of its {len(names)} names are not among the {len(split):,} training images "
            f"({', '.join(unknown[:3]) or 'the file is empty'}). It lists images of train/CLASS/, one a line."
        )
    double = next((name for name in names if seen[name] > 1), None)
    if double:
        raise BadInput(f"{path}: {double} is the name of {seen[double]} images; write CLASS/{double}.")
    return np.unique([tails[name] for name in names])
