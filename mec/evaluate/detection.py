"""Fine-tuning an encoder as a detector on VOC or COCO, from the encoder to average precision."""

from __future__ import annotations

import copy
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from mec import checkpoint, figures
from mec.auto import has_bf16_units
from mec.distributed import Ranks, current, synchronise_batch_norm
from mec.errors import BadInput, Diverged, TrainingStopped, nearest
from mec.evaluate.detection_data import (
    Annotations,
    Sizes,
    TestImages,
    TrainingBatches,
    as_they_are,
    crowds,
    largest_objects,
    read_coco,
    read_voc,
    training_loader,
    without_polygons,
)
from mec.evaluate.detection_metrics import Detections, coco_package, coco_scores, masks_api, voc_scores
from mec.evaluate.detector import FULL, Detector, Regions, build_detector, parameter_groups, paste_masks
from mec.evaluate.subject import Subject
from mec.evaluate.video import missing
from mec.fabric import start_fabric
from mec.peak import peak_memory, reset_peak_memory
from mec.progress import TrainingProgress
from mec.results import Result, labelled
from mec.run import SETTINGS, check_free
from mec.signals import leave_signals_to_the_run, signals

SWEEP = (0.02, 0.03, 0.05, 0.1, 0.2)  # learning rates, at batch 16
LOG_EVERY = 20  # iterations
WARM = 4  # iterations that are not timed
SHOWN = 6  # photographs in the picture of detections
VOC_SIZES = Sizes(tuple(range(480, 801, 32)), 800)
COCO_SIZES = Sizes(tuple(range(640, 801, 32)), 800)


@dataclass(frozen=True)
class Preset:
    """What is trained on what, for how long. Counts are iterations; the learning rate is for the batch as given."""

    source: str
    train: tuple[str, ...]
    test: str
    iterations: int
    drops: tuple[int, ...]  # where the learning rate falls to a tenth
    warmup: int
    sizes: Sizes
    seeds: tuple[int, ...]
    lr: float = 0.02
    warmup_factor: float = 0.001
    batch_size: int = 16
    momentum: float = 0.9
    weight_decay: float = 1e-4  # none on norms
    flip: float = 0.5
    regions: Regions = FULL
    precise: int = 200  # batches whose statistics are averaged before testing
    photographs: int | None = None  # so many with the largest objects, of train; and tested on the same


VOC0712_24K = Preset(
    source="MEC appendix C; MoCo's pascal_voc_R_50_C4_24k on detectron2",
    train=("2007 trainval", "2012 trainval"),
    test="2007 test",
    iterations=24_000,
    drops=(18_000, 22_000),
    warmup=100,
    sizes=VOC_SIZES,
    seeds=(0, 1, 2, 3, 4),
)
VOC07 = replace(
    VOC0712_24K,
    source="MEC appendix C: fewer iterations according to the size of the data (24,000 x 5,011 / 16,551)",
    train=("2007 trainval",),
    iterations=7_266,
    drops=(5_450, 6_661),
)
VOC07_VISSL = replace(VOC07, source="VISSL's rn50_transfer_voc07_detectron2_e2e", iterations=12_500, drops=(9_500,))
COCO_1X = Preset(
    source="MEC appendix C; MoCo's coco_R_50_C4 on detectron2, 1x schedule",
    train=("train2017",),
    test="val2017",
    iterations=90_000,
    drops=(60_000, 80_000),
    warmup=1_000,
    sizes=COCO_SIZES,
    seeds=(0,),
)
# A look on little data, on a CPU: small images, few regions, tested on the photographs it was trained on.
QUICK: dict[str, Any] = {
    "source": "for a look on little data; compares with nothing",
    "iterations": 600,
    "drops": (480, 560),
    "warmup": 20,
    "lr": 0.03,
    "sizes": Sizes((128,), 128, 224),
    "seeds": (0,),
    "batch_size": 2,
    "flip": 0.0,
    "regions": Regions(before_nms=(2_000, 1_000), after_nms=(200, 100), regions=16, pooled=7),
    "precise": 20,
    "photographs": 8,
}
PRESETS: dict[str, dict[str, Preset]] = {
    "voc": {
        "voc07": VOC07,
        "voc07-vissl": VOC07_VISSL,
        "quick": replace(VOC07, **QUICK),
    },
    "voc0712": {"voc0712-24k": VOC0712_24K, "quick": replace(VOC0712_24K, **QUICK)},
    "coco": {"coco-1x": COCO_1X, "quick": replace(COCO_1X, **QUICK)},
}


