"""What a run writes down as it goes: metrics.jsonl, skipped.jsonl, loggers, and the accuracy it watches."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mec.data.dataset import Data
from mec.data.decoding import Skipped
from mec.data.images import MOST_UNREADABLE, too_many
from mec.errors import TrainingStopped
from mec.evaluation.features import extract, measured_parts
from mec.evaluation.probing.knn import knn
from mec.networks.encoder_file import EncoderInfo, image_transform
from mec.runtime.machine import peak_memory
from mec.runtime.progress import Console, TrainingProgress
from mec.runtime.records import append_records, read_records, write_records
from mec.training.loggers import Loggers

SKIPPED = "skipped.jsonl"
WATCH_BANK, WATCH_TEST = 5_000, 2_000  # most images in the k-NN figure during training


class Log:
    """metrics.jsonl and skipped.jsonl of a run, written by the first rank, which tells its loggers, too."""

    def __init__(self, out: Path, start: int, first: bool, device: str = "cpu", loggers: Loggers | None = None):
        self.loggers = loggers or Loggers()
        self.out, self.start, self.first, self.device = out, start, first, device
        self.known = {s.path for s in listed(out / SKIPPED)}  # when the images were opened, or before resuming
        self.met: set[str] = set()
        if first and (out / "metrics.jsonl").exists():  # what was logged after the checkpoint will come again
            kept = [line for line in read_records(out / "metrics.jsonl", step=int) if line["step"] <= start]
            write_records(out / "metrics.jsonl", kept)

    def __enter__(self) -> "Log":
        self.last, self.last_step = time.monotonic(), self.start
        if self.first:
            self.file = open(self.out / "metrics.jsonl", "a", buffering=1)
        return self

    def __exit__(self, *_: object) -> None:
        if self.first:
            self.file.close()

    def line(self, figures: dict[str, Any], waited: float, batch_size: int) -> str:
        """Write a line with the pace since the last one; returns it in a few words."""
        now = time.monotonic()
        steps = figures["step"] - self.last_step
        wait = waited / max(now - self.last, 1e-9)
        figures = {**figures, "data_wait": wait, "images_per_second": batch_size * steps / max(now - self.last, 1e-9)}
        self.last, self.last_step = now, figures["step"]
        if math.isfinite(peak := peak_memory(self.device)):
            figures["peak_memory"] = peak  # GiB
        self.write(figures)
        return f"loss {figures['loss']:.3f}, rank {figures['effective_rank']:.0f}, data wait {wait:.0%}"

    def write(self, figures: Mapping[str, Any]) -> None:
        if not self.first:
            return
        self.file.write(json.dumps(figures) + "\n")
        self.loggers.figures(figures)

    def skip(self, skipped: Sequence[Skipped], images: int) -> None:
        """Note images that turned out unreadable while training; stop when all ranks have met too many."""
        new = {s.path: s for s in skipped if s.path not in self.known | self.met}
        if not new:
            return
        append_records(self.out / SKIPPED, map(asdict, new.values()), unique="path")  # another rank may have met it
        met = [s for s in listed(self.out / SKIPPED) if s.path not in self.known]
        self.met = {s.path for s in met}
        if len(met) > MOST_UNREADABLE * images:
            raise TrainingStopped(too_many(met, images, self.out / SKIPPED))


def listed(path: Path) -> list[Skipped]:
    """What skipped.jsonl holds."""
    return [Skipped(found["path"], found["reason"]) for found in read_records(path, path=str, reason=str)]


@dataclass
class Watch:
    """The k-NN accuracy of held-out images while training, where there are labels."""

    images: Data | None
    info: EncoderInfo
    device: torch.device
    console: Console
    workers: int = 0  # processes that decode those images
    report: bool = True  # whether a page is written at the end
    loggers: Loggers = field(default_factory=Loggers)
    accuracy: float | None = None

    def is_due(self, done: int, steps: int, each: int) -> bool:
        """After the first epoch (or fiftieth step), then ten times in a run."""
        if self.images is None or not self.images.can_be_measured:
            return False
        return done == min(each, 50) or done % max(each, steps // 10) == 0

    def measure(self, encoder: nn.Module, done: int, progress: TrainingProgress) -> float:
        assert self.images is not None
        bank, test = measured_parts(self.images, WATCH_BANK, WATCH_TEST)
        transform = image_transform(self.info)
        found = partial(extract, encoder, transform=transform, device=self.device, workers=self.workers)
        features = found(bank), found(test)
        if not all(bool(part.x.isfinite().all()) for part in features):
            return math.nan  # it has diverged, and the next step says so
        self.accuracy = knn(*features)[0].value
        progress.say(f"step {done:,}: k-NN accuracy on {len(features[1].x):,} held-out images {self.accuracy:.1f} %")
        return self.accuracy
