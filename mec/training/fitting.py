"""`--views auto`: which views fit these images, by short runs from one start and by what can be asked without labels.

How well that ranks views, and where it does not: docs/views.md.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from mec.data.dataset import Data, Split, decode_all, limited
from mec.data.images import InMemory
from mec.errors import BadInput, TrainingStopped
from mec.evaluation.features import extract
from mec.networks.encoder_file import load_encoder
from mec.objectives.mec import joint_coding
from mec.recipes.recipe import Recipe, View
from mec.runtime.distributed import current
from mec.runtime.files import write_json
from mec.training.options import Options
from mec.views.views import Draw, augment, crop_batch

SETTINGS, STEPS = 12, 120  # short runs, and steps of each
TRAINED_ON, HELD_OUT, SIDE = 10_000, 1_000, 48  # images, at most; px of the side of those that are larger
# Asked of every encoder, and milder than what most were trained by.
COMMON: dict[str, Any] = dict(
    scale=(0.5, 1.0), jitter=1.0, brightness=0.2, contrast=0.2, saturation=0.1, noise=0.03,
    **dict.fromkeys(("flip", "upend", "turn", "hue", "grey", "blur", "erase"), 0.0),
)  # fmt: skip
STILL: dict[str, Any] = dict.fromkeys(("rotate", "shear", "shift", "zoom"), 0.0)
MOVED: dict[str, Any] = {"rotate": 15.0, "shear": 10.0, "shift": 0.1, "zoom": 0.2}
FAMILIES: Sequence[Sequence[dict[str, Any]]] = (  # a setting takes one of each, all alike often
    [{"flip": 0.0}, {"flip": 0.5}], [{"upend": 0.0}, {"upend": 0.0}, {"upend": 0.5}],
    [{"turn": 0.0}, {"turn": 0.0}, {"turn": 0.5}], [{"scale": (low, 1.0)} for low in (0.08, 0.2, 0.4, 0.7, 1.0)],
    [{"jitter": 0.8, "brightness": light, "contrast": light} for light in (0.0, 0.2, 0.4, 0.8)],
    [{"saturation": 0.4 * colour, "hue": 0.2 * colour} for colour in (0.0, 0.5, 1.0)],
    [{"grey": 0.0}, {"grey": 0.2}], [{"blur": 0.0}, {"blur": 0.5}], [{"noise": noise} for noise in (0.0, 0.05, 0.1)],
    [{"erase": 0.0}, {"erase": 0.0}, {"erase": 0.5}], [STILL, STILL, MOVED],
)  # fmt: skip


def candidates(default: View, count: int, seed: int) -> list[View]:
    """The default, then others of every family at random."""
    draw = np.random.default_rng(seed)
    found = [
        {k: v for family in FAMILIES for k, v in family[int(draw.integers(len(family)))].items()} for _ in range(count)
    ]
    return [default, *(replace(default, **about) for about in found[1:])]


def with_fitting_views(
    recipe: Recipe, images: Data | None, options: Options, train: Callable[..., Path], out: Path,
    say: Callable[[str], None], settings: int = SETTINGS, steps: int = STEPS,
) -> tuple[Recipe, Options, list[str]]:  # fmt: skip
    """The recipe with the views that the short runs speak for, the options with what is left of a time budget, and what
    was done, in words. At most half of a time budget is spent.

    Args:
        train: `mec.pretrain`; its runs go to the folder `out`-views, where what is finished is found again.
    Raises BadInput: no images, fewer than 100, several kinds of views, or several processes."""
    kinds, processes, n = len(recipe.views), current().size, len(images.train) if images else 0
    if images is None or n < 100 or kinds > 1 or processes > 1:
        words = f"--views is auto, for {n:,} images, {kinds} kind{'s' * (kinds > 1)} of views and {processes} processes"
        raise BadInput(f"{words}: it finds one kind, by a folder or set of 100 images or more, in one process.")
    seed, folder = options.seed or 0, Path(f"{out}-views")
    small, held_out = in_small(images, seed)
    own, side = recipe.views[0], held_out.shape[2]
    size = 16 if side <= 20 else 24 if side <= 32 else 32
    shown = replace(own, size=size, copies=2, blur_sigma=(0.1, max(0.2, own.blur_sigma[1] * size / own.size)))
    network = replace(recipe.network, backbone="resnet10-fast")
    batch = max(2, min(recipe.batch_size, 128, len(small.train) // 2))
    quick = replace(recipe, network=network, batch_size=batch, micro_batch_size=None)
    tried, asked, began = candidates(shown, settings, seed), list[Answers](), time.monotonic()
    for number, view in enumerate(tried):
        spent = (time.monotonic() - began) / 60
        if options.time_budget is not None and number > 2 and spent > options.time_budget / 2:
            tried = tried[:number]
            break
        left = f", {spent / number * (len(tried) - number):.1f} minutes left" if number else ""
        say(f"views: short run {number + 1} of {len(tried)}{left}")
        about: dict[str, Any] = {"evaluate": False, "report": False, "quiet": True, "workers": 0, "resume": True}
        try:
            run = train(small, recipe=replace(quick, views=(view,)), steps=steps, seed=seed, device=options.device,
                        out=folder / f"{number:02}", **about)  # fmt: skip
        except TrainingStopped as error:
            words = f"{error}. Or all of it again: the same command, which finds the {number} runs that are finished"
            raise TrainingStopped(words) from error
        asked.append(Answers(run, held_out, replace(shown, **COMMON)))
    ranks = [rankdata(values) for values in zip(*((a.joint, a.turns) for a in asked))]
    best = int(np.argmax(np.sum(ranks, 0)))
    told = [{**differing(view, shown), "ranks": [float(r[i]) for r in ranks]} for i, view in enumerate(tried)]
    write_json(folder / "views.json", {"chosen": best, "tried": told})
    changes = differing(tried[best], shown)
    words = " ".join(f"views.{k}={json.dumps(v, separators=(',', ':'))}" for k, v in changes.items())
    chosen, spent = f"--set {words}" if changes else "those of the recipe", (time.monotonic() - began) / 60
    why = [f"views by {len(tried)} short runs without labels, {spent:.1f} minutes ({folder}): {chosen}"]
    if options.time_budget is not None:
        options = replace(options, time_budget=max(options.time_budget - spent, options.time_budget / 10))
        why.append(f"{options.time_budget:.1f} minutes of the time budget are left")
    return replace(recipe, views=(replace(own, **changes),)), options, why


def differing(view: View, other: View) -> dict[str, Any]:
    return {k: v for k, v in asdict(view).items() if v != getattr(other, k)}


def in_small(images: Data, seed: int) -> tuple[Data, Tensor]:
    """Images to train short runs on, small and in memory, and others held out, uint8 [n, 3, s, s]."""
    some = limited(Split(images.train.images), TRAINED_ON + HELD_OUT, seed)
    if some.images.pixels is None:
        some = decode_all(some, (SIDE, SIDE), [], [])
    order = np.random.default_rng(seed).permutation(len(some))
    apart = min(HELD_OUT, len(some) // 4)
    train, held_out = some.take(np.sort(order[apart:])), some.take(np.sort(order[:apart])).images.pixels
    assert held_out is not None
    return Data(
        images.name, train, fingerprint=images.fingerprint, typical_size=(held_out.shape[2], held_out.shape[3])
    ), held_out


class Answers:
    """What an encoder says of held-out images [n, 3, s, s], without labels; more is better of each."""

    @torch.no_grad()
    def __init__(self, run: Path, images: Tensor, common: View):
        from sklearn.linear_model import LogisticRegression

        encoder, transform = load_encoder(run)
        turned = [extract(encoder, Split(InMemory(images.rot90(k, (2, 3)))), transform).x.numpy() for k in range(4)]
        draws = [Draw(common, number, 0, 0, np.arange(len(images))) for number in range(2)]
        views = torch.stack([encoder(augment(crop_batch(images, draw), draw)) for draw in draws])
        # As long as views agree and images differ: the objective itself, of views that no run was trained by.
        self.joint = -float(joint_coding(views.float(), distortion=0.02))
        half = len(images) // 2
        x = np.stack(turned) - np.mean(turned[0], 0)
        x /= x.std() or 1
        model = LogisticRegression(C=0.1, max_iter=300).fit(np.concatenate(x[:, :half]), np.repeat(np.arange(4), half))
        # Whether it knows by which quarter an image was turned (Reed et al., CVPR 2021).
        self.turns = float(model.score(np.concatenate(x[:, half:]), np.repeat(np.arange(4), len(images) - half)))
