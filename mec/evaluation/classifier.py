"""Training a classifier on a backbone, frozen or as a whole: what probe, few labels and fine-tuning share."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from timm.optim.lars import Lars
from torch import Tensor, nn
from torch.nn import functional as F

from mec.data.batches import ViewBatches
from mec.data.dataset import Data, Split
from mec.data.decoding import Skipped
from mec.data.images import MOST_UNREADABLE, too_many
from mec.errors import BadInput, Diverged, TrainingStopped
from mec.evaluation.cache import state_hash
from mec.evaluation.subject import Subject
from mec.recipes.fields import Checked
from mec.recipes.recipe import View
from mec.recipes.schedules import cosine
from mec.runtime.checkpoints import Checkpoints
from mec.runtime.distributed import ALONE, Ranks, average_gradients, synchronise_batch_norm
from mec.runtime.files import content_hash
from mec.runtime.progress import Console, TrainingProgress
from mec.runtime.ranges import Count, NotNegative, Positive, Share
from mec.version import __version__

UNFINISHED = "unfinished"  # folder beside results.jsonl; deleting it is safe
FROZEN_AT_ONCE = 256  # images through a frozen backbone: a batch of 4096 would take 40 GiB in a ResNet-50


@dataclass(frozen=True)
class Training(Checked):
    """How a classifier is trained; the defaults are those that most published recipes share."""

    source: str
    base_lr: Positive  # times batch / 256 where `scaled`
    head_lr: Positive | None = None  # of the linear layer; None: base_lr
    scaled: bool = True
    batch_size: Count = 256
    micro_batch_size: Count | None = None  # that go through the network together; None: the batch, or FROZEN_AT_ONCE
    epochs: Count = 100
    steps: Count | None = None  # in place of epochs
    optimizer: Literal["sgd", "lars"] = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: NotNegative = 0.0
    trust: float = 0.001  # LARS
    schedule: Literal["cosine by epoch", "cosine by step", "drops"] = "cosine by epoch"
    drops: tuple[int, ...] = ()  # epochs before which the rate is multiplied by `drop`
    drop: float = 0.1
    frozen: bool = False  # only the head is trained, and the backbone keeps its statistics
    head_norm: bool = False  # batch norm without affine before the linear layer
    head_std: float = 0.01  # of its weights at the start; 0 for zeros
    norm_rule: bool = False  # batch norm's momentum min(10 / steps per epoch, 0.1)
    interpolation: Literal["bicubic", "bilinear"] = "bilinear"  # torchvision's default
    resize: float = 256 / 224  # of a test image's shorter side, in sides of the central crop
    crop: tuple[float, float] = (0.08, 1.0)  # share of the area
    flip: Share = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.crop
        if not 0 < low <= high <= 1:
            raise BadInput(f"the crop's share of an image is {low} to {high}: 0 < low <= high <= 1.")

    def most(self, batch: int) -> int:
        """Of a batch's images, those that are looked at together where the backbone is trained."""
        return batch if self.frozen else self.micro_batch_size or batch

    def check_head(self, images: int) -> None:
        """Raise BadInput where the batches of so many images are too small for the head."""
        if self.head_norm and min(self.batch_size, images) < 2:
            few = f"--batch-size is {self.batch_size}" if images != 1 else "there is a single training image"
            raise BadInput(f"{few}: the batch norm before the linear layer needs two images; or --head-norm False.")


def preset_name(preset: str, published: Training, recipe: Training) -> str:
    """What results call a recipe: the preset, or "PRESET, changed", whose figures are not those of the preset."""
    if recipe.frozen:  # how many images a frozen backbone sees at once changes nothing
        recipe = replace(recipe, micro_batch_size=published.micro_batch_size)
    return preset if recipe == published else f"{preset}, changed"


def suited(recipe: Training, data: Data) -> Training:
    """Without flips where a mirrored image is another thing."""
    return replace(recipe, flip=0.0) if data.suits != "images" else recipe


def new_head(size: int, classes: int, recipe: Training, seed: int) -> nn.Module:
    """A linear layer with weights N(0, head_std) and bias 0, after a batch norm where the recipe wants one."""
    linear = nn.Linear(size, classes)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        linear.weight.copy_(recipe.head_std * torch.randn(linear.weight.shape, generator=generator))
        linear.bias.zero_()
    return nn.Sequential(nn.BatchNorm1d(size, affine=False, eps=1e-6), linear) if recipe.head_norm else linear


def unfinished(subject: Subject, protocol: str, data: Data, train: Split, recipe: Training, seed: int) -> Checkpoints:
    """Where a training is kept to be resumed: a file named by all that decides its figures.
    Nowhere if the images do not tell what they are."""
    assert data.test is not None
    about: list[Any] = [
        protocol, asdict(recipe), seed, data.classes, asdict(subject.info), state_hash(subject.encoder),
        torch.device(subject.device).type, __version__, torch.__version__,
    ]  # fmt: skip
    for split in (train, data.test.labelled()):
        content = split.images.content_hash()
        if content is None:
            return Checkpoints()
        about += [content, split.y.tolist()]
    return Checkpoints(subject.folder / UNFINISHED / f"{protocol}-{content_hash(about)}.pt")