def detect(
    subject: Subject,
    protocol: str,
    root: Path,
    *,
    preset: str | None = None,
    lr: float | None = None,
    sweep: bool = False,
    seeds: Sequence[int] | None = None,
    iterations: int | None = None,
    batch_size: int | None = None,
    precision: str = "auto",
    resume: bool = False,
    save_minutes: float = 10.0,
    quiet: bool = False,
) -> list[Result]:
    """Train detectors from an encoder and measure them; each run has a folder below SUBJECT.folder/PROTOCOL-PRESET.

    Args:
        protocol: "voc", "voc0712" or "coco".
        root: of the data, in its standard layout.
        preset: of PRESETS[protocol]; default its first.
        lr: for the whole batch; default the preset's.
        sweep: try `SWEEP` with the first seed, take the best AP on the test photographs, as published searches do.
        seeds: one run each; default the preset's.
        iterations: others than the preset's; warm-up and drops move in proportion.
        precision: "auto" (bf16 where the device has units for it), "fp32" or "bf16".
        resume: go on with what the folder holds.

    Returns:
        Mean and spread over seeds of each measure; with `sweep` also the AP of each rate. Nothing on ranks but the
        first.

    Raises:
        BadInput: data, preset or encoder do not fit. TrainingStopped: by a signal, or diverged.
    """
    chosen_name, chosen = preset_named(protocol, preset)
    chosen = adapted(chosen, iterations, batch_size, seeds)
    if sweep and lr is not None:
        raise BadInput(f"--sweep tries {', '.join(map(str, SWEEP))}: leave out --lr {lr}.")
    if lr is not None and not 0 < lr < 100:
        raise BadInput(f"--lr is {lr}: a number above 0, such as {chosen.lr}.")
    coco_package()  # asked for now, not after hours of training
    train, test = read_data(protocol, root, chosen)
    fabric = start_fabric(subject.device)
    bf16 = precision == "bf16" or (precision == "auto" and has_bf16_units(fabric.device.type))
    ranks = current()
    if chosen.batch_size % ranks.size:
        raise BadInput(f"a batch of {chosen.batch_size} cannot be shared by {ranks.size} processes.")
    console = Console(quiet=quiet or ranks.rank > 0)
    out = subject.folder / f"{protocol}-{chosen_name}"
    # Rates and seeds are folders in it: others may be added, and those that are finished count.
    as_stored = json.loads(json.dumps(asdict(chosen)))
    settings = {
        "protocol": protocol,
        **{name: value for name, value in as_stored.items() if name not in ("seeds", "lr")},
        "precision": "bf16" if bf16 else "fp32",
        "checkpoint": subject.checkpoint,
        "data_fingerprint": train.fingerprint() + test.fingerprint(),
    }
    start_folder(out, settings, resume, ranks)
    console.print(
        f"{protocol}, preset {chosen_name}: {len(train):,} photographs to train on, {len(test):,} to test on; "
        f"{chosen.iterations:,} iterations of {chosen.batch_size}, seeds {', '.join(map(str, chosen.seeds))}; "
        f"on {fabric.device.type}",
        highlight=False,
    )

    lacking = without_polygons(train).sum()
    if lacking:
        console.print(f"{lacking:,} objects have no polygon and are not trained on.", highlight=False)

    def run(rate: float, seed: int) -> dict[str, Any]:
        folder = out / f"lr-{rate:g}-seed-{seed}"
        if (folder / "result.json").exists():
            return json.loads((folder / "result.json").read_text())
        console.print(f"{folder}", highlight=False)
        one = DetectorRun(fabric, ranks, subject, protocol, chosen, train, test, rate, seed, folder, console, bf16)
        return one.to_the_end(save_minutes)

    rates = SWEEP if sweep else (lr if lr is not None else chosen.lr,)
    tried: dict[float, dict[str, Any]] = {}
    for rate in rates:
        try:
            tried[rate] = run(rate, chosen.seeds[0])
        except Diverged as error:
            if not sweep:
                raise
            console.print(f"lr {rate:g}: {error}", highlight=False)
    if not tried:
        raise TrainingStopped(f"every learning rate of {', '.join(map(str, rates))} diverged.")
    best = max(tried, key=lambda rate: main_score(tried[rate])[1])
    runs = [tried[best], *(run(best, seed) for seed in chosen.seeds[1:])]
    if ranks.rank > 0:
        return []
    about = {
        "preset": result_name(protocol, chosen_name, chosen), "precision": settings["precision"],
        "iterations": chosen.iterations, "batch_size": chosen.batch_size, "source": chosen.source,
        "photographs": len(test), "classes": len(np.unique(test.labels[~test.ignored])),
    }  # fmt: skip
    results = as_results(protocol, tried if sweep else {}, best, runs, about)
    split = chosen.test if chosen.photographs is None else "train"
    data = "COCO2017" if protocol == "coco" else "VOC2007"
    return labelled(results, data=data, data_fingerprint=test.fingerprint(), split=split)


