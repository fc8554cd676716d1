"""The training of one detector: its steps, log and checkpoints, and the statistics that it is tested with."""

import contextlib
import copy
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mec.errors import Diverged, TrainingStopped
from mec.evaluation.detection import pictures
from mec.evaluation.detection.batches import Example, TrainingBatches, training_loader
from mec.evaluation.detection.metrics import Detections, coco_scores, voc_scores
from mec.evaluation.detection.network import build_detector, parameter_groups
from mec.evaluation.detection.options import DETECTOR
from mec.evaluation.detection.presets import Preset
from mec.evaluation.detection.reading import DetectionData
from mec.evaluation.detection.saved import DETECTOR_KEY, DetectorInfo, detections_of
from mec.evaluation.subject import Subject
from mec.networks.encoder_file import save_encoder
from mec.runtime.checkpoints import in_run
from mec.runtime.distributed import ALONE, Ranks, synchronise_batch_norm
from mec.runtime.files import write_json
from mec.runtime.machine import peak_memory, reset_peak_memory
from mec.runtime.progress import Console, TrainingProgress
from mec.runtime.records import append_records, read_records, write_records
from mec.runtime.signals import signals

SHOWN = 6  # photographs in the picture of detections
LOG_EVERY = 20  # iterations
WARM = 4  # iterations that are not timed
RESULT = "result.json"


@dataclass(frozen=True)
class Task:
    """What the runs of a command share: which encoder is trained on what, how, and where."""

    subject: Subject
    protocol: str
    preset: Preset
    data: DetectionData
    fabric: Any
    ranks: Ranks
    console: Console
    bf16: bool
    save_minutes: float