def train_classifier(
    subject: Subject, head: nn.Module, train: Split, recipe: Training, *, seed: int = 0,
    after_epoch: Callable[[int], None] | None = None, console: Console | None = None,
    state: Checkpoints | None = None,
) -> None:  # fmt: skip
    """Train the head, and the subject's encoder unless it is frozen, in place; both are left in evaluation mode.

    Views are random resized crops and flips, functions of (seed, epoch, image). The last incomplete batch is kept,
    but for one of a single image. An image that cannot be read is replaced by the next one, with its label, and told.
    Gradients of the parts of a batch (`micro_batch_size`) add up to that of the batch; only batch norm can tell, which
    then takes its statistics over a part. A frozen backbone gives the head the features of the whole batch in any case.
    The subject's ranks share each part, batch norm sums its statistics over them, and all of them end with the same.

    Args:
        head: features [m, e] -> logits [m, classes].
        train: images, and labels: int64 [n], a class each; or [n, classes] of 1 (present), -1 (absent), 0 (no part).
        after_epoch: called with the number of epochs done; finds both in evaluation mode.
        state: where the training is kept, to be resumed after a stop; default: nowhere.
    Raises Diverged: the loss is not finite; TrainingStopped: too many images cannot be read."""
    encoder, info, device = subject.encoder, subject.info, torch.device(subject.device)
    view = View(
        size=info.image_size, scale=recipe.crop, interpolation=recipe.interpolation, flip=recipe.flip, jitter=0.0,
        grey=0.0, mean=info.mean, std=info.std,
    )  # fmt: skip
    # Labels travel with the batches as row numbers, so that targets of any shape can be looked up.
    rows, targets = Split(train.images, np.arange(len(train))), torch.from_numpy(train.y).to(device)
    batch_size = min(recipe.batch_size, len(train))
    batches = ViewBatches(rows, [view], batch_size, seed=seed, device=device, workers=subject.workers, keep_last=True)
    each, ranks = batches.steps_per_epoch, subject.ranks
    if ranks.size > 1 and not recipe.frozen:
        synchronise_batch_norm(encoder), synchronise_batch_norm(head)
    steps = recipe.steps or recipe.epochs * each
    encoder.to(device), head.to(device)
    with suppress(RuntimeError):  # of a convolution over three dimensions
        encoder.to(memory_format=torch.channels_last)
    optimizer = classifier_optimizer(encoder, head, recipe, batch_size)
    console, state = console or Console(quiet=True), state or Checkpoints()
    parts = {"head": head, "optimizer": optimizer, **({} if recipe.frozen else {"encoder": encoder})}
    unreadable: dict[str, Skipped] = {}
    start = state.restore(parts)
    if len({*ranks.values(start)}) > 1:
        raise BadInput(f"{state.path}: not all processes see it. --out is a folder that all of them share.")
    if start:
        console.print(f"resumed after step {start:,} of {steps:,}, from {state.path}", highlight=False, soft_wrap=True)
    only_here = nullcontext() if ranks.rank else state.only_here()
    with only_here, _trained_parts(encoder, head, recipe, each), TrainingProgress(console, steps, start) as bar:
        for step, batch in enumerate(batches.batches(start, steps, lambda size: rows_of(size, recipe, ranks)), start):
            _set_mode(encoder, head, recipe, training=True)
            factor = rate_factor(recipe, step, steps, each)
            for group in optimizer.param_groups:
                group["lr"] = group["full_lr"] * factor
            assert batch.labels is not None
            unreadable |= {skipped.path: skipped for skipped in batch.skipped}
            if len(unreadable) > MOST_UNREADABLE * len(train):
                raise TrainingStopped(too_many([*unreadable.values()], len(train), "the training images"))
            optimizer.zero_grad()
            images = batch.views[0].to(memory_format=torch.channels_last)
            loss = backward(encoder, head, images, targets[batch.labels], recipe, ranks)
            if not torch.isfinite(loss):
                state.remove()
                cure = f"a lower --base-lr (now {recipe.base_lr:g}){' or --head-lr' * (not recipe.frozen)}"
                words = f"the loss is {loss.item()} at step {step + 1} of {steps}; {cure} is the usual cure."
                raise Diverged(words, loss.item())
            optimizer.step()
            done = step + 1
            bar.step(done, f"loss {loss.item():.3f}" if done % 10 == 0 else "")
            if after_epoch and (done % each == 0 or done == steps):
                _set_mode(encoder, head, recipe, training=False)
                after_epoch(-(-done // each))
            if ranks.rank == 0 and (done == steps or state.is_due()):
                state.save(done, parts)
    for first in [*unreadable.values()][:1]:
        words = f"{len(unreadable)} of {len(train):,} training images cannot be read, and others took their places: "
        words += f"{first.path} ({first.reason})" + ", ..." * (len(unreadable) > 1)
        console.print(words, style="yellow", highlight=False)


def backward(
    encoder: nn.Module, head: nn.Module, images: Tensor, targets: Tensor, recipe: Training, ranks: Ranks = ALONE
) -> Tensor:
    """Add the gradients of a batch's loss, part by part; gives the loss, detached. Of several ranks each brings the
    rows that `rows_of` gave it, and all get the loss and the gradients of the whole batch."""
    if recipe.frozen:
        with torch.no_grad():
            parts = parts_of(images, recipe.micro_batch_size or FROZEN_AT_ONCE)
            features = ranks.gather(torch.cat([encoder(part) for part in parts]))
        loss = classifier_loss(head(features), ranks.gather(targets))
        loss.backward()
        return loss.detach()
    total, whole = images.new_zeros(()), labels_in(targets)
    sizes = [len(images)]
    if ranks.size > 1:
        batch, whole = map(int, ranks.sum(torch.tensor([len(images), whole], device=images.device)))
        sizes = [part[ranks.part(len(part))].numel() for part in parts_of(torch.arange(batch), recipe.most(batch))]
    elif recipe.micro_batch_size:
        sizes = [len(part) for part in parts_of(images, recipe.micro_batch_size)]
    for part, wanted in zip(images.split(sizes), targets.split(sizes)):
        loss = classifier_loss(head(encoder(part)), wanted, whole)
        (ranks.size * loss).backward()
        total += loss.detach()
    average_gradients([*encoder.parameters(), *head.parameters()], ranks)
    return ranks.sum(total)


def rows_of(batch: int, recipe: Training, ranks: Ranks) -> np.ndarray:
    """Which rows of a batch are this rank's: its share of each part that goes through the network together."""
    parts = parts_of(torch.arange(batch), recipe.most(batch))
    return torch.cat([part[ranks.part(len(part))] for part in parts]).numpy()


def parts_of(rows: Tensor, most: int) -> tuple[Tensor, ...]:
    """Of about equal size, at most so many rows each: none is left with a single row that batch norm cannot take."""
    return rows.tensor_split(max(1, math.ceil(len(rows) / most)))


def classifier_optimizer(encoder: nn.Module, head: nn.Module, recipe: Training, batch_size: int):
    """SGD or LARS over backbone and head; each group knows its full rate. LARS adapts at weight decay 0 too."""
    scale = batch_size / 256 if recipe.scaled else 1.0
    head_lr = recipe.base_lr if recipe.head_lr is None else recipe.head_lr
    rates = [(head, head_lr * scale)] + [(encoder, recipe.base_lr * scale)] * (not recipe.frozen)
    groups = [{"params": list(module.parameters()), "lr": lr, "full_lr": lr} for module, lr in rates]
    options: Any = {"momentum": recipe.momentum, "nesterov": recipe.nesterov, "weight_decay": recipe.weight_decay}
    if recipe.optimizer == "lars":  # as LARS' paper has it, without clipping
        return Lars(groups, lr=1.0, trust_coeff=recipe.trust, always_adapt=True, **options)
    return torch.optim.SGD(groups, lr=1.0, **options)


def rate_factor(recipe: Training, step: int, steps: int, steps_per_epoch: int) -> float:
    """What the full rate is multiplied by at a step (0 to steps - 1).
    By epoch, the last one still has a rate above 0; by step it ends at 0."""
    epoch = step // steps_per_epoch
    if recipe.schedule == "drops":
        return recipe.drop ** sum(epoch >= when for when in recipe.drops)
    if recipe.schedule == "cosine by epoch":
        return cosine(1.0, 0.0, epoch / math.ceil(steps / steps_per_epoch))
    return cosine(1.0, 0.0, step / steps)


def classifier_loss(logits: Tensor, targets: Tensor, whole: int | None = None) -> Tensor:
    """Cross-entropy of [m] classes; of [m, classes] (1, -1, 0: no part) sigmoid cross-entropy, a mean over the rest.
    Of a part of a batch with `whole` labels, its share of the batch's loss: the shares add up."""
    whole = labels_in(targets) if whole is None else whole
    if targets.ndim == 1:
        return F.cross_entropy(logits, targets, reduction="sum") / whole
    kept = targets != 0
    return F.binary_cross_entropy_with_logits(logits[kept], (targets[kept] > 0).to(logits), reduction="sum") / whole


def labels_in(targets: Tensor) -> int:
    return len(targets) if targets.ndim == 1 else int((targets != 0).sum())


@contextmanager
def _trained_parts(encoder: nn.Module, head: nn.Module, recipe: Training, steps_per_epoch: int) -> Iterator[None]:
    wanted = [(p, p.requires_grad) for p in encoder.parameters()]
    norms = [m for m in encoder.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [(m, m.momentum) for m in norms]
    for p, _ in wanted:
        p.requires_grad_(not recipe.frozen)
    for m in norms if recipe.norm_rule else ():
        m.momentum = min(10 / steps_per_epoch, 0.1)
    try:
        yield
    finally:
        for p, before in wanted:
            p.requires_grad_(before)
            p.grad = None
        for m, momentum in momenta:
            m.momentum = momentum
        _set_mode(encoder, head, recipe, training=False)


def _set_mode(encoder: nn.Module, head: nn.Module, recipe: Training, *, training: bool) -> None:
    encoder.train(training and not recipe.frozen)
    head.train(training)