def as_results(
    protocol: str,
    tried: Mapping[float, Mapping[str, Any]],
    best: float,
    runs: Sequence[Mapping[str, Any]],
    about: Mapping[str, Any],
) -> list[Result]:
    """Each rate of a search, then mean and spread of each measure over the runs with the best."""
    results = []
    for rate, found in tried.items():
        name, value = main_score(found)
        settings = {**about, "lr": rate, "part": "search of the learning rate"}
        results.append(Result(protocol, name, value, seed=found["seed"], settings=settings))
    chosen_on = {"lr_chosen_on": "the test photographs"} if tried else {}
    for metric in runs[0]["scores"]:
        values = [found["scores"][metric] for found in runs]
        settings = {**about, **chosen_on, "lr": best, "seeds": [found["seed"] for found in runs], "values": values}
        spread = statistics.stdev(values) if len(values) > 1 else None
        value, seed = statistics.mean(values), runs[0]["seed"]
        results.append(Result(protocol, metric, value, spread=spread, n=len(values), seed=seed, settings=settings))
    return results


def main_score(found: Mapping[str, Any]) -> tuple[str, float]:
    """AP, or box AP: the first of the scores."""
    return next(iter(found["scores"].items()))


def preset_named(protocol: str, name: str | None) -> tuple[str, Preset]:
    table = PRESETS[protocol]
    name = next(iter(table)) if name is None else name
    if name not in table:
        raise BadInput(f"--preset {name!r} is none of {protocol}'s. {nearest(name, table)}")
    return name, table[name]


def result_name(protocol: str, name: str, preset: Preset) -> str:
    """What results call it: the preset, or "PRESET, changed" where more than its seeds was."""
    published = PRESETS[protocol][name]
    return name if replace(preset, seeds=published.seeds) == published else f"{name}, changed"


