"""The loop: views -> embeddings -> objective -> step -> checkpoint, read from top to bottom."""

import contextlib
import copy
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mec.data.batches import Batch, IterableBatches, ViewBatches
from mec.errors import Diverged, TrainingStopped
from mec.networks import encoder_file
from mec.networks.backbones import evaluating
from mec.networks.siamese import Siamese
from mec.objectives.coding import distortion_for
from mec.objectives.methods import method_named
from mec.recipes import schedules
from mec.recipes.recipe import Recipe
from mec.runtime import files
from mec.runtime.checkpoints import Checkpoints, checkpoints, in_run
from mec.runtime.distributed import Ranks, average_gradients
from mec.runtime.machine import has_bf16_units
from mec.runtime.paths import STEPS
from mec.runtime.progress import TrainingProgress
from mec.runtime.sharding import Whole, follow, own, whole
from mec.runtime.signals import signals
from mec.training import health
from mec.training.optimizers import clip_each, set_rates
from mec.training.pace import Pace
from mec.training.run import Run, resume_command
from mec.training.runlog import Log, Watch

LOG_EVERY = {"cpu": 10, "cuda": 50, "mps": 50}  # steps; a GPU is kept waiting while they are measured
HEALTH_ROWS = 512  # of a batch, for the figures that need a decomposition
SAVE_APART = 10.0  # seconds, at least, between the checkpoints at ends of epochs
RUNAWAY = 50  # a loss this many times below the exact bound: the series has run away


