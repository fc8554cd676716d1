"""The loop: images -> views -> encoder -> embeddings -> objective -> step -> checkpoint, read from top to bottom."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from mec import checkpoint, health, schedules
from mec.auto import auto, this_machine
from mec.checkpoint import EncoderInfo
from mec.data import MOST_UNREADABLE, Batch, Data, Skipped, Stored, ViewBatches, open_data, stratified, too_many
from mec.distributed import Ranks, average_gradients, current, synchronise_batch_norm
from mec.encoders import SMALL_STEM_BELOW, build_encoder, feature_size
from mec.errors import BadInput, TrainingStopped
from mec.evaluate import extract, fewshot, knn, linear
from mec.evaluate.features import pixels
from mec.objectives import OBJECTIVES, method_named
from mec.optimizers import build_optimizer
from mec.progress import TrainingProgress, duration
from mec.recipe import Recipe, changed
from mec.recipes import recipe_named
from mec.results import Result, labelled, record
from mec.run import SETTINGS, RunSettings, as_json, check_free, check_same, read_settings
from mec.siamese import Siamese, build_siamese
from mec.version import __version__

LOG_EVERY = 10  # steps
HEALTH_ROWS = 512  # of a batch, for the figures that need a decomposition
SAVE_APART = 10.0  # seconds, at least, between the checkpoints at ends of epochs
MEASURE_BANK, MEASURE_TEST = 10_000, 10_000  # most images in the closing table
WATCH_BANK, WATCH_TEST = 5_000, 2_000  # most images in the k-NN figure during training
RUNAWAY = 50  # a loss this many times below the exact bound: the series has run away


def pretrain(
    data: str | Path | Data | Iterable,
    *,
    recipe: str | Recipe | None = None,
    method: str | None = None,
    encoder: nn.Module | None = None,
    out: str | Path | None = None,
    epochs: int | None = None,
    time_budget: float | None = None,
    limit: int | None = None,
    batch_size: int | None = None,
    backbone: str | None = None,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    settings: Sequence[str] = (),
    data_root: str | Path | None = None,
    download: bool = False,
    workers: int | None = None,
    save_minutes: float = 5.0,
    evaluate: bool = True,
    quiet: bool = False,
) -> Path:
    """Train an encoder without labels; the run folder is returned, with `encoder.safetensors` in it.

    Args:
        data: "digits", a torchvision name, a folder of images; or, for any modality, something that can be iterated
            once an epoch, has a length, and yields batches of views: V tensors [m, ...] with rows in the same order.
            If it has `set_epoch`, that is called with the epoch's number before each pass.
        recipe: a name in RECIPES or a Recipe; default: "digits" for digits, else "auto".
        method: a name in METHODS, in place of the recipe's.
        encoder: a module of your own, inputs -> features [m, e], in place of the recipe's backbone. Needed for views
            that are not images.
        out: the run folder; default runs/<data>-<recipe>.
        epochs: passes over the data.
        time_budget: minutes to train for, turned into a number of steps after a short timing.
        limit: use this many training images, stratified where labels exist.
        batch_size: images a step, over all ranks.
        backbone: a timm name, in place of the recipe's.
        seed: of weights, data order and views.
        device: "auto", "cpu" or "cuda".
        resume: go on with the run in `out` from its last checkpoint.
        settings: KEY=VALUE changes to the recipe.
        data_root, download: for torchvision data sets.
        workers: processes that decode images; default: one a core, 8 at most.
        save_minutes: time between checkpoints inside an epoch.
        evaluate: whether to measure with labels, where the data have any.
        quiet: print nothing.

    Raises:
        BadInput: something given does not fit; nothing was written over.
        TrainingStopped: the loss is not finite or has run away, or a signal asked to stop; what was saved is named.
    """
    fabric = start_fabric(device)
    ranks = current()
    console = Console(quiet=quiet or ranks.rank > 0)
    images = as_data(data, root=data_root, download=download, limit=limit, seed=seed)
    name = recipe if isinstance(recipe, str) else None if recipe is None else "custom"
    name = name or ("digits" if images is not None and images.name == "digits" else "auto")
    out = Path(out) if out else default_out(images, name, method)
    asked = {
        "data": str(data) if isinstance(data, (str, Path)) else None,
        "recipe": recipe if isinstance(recipe, str) else None,
        "method": method,
        "limit": limit,
        "batch_size": batch_size,
        "backbone": backbone,
        "seed": seed,
        "epochs": epochs,
        "time_budget": time_budget,
        "set": list(settings),
    }

    # What to do: from the run folder when resuming, else from the recipe and what was asked.
    stored = resumable(out, asked, images) if resume else None
    if stored is None:
        if ranks.rank == 0:
            check_free(out)
        ranks.wait()
        chosen, why = resolve(recipe if isinstance(recipe, Recipe) else name, images, encoder, fabric)
        chosen = adapted(chosen, method, epochs, batch_size, backbone, settings)
    else:
        chosen, why = stored.recipe if epochs is None else replace(stored.recipe, epochs=epochs), list(stored.why)

    batches = make_batches(data, images, chosen, seed, fabric.device, workers, ranks)
    torch.manual_seed(seed)
    network, info = build_network(chosen, encoder, batches, images, name)
    untrained = {k: v.clone() for k, v in network.encoder.state_dict().items()}
    objective, objective_settings = build_objective(chosen)
    if ranks.size > 1:
        network = synchronise_batch_norm(network)
    optimizer = build_optimizer(chosen.optimizer, [*network.parameters(), *parameters_of(objective)])
    trainer = Trainer(fabric, ranks, chosen, network, objective, objective_settings, optimizer, batches, seed)

    if stored is None:
        steps = chosen.epochs * batches.steps_per_epoch
        if time_budget is not None:
            steps, reason = steps_within(time_budget, trainer)
            why.append(reason)
        run = RunSettings(
            recipe_name=name,
            recipe=chosen,
            data=images.name if images else "views",
            data_fingerprint=images.fingerprint if images else "",
            images=len(images.train) if images else 0,
            seed=seed,
            steps=steps,
            steps_per_epoch=batches.steps_per_epoch,
            why=why,
            asked=asked,
            version=__version__,
        )
    else:
        run = stored if epochs is None else replace(stored, recipe=chosen, steps=epochs * batches.steps_per_epoch)
    info = replace(info, steps=run.steps)

    start = 0
    if ranks.rank == 0:
        start_folder(out, run, images)
    if stored is not None:
        start = trainer.restore(out, console)
    describe(console, out, run, images, trainer, start)
    watch = Watch(out, images if evaluate else None, info, fabric.device, console)
    try:
        trainer.run(out, run, info, start, watch, save_minutes)
    except OSError as error:
        raise TrainingStopped(
            f"{out}: cannot be written ({error}). The checkpoint before this one is whole; make room, then "
            f"{resume_command(data, out)}"
        ) from error
    if ranks.rank == 0:
        finish_run(out, run, info, network, untrained, images if evaluate else None, fabric.device, console)
    ranks.wait()
    return out


class Trainer:
    """The parts of a run that change as it goes, and the loop over its steps."""

    def __init__(
        self,
        fabric: Any,
        ranks: Ranks,
        recipe: Recipe,
        network: Siamese,
        objective: Callable[..., Tensor],
        settings: Mapping[str, Any],
        optimizer: torch.optim.Optimizer,
        batches: ViewBatches | IterableBatches,
        seed: int,
    ):
        self.fabric, self.ranks, self.recipe, self.batches, self.seed = fabric, ranks, recipe, batches, seed
        self.network, self.objective, self.settings = network, objective, settings
        self.images = isinstance(batches, ViewBatches)
        if self.images:
            network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.wrapped, self.optimizer = fabric.setup(network, optimizer)
        if isinstance(objective, nn.Module):
            objective.to(fabric.device)

    def run(
        self, out: Path, run: RunSettings, info: EncoderInfo, start: int, watch: Watch, save_minutes: float
    ) -> None:
        """Steps start to run.steps - 1."""
        first = self.ranks.rank == 0
        saved = time.monotonic()
        step, waited = start, 0.0
        with signals() as stop, Log(out, start, first) as log, watch.progress(run.steps, start) as progress:
            before = time.monotonic()
            source = self.batches.batches(start, run.steps, self.ranks.share)
            for step in range(start, run.steps):
                batch = next(source)
                waited += time.monotonic() - before
                log.skip(self.ranks, batch.skipped, step, run.images, self.images)

                now = self.at(step, run)
                self.set_lr(now["lr"])
                loss, online, target = self.loss_and_gradient(batch, step, now["settings"])
                due = (step + 1) % LOG_EVERY == 0 or step + 1 == run.steps or step == 0
                figures = self.figures(loss, online, target, now) if due else {}
                if due or self.fabric.device.type == "cpu":
                    self.check(out, loss, figures, step, now)
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
                self.network.update_target(now["target_momentum"])

                done = step + 1
                epoch_ended = done % self.batches.steps_per_epoch == 0
                if due:
                    line = {"step": done, "epoch": done / self.batches.steps_per_epoch, **figures}
                    text = log.line(line, waited, self.recipe.batch_size)
                    waited = 0.0
                    progress.step(done, watch.with_accuracy(text))
                else:
                    progress.step(done)
                if watch.is_due(done, run, self.batches.steps_per_epoch) and first:
                    accuracy = watch.measure(self.network.encoder, done, progress)
                    log.write({"step": done, "epoch": done / self.batches.steps_per_epoch, "knn": accuracy})
                stopping = stop() if self.ranks.size == 1 else due and self.ranks.any(stop())
                since = time.monotonic() - saved
                save_now = epoch_ended and since > SAVE_APART or since > 60 * save_minutes
                if self.ranks.size > 1:
                    save_now = due and self.ranks.from_first(since > 60 * save_minutes) or epoch_ended
                if save_now or stopping or done == run.steps:
                    if not due and self.fabric.device.type != "cpu":
                        self.check(out, loss, figures, step, now)
                    if first:
                        self.save(out, done, info)
                    saved = time.monotonic()
                if stopping and done < run.steps:
                    raise TrainingStopped(
                        f"stopped by a signal after step {done} of {run.steps}; it is saved. Go on with: "
                        f"{resume_command(run.asked.get('data'), out)}"
                    )
                before = time.monotonic()

    def loss_and_gradient(
        self, batch: Batch, step: int, settings: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Loss, embeddings; gradients are in the parameters.

        With micro-batches the gradient is still that of the whole batch: all embeddings first, without a graph; the
        objective once; then each micro-batch again, backward from its rows of the gradient. Only BN sees less.
        """
        views = [v.to(memory_format=torch.channels_last) if v.ndim == 4 else v for v in batch.views]
        call = {"labels": batch.labels, "ranks": self.ranks, **settings}
        m, micro = len(views[0]), self.recipe.micro_batch_size
        self.reseed(step, 0)
        if micro is None or micro >= m:
            online, target = self.wrapped(views)
            loss = self.objective(online, target, **call)
            self.fabric.backward(loss)
            average_gradients(parameters_of(self.objective), self.ranks)
            return loss.detach(), online.detach(), target
        parts = [slice(i, i + micro) for i in range(0, m, micro)]
        with torch.no_grad(), statistics_kept(self.network.encoder, self.network.projector, self.network.predictor):
            pieces = []
            for number, part in enumerate(parts):
                self.reseed(step, number)
                pieces.append(self.wrapped([v[part] for v in views]))
        online = torch.cat([o for o, _ in pieces], 1).requires_grad_()
        target = None if pieces[0][1] is None else torch.cat([t for _, t in pieces], 1)
        loss = self.objective(online, target, **call)
        loss.backward()
        average_gradients(parameters_of(self.objective), self.ranks)
        assert online.grad is not None
        for number, part in enumerate(parts):
            self.reseed(step, number)
            with self.fabric.no_backward_sync(self.wrapped, enabled=number + 1 < len(parts)):
                again, _ = self.wrapped([v[part] for v in views], with_target=False)
                self.fabric.backward(again, online.grad[:, part])
        return loss.detach(), online.detach(), target

    def reseed(self, step: int, part: int) -> None:
        """Dropout and the like draw from a function of seed, step and rank, so that resuming repeats it."""
        torch.manual_seed(hash((self.seed, step, self.ranks.rank, part)) % 2**63)

    def at(self, step: int, run: RunSettings) -> dict[str, Any]:
        """Every scheduled number of a step, as a number."""
        each, network = self.batches.steps_per_epoch, self.recipe.network
        return {
            "lr": schedules.learning_rate(self.recipe.optimizer, self.recipe.batch_size, step, run.steps, each),
            "target_momentum": schedules.cosine(network.target_momentum, network.target_momentum_end, step / run.steps),
            "settings": {k: schedules.setting(v, step / each) for k, v in self.settings.items()},
        }

    def set_lr(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    @torch.no_grad()
    def figures(self, loss: Tensor, online: Tensor, target: Tensor | None, now: Mapping[str, Any]) -> dict[str, float]:
        """What is logged: loss, its exact bound, learning rate, gradient norm, and the health of the embeddings."""
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        everyone = self.ranks.gather(online, 1)
        them = None if target is None else self.ranks.gather(target, 1)
        found = health.measure(
            everyone[:, :HEALTH_ROWS],
            None if them is None else them[:, :HEALTH_ROWS],
            now["settings"].get("distortion", 0.06),
        )
        m, d = everyone.shape[1:]
        bound = health.exact_loss_bound(method_named(self.recipe.method).objective, now["settings"], m, d)
        return {
            "loss": float(loss),
            **({} if bound is None else {"loss_bound": bound}),
            "lr": now["lr"],
            "gradient_norm": float(torch.stack(torch._foreach_norm(gradients)).norm()),
            **found,
        }

    def check(self, out: Path, loss: Tensor, figures: Mapping[str, float], step: int, now: Mapping[str, Any]) -> None:
        """Stop before a step that would spoil the weights; the last checkpoint stays."""
        value = float(loss)
        gradient = figures.get("gradient_norm", 0.0)
        bound = figures.get("loss_bound")
        ran_away = bound is not None and value < RUNAWAY * bound
        if math.isfinite(value) and math.isfinite(gradient) and not ran_away:
            return
        kept = checkpoint.checkpoints(out)
        what = f"loss {value:.4g}, gradient norm {gradient:.4g}" + (
            f", which no exact coding length reaches (bound {bound:.3g})" if ran_away and bound is not None else ""
        )
        raise TrainingStopped(
            f"diverged at step {step + 1}: {what}, at learning rate {now['lr']:.3g}. "
            + (f"The last good checkpoint is kept: {kept[-1]}. " if kept else "No checkpoint had been saved yet. ")
            + f"Start again with a lower rate, --set optimizer.base_lr={self.recipe.optimizer.base_lr / 3:.2g}"
            + ("." if self.recipe.method == "mec-joint" else ", or with --method mec-joint, which needs no series.")
        )

    def save(self, out: Path, done: int, info: EncoderInfo) -> None:
        state = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}
        if isinstance(self.objective, nn.Module):
            state["objective"] = self.objective.state_dict()
        checkpoint.save(out, done, state)
        encoder = self.network.encoder
        probed = checkpoint.probe(encoder, info.image_size) if info.image_size and info.backbone != "custom" else ()
        checkpoint.save_encoder(out / checkpoint.ENCODER, encoder, replace(info, steps=done, probe=probed))

    def restore(self, out: Path, console: Console) -> int:
        """Everything as it was after the newest readable checkpoint; returns the number of steps done."""
        found = checkpoint.newest(out)
        if found is None:
            return 0
        state, complaints = found
        for words in complaints:
            console.print(f"{words}; the one before it is used.", highlight=False)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if isinstance(self.objective, nn.Module):
            self.objective.load_state_dict(state["objective"])
        return state["step"]


