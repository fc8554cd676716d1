"""From images to an encoder: what to train, on what, and the run from its first step to its closing table."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from mec.data.batches import IterableBatches, ViewBatches
from mec.data.dataset import Data
from mec.data.opening import open_data
from mec.data.shards import is_url
from mec.errors import BadInput, TrainingStopped
from mec.networks.backbones import SMALL_STEM_BELOW, build_encoder, feature_size
from mec.networks.encoder_file import EncoderInfo
from mec.networks.siamese import Siamese, build_siamese
from mec.objectives.methods import method_named
from mec.recipes.recipe import Recipe
from mec.runtime import files
from mec.runtime.device import start_fabric
from mec.runtime.distributed import Ranks, current, synchronise_batch_norm
from mec.runtime.files import SETTINGS, check_free
from mec.training.optimizers import build_optimizer
from mec.training.plan import adapted, build_objective, resolve
from mec.training.report import HEALTH, finish_run
from mec.training.run import RunSettings, as_json, check_same, read_settings, resume_command
from mec.training.runlog import SKIPPED, Watch
from mec.training.timing import steps_within
from mec.training.trainer import Trainer, parameters_of
from mec.version import __version__

CHANGES = ("method", "epochs", "time_budget", "batch_size", "backbone", "set")  # of a recipe, by the command line


def pretrain(
    data: str | Path | Data | Iterable,
    *,
    recipe: str | Recipe | None = None,
    method: str | None = None,
    encoder: nn.Module | None = None,
    out: str | Path | None = None,
    epochs: int | None = None,
    time_budget: float | None = None,
    steps: int | None = None,
    limit: int | None = None,
    batch_size: int | None = None,
    backbone: str | None = None,
    seed: int | None = None,
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
        data: "digits", a torchvision name, "imagenet", a folder of images, what `mec pack` wrote or a URL of it, or
            what `open_data` gave; or, for any modality, something that can be iterated once an epoch, has a length,
            and yields batches of views: V tensors [m, ...] with rows in the same order. If it has `set_epoch`, that
            is called with the epoch's number before each pass.
        recipe: a name in RECIPES or a Recipe; default: "digits" for digits, else "auto".
        method: a name in METHODS, in place of the recipe's.
        encoder: a module of your own, inputs -> features [m, e], in place of the recipe's backbone. An iterable of
            views needs it. It is put into training mode.
        out: the run folder; default runs/<data>-<recipe>, and -<method> where one is given. On several machines it
            lies where all see it.
        epochs: passes over the data.
        time_budget: minutes to train for, turned into a number of steps after a short timing.
        steps: how many, in place of epochs and of a time budget.
        limit: use this many training images, stratified where labels exist.
        batch_size: images a step, over all ranks.
        backbone: a timm name, in place of the recipe's.
        seed: of weights, data order and views; default 0.
        device: "auto", "cpu" or "cuda".
        resume: go on with the run in `out` from its last checkpoint.
        settings: KEY=VALUE changes to the recipe.
        data_root: where a torchvision data set's or imagenet's files are, or where to fetch shards to.
        download: fetch a torchvision data set from its own home.
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
    console = Console(quiet=quiet or ranks.rank > 0, markup=False)
    asked = {
        "recipe": recipe if isinstance(recipe, str) else None,
        "method": method,
        "limit": limit,
        "batch_size": batch_size,
        "backbone": backbone,
        "seed": seed,
        "epochs": epochs,
        "time_budget": time_budget,
        "data_root": str(data_root) if data_root else None,
        "set": list(settings),
    }
    name = recipe_name(recipe, data)
    out = Path(out) if out else default_out(data, name, method)

    # What to do: from the run folder when resuming, else from the recipe and what was asked.
    stored = resumable(out, asked) if resume else None
    if ranks.any(stored is None) and ranks.any(stored is not None):
        raise BadInput(f"{out} is a run for some of the processes only: it has to lie where all machines see it.")
    before = stored.asked if stored else {}
    seed = before.get("seed") or 0 if seed is None else seed
    limit = before.get("limit") if limit is None else limit
    root = before.get("data_root") if data_root is None else data_root
    images = opened(data, ranks, root=root, download=download, limit=limit, seed=seed)
    if stored is None:
        if ranks.rank == 0:
            check_free(out)
        ranks.wait()
        chosen, why = resolve(recipe if isinstance(recipe, Recipe) else name, images, encoder, fabric.device.type)
        chosen = adapted(chosen, method, epochs, batch_size, backbone, settings)
        why += changed_as_asked(asked) if why else []
    else:
        check_images(out, stored, images)
        if steps is not None and epochs is None and steps != stored.steps:
            raise BadInput(f"{out} is a run of {stored.steps:,} steps, steps is {steps:,}: epochs makes it longer.")
        name, why = stored.recipe_name, list(stored.why)
        chosen = stored.recipe if epochs is None else replace(stored.recipe, epochs=epochs)

    trainer, info = make_trainer(data, images, chosen, name, encoder, seed, fabric, ranks, workers)
    batches = trainer.batches
    untrained = {k: v.cpu().clone() for k, v in trainer.encoder.state_dict().items()}

    if stored is None:
        if steps is None:
            steps = chosen.epochs * batches.steps_per_epoch
        elif steps < 1 or time_budget is not None:
            raise BadInput(f"steps is {steps}, time_budget {time_budget}: one of them, and at least 1 step.")
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
            asked={"data": str(data) if isinstance(data, (str, Path)) else None, **asked, "seed": seed},
            version=__version__,
        )
    else:
        run = stored if epochs is None else replace(stored, recipe=chosen, steps=epochs * batches.steps_per_epoch)
    info = replace(info, steps=run.steps)

    start = 0 if stored is None else trainer.restore(out, console)
    if start >= run.steps and (out / HEALTH).exists():
        console.print(f"{out} is finished after {start:,} steps; --resume --epochs N goes on.", highlight=False)
        return out
    describe(console, out, run, info, images, trainer, start)
    decoding = getattr(batches, "workers", 0)
    watch = Watch(out, images if evaluate else None, info, fabric.device, console, decoding)
    if ranks.rank == 0:
        try:
            start_folder(out, run, images)
        except OSError as error:
            raise TrainingStopped(f"{out}: cannot be written ({error}). Make room, or choose another --out.") from error
    ranks.wait()
    if ranks.any(not out.is_dir()):
        raise BadInput(f"{out} is not there for all processes: it has to lie where all machines see it.")
    try:
        trainer.run(out, run, info, start, watch, save_minutes)
    except OSError as error:
        raise TrainingStopped(
            f"{out}: the system stopped the run ({error}), most often since a file cannot be written. The checkpoint "
            f"before this one is whole; make room, then {resume_command(data, out)}"
        ) from error
    if ranks.rank == 0:
        measured = images if evaluate else None
        finish_run(out, run, info, trainer.encoder, untrained, measured, fabric.device, decoding, console)
    return out  # the other processes do not wait for the measuring: it may take longer than a group's patience


def opened(data: Any, ranks: Ranks, *, download: bool, **options: Any) -> Data | None:
    """`as_data`; where something is fetched, the first process of each machine goes first, and the others find it."""
    fetches = download or (isinstance(data, str) and is_url(data))
    first_here = int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", 0))) == 0
    if fetches and not first_here:
        ranks.wait()
    images = as_data(data, download=download, **options)
    if fetches and first_here:
        ranks.wait()
    return images


def as_data(data: Any, **options: Any) -> Data | None:
    """The data set behind a name or folder; None for an iterable of views."""
    if isinstance(data, Data):
        return data
    if isinstance(data, (str, Path)):
        return open_data(str(data), **options)
    if not hasattr(data, "__len__") or not hasattr(data, "__iter__"):
        raise BadInput(
            f"data is a {type(data).__name__}: give a folder, a data set's name, or something with a length that "
            "can be iterated once an epoch and yields views (a torch DataLoader, for example)."
        )
    return None


def changed_as_asked(asked: Mapping[str, Any]) -> list[str]:
    """A line about what the command line changed of an automatic choice; none if nothing."""
    given = {k.replace("_", "-"): asked[k] for k in CHANGES if asked[k] not in (None, [])}
    words = [f"--{k} {' '.join(v) if isinstance(v, list) else v}" for k, v in given.items()]
    return [f"changed as asked: {', '.join(words)}"] if words else []


def recipe_name(recipe: str | Recipe | None, data: Any) -> str:
    """The name that a run's recipe goes by; digits have one of their own, all else is `auto` by default."""
    if isinstance(recipe, str):
        return recipe
    if recipe is not None:
        return "custom"
    digits = data.suits == "digits" if isinstance(data, Data) else str(data) == "digits"
    return "digits" if digits else "auto"