class Trainer:
    """The parts of a run that change as it goes, and the loop over its steps."""

    def __init__(
        self, fabric: Any, ranks: Ranks, recipe: Recipe, network: Siamese, objective: Callable[..., Tensor],
        settings: Mapping[str, Any], optimizer: torch.optim.Optimizer, batches: ViewBatches | IterableBatches,
        seed: int, graphs: bool = False,
    ):  # fmt: skip
        self.fabric, self.ranks, self.recipe, self.batches, self.seed = fabric, ranks, recipe, batches, seed
        self.network, self.objective, self.settings = network, objective, settings
        kept = network.target_encoder if method_named(recipe.method).keeps == "target" else None
        self.trained = self.encoder = network.encoder if kept is None else kept  # what is stored and measured
        self.average: AveragedModel | None = None
        # Only where the device has units for it: elsewhere it is hundreds of times slower.
        self.bf16 = recipe.precision == "bf16" or (recipe.precision == "auto" and has_bf16_units(fabric.device.type))
        self.unseen = fabric.device.type == "cpu"  # whether maps have yet to be looked at, for bf16's sake
        self.sharded, before = hasattr(fabric.strategy, "device_mesh"), dict(network.named_parameters())
        if self.sharded and ranks.rank == 0:
            self.encoder = copy.deepcopy(self.trained).to(fabric.device)  # whole; see `gather_encoder`
        if isinstance(batches, ViewBatches) and not self.sharded:  # shards are of contiguous tensors
            with contextlib.suppress(RuntimeError):  # of a convolution over three dimensions
                network.to(memory_format=torch.channels_last)
        self.wrapped = fabric.setup_module(network)
        if self.sharded:
            follow(optimizer, before, network)
        self.optimizer = fabric.setup_optimizers(optimizer)
        if isinstance(objective, nn.Module):
            objective.to(fabric.device)
        if recipe.optimizer.average:
            each = get_ema_multi_avg_fn(recipe.optimizer.average)
            self.average = AveragedModel(self.encoder, multi_avg_fn=each, use_buffers=True)
            self.encoder = self.average.module
        self.graphs = graphs and fabric.device.type == "cuda" and ranks.size == 1
        self.graph: Callable[[list[Tensor]], tuple[Tensor, Tensor | None]] | None = None

    def run(self, run: Run, start: int, watch: Watch, save_minutes: float, keep_every: int | None = None) -> None:
        """Steps start to run.steps - 1; the encoder of every so many epochs is kept."""
        out = run.folder
        first, device, each = self.ranks.rank == 0, self.fabric.device.type, self.batches.steps_per_epoch
        saved = time.monotonic()
        waited = 0.0
        shown = TrainingProgress(watch.console, run.steps, start)
        loading = device == "cpu" or not self.batches.in_memory  # else the GPU makes views, when it comes to them
        with signals() as stop, Log(out, start, first, device, watch.loggers) as log, shown as progress:
            before = time.monotonic()
            pace = Pace(run, start, self.ranks, shown.say)
            step, steps = start, pace.steps(start)
            source = self.batches.batches(start, steps, self.ranks.share)
            while step < steps:
                try:
                    batch = next(source)
                except TrainingStopped:  # of the data: what was trained so far is kept
                    if first and step > start and not self.sharded and self.is_sound():  # all ranks save shards
                        self.save(run, step)
                    raise
                waited += time.monotonic() - before if loading else 0.0
                log.skip(batch.skipped, run.settings.images)

                now = self.at(pace.position(step), pace.planned, step)
                self.set_lr(now["lr"])
                loss, online, target = self.loss_and_gradient(batch, step, now["settings"])
                due = (step + 1) % LOG_EVERY[device] == 0 or step + 1 == steps or step == 0
                figures = self.figures(loss, online, target, now) if due else {}
                if due or device == "cpu":
                    self.check(run, loss, figures, step, now)
                self.limit_gradients(step)
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
                self.network.update_target(now["target_momentum"])
                if self.average is not None:
                    self.average.update_parameters(self.trained)

                done = step + 1
                planned, steps = steps, pace.after(done)
                if steps != planned:
                    progress.shorten(steps)
                at = {"step": done, "epoch": done / each}
                if due:
                    text = log.line({**at, **figures}, waited, self.recipe.batch_size)
                    waited = 0.0
                    progress.step(done, ("" if watch.accuracy is None else f"k-NN {watch.accuracy:.1f} %, ") + text)
                else:
                    progress.step(done)
                if watch.is_due(done, pace.planned, each):
                    self.gather_encoder()
                    if first:
                        log.write({**at, "knn": watch.measure(self.encoder, done, progress)})
                if keep_every and done % (keep_every * each) == 0 and self.is_sound():
                    self.save_encoder(run, done, out / STEPS / f"{done:08}.safetensors")
                stopping = stop() if self.ranks.size == 1 else (due or device == "cpu") and self.ranks.any(stop())
                save_now = self.should_save(time.monotonic() - saved, save_minutes, done % each == 0, due)
                if save_now or stopping or done == steps:
                    # A gradient that is not finite may have come with a finite loss: never save what it left.
                    sound = self.is_sound()
                    if not sound or (not due and device != "cpu"):
                        self.check(run, loss, figures if sound else {"gradient_norm": math.nan}, step, now)
                    self.save(run, done)
                    saved = time.monotonic()
                if stopping and done < steps:
                    raise TrainingStopped(
                        f"stopped by a signal after step {done} of {steps}; it is saved. Go on with: "
                        f"{resume_command(run.settings.asked.get('data'), out)}"
                    )
                before, step = time.monotonic(), done

    def is_sound(self) -> bool:
        """Whether all weights are finite; asked by all ranks where they lie in shards."""
        sound = bool(torch.stack(torch._foreach_norm(own(self.network.parameters()))).isfinite().all())
        return not self.ranks.any(not sound) if self.sharded else sound

    def should_save(self, seconds: float, save_minutes: float, epoch_ended: bool, due: bool) -> bool:
        """Every few minutes, and at ends of epochs unless they come thick and fast; the same answer on all ranks."""
        late = seconds > 60 * save_minutes or (epoch_ended and seconds > SAVE_APART)
        return late if self.ranks.size == 1 else (due or epoch_ended) and bool(self.ranks.from_first(late))

    def loss_and_gradient(
        self, batch: Batch, step: int, settings: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Loss, embeddings; gradients are in the parameters.
        With micro-batches the gradient is still that of the whole batch: all embeddings first, without a graph; the
        objective once; then each micro-batch again, backward from its rows of the gradient. Only BN sees less."""
        views = [v.to(memory_format=torch.channels_last) if v.ndim == 4 else v for v in batch.views]
        scale = settings["scale"]  # of the gradient; the loss that is told is the formula's
        call = {"labels": batch.labels, "ranks": self.ranks, **{k: v for k, v in settings.items() if k != "scale"}}
        m, micro = len(views[0]), self.recipe.micro_batch_size
        self.reseed(step, 0)
        if micro is None or micro >= m:
            online, target = self.embed_by_graph(views) if self.graphs else self.embed(views)
            loss = self.objective(online, target, **call)
            self.backward(loss * scale)
            average_gradients(parameters_of(self.objective), self.ranks)
            return loss.detach(), online.detach(), target
        number_of_parts = -(-m // micro)  # of nearly one size: batch norm has no variance of a last single row
        parts = [slice(m * i // number_of_parts, m * (i + 1) // number_of_parts) for i in range(number_of_parts)]
        with torch.no_grad(), statistics_kept(self.network.encoder, self.network.projector, self.network.predictor):
            pieces = []
            for number, part in enumerate(parts):
                self.reseed(step, number)
                pieces.append(self.embed([v[part] for v in views]))
        online = torch.cat([o for o, _ in pieces], 1).requires_grad_()
        target = None if pieces[0][1] is None else torch.cat([t for _, t in pieces if t is not None], 1)
        loss = self.objective(online, target, **call)
        (loss * scale).backward()
        average_gradients(parameters_of(self.objective), self.ranks)
        assert online.grad is not None
        for number, part in enumerate(parts):
            self.reseed(step, number)
            waits = number + 1 < len(parts) and not self.sharded  # whole gradients would be kept till the last part
            with self.fabric.no_backward_sync(self.wrapped) if waits else contextlib.nullcontext():
                again, _ = self.embed([v[part] for v in views], with_target=False)
                self.backward(again, online.grad[:, part])
        return loss.detach(), online.detach(), target

    def backward(self, of: Tensor, *gradient: Tensor) -> None:
        """Blocks that compute again here meet their rows a second time: what batch norms noted is put back."""
        again = getattr(self.network.encoder, "grad_checkpointing", False)
        noted = [(buffer, buffer.clone()) for buffer in self.network.encoder.buffers()] if again else []
        self.fabric.backward(of, *gradient)
        for buffer, before in noted:
            buffer.copy_(before)

    def embed(self, views: list[Tensor], *, with_target: bool = True) -> tuple[Tensor, Tensor | None]:
        """Embeddings in float32, by bf16 arithmetic where the recipe, the device and the maps allow it."""
        if self.bf16 and self.unseen:
            self.bf16, self.unseen = not has_small_maps(self.network, views), False
        # Its cache would hold the whole network in bf16, which shards are to spare.
        with torch.autocast(self.fabric.device.type, torch.bfloat16, self.bf16, cache_enabled=not self.sharded):
            online, target = self.wrapped(views, with_target=with_target)
        return online.float(), None if target is None else target.float()

    def embed_by_graph(self, views: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """The same by CUDA graphs, captured with the first batch; by `embed` where the network cannot be captured."""
        if self.graph is None:
            try:
                self.graph = captured(self.network, views, self.bf16)
            except RuntimeError as error:
                self.graphs = False
                warnings.warn(f"no CUDA graph: {files.first_line(error)}; slower steps, the same result", stacklevel=2)
                return self.embed(views)
        online, target = self.graph(views)
        return online.float(), None if target is None else target.float()

    def reseed(self, step: int, part: int) -> None:
        """Dropout and the like draw from a function of seed, step and rank, so that resuming repeats it."""
        # On a CPU torch's own `manual_seed` notes, for each kind of GPU that is not there, from where it was called.
        seeded = torch.default_generator if self.fabric.device.type == "cpu" else torch
        seeded.manual_seed(hash((self.seed, step, self.ranks.rank, part)) % 2**63)

    def at(self, position: float, steps: int, step: int | None = None) -> dict[str, Any]:
        """Every scheduled number, as a number, at a position among so many steps; `step` is the one that is done."""
        each, network = self.batches.steps_per_epoch, self.recipe.network
        epoch = (position if step is None else step) / each
        return {
            "lr": schedules.learning_rate(self.recipe.optimizer, self.recipe.batch_size, position, steps, each),
            "target_momentum": schedules.cosine(network.target_momentum, network.target_momentum_end, position / steps),
            "settings": {k: schedules.setting(v, epoch) for k, v in self.settings.items()},
        }

    def set_lr(self, lr: float) -> None:
        set_rates(self.optimizer, lr, self.recipe.optimizer.base_lr * self.recipe.batch_size / 256)

    def limit_gradients(self, step: int) -> None:
        """What the recipe asks of gradients before they are used: prototypes held still at first, clipping."""
        asked = self.recipe.optimizer
        own = self.objective.named_parameters() if isinstance(self.objective, nn.Module) else ()
        named = [*self.network.named_parameters(), *own]
        if step < asked.freeze_prototypes_epochs * self.batches.steps_per_epoch:
            for name, parameter in named:
                if name.split(".")[-1] == "prototypes":
                    parameter.grad = None
        if asked.clip:
            clip_each((parameter for _, parameter in named), asked.clip)

    @torch.no_grad()
    def figures(self, loss: Tensor, online: Tensor, target: Tensor | None, now: Mapping[str, Any]) -> dict[str, float]:
        """What is logged: loss, its exact bound, learning rate, gradient norm, and the health of the embeddings."""
        gradients = own(p.grad for p in self.network.parameters() if p.grad is not None)
        m, d = online.shape[1] * self.ranks.size, online.shape[2]
        rows = -(-HEALTH_ROWS // self.ranks.size)  # of each rank; two views are enough
        settings = now["settings"]
        others = None if target is None else self.ranks.gather(target[:2, :rows], 1)
        distortion = distortion_for(settings.get("distortion", 0.06), m, d)
        found = health.measure(self.ranks.gather(online[:2, :rows], 1), others, distortion, settings.get("order"))
        bound = health.exact_loss_bound(method_named(self.recipe.method).objective, settings, m, d)
        bounded = {} if bound is None else {"loss_bound": bound}
        norm = float(torch.stack(torch._foreach_norm(gradients)).norm())
        norm = math.hypot(*self.ranks.values(norm)) if self.sharded else norm
        return {"loss": float(loss), **bounded, "lr": now["lr"], "gradient_norm": norm, **found}

    def check(self, run: Run, loss: Tensor, figures: Mapping[str, float], step: int, now: Mapping[str, Any]) -> None:
        """Stop before a step that would spoil the weights; the last checkpoint stays."""
        value, gradient, bound = float(loss), figures.get("gradient_norm", 0.0), figures.get("loss_bound")
        ran_away = bound is not None and value < RUNAWAY * bound
        if math.isfinite(value) and math.isfinite(gradient) and not ran_away:
            return
        kept = checkpoints(run.folder)
        beyond = f", {health.BEYOND} (bound {bound:.3g})" if ran_away else ""
        found = f"loss {value:.4g}, gradient norm {gradient:.4g}{beyond}, at learning rate {now['lr']:.3g}"
        words = f"The last good checkpoint is kept: {kept[-1]}." if kept else "No checkpoint had been saved yet."
        advised = health.after_divergence(self.recipe, run.settings.recipe_name, 2 if ran_away else step + 1)
        raise Diverged(f"diverged at step {step + 1}: {found}. {words} {advised}", value, step + 1, found)

    def save(self, run: Run, done: int) -> None:
        """The first rank writes; called by all of them."""
        # The encoder first: a run cut off between the two repeats the steps, and with them the encoder.
        self.save_encoder(run, done, run.folder / encoder_file.ENCODER)
        if self.sharded or self.ranks.rank == 0:
            (in_run(run.folder) if self.ranks.rank == 0 else Checkpoints()).save(done, self.whole_parts())

    def restore(self, out: Path, say: Callable[[str], None]) -> int:
        """The steps done by the newest checkpoint, whose state this is now."""
        start = in_run(out).restore(self.whole_parts(), say)
        self.gather_encoder()
        return start

    def gather_encoder(self) -> None:
        """Where weights lie in shards, the first rank's encoder gets those of now; called by all ranks."""
        if self.sharded and (weights := whole(self.trained.state_dict(), self.ranks)) and self.ranks.rank == 0:
            self.encoder.load_state_dict(weights)

    def save_encoder(self, run: Run, done: int, path: Path) -> None:
        self.gather_encoder()
        if self.ranks.rank:
            return
        path.parent.mkdir(exist_ok=True)
        info = run.encoder
        probes = info.image_size and info.backbone != "custom"
        probed = encoder_file.probe(self.encoder, info.image_size) if probes else ()
        encoder_file.save_encoder(path, self.encoder, replace(info, steps=done, probe=probed))

    def whole_parts(self) -> dict[str, Any]:
        """What a checkpoint holds: that of one process."""
        parts = self.parts()
        return parts | {k: Whole(parts[k], self.ranks) for k in ("network", "optimizer")} if self.sharded else parts

    def parts(self) -> dict[str, Any]:
        """What steps change."""
        own = {"objective": self.objective} if isinstance(self.objective, nn.Module) else {}
        own |= {} if self.average is None else {"average": self.average}
        return {"network": self.network, "optimizer": self.optimizer, **own}


def parameters_of(objective: Any) -> list[nn.Parameter]:
    return list(objective.parameters()) if isinstance(objective, nn.Module) else []


def has_small_maps(network: Siamese, views: list[Tensor]) -> bool:
    """Whether a convolution's map is smaller than its stride: there torch's bf16 gradient on CPUs is never written,
    and holds what the memory held before."""
    found = list[bool]()

    def look(module: nn.Module, inputs: Any) -> None:
        found.append(isinstance(module, nn.modules.conv._ConvNd) and min(inputs[0].shape[2:]) < max(module.stride))

    with torch.no_grad(), evaluating(network), nn.modules.module.register_module_forward_pre_hook(look):
        network([view[:2] for view in views])
    return any(found)


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


def captured(
    network: Siamese, views: Sequence[Tensor], bf16: bool
) -> Callable[[Sequence[Tensor]], tuple[Tensor, Tensor | None]]:
    """`network` as a function of views of these shapes, by CUDA graphs: the forward and the backward pass as one launch
    each, for GPUs that outrun the process that feeds them. A step of a small network on small images is over a thousand
    launches, which take the process three times as long as the GPU takes for the work (docs/log.md). Weights, and what
    they become, are shared; inputs and outputs have fixed places: what it returns is written over by the next call.
    Raises RuntimeError: what cannot be captured, since the network waits for the GPU, or is not the same each time."""
    with contextlib.suppress(AttributeError):  # torch < 2.10: it does not warn of the graphs' own stream
        torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    flat = Flat(network)
    try:
        with torch.autocast("cuda", torch.bfloat16, enabled=bf16, cache_enabled=False):
            torch.cuda.make_graphed_callables(flat, tuple(view.clone() for view in views), allow_unused_input=True)
    finally:
        network.load_state_dict(before)  # warming up moved the running statistics

    def call(views: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        online, *target = flat(*views)
        return online, target[0].detach() if target else None

    return call


class Flat(nn.Module):
    """The network as a graph wants it: tensors in, tensors out."""

    def __init__(self, network: Siamese):
        super().__init__()
        self.network = network

    def forward(self, *views: Tensor) -> tuple[Tensor, ...]:
        online, target = self.network(views)
        return (online,) if target is None else (online, target)