# --- the parts, in the order in which they are used ---------------------------------------------------------------


def start_fabric(device: str) -> Any:
    """Lightning Fabric for this process: alone, or one of those that torchrun or SLURM started."""
    if device not in ("auto", "cpu", "cuda"):
        raise BadInput(f"--device is {device!r}: auto, cpu or cuda.")
    if device == "cuda" and not torch.cuda.is_available():
        raise BadInput("--device cuda: torch sees no CUDA device here. Use --device cpu, or install a CUDA torch.")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    world = int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", 1)))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("SLURM_NTASKS_PER_NODE", world)))
    fabric = Fabric(
        accelerator=device,
        devices=local if world > 1 else 1,
        num_nodes=max(1, world // local),
        strategy=DDPStrategy(broadcast_buffers=False) if world > 1 else "auto",
        precision="32-true",
    )
    fabric.launch()
    return fabric


def precision_of(recipe: Recipe, device: torch.device) -> bool:
    """Whether to autocast to bf16: only where the device has units for it (elsewhere it is hundreds of times slower)."""
    if recipe.precision != "auto":
        return recipe.precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16"))


def as_data(data: Any, **options: Any) -> Data | None:
    """The data set behind a name or folder; None for an iterable of views."""
    if isinstance(data, Data):
        return data
    if isinstance(data, (str, Path)):
        return open_data(str(data), **options)
    if not hasattr(data, "__len__") or not hasattr(data, "__iter__"):
        raise BadInput(
            f"data is a {type(data).__name__}: give a folder, a data set's name, or something with a length that can be "
            "iterated once an epoch and yields views (a torch DataLoader, for example)."
        )
    return None


def default_out(images: Data | None, recipe: str, method: str | None) -> Path:
    return Path("runs") / "-".join(filter(None, [images.name if images else "views", recipe, method]))


def resumable(out: Path, asked: Mapping[str, Any], images: Data | None) -> RunSettings | None:
    """The settings of the run to go on with; None if the folder is empty."""
    if not out.exists() or not any(out.iterdir()):
        return None
    stored = read_settings(out)
    check_same(stored.asked, asked, out)
    if images is not None and images.fingerprint != stored.data_fingerprint:
        raise BadInput(
            f"{out} was started on other images ({stored.images:,} of {stored.data}, fingerprint "
            f"{stored.data_fingerprint}; now {len(images.train):,}, {images.fingerprint}). Restore them, or start a new run."
        )
    return stored


def resolve(
    recipe: str | Recipe, images: Data | None, encoder: nn.Module | None, fabric: Any
) -> tuple[Recipe, list[str]]:
    """The recipe to start from, and why it is as it is."""
    if isinstance(recipe, Recipe):
        return recipe, []
    if recipe != "auto":
        return recipe_named(recipe), []
    if images is None:
        if encoder is None:
            raise BadInput("views that are not images need encoder=..., a module that turns them into features [m, e].")
        return recipe_named("auto"), []
    return auto(images, this_machine(fabric.device.type))


def adapted(
    recipe: Recipe,
    method: str | None,
    epochs: int | None,
    batch_size: int | None,
    backbone: str | None,
    settings: Sequence[str],
) -> Recipe:
    """The recipe with what the command line asked for in its place."""
    if method is not None:
        recipe = with_method(recipe, method)
    if backbone is not None:
        recipe = replace(recipe, network=replace(recipe.network, backbone=backbone))
    if batch_size is not None:
        micro = recipe.micro_batch_size
        recipe = replace(recipe, batch_size=batch_size, micro_batch_size=micro and min(micro, batch_size))
    if epochs is not None:
        recipe = replace(recipe, epochs=epochs)
    return changed(recipe, settings)


def with_method(recipe: Recipe, name: str) -> Recipe:
    """The recipe trained by another method: its objective, settings, predictor and target; the rest stays."""
    method = method_named(name)
    if name == recipe.method:
        return recipe
    network = recipe.network
    embedding = network.projector[-1] if network.projector else 0
    predictor = network.predictor or (max(64, embedding // 4), embedding)
    network = replace(network, predictor=predictor if method.predictor else (), target=method.target)
    return replace(recipe, method=name, settings={}, network=network)


def build_objective(recipe: Recipe) -> tuple[Callable[..., Tensor], dict[str, Any]]:
    """The objective of the recipe's method and its settings, checked against those that it takes."""
    method = method_named(recipe.method)
    objective = OBJECTIVES[method.objective]
    settings = {**method.settings, **recipe.settings}
    known = objective.settings  # pyright: ignore[reportFunctionMemberAccess]
    for name in settings:
        if name not in known:
            raise BadInput(f"method {recipe.method} has no setting {name!r}. It takes: {', '.join(sorted(known))}.")
    return objective, settings


def parameters_of(objective: Any) -> list[nn.Parameter]:
    return list(objective.parameters()) if isinstance(objective, nn.Module) else []


def make_batches(
    data: Any, images: Data | None, recipe: Recipe, seed: int, device: torch.device, workers: int | None, ranks: Ranks
) -> ViewBatches | IterableBatches:
    if recipe.batch_size % ranks.size:
        raise BadInput(f"batch_size {recipe.batch_size} on {ranks.size} ranks: it has to be a multiple of their number.")
    if images is None:
        return IterableBatches(data, device)
    return ViewBatches(images.train, recipe.views, recipe.batch_size, seed=seed, device=device, workers=workers)


class IterableBatches:
    """Views that come from the caller's own iterable, batch by batch, for any modality."""

    def __init__(self, source: Any, device: torch.device):
        self.source, self.device = source, device
        self.steps_per_epoch = len(source)
        if not self.steps_per_epoch:
            raise BadInput("the iterable of views is empty: its length is 0.")

    def first(self) -> Tensor:
        """A few rows of one view, to learn the encoder's feature size from."""
        return next(iter(self._epoch(0)))[0][:2].to(self.device)

    def _epoch(self, epoch: int) -> Iterator[Sequence[Tensor]]:
        if hasattr(self.source, "set_epoch"):
            self.source.set_epoch(epoch)
        for item in self.source:
            if len(item) < 2 or len({len(view) for view in item}) != 1:
                shapes = [[*view.shape] if isinstance(view, Tensor) else type(view).__name__ for view in item]
                raise BadInput(f"a batch of views is {shapes}: it is at least two tensors [m, ...] with equal m.")
            yield item

    def batches(self, start: int, stop: int, share: Callable[[int], slice]) -> Iterator[Batch]:
        step = start - start % self.steps_per_epoch
        while step < stop:
            epoch = step // self.steps_per_epoch
            for item in self._epoch(epoch):
                if start <= step < stop:
                    rows = share(len(item[0]))
                    yield Batch([view[rows].to(self.device) for view in item], None)
                step += 1
            if step != (epoch + 1) * self.steps_per_epoch:
                raise BadInput(
                    f"the iterable of views has length {self.steps_per_epoch} but gave "
                    f"{step - epoch * self.steps_per_epoch} batches in epoch {epoch}."
                )


def build_network(
    recipe: Recipe,
    encoder: nn.Module | None,
    batches: ViewBatches | IterableBatches,
    images: Data | None,
    recipe_name: str,
) -> tuple[Siamese, EncoderInfo]:
    """The network around the recipe's backbone or the caller's own encoder, and what is stored with its weights."""
    view = max(recipe.views, key=lambda v: v.size)
    size = view.size if images is not None else 0
    own = encoder is not None
    if encoder is None:
        encoder = build_encoder(recipe.network.backbone, size, recipe.network.small_stem)
    if isinstance(batches, ViewBatches):
        device = next(encoder.parameters()).device
        example = torch.zeros(2, 3, size, size, device=device)
    else:
        example = batches.first().to(next(encoder.parameters()).device)
    features = feature_size(encoder, example)
    small = recipe.network.small_stem
    info = EncoderInfo(
        backbone="custom" if own else recipe.network.backbone,
        feature_size=features,
        image_size=size,
        small_stem=bool(size < SMALL_STEM_BELOW if small is None else small),
        interpolation=view.interpolation,
        mean=view.mean,
        std=view.std,
        method=recipe.method,
        recipe=recipe_name,
        data=images.name if images else "views",
        data_fingerprint=images.fingerprint if images else "",
        steps=0,
    )
    return build_siamese(recipe.network, encoder, features), info


@contextlib.contextmanager
def statistics_kept(*modules: nn.Module) -> Iterator[None]:
    """Batch norms use the batch's statistics and leave their running ones alone."""
    norms = [m for module in modules for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    tracking = [norm.track_running_stats for norm in norms]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm, kept in zip(norms, tracking):
            norm.track_running_stats = kept


def steps_within(minutes: float, trainer: Trainer, seconds: float = 6.0) -> tuple[int, str]:
    """How many steps fit a time budget, from a few steps on the real data; weights and state are put back."""
    if not minutes > 0:
        raise BadInput(f"--time-budget is {minutes}: minutes, above 0.")
    network = {k: v.clone() for k, v in trainer.network.state_dict().items()}
    optimizer = cloned(trainer.optimizer.state_dict())
    objective = (
        {k: v.clone() for k, v in trainer.objective.state_dict().items()}
        if isinstance(trainer.objective, nn.Module)
        else None
    )
    recipe = trainer.recipe
    run = RunSettings("", recipe, "", "", 0, 0, steps=1000, steps_per_epoch=trainer.batches.steps_per_epoch)
    trainer.set_lr(0.0)
    times, began = [], time.monotonic()
    before = began
    for step, batch in enumerate(trainer.batches.batches(0, 50, trainer.ranks.share)):
        trainer.loss_and_gradient(batch, step, trainer.at(step, run)["settings"])
        trainer.optimizer.step()
        trainer.optimizer.zero_grad(set_to_none=True)
        if trainer.fabric.device.type == "cuda":
            torch.cuda.synchronize()
        now = time.monotonic()
        times.append(now - before)
        before = now
        if trainer.ranks.any(now - began > seconds) and step >= 3:
            break
    each = float(np.median(times[1:]))
    trainer.network.load_state_dict(network)
    trainer.optimizer.load_state_dict(optimizer)
    if objective is not None and isinstance(trainer.objective, nn.Module):
        trainer.objective.load_state_dict(objective)
    # A twentieth is left for checkpoints and for the accuracy shown on the way.
    steps = trainer.ranks.from_first(max(1, int(0.95 * (60 * minutes - (time.monotonic() - began)) / each)))
    epochs = steps / trainer.batches.steps_per_epoch
    return steps, f"{steps:,} steps ({epochs:.1f} epochs): {each:.3f} s a step, {minutes:g} minutes"


def cloned(state: Any) -> Any:
    """A state dict with its tensors cloned."""
    if isinstance(state, Tensor):
        return state.clone()
    if isinstance(state, dict):
        return {k: cloned(v) for k, v in state.items()}
    if isinstance(state, list):
        return [cloned(v) for v in state]
    return state


def start_folder(out: Path, run: RunSettings, images: Data | None) -> None:
    """settings.json, and the images that could not be read."""
    out.mkdir(parents=True, exist_ok=True)
    for part in [*out.glob("*.part"), *out.glob("checkpoints/*.part")]:
        part.unlink()
    checkpoint.write_text(out / SETTINGS, as_json(run))
    if images is not None and images.skipped:
        lines = (json.dumps(asdict(s)) + "\n" for s in images.skipped)
        checkpoint.write_text(out / "skipped.jsonl", "".join(lines))


def describe(
    console: Console, out: Path, run: RunSettings, images: Data | None, trainer: Trainer, start: int
) -> None:
    """What will be trained, on what, in a few lines."""
    recipe, m = run.recipe, trainer.recipe.batch_size
    if images is not None:
        labels = f"labels of {len(images.classes)} classes only for measuring" if images.can_be_measured else "no labels"
        console.print(f"{images.name}: {len(images.train):,} training images, {labels}", highlight=False)
        if images.skipped:
            console.print(
                f"{len(images.skipped)} images cannot be read and are left out: {out / 'skipped.jsonl'}", highlight=False
            )
    for reason in run.why:
        console.print(f"  {reason}", style="dim", highlight=False)
    parameters = sum(p.numel() for p in trainer.network.encoder.parameters())
    console.print(
        f"{recipe.method} (recipe {run.recipe_name}): {recipe.network.backbone}, {parameters / 1e6:.1f} M parameters, "
        f"batch {m}, {run.steps:,} steps of {run.steps / run.steps_per_epoch:.4g} epochs, on {trainer.fabric.device.type}"
        + (f" x {trainer.ranks.size}" if trainer.ranks.size > 1 else ""),
        highlight=False,
    )
    if start:
        console.print(f"resumed after step {start:,} of {run.steps:,}", highlight=False)


def resume_command(data: Any, out: Path) -> str:
    return f"mec pretrain {data if isinstance(data, (str, Path)) else 'DATA'} --out {out} --resume"


@contextlib.contextmanager
def signals() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM ask for a stop after the step; a second Ctrl-C interrupts at once."""
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        received.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals are somebody else's
        yield lambda: False
        return
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Log:
    """metrics.jsonl, TensorBoard events and skipped.jsonl of a run, written by the first rank."""

    def __init__(self, out: Path, start: int, first: bool):
        self.out, self.first = out, first
        self.known: set[str] = set()
        self.unreadable: set[str] = set()
        if not first:
            return
        if start:  # what was logged after the checkpoint will come again
            kept = [line for line in health.read_metrics(out) if line["step"] <= start]
            checkpoint.write_text(out / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in kept))
        if (out / "skipped.jsonl").exists():
            self.known = {json.loads(line)["path"] for line in (out / "skipped.jsonl").read_text().splitlines()}

    def __enter__(self) -> Log:
        self.last = time.monotonic()
        self.last_step: int | None = None
        if self.first:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # tensorboard's own imports
                from torch.utils.tensorboard import SummaryWriter
            self.events = SummaryWriter(str(self.out / "tensorboard"))
            self.file = open(self.out / "metrics.jsonl", "a", buffering=1)  # noqa: SIM115
        return self

    def __exit__(self, *_: object) -> None:
        if self.first:
            self.file.close()
            self.events.close()

    def line(self, figures: dict[str, Any], waited: float, batch_size: int) -> str:
        """Write a line with the pace since the last one; returns it in a few words."""
        now = time.monotonic()
        steps = figures["step"] - (self.last_step or figures["step"] - 1)
        wait = waited / max(now - self.last, 1e-9)
        figures = {**figures, "data_wait": wait, "images_per_second": batch_size * steps / max(now - self.last, 1e-9)}
        self.last, self.last_step = now, figures["step"]
        self.write(figures)
        return f"loss {figures['loss']:.3f}, rank {figures['effective_rank']:.0f}, data wait {wait:.0%}"

    def write(self, figures: Mapping[str, Any]) -> None:
        if not self.first:
            return
        self.file.write(json.dumps(figures) + "\n")
        for name, value in figures.items():
            if name not in ("step", "epoch") and math.isfinite(value):
                self.events.add_scalar(name, value, figures["step"])

    def skip(self, ranks: Ranks, skipped: Sequence[Skipped], step: int, images: int, from_files: bool) -> None:
        """Note images that turned out unreadable while training; stop when there are too many."""
        new = [s for s in skipped if s.path not in self.known]
        if not new:
            return
        self.known.update(s.path for s in new)
        with open(self.out / "skipped.jsonl", "a") as file:  # appends of a line are whole, whichever rank writes
            file.writelines(json.dumps(asdict(s)) + "\n" for s in new)
        self.unreadable.update(s.path for s in new)
        if len(self.unreadable) * ranks.size > MOST_UNREADABLE * images:
            raise TrainingStopped(too_many(new, images, self.out / "skipped.jsonl"))


@dataclass
class Watch:
    """The k-NN accuracy of held-out images while training, where there are labels."""

    out: Path
    images: Data | None
    info: EncoderInfo
    device: torch.device
    console: Console
    accuracy: float | None = None

    def progress(self, steps: int, start: int) -> TrainingProgress:
        self.bar = TrainingProgress(self.console, steps, start)
        return self.bar

    def is_due(self, done: int, run: RunSettings, each: int) -> bool:
        """After the first epoch (or fiftieth step), then ten times in a run."""
        if self.images is None or not self.images.can_be_measured:
            return False
        return done == min(each, 50) or done % max(each, run.steps // 10) == 0

    def measure(self, encoder: nn.Module, done: int, progress: TrainingProgress) -> float:
        assert self.images is not None
        bank, test = measured_parts(self.images, WATCH_BANK, WATCH_TEST)
        transform = checkpoint.image_transform(self.info)
        features = [extract(encoder, part, transform, device=self.device) for part in (bank, test)]
        self.accuracy = knn(*features)[0].value
        progress.say(f"step {done:,}: k-NN accuracy on {len(test):,} held-out images {self.accuracy:.1f} %")
        return self.accuracy

    def with_accuracy(self, text: str) -> str:
        return text if self.accuracy is None else f"k-NN {self.accuracy:.1f} %, {text}"


def measured_parts(images: Data, bank: int, test: int) -> tuple[Any, Any]:
    """Labelled training images and test images, at most so many (seeded, stratified)."""
    assert images.test is not None
    parts = []
    for split, most in ((images.train.labelled(), bank), (images.test.labelled(), test)):
        parts.append(split if len(split) <= most else split.take(stratified(split.labels, len(split), most, seed=0)))
    return parts[0], parts[1]


def finish_run(
    out: Path,
    run: RunSettings,
    info: EncoderInfo,
    network: Siamese,
    untrained: Mapping[str, Tensor],
    images: Data | None,
    device: torch.device,
    console: Console,
) -> None:
    """The closing table, the verdict on health, and what to do next."""
    if images is not None and images.can_be_measured:
        with console.status("measuring"):
            results = closing_results(out, run, info, network.encoder, untrained, images, device)
        record(out, results)
        console.print(closing_table(results, images))
    verdict = health.judge(health.read_metrics(out), judged_settings(run))
    checkpoint.write_text(out / "health.json", json.dumps(dataclasses.asdict(verdict), indent=1, ensure_ascii=False) + "\n")
    console.print(f"Training was {verdict}", style="green" if verdict.healthy else "red", highlight=False)
    console.print(f"Encoder: {out / checkpoint.ENCODER}", highlight=False)
    if images is not None:
        subject = run.asked.get("data") or images.name
        console.print(
            f"Next:  mec embed {out} FOLDER --out features.npz   (features of your images)\n"
            + (
                f"       mec evaluate {out} knn {subject}"
                if images.can_be_measured
                else f"       mec export {out} --to timm   (weights for other tools)"
            ),
            highlight=False,
        )


def judged_settings(run: RunSettings) -> dict[str, Any]:
    return {"method": run.recipe.method, **method_named(run.recipe.method).settings, **run.recipe.settings}


def closing_results(
    out: Path,
    run: RunSettings,
    info: EncoderInfo,
    encoder: nn.Module,
    untrained: Mapping[str, Tensor],
    images: Data,
    device: torch.device,
) -> list[Result]:
    """Few labels, k-NN and linear probe, of raw pixels, of the encoder before training, and after."""
    bank, test = measured_parts(images, MEASURE_BANK, MEASURE_TEST)
    transform = checkpoint.image_transform(info)
    trained = {k: v.clone() for k, v in encoder.state_dict().items()}
    rows = []
    if isinstance(bank.images, Stored):
        rows.append(("pixels", pixels(bank), pixels(test)))
    for name, weights in (("untrained", untrained), (run.recipe.method, trained)):
        encoder.load_state_dict(weights)
        rows.append((name, *(extract(encoder, part, transform, device=device) for part in (bank, test))))
    counts = np.bincount(np.asarray(bank.labels))
    few = [n for n in (1, 5) if n <= counts[counts > 0].min()]
    results = []
    for name, train, held_out in rows:
        found = [*fewshot(train, held_out, labels_per_class=few), *knn(train, held_out), *linear(train, held_out)]
        results += labelled(
            found,
            encoder=name,
            data=images.name,
            data_fingerprint=images.fingerprint,
            checkpoint=checkpoint.file_hash(out / checkpoint.ENCODER) if name == run.recipe.method else "",
        )
    return results


def closing_table(results: Sequence[Result], images: Data) -> Any:
    from rich.table import Table

    assert images.test is not None
    top1 = [r for r in results if r.metric == "top-1"]
    table = Table(title=f"{images.name}: accuracy on held-out images, %")
    table.add_column("features")
    columns = list(dict.fromkeys(column_of(r) for r in top1))
    for column in columns:
        table.add_column(column, justify="right")
    for encoder in dict.fromkeys(r.encoder for r in top1):
        row = {column_of(r): r for r in top1 if r.encoder == encoder}
        cells = [f"{r.value:.1f}" + (f" ± {r.spread:.1f}" if r.spread else "") for r in (row[c] for c in columns)]
        table.add_row({"pixels": "raw pixels", "untrained": "untrained encoder"}.get(encoder, encoder), *cells)
    return table


def column_of(result: Result) -> str:
    if result.protocol == "fewshot":
        count = result.settings["labels_per_class"]
        return f"{count} label{'s' * (count > 1)} a class"
    return {"knn": f"k-NN ({result.settings.get('k')})", "linear": "linear probe"}[result.protocol]
