"""From images to an encoder: what to train, on what, and the run from its first step to its closing table."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mec.data.batches import IterableBatches, ViewBatches
from mec.data.dataset import Data
from mec.data.decoding import Skipped, quiet, why_unreadable
from mec.data.opening import open_data
from mec.errors import BadInput, Diverged, TrainingStopped
from mec.networks.backbones import SMALL_STEM_BELOW, build_encoder, feature_size, freeze_patches, recompute
from mec.networks.encoder_file import EncoderInfo, save_encoder
from mec.networks.siamese import Siamese, build_siamese
from mec.objectives.methods import differs_from_paper, method_named
from mec.recipes.recipe import Recipe
from mec.runtime.checkpoints import checkpoints
from mec.runtime.device import start_fabric
from mec.runtime.distributed import Ranks, current, synchronise_batch_norm
from mec.runtime.files import SETTINGS, check_free, write_json
from mec.runtime.flags import takes
from mec.runtime.locks import only_run
from mec.runtime.paths import START, is_url
from mec.runtime.progress import Console
from mec.runtime.records import write_records
from mec.training.health import FEW_STEPS
from mec.training.loggers import Loggers, opened_loggers
from mec.training.optimizers import build_optimizer
from mec.training.options import Options
from mec.training.plan import build_objective, planned
from mec.training.report import HEALTH, diverged, finish_run
from mec.training.run import Run, RunSettings, check_images, resumable, resume_command
from mec.training.runlog import SKIPPED, Watch, listed
from mec.training.start import Start, freeze, start_from, take
from mec.training.timing import steps_within
from mec.training.trainer import Trainer, parameters_of
from mec.version import __version__

Source = str | Path | Data | Iterable
Batches = ViewBatches | IterableBatches


@takes(Options)
def pretrain(data: Source, options: Options) -> Path:
    """Train an encoder without labels; the run folder is returned, with `encoder.safetensors` in it.

    Args:
        data: "digits", a torchvision name, "imagenet", a folder of images, a CSV with a column of paths, a text with a
            path a line, what `mec pack` wrote or a URL of it, or what `open_data` gave; or, for any modality, something
            that can be iterated once an epoch, has a length, and yields batches of views: V tensors [m, ...] with rows
            in the same order. If it has `set_epoch`, that is called with the epoch's number before each pass.
    {options}

    Raises:
        BadInput: something given does not fit; nothing was written over.
        TrainingStopped: the loss is not finite or has run away, or a signal asked to stop; what was saved is named."""
    # torch's random state, which training sets at each step, is the caller's again afterwards.
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())), ExitStack() as until_end:
        fabric, ranks = start_fabric(options.device, options.strategy), current()
        console = Console(quiet=options.quiet or ranks.rank > 0, highlight=False)
        name, out = options.named(data), options.folder(data)
        until_end.enter_context(only_run(out, ranks))
        stored = resumed(out, options, ranks)
        if options.resume and stored is None:
            console.print(f"{out}: no run to resume there; a new one starts")
        options = options.resuming(stored.asked if stored else {})
        given = None if options.init is None else start_from(options.init, out if stored else None)
        images = opened(data, options, ranks)
        if stored is None:
            recipe, why = planned(name, images, options, fabric.device.type, given)
            if options.views is not None:
                from mec.training.fitting import with_fitting_views  # which trains, by this function

                recipe, options, more = with_fitting_views(recipe, images, options, pretrain, out, console.print)
                why += more
        else:
            check_images(out, stored, images)
            recipe, why = stored.recipe, list(stored.why)
            recipe = recipe if options.epochs is None else replace(recipe, epochs=options.epochs)
        trainer, info = make_trainer(data, images, recipe, name, options, fabric, ranks, given)
        why += given.told if given and stored is None else []
        untrained = {} if ranks.rank else {k: v.cpu().clone() for k, v in trainer.encoder.state_dict().items()}
        if stored is None:
            settings = facts(name, data, images, options, trainer, why)
        else:
            settings = replace(prolonged(out, stored, recipe, options, trainer), **about(images))
        run = Run(out, settings, replace(info, steps=settings.steps))
        start = 0 if stored is None else trainer.restore(out, partial(console.print, soft_wrap=True))
        if start >= run.steps and (out / HEALTH).exists():
            console.print(f"{out} is finished after {start:,} steps; --resume --epochs N goes on.", soft_wrap=True)
            return out
        describe(console, run, images, trainer, start)
        measured, workers = images if options.evaluate else None, getattr(trainer.batches, "workers", 0)
        watch = Watch(measured, run.encoder, fabric.device, console, workers, options.report and options.evaluate)
        start_folder(run, images, ranks)
        watch.loggers = until_end.enter_context(loggers_of(run, options, ranks, console))
        if options.init is not None and start == 0 and ranks.rank == 0:
            save_encoder(out / START, trainer.encoder, run.encoder)
        try:
            trainer.run(run, start, watch, options.save_minutes, options.keep_every)
        except Diverged as error:
            if ranks.rank == 0:
                diverged(run, error, watch)
            raise
        except OSError as error:
            kept = "The checkpoint before this one is whole" if checkpoints(out) else "No checkpoint had been saved yet"
            raise TrainingStopped(
                f"{out}: the system stopped the run ({error}), most often since a file cannot be written. {kept}; make "
                f"room, then {resume_command(data, out)}"
            ) from error
        if ranks.rank == 0:  # the others do not wait for the measuring: it may outlast a group's patience
            finish_run(run, trainer.encoder, untrained, watch)
    return out


@contextmanager
def loggers_of(run: Run, options: Options, ranks: Ranks, console: Console) -> Iterator[Loggers]:
    """Those of the first process; where one cannot be opened, none of the processes begins."""
    refused: BadInput | None = None
    with ExitStack() as until_end:
        loggers = Loggers()
        if ranks.rank == 0:
            about = asdict(run.settings), partial(console.print, soft_wrap=True)
            try:
                loggers = until_end.enter_context(opened_loggers(run.folder, options.loggers, *about))
            except BadInput as error:
                refused = error
        if ranks.any(refused is not None):
            raise refused or BadInput("a --logger cannot be opened; the first process says why.")
        yield loggers


def resumed(out: Path, options: Options, ranks: Ranks) -> RunSettings | None:
    """The settings of the run to continue, where --resume asks for it; None for a new run, whose folder is free."""
    stored = resumable(out, options.asked) if options.resume else None
    if ranks.any(stored is None) and ranks.any(stored is not None):
        raise BadInput(f"{out} is a run for some of the processes only: it has to lie where all machines see it.")
    if stored is None:
        if ranks.rank == 0:
            check_free(out)
        ranks.wait()
    return stored


def opened(data: Any, options: Options, ranks: Ranks) -> Data | None:
    """The data set behind a name or folder; None for an iterable of views.
    Where something is fetched, the first process of each machine goes first, and the others find it."""
    if isinstance(data, Data):
        return data
    if isinstance(data, (str, Path)):
        fetches = options.download or is_url(str(data))
        first_here = int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", 0))) == 0
        about: dict[str, Any] = {"root": options.data_root, "download": options.download, "limit": options.limit}
        about |= {"split": options.split, "labels": options.labels, "seed": options.seed or 0}
        if fetches and not first_here:
            ranks.wait()
        images = open_data(str(data), **about)
        if fetches and first_here:
            ranks.wait()
        return images
    if not hasattr(data, "__len__") or not hasattr(data, "__iter__"):
        raise BadInput(
            f"data is a {type(data).__name__}: give a folder, a data set's name, or something with a length that "
            "can be iterated once an epoch and yields views (a torch DataLoader, for example)."
        )
    if options.encoder is None:
        raise BadInput("an iterable of views needs encoder=..., a module that turns them into features [m, e].")
    return None


def make_trainer(
    data: Any, images: Data | None, recipe: Recipe, name: str, options: Options, fabric: Any, ranks: Ranks,
    start: Start | None = None,
) -> tuple[Trainer, EncoderInfo]:  # fmt: skip
    """Batches, network, objective and optimizer of a recipe, before the first step."""
    seed = options.seed or 0
    batches = make_batches(data, images, recipe, options, fabric.device, ranks)
    torch.manual_seed(seed)
    network, info = build_network(recipe, options.encoder, batches, images, name, start)
    if start is not None and options.freeze is not None:
        start.told += freeze(network, options.freeze)
    norms = any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in network.modules())
    if recipe.micro_batch_size == 1 and norms:
        raise BadInput("micro_batch_size is 1: batch norm, which this network has, needs two images. Take 2 or more.")
    objective, settings = build_objective(recipe, network.embedding)
    if options.checkpoint_activations:
        recompute(network.encoder, info.backbone)
    if options.strategy == "fsdp":
        check_shards(recipe, network, objective)
    if ranks.size > 1:
        synchronise_batch_norm(network)
    trained = [*network.parameters(), *parameters_of(objective)]
    old = [] if options.init_lr is None else network.encoder.parameters()
    optimizer = build_optimizer(recipe.optimizer, trained, network.predictor.parameters(), old, options.init_lr or 1.0)
    # Small images: small networks, and no loader whose own work on the GPU would spoil a capture.
    graphs = options.encoder is None and batches.in_memory and not options.checkpoint_activations
    return Trainer(fabric, ranks, recipe, network, objective, settings, optimizer, batches, seed, graphs), info


def check_shards(recipe: Recipe, network: Siamese, objective: Any) -> None:
    """Raises BadInput: something in a recipe needs whole tensors, and ranks have parts of them."""
    average = recipe.optimizer.average
    wrong = {
        "optimizer.name is muon, which turns whole kernels: --set optimizer.name=sgd": recipe.optimizer.name == "muon",
        f"optimizer.average is {average:g}: --set optimizer.average=0": average > 0,
        f"the objective of {recipe.method} trains prototypes: take another --method": bool(parameters_of(objective)),
        "the encoder has parameters that are single numbers": any(p.ndim == 0 for p in network.parameters()),
    }
    if any(wrong.values()):
        raise BadInput(f"--strategy fsdp: {'; '.join(why for why, is_so in wrong.items() if is_so)}; or use ddp.")


def make_batches(
    data: Any, images: Data | None, recipe: Recipe, options: Options, device: torch.device, ranks: Ranks
) -> Batches:
    if recipe.batch_size % ranks.size:
        words = f"batch_size {recipe.batch_size} on {ranks.size} ranks"
        raise BadInput(f"{words}: it has to be a multiple of their number.")
    if images is None:
        return IterableBatches(data, device)
    split = images.train.labelled() if method_named(recipe.method).labels else images.train
    seed, workers = options.seed or 0, options.workers
    return ViewBatches(split, recipe.views, recipe.batch_size, seed=seed, device=device, workers=workers)


def build_network(
    recipe: Recipe, encoder: nn.Module | None, batches: Batches, images: Data | None, recipe_name: str,
    start: Start | None = None,
) -> tuple[Siamese, EncoderInfo]:  # fmt: skip
    """The network around the recipe's backbone, with given weights where there are any, or the caller's own encoder;
    and what is stored with its weights."""
    view = max(recipe.views, key=lambda v: v.size)
    size = view.size if images is not None else 0
    own, small = encoder is not None, recipe.network.small_stem
    if encoder is None:
        encoder = build_encoder(recipe.network.backbone, size, small, zero_init=recipe.network.zero_init)
    if start is not None:
        start.told += take(encoder, start)
    if recipe.network.freeze_patches:
        freeze_patches(encoder, type(encoder).__name__ if own else recipe.network.backbone)
    if next(encoder.parameters(), None) is None:
        raise BadInput(f"the encoder, {type(encoder).__name__}, has no parameters: there is nothing to train.")
    encoder.train()  # one that was loaded comes in evaluation mode, where batch norms stand still
    example = torch.zeros(2, 3, size, size) if isinstance(batches, ViewBatches) else batches.first()
    features = feature_size(encoder, example.to(next(encoder.parameters()).device))
    info = EncoderInfo(
        backbone="custom" if own else recipe.network.backbone, feature_size=features, image_size=size,
        small_stem=bool(size < SMALL_STEM_BELOW if small is None else small), interpolation=view.interpolation,
        mean=view.mean, std=view.std, method=recipe.method, recipe=recipe_name, data=images.name if images else "views",
        data_fingerprint=images.fingerprint if images else "", steps=0,
        value_range=(images.scale.low, images.scale.high) if images and images.scale else (),
    )  # fmt: skip
    heads = recipe.network
    if method_named(recipe.method).labels:
        if images is None or images.train.labels is None:
            raise BadInput(f"method {recipe.method} learns from labels, and there are none: train/CLASS/ folders.")
        heads = replace(heads, projector=(max(len(images.classes), int(images.train.labels.max()) + 1),))
    return build_siamese(heads, encoder, features), info


def facts(name: str, data: Any, images: Data | None, options: Options, trainer: Trainer, why: list[str]) -> RunSettings:
    """The settings of a new run; where there is a time budget, steps are timed for it."""
    steps = options.steps or trainer.recipe.epochs * trainer.batches.steps_per_epoch
    if options.time_budget is not None:
        steps, reason = steps_within(options.time_budget, trainer)
        why = [*why, reason]
        if steps < FEW_STEPS:
            words = "too few to train: give it more minutes, or less to do (--batch-size, --backbone, --set views.size)"
            why.append(f"{steps} steps are {words}")
    where = {"data": str(data) if isinstance(data, (str, Path)) else None}
    return RunSettings(
        recipe_name=name, recipe=trainer.recipe, data=images.name if images else "views",
        data_fingerprint=images.fingerprint if images else "", images=len(images.train) if images else 0,
        **about(images), seed=trainer.seed, steps=steps, steps_per_epoch=trainer.batches.steps_per_epoch, why=why,
        asked={**where, **options.asked, "seed": trainer.seed}, version=__version__, minutes=options.time_budget,
    )  # fmt: skip


def about(images: Data | None) -> dict[str, Any]:
    """What settings.json says of the images as they are now: what was left out, what was told, what is measured on."""
    if images is None:
        return {}
    split = images.split if images.can_be_measured else ""
    return {"left_out": dict(images.left_out), "told": list(images.told), "split": split}


def renew_skipped(path: Path, skipped: Sequence[Skipped]) -> None:
    """skipped.jsonl as things are now: what cannot be read, and of a list from before what was met while training."""
    met = [before for before in listed(path) if before.path not in {s.path for s in skipped}]
    with quiet():
        found = [*skipped, *(s for s in met if not os.path.exists(s.path) or why_unreadable(s.path))]
    path.unlink(missing_ok=True)
    if found:
        write_records(path, map(asdict, found))


def prolonged(out: Path, stored: RunSettings, recipe: Recipe, options: Options, trainer: Trainer) -> RunSettings:
    """The settings of a run that is resumed, made longer where more epochs are asked for."""
    if options.epochs is not None:
        longer = options.epochs * trainer.batches.steps_per_epoch
        return replace(stored, recipe=recipe, steps=longer, minutes=None, corrections=())
    if options.steps not in (None, stored.steps):
        raise BadInput(f"{out} is a run of {stored.steps:,} steps, steps is {options.steps:,}: epochs makes it longer.")
    return stored


def describe(console: Console, run: Run, images: Data | None, trainer: Trainer, start: int) -> None:
    """What will be trained, on what, in a few lines."""
    recipe, settings = run.recipe, run.settings
    method = method_named(recipe.method)
    if images is not None:
        classes = len(images.classes)
        labels = f"with the labels of {classes} classes" if method.labels else "no labels"
        if images.can_be_measured and not method.labels:
            labels = f"labels of {classes} classes only for measuring, on {len(images.test or ()):,} of {images.split}/"
            labels += f" ({len(images.validation):,} others for validation)" if images.validation else ""
        console.print(f"{images.name}: {len(images.train):,} training images, {labels}")
        for words in images.words():
            console.print(words, style="yellow", soft_wrap=True)
        if images.skipped:
            console.print(f"which cannot be read, and why: {run.folder / SKIPPED}", soft_wrap=True)
    for reason in settings.why:
        console.print(f"  {reason}", style="dim")
    if differing := differs_from_paper(recipe.method, recipe.settings):
        console.print(differing)
    parameters = sum(p.numel() for p in trainer.network.encoder.parameters())
    where = trainer.fabric.device.type + (f" x {trainer.ranks.size}" if trainer.ranks.size > 1 else "")
    where += ", in shards" if trainer.sharded else ""
    console.print(
        f"{recipe.method} (recipe {settings.recipe_name}): {run.encoder.backbone}, {parameters / 1e6:.2g} M "
        f"parameters, batch {recipe.batch_size}, {run.steps:,} steps ({run.steps / settings.steps_per_epoch:.4g} "
        f"epochs), on {where}"
    )
    if start:
        console.print(f"resumed after step {start:,} of {run.steps:,}")


def start_folder(run: Run, images: Data | None, ranks: Ranks) -> None:
    """The run folder, seen by all processes, with settings.json and the images that could not be read."""
    out = run.folder
    if ranks.rank == 0:
        try:
            out.mkdir(parents=True, exist_ok=True)
            for part in [*out.glob("*.part"), *out.glob("checkpoints/*.part")]:
                part.unlink()
            (out / HEALTH).unlink(missing_ok=True)  # it says that a run is finished: this one goes on
            write_json(out / SETTINGS, asdict(run.settings))
            if images is not None:
                renew_skipped(out / SKIPPED, images.skipped)
        except OSError as error:
            raise TrainingStopped(f"{out}: cannot be written ({error}). Make room, or choose another --out.") from error
    ranks.wait()
    if ranks.any(not out.is_dir()):
        raise BadInput(f"{out} is not there for all processes: it has to lie where all machines see it.")