def default_out(data: Any, recipe: str, method: str | None) -> Path:
    """runs/<data>-<recipe>, and the method where it is not the recipe's own."""
    if isinstance(data, (str, Path)):
        path = Path(data).resolve()
        name = path.parent.name if path.suffix == ".tar" else path.name
    else:
        name = data.name if isinstance(data, Data) else "views"
    return Path("runs") / "-".join(filter(None, [name, recipe, method]))


def resumable(out: Path, asked: Mapping[str, Any]) -> RunSettings | None:
    """The settings of the run to go on with; None if the folder is empty."""
    if not out.exists() or not any(out.iterdir()):
        return None
    stored = read_settings(out)
    check_same(stored.asked, asked, out)
    return stored


def check_images(out: Path, stored: RunSettings, images: Data | None) -> None:
    """The images are those that the run was started on."""
    if images is None:
        return
    # Of another number: one cannot be read now, or can be again.
    if (images.fingerprint, len(images.train)) != (stored.data_fingerprint, stored.images):
        raise BadInput(
            f"{out} was started on other images ({stored.images:,} of {stored.data}, fingerprint "
            f"{stored.data_fingerprint}; now {len(images.train):,}, {images.fingerprint}). Restore them, or start "
            "a new run."
        )


def make_trainer(
    data: Any,
    images: Data | None,
    recipe: Recipe,
    name: str,
    encoder: nn.Module | None,
    seed: int,
    fabric: Any,
    ranks: Ranks,
    workers: int | None,
) -> tuple[Trainer, EncoderInfo]:
    """Batches, network, objective and optimizer of a recipe, before the first step."""
    batches = make_batches(data, images, recipe, seed, fabric.device, workers, ranks)
    torch.manual_seed(seed)
    network, info = build_network(recipe, encoder, batches, images, name)
    objective, settings = build_objective(recipe, network.embedding)
    if ranks.size > 1:
        synchronise_batch_norm(network)
    trained = [*network.parameters(), *parameters_of(objective)]
    optimizer = build_optimizer(recipe.optimizer, trained, network.predictor.parameters())
    # Small images: small networks, and no loader whose own work on the GPU would spoil a capture.
    graphs = encoder is None and batches.in_memory
    return Trainer(fabric, ranks, recipe, network, objective, settings, optimizer, batches, seed, graphs), info