class DetectorRun:
    """A detector at one learning rate, from one seed, in one folder: trained, tested and drawn."""

    def __init__(self, task: Task, lr: float, seed: int, out: Path):
        self.task, self.lr, self.seed, self.out = task, lr, seed, out
        self.preset, self.ranks, self.console, self.device = task.preset, task.ranks, task.console, task.fabric.device
        torch.manual_seed(seed)
        info, data = task.subject.info, task.data
        self.mean, self.std = (tuple(255 * v for v in moments) for moments in (info.mean, info.std))
        how: dict[str, Any] = {"mean": self.mean, "std": self.std, "regions": self.preset.regions}
        # Whatever was measured before: a probe lays weights out anew, which moves last digits, and in time boxes.
        encoder = copy.deepcopy(task.subject.encoder).cpu().to(memory_format=torch.contiguous_format)
        self.detector = build_detector(encoder, len(data.train.classes), masks=data.masks, **how)
        if self.ranks.size > 1:
            synchronise_batch_norm(self.detector)
        groups = parameter_groups(self.detector, self.preset.weight_decay)
        optimizer = torch.optim.SGD(groups, lr=lr, momentum=self.preset.momentum)
        self.wrapped, self.optimizer = task.fabric.setup(self.detector, optimizer)
        self.parts = {"detector": self.detector, "optimizer": self.optimizer}
        self.kept, self.log_file = in_run(out, task.save_minutes), out / "metrics.jsonl"

    def to_the_end(self) -> dict[str, Any]:
        """Train from the last checkpoint on, test, draw; gives what result.json then holds."""
        task = self.task
        pace, last = self.fit(self.restore()), self.preset.iterations
        # Batch norms' statistics pooled over training batches with the final weights, heads included.
        with torch.no_grad(), pooled_statistics(self.detector, self.ranks) as take:
            self.detector.train()
            for batch in self.batches(last, last + self.preset.precise):
                self.losses(batch)
                take()
        self.save()
        found, scores = self.tested()
        result = {"scores": scores, "lr": self.lr, "seed": self.seed, **pace}
        if self.ranks.rank == 0:
            shown, test = range(min(SHOWN, len(task.data.test))), task.data.test
            pictures.detection_picture(test, found, shown, self.out / "detections.png", masks=task.data.masks)
            pictures.training_curves(read_records(self.log_file), self.out / "curves.png")
            write_json(self.out / RESULT, result)
        text = ", ".join(f"{name} {value:.1f}" for name, value in scores.items())
        self.console.print(f"lr {self.lr:g}, seed {self.seed}: {text}", highlight=False)
        return result

    def save(self) -> None:
        """The detector, for `mec detect`; not of an encoder in memory, which no name builds again."""
        info, data, sizes = self.task.subject.info, self.task.data, self.preset.sizes
        if self.ranks.rank > 0 or info.backbone == "custom":
            return
        shape = info.backbone, info.image_size, info.small_stem, data.train.classes, data.masks, self.mean, self.std
        about = DetectorInfo(*shape, sizes.test, sizes.most, self.preset.regions, data.name)
        save_encoder(self.out / DETECTOR, self.detector, about, DETECTOR_KEY)

    def tested(self) -> tuple[list[Detections], dict[str, float]]:
        """What it finds on the test photographs, and how good that is, %."""
        data, workers = self.task.data, self.task.subject.workers
        sizes, bf16 = self.preset.sizes, self.task.bf16
        found = detections_of(self.detector, data.test, sizes, self.device, workers, bf16, self.ranks)
        if data.rule != "COCO":
            return found, voc_scores(data.test, found, eleven_points=data.rule == "VOC 2007")
        kinds = {"box": coco_scores(data.test, found, "bbox")}
        if data.masks:
            kinds["mask"] = coco_scores(data.test, found, "segm")
        return found, {f"{kind} {name}": value for kind, each in kinds.items() for name, value in each.items()}

    def restore(self) -> int:
        """Everything as it was after the newest readable checkpoint; returns the iterations done."""
        if self.ranks.rank == 0:
            self.out.mkdir(parents=True, exist_ok=True)
        self.ranks.wait()
        done = self.kept.restore(self.parts, lambda words: self.console.print(words, highlight=False))
        if done:
            self.console.print(f"resumed after iteration {done} of {self.preset.iterations}", highlight=False)
        if self.ranks.rank == 0:  # what was logged after the checkpoint will come again
            write_records(self.log_file, [x for x in read_records(self.log_file) if x["iteration"] <= done])
        return done

    def fit(self, start: int) -> dict[str, Any]:
        """Iterations start to the last; returns seconds an iteration (median) and the memory it took, where known."""
        reset_peak_memory(self.device.type)
        alone, total = self.ranks.size == 1, self.preset.iterations
        times: list[float] = []
        self.detector.train()
        with signals() as stop, TrainingProgress(self.console, total, start) as progress:
            before = time.monotonic()
            for iteration, batch in enumerate(self.batches(start, total), start):
                lr = detector_lr(self.preset, self.lr, iteration)
                for group in self.optimizer.param_groups:
                    group["lr"] = lr
                losses = self.losses(batch)
                loss = torch.stack(list(losses.values())).sum()
                self.task.fabric.backward(loss)
                done = iteration + 1
                logs = done % LOG_EVERY == 0 or done in (1, total)
                # All ranks have to come to the same decision: they agree at iterations that are logged.
                stopping = stop() if alone else logs and self.ranks.any(stop())
                late = self.kept.is_due()
                saves = done == total or stopping or (late if alone else logs and bool(self.ranks.from_first(late)))
                if logs or saves or self.device.type == "cpu":
                    self.check(losses, iteration, lr)
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
                times.append(time.monotonic() - before)
                before = time.monotonic()
                figures: dict[str, Any] = {"lr": lr, "loss": loss, "seconds": times[-1], **losses}
                progress.step(done, self.log(done, figures) if logs else "")
                if saves and self.ranks.rank == 0:
                    self.kept.save(done, self.parts)
                if stopping and done < total:
                    raise TrainingStopped(
                        f"stopped by a signal after iteration {done} of {total}; it is saved in {self.out}. Resume it "
                        "with the same command and --resume."
                    )
        pace = {"seconds_per_iteration": statistics.median(times[WARM:] or times)} if times else {}
        return pace | ({"memory_gib": peak_memory("cuda")} if self.device.type == "cuda" else {})

    def batches(self, start: int, stop: int) -> Iterator[list[Example]]:
        data = TrainingBatches(self.task.data.train, self.preset.sizes, self.seed, self.preset.flip)
        size = self.preset.batch_size
        return training_loader(data, size, start, stop, self.ranks.share(size), self.task.subject.workers)

    def losses(self, batch: Sequence[Example]) -> dict[str, Tensor]:
        images = [image.to(self.device, non_blocking=True) for image, _, _ in batch]
        targets = [
            {k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in target.items()} for _, target, _ in batch
        ]
        self.detector.draw([seed for _, _, seed in batch], self.ranks)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.task.bf16):
            return self.wrapped(images, targets)

    def check(self, losses: Mapping[str, Tensor], iteration: int, lr: float) -> None:
        """Stop before weights are saved that a loss without a number has spoilt; on a CPU before the step itself."""
        values = {name: float(value.detach()) for name, value in losses.items()}
        if self.ranks.any(not all(map(math.isfinite, values.values()))):
            kept = f"Kept: {self.kept.files()[-1]}. " if self.kept.files() else ""
            told = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
            words = f"diverged at iteration {iteration + 1} with learning rate {lr:.3g} ({told})"
            raise Diverged(f"{words}. {kept}Start again in another --out with --lr {self.lr / 3:.2g}.")

    def log(self, done: int, figures: Mapping[str, float | Tensor]) -> str:
        """Write a line after `done` iterations; gives it in a few words."""
        line = {name: float(value.detach() if isinstance(value, Tensor) else value) for name, value in figures.items()}
        if self.ranks.rank == 0:
            append_records(self.log_file, [{"iteration": done, **line}])
        return f"loss {line['loss']:.3f}, {line['seconds']:.2f} s an iteration"