def adapted(preset: Preset, iterations: int | None, batch_size: int | None, seeds: Sequence[int] | None) -> Preset:
    """The preset with what was asked for; warm-up and drops keep their places in the run."""
    for flag, value in (("--iterations", iterations), ("--batch-size", batch_size)):
        if value is not None and value < 1:
            raise BadInput(f"{flag} is {value}: at least 1.")
    if seeds is not None:
        if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
            raise BadInput(f"--seeds is {','.join(map(str, seeds))}: different whole numbers from 0 on.")
        preset = replace(preset, seeds=tuple(seeds))
    if batch_size is not None:
        preset = replace(preset, batch_size=batch_size)
    if iterations is None:
        return preset
    share = iterations / preset.iterations
    drops = tuple(round(share * drop) for drop in preset.drops)
    return replace(preset, iterations=iterations, drops=drops, warmup=min(preset.warmup, max(1, iterations // 10)))


def read_data(protocol: str, root: Path, preset: Preset) -> tuple[Annotations, Annotations]:
    """What is trained on and what is tested on."""
    if protocol == "coco":
        read: Callable[[Sequence[str]], Annotations] = lambda names: read_coco(root, names[0])  # noqa: E731
    else:
        read = lambda names: read_voc(root, [(int(n.split()[0]), n.split()[1]) for n in names])  # noqa: E731
    train = read(preset.train)
    missing(map(Path, train.paths), f"photographs of {', '.join(preset.train)}")
    lacking, crowd = without_polygons(train), crowds(train)
    if lacking.any() and (lacking | crowd).all():
        raise BadInput(
            f"{train.source}: none of its {lacking.sum():,} objects has a polygon (they have boxes alone, or masks as "
            'run lengths), and masks are learned from polygons. Write the outlines into "segmentation", as '
            "[[x, y, x, y, ...]]."
        )
    if preset.photographs is not None:
        train = largest_objects(train, preset.photographs)
        return train, train
    test = read((preset.test,))
    missing(map(Path, test.paths), f"photographs of {preset.test}")
    return train, test


def start_folder(out: Path, settings: Mapping[str, Any], resume: bool, ranks: Ranks) -> None:
    """An empty folder with settings.json, or the one to go on with.

    Raises:
        BadInput: it holds a run and this is no resuming, or was started with other settings; names them.
    """
    stored = out / SETTINGS
    if resume and stored.exists():
        try:
            before = json.loads(stored.read_text())
        except ValueError as error:
            raise BadInput(f"{stored}: not valid JSON ({error}).") from error
        differing = [f"{k}: {before.get(k)!r} before, {v!r} now" for k, v in settings.items() if before.get(k) != v]
        if differing:
            raise BadInput(
                f"{out} was started with other settings ({'; '.join(differing)}). Use them, or another --out."
            )
    elif ranks.rank == 0:
        check_free(out)
        out.mkdir(parents=True, exist_ok=True)
        checkpoint.write_json(stored, settings)
    ranks.wait()


class DetectorRun:
    """One learning rate, one seed: training, precise statistics, detections, scores, pictures; in one folder."""

    def __init__(
        self,
        fabric: Any,
        ranks: Ranks,
        subject: Subject,
        protocol: str,
        preset: Preset,
        train: Annotations,
        test: Annotations,
        lr: float,
        seed: int,
        out: Path,
        console: Console,
        bf16: bool,
    ):
        self.fabric, self.ranks, self.protocol, self.preset = fabric, ranks, protocol, preset
        self.train, self.test, self.lr, self.seed, self.out = train, test, lr, seed, out
        self.workers, self.console, self.bf16 = subject.workers, console, bf16
        torch.manual_seed(seed)
        self.detector = build_detector(
            copy.deepcopy(subject.encoder).cpu(),
            len(train.classes),
            masks=protocol == "coco",
            mean=[255 * v for v in subject.info.mean],
            std=[255 * v for v in subject.info.std],
            regions=preset.regions,
        )
        if ranks.size > 1:
            synchronise_batch_norm(self.detector)
        optimizer = torch.optim.SGD(
            parameter_groups(self.detector, preset.weight_decay), lr=lr, momentum=preset.momentum
        )
        self.wrapped, self.optimizer = fabric.setup(self.detector, optimizer)

    def to_the_end(self, save_minutes: float) -> dict[str, Any]:
        start = self.restore()
        timing = self.fit(start, save_minutes)
        self.precise_statistics()
        detections = self.detections()
        result = {"scores": self.scores(detections), "lr": self.lr, "seed": self.seed, **timing}
        if self.ranks.rank == 0:
            chosen = range(min(SHOWN, len(self.test)))
            masks = self.protocol == "coco"
            figures.detection_picture(self.test, detections, chosen, self.out / "detections.png", masks=masks)
            figures.training_curves(read_lines(self.out / "metrics.jsonl"), self.out / "curves.png")
            checkpoint.write_json(self.out / "result.json", result)
        text = ", ".join(f"{name} {value:.1f}" for name, value in result["scores"].items())
        self.console.print(f"lr {self.lr:g}, seed {self.seed}: {text}", highlight=False)
        return result

    # --- training ------------------------------------------------------------------------------------------------

    def fit(self, start: int, save_minutes: float) -> dict[str, Any]:
        """Iterations start to the last; returns seconds an iteration (median) and the memory it took, where known."""
        reset_peak_memory(self.fabric.device.type)
        total = self.preset.iterations
        times: list[float] = []
        saved = time.monotonic()
        keep_lines(self.out / "metrics.jsonl", start) if self.ranks.rank == 0 else None
        self.detector.train()
        with signals() as stop, TrainingProgress(self.console, total, start) as progress:
            before = time.monotonic()
            for iteration, batch in enumerate(self.batches(start, total), start):
                lr = learning_rate(self.preset, self.lr, iteration)
                for group in self.optimizer.param_groups:
                    group["lr"] = lr
                losses = self.losses(batch)
                loss = torch.stack(list(losses.values())).sum()
                self.fabric.backward(loss)
                done = iteration + 1
                due = done % LOG_EVERY == 0 or done in (1, total)
                stopping = stop() if self.ranks.size == 1 else due and self.ranks.any(stop())
                late = time.monotonic() - saved > 60 * save_minutes
                save = done == total or stopping or (late if self.ranks.size == 1 else due and self._agreed(late))
                if due or save or self.fabric.device.type == "cpu":
                    self.check(losses, iteration, lr)
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
                times.append(time.monotonic() - before)
                before = time.monotonic()
                if due:
                    line = {"iteration": done, "lr": lr, "loss": float(loss.detach()), "seconds": times[-1]}
                    progress.step(done, self.log({**line, **{k: float(v.detach()) for k, v in losses.items()}}))
                else:
                    progress.step(done)
                if save:
                    self.save(done)
                    saved = time.monotonic()
                if stopping and done < total:
                    raise TrainingStopped(
                        f"stopped by a signal after iteration {done} of {total}; it is saved in {self.out}. Go on with "
                        "the same command and --resume."
                    )
        pace = {"seconds_per_iteration": statistics.median(times[WARM:] or times)} if times else {}
        if self.fabric.device.type == "cuda":
            pace["memory_gib"] = peak_memory(self.fabric.device.type)
        return pace

    def batches(self, start: int, stop: int) -> Any:
        data = TrainingBatches(self.train, self.preset.sizes, self.seed, self.preset.flip)
        size = self.preset.batch_size
        return training_loader(data, size, start, stop, self.ranks.share(size), self.workers)

    def losses(self, batch: Sequence[tuple[Tensor, dict[str, Any], int]]) -> dict[str, Tensor]:
        device = self.fabric.device
        images = [image.to(device, non_blocking=True) for image, _, _ in batch]
        targets = [
            {k: v.to(device) if isinstance(v, Tensor) else v for k, v in target.items()} for _, target, _ in batch
        ]
        self.detector.draw([seed for _, _, seed in batch], self.ranks)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            return self.wrapped(images, targets)

    def check(self, losses: Mapping[str, Tensor], iteration: int, lr: float) -> None:
        """Stop before weights are saved that a loss without a number has spoilt; on a CPU before the step itself."""
        values = {name: float(value.detach()) for name, value in losses.items()}
        bad = not all(math.isfinite(v) for v in values.values())
        if self.ranks.any(bad):
            kept = checkpoint.checkpoints(self.out)
            raise Diverged(
                f"diverged at iteration {iteration + 1} with learning rate {lr:.3g} "
                f"({', '.join(f'{k} {v:.3g}' for k, v in values.items())}). "
                + (f"Kept: {kept[-1]}. " if kept else "")
                + f"Start again in another --out with --lr {self.lr / 3:.2g}."
            )

    def _agreed(self, late: bool) -> bool:
        return bool(self.ranks.from_first(late))

    def log(self, line: Mapping[str, float]) -> str:
        if self.ranks.rank == 0:
            with open(self.out / "metrics.jsonl", "a") as file:
                file.write(json.dumps(line) + "\n")
        return f"loss {line['loss']:.3f}, {line['seconds']:.2f} s an iteration"

    def save(self, done: int) -> None:
        if self.ranks.rank == 0:
            state = {"detector": self.detector.state_dict(), "optimizer": self.optimizer.state_dict()}
            checkpoint.save(self.out, done, state)

    def restore(self) -> int:
        """Everything as it was after the newest readable checkpoint; returns the iterations done."""
        if self.ranks.rank == 0:
            self.out.mkdir(parents=True, exist_ok=True)
        self.ranks.wait()
        found = checkpoint.newest(self.out)
        if found is None:
            return 0
        state, complaints = found
        for words in complaints:
            self.console.print(f"{words}; the one before it is used.", highlight=False)
        try:
            self.detector.load_state_dict(state["detector"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise BadInput(f"{self.out}: not this detector's ({checkpoint.first_line(error)}).") from error
        self.console.print(f"resumed after iteration {state['step']} of {self.preset.iterations}", highlight=False)
        return state["step"]

    def precise_statistics(self) -> None:
        """Batch norms' statistics as averages over training batches with the final weights, heads included."""
        last = self.preset.iterations
        with torch.no_grad(), averaged_statistics(self.detector) as collect:
            self.detector.train()
            for batch in self.batches(last, last + self.preset.precise):
                self.losses(batch)
                collect()

    # --- measuring -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def detections(self) -> list[Detections]:
        """Of every test photograph, in its own px, on every rank; each rank looks at its share."""
        mine = range(self.ranks.rank, len(self.test), self.ranks.size)
        loader = torch.utils.data.DataLoader(
            TestImages(self.test, self.preset.sizes),
            batch_size=None,
            sampler=mine,
            num_workers=self.workers,
            collate_fn=as_they_are,
            worker_init_fn=leave_signals_to_the_run,
        )
        self.detector.eval()
        found = []
        for index, image in zip(mine, loader):
            with torch.autocast(self.fabric.device.type, torch.bfloat16, enabled=self.bf16):
                result = self.detector([image.to(self.fabric.device)])[0]
            seen = (image.shape[2], image.shape[1])
            found.append(in_original(result, seen, tuple(self.test.sizes[index].tolist())))
        return interleaved(gathered(found, self.ranks), self.ranks.size)

    def scores(self, detections: Sequence[Detections]) -> dict[str, float]:
        if self.protocol != "coco":
            return voc_scores(self.test, detections, eleven_points=self.preset.test.startswith("2007"))
        named = {"box": "bbox", "mask": "segm"}
        return {
            f"{word} {name}": value
            for word, kind in named.items()
            for name, value in coco_scores(self.test, detections, kind).items()
        }


def learning_rate(preset: Preset, base: float, iteration: int) -> float:
    """Linear warm-up from a small factor, then a tenth at each drop."""
    lr = base * 0.1 ** sum(iteration >= drop for drop in preset.drops)
    if iteration < preset.warmup:
        done = iteration / preset.warmup
        lr *= preset.warmup_factor * (1 - done) + done
    return lr


class averaged_statistics:
    """Within it batch norms keep a batch's own statistics; `collect()` adds them; at its end they are averaged.

    Variances are averages of the unbiased variances of batches. Counters stay as they were.
    """

    def __init__(self, module: nn.Module):
        self.norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]

    def __enter__(self) -> Callable[[], None]:
        self.momenta = [norm.momentum for norm in self.norms]
        self.counters = [_buffer(norm, "num_batches_tracked").clone() for norm in self.norms]
        self.sums = [torch.zeros(2, norm.num_features, dtype=torch.float64) for norm in self.norms]
        self.count = 0
        for norm in self.norms:
            norm.momentum = 1.0
        return self.collect

    def collect(self) -> None:
        self.count += 1
        for total, norm in zip(self.sums, self.norms):
            total += torch.stack([_buffer(norm, "running_mean"), _buffer(norm, "running_var")]).double().cpu()

    def __exit__(self, *_: object) -> None:
        for norm, momentum, counter, total in zip(self.norms, self.momenta, self.counters, self.sums):
            norm.momentum = momentum
            _buffer(norm, "num_batches_tracked").copy_(counter)
            if self.count:
                _buffer(norm, "running_mean").copy_(total[0] / self.count)
                _buffer(norm, "running_var").copy_(total[1] / self.count)


def _buffer(norm: nn.Module, name: str) -> Tensor:
    return norm.get_buffer(name)


def in_original(result: Mapping[str, Tensor], seen: tuple[int, int], original: tuple[int, int]) -> Detections:
    """Detections in the px of the photograph as stored: scaled, clipped, emptied boxes left out, masks pasted.

    Args:
        seen, original: width and height.
    """
    scale = torch.tensor([original[0] / seen[0], original[1] / seen[1]] * 2)
    boxes = result["boxes"].float().cpu() * scale
    boxes = boxes.clamp(min=torch.zeros(4), max=torch.tensor([*original, *original], dtype=torch.float32))
    kept = (boxes[:, 2:] > boxes[:, :2]).all(1)
    boxes = boxes[kept]
    masks = None
    if "masks" in result:
        pasted = paste_masks(result["masks"].float().cpu()[kept], boxes, original[1], original[0])
        masks = tuple(coded(mask) for mask in pasted)
    return Detections(
        boxes.numpy(), result["scores"].float().cpu()[kept].numpy(), result["labels"].cpu()[kept].numpy(), masks
    )


def coded(mask: np.ndarray) -> dict[str, Any]:
    """COCO's run lengths of a mask [h, w], as text."""
    code = masks_api().encode(np.asfortranarray(mask))
    counts = code["counts"]
    return {"size": [int(v) for v in code["size"]], "counts": counts.decode() if isinstance(counts, bytes) else counts}


def gathered(found: Sequence[Detections], ranks: Ranks) -> list[Detections]:
    """All ranks' detections, in rank order; they travel as JSON."""
    if ranks.size == 1:
        return list(found)
    text = "".join(
        json.dumps({**{k: getattr(d, k).tolist() for k in ("boxes", "scores", "labels")}, "masks": d.masks}) + "\n"
        for d in found
    )
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else "cpu"
    everything = ranks.gather(torch.frombuffer(bytearray(text.encode() + b"\n"), dtype=torch.uint8).to(device))
    lines = bytes(everything.cpu().numpy()).decode().splitlines()
    return [
        Detections(
            np.array(d["boxes"], dtype=np.float32).reshape(-1, 4),
            np.array(d["scores"], dtype=np.float32),
            np.array(d["labels"], dtype=np.int64),
            d["masks"],
        )
        for d in map(json.loads, filter(None, lines))
    ]


def interleaved(parts: Sequence[Detections], ranks: int) -> list[Detections]:
    """Rank r had photographs r, r + W, ...: back to the order of photographs.

    >>> interleaved([0, 2, 4, 1, 3], 2)
    [0, 1, 2, 3, 4]
    """
    order = np.concatenate([np.arange(rank, len(parts), ranks) for rank in range(ranks)])
    return [parts[place] for place in np.argsort(order)]


def read_lines(path: Path) -> list[dict[str, float]]:
    """What was logged; without a last line that a power cut tore."""
    lines = path.read_text().splitlines() if path.exists() else []
    try:
        json.loads(lines[-1] if lines else "{}")
    except ValueError:
        lines.pop()
    return [json.loads(line) for line in lines]


def keep_lines(path: Path, start: int) -> None:
    """What was logged after the checkpoint will come again."""
    if path.exists():
        kept = [line for line in read_lines(path) if line["iteration"] <= start]
        checkpoint.write_text(path, "".join(json.dumps(line) + "\n" for line in kept))


__all__ = ["PRESETS", "Detector", "Preset", "detect"]
