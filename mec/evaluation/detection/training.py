"""A detector's run: its steps, checkpoints, test and log."""

from __future__ import annotations

import copy
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from mec.errors import Diverged, TrainingStopped
from mec.evaluation.detection import pictures
from mec.evaluation.detection.annotations import Annotations
from mec.evaluation.detection.batches import TestImages, TrainingBatches, as_they_are, training_loader
from mec.evaluation.detection.metrics import Detections, coco_scores, masks_api, paste_masks, voc_scores
from mec.evaluation.detection.network import build_detector, parameter_groups
from mec.evaluation.detection.presets import Preset
from mec.evaluation.subject import Subject
from mec.runtime import files
from mec.runtime.checkpoints import in_run
from mec.runtime.distributed import Ranks, synchronise_batch_norm
from mec.runtime.memory import peak_memory, reset_peak_memory
from mec.runtime.progress import TrainingProgress
from mec.runtime.records import append_records, read_records, write_records
from mec.runtime.signals import leave_signals_to_the_run, signals

SHOWN = 6  # photographs in the picture of detections
LOG_EVERY = 20  # iterations
WARM = 4  # iterations that are not timed


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
        self.kept, self.log_file = in_run(out), out / "metrics.jsonl"
        self.parts = {"detector": self.detector, "optimizer": self.optimizer}

    def to_the_end(self, save_minutes: float) -> dict[str, Any]:
        self.kept.minutes = save_minutes
        start = self.restore()
        timing = self.fit(start)
        self.precise_statistics()
        detections = self.detections()
        result = {"scores": self.scores(detections), "lr": self.lr, "seed": self.seed, **timing}
        if self.ranks.rank == 0:
            chosen = range(min(SHOWN, len(self.test)))
            masks = self.protocol == "coco"
            pictures.detection_picture(self.test, detections, chosen, self.out / "detections.png", masks=masks)
            pictures.training_curves(read_records(self.log_file), self.out / "curves.png")
            files.write_json(self.out / "result.json", result)
        text = ", ".join(f"{name} {value:.1f}" for name, value in result["scores"].items())
        self.console.print(f"lr {self.lr:g}, seed {self.seed}: {text}", highlight=False)
        return result

    # --- training ------------------------------------------------------------------------------------------------

    def fit(self, start: int) -> dict[str, Any]:
        """Iterations start to the last; returns seconds an iteration (median) and the memory it took, where known."""
        reset_peak_memory(self.fabric.device.type)
        total = self.preset.iterations
        times: list[float] = []
        if self.ranks.rank == 0:  # what was logged after the checkpoint will come again
            kept = [line for line in read_records(self.log_file) if line["iteration"] <= start]
            write_records(self.log_file, kept)
        self.detector.train()
        with signals() as stop, TrainingProgress(self.console, total, start) as progress:
            before = time.monotonic()
            for iteration, batch in enumerate(self.batches(start, total), start):
                lr = detector_lr(self.preset, self.lr, iteration)
                for group in self.optimizer.param_groups:
                    group["lr"] = lr
                losses = self.losses(batch)
                loss = torch.stack(list(losses.values())).sum()
                self.fabric.backward(loss)
                done = iteration + 1
                due = done % LOG_EVERY == 0 or done in (1, total)
                stopping = stop() if self.ranks.size == 1 else due and self.ranks.any(stop())
                late = self.kept.is_due()
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
            kept = self.kept.files()
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
            append_records(self.log_file, [line])
        return f"loss {line['loss']:.3f}, {line['seconds']:.2f} s an iteration"

    def save(self, done: int) -> None:
        if self.ranks.rank == 0:
            self.kept.save(done, self.parts)

    def restore(self) -> int:
        """Everything as it was after the newest readable checkpoint; returns the iterations done."""
        if self.ranks.rank == 0:
            self.out.mkdir(parents=True, exist_ok=True)
        self.ranks.wait()
        done = self.kept.restore(self.parts, self.console.print)
        if done:
            self.console.print(f"resumed after iteration {done} of {self.preset.iterations}", highlight=False)
        return done

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


def detector_lr(preset: Preset, base: float, iteration: int) -> float:
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