def detector_lr(preset: Preset, base: float, iteration: int) -> float:
    """Linear warm-up from a small factor, then a tenth at each drop."""
    lr = base * 0.1 ** sum(iteration >= drop for drop in preset.drops)
    if iteration < preset.warmup:
        done = iteration / preset.warmup
        lr *= preset.warmup_factor * (1 - done) + done
    return lr


@contextlib.contextmanager
def pooled_statistics(module: nn.Module, ranks: Ranks = ALONE) -> Iterator[Callable[[], None]]:
    """Within it batch norms' statistics become those of all batches together, told by a call after each batch.
    Variances have what lies between batches in them, as in current fvcore (detectron2's precise batch norm); older
    versions average those of the batches. Counters and momenta stay."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [(norm.momentum, norm.get_buffer("num_batches_tracked").clone()) for norm in norms]
    buffers = [[norm.get_buffer(f"running_{name}") for name in ("mean", "var")] for norm in norms]
    sums = [[torch.zeros_like(mean, dtype=torch.float64) for _ in range(2)] for mean, _ in buffers]  # values, squares
    counts = torch.zeros(2, len(norms), dtype=torch.float64)  # values of a channel: of this rank's batch, of all

    def take() -> None:
        n = ranks.sum(counts[0].to(buffers[0][0].device)).cpu()
        counts[1] += n
        for (mean, variance), own, count in zip(buffers, sums, n.tolist()):
            own[0] += count * mean.double()
            own[1] += count * mean.double().square() + (count - 1) * variance.double()  # the batch's own is unbiased

    def heard(number: int, given: tuple[Tensor, ...]) -> None:
        counts[0, number] = given[0].numel() / given[0].shape[1]

    hooks = [norm.register_forward_pre_hook(lambda _, given, n=n: heard(n, given)) for n, norm in enumerate(norms)]
    for norm in norms:
        norm.momentum = 1.0  # the buffers are the last batch's
    yield take
    for hook, (mean, variance), own, count in zip(hooks, buffers, sums, counts[1].tolist()):
        hook.remove()
        mean.copy_(own[0] / count)
        variance.copy_(own[1] / count - (own[0] / count).square())
    for norm, (momentum, counter) in zip(norms, before):
        norm.momentum = momentum
        norm.get_buffer("num_batches_tracked").copy_(counter)