def make_batches(
    data: Any, images: Data | None, recipe: Recipe, seed: int, device: torch.device, workers: int | None, ranks: Ranks
) -> ViewBatches | IterableBatches:
    if recipe.batch_size % ranks.size:
        raise BadInput(
            f"batch_size {recipe.batch_size} on {ranks.size} ranks: it has to be a multiple of their number."
        )
    if images is None:
        return IterableBatches(data, device)
    split = images.train.labelled() if method_named(recipe.method).labels else images.train
    return ViewBatches(split, recipe.views, recipe.batch_size, seed=seed, device=device, workers=workers)


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
        encoder = build_encoder(
            recipe.network.backbone, size, recipe.network.small_stem, zero_init=recipe.network.zero_init
        )
    encoder.train()  # one that was loaded comes in evaluation mode, where batch norms stand still
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
    heads = recipe.network
    if method_named(recipe.method).labels:
        if images is None or images.train.labels is None:
            raise BadInput(f"method {recipe.method} learns from labels, and there are none: train/CLASS/ folders.")
        heads = replace(heads, projector=(max(len(images.classes), int(images.train.labels.max()) + 1),))
    return build_siamese(heads, encoder, features), info


def start_folder(out: Path, run: RunSettings, images: Data | None) -> None:
    """settings.json, and the images that could not be read."""
    out.mkdir(parents=True, exist_ok=True)
    for part in [*out.glob("*.part"), *out.glob("checkpoints/*.part")]:
        part.unlink()
    (out / HEALTH).unlink(missing_ok=True)  # it says that a run is finished: this one goes on
    files.write_text(out / SETTINGS, as_json(run))
    if images is not None and images.skipped and not (out / SKIPPED).exists():
        lines = (json.dumps(asdict(s)) + "\n" for s in images.skipped)
        files.write_text(out / SKIPPED, "".join(lines))


def describe(
    console: Console,
    out: Path,
    run: RunSettings,
    info: EncoderInfo,
    images: Data | None,
    trainer: Trainer,
    start: int,
) -> None:
    """What will be trained, on what, in a few lines."""
    recipe, m = run.recipe, trainer.recipe.batch_size
    if images is not None:
        if method_named(recipe.method).labels:
            labels = f"with the labels of {len(images.classes)} classes"
        elif images.can_be_measured:
            labels = f"labels of {len(images.classes)} classes only for measuring"
        else:
            labels = "no labels"
        console.print(f"{images.name}: {len(images.train):,} training images, {labels}", highlight=False)
        if images.skipped:
            console.print(
                f"{len(images.skipped)} images cannot be read and are left out: {out / SKIPPED}",
                highlight=False,
            )
    for reason in run.why:
        console.print(f"  {reason}", style="dim", highlight=False)
    parameters = sum(p.numel() for p in trainer.network.encoder.parameters())
    console.print(
        f"{recipe.method} (recipe {run.recipe_name}): {info.backbone}, {parameters / 1e6:.2g} M parameters, "
        f"batch {m}, {run.steps:,} steps ({run.steps / run.steps_per_epoch:.4g} epochs), on "
        + trainer.fabric.device.type
        + (f" x {trainer.ranks.size}" if trainer.ranks.size > 1 else ""),
        highlight=False,
    )
    if start:
        console.print(f"resumed after step {start:,} of {run.steps:,}", highlight=False)
