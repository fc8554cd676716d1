"""Single-object tracking: the first frame's box is followed through a video by features alone.

Around the last box three windows of neighbouring scales are cropped, warped to a square, and searched for the target by
cross-correlation or by a correlation filter. All sequences go in step, so that their crops share batches.

Source: UniTrack's single-object tracking, with the heads of SiamFC and CFNet.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from mec.errors import BadInput, nearest
from mec.evaluation.results import Result, labelled
from mec.evaluation.subject import Subject
from mec.evaluation.tracking.appearance import CELL, Appearance, appearances
from mec.evaluation.tracking.otb import BoxVideo, precision, read_otb, success_auc, write_boxes
from mec.evaluation.tracking.video import fingerprint, frames_of, speed, with_boxes, write_video

SIDE = 520  # px of a crop


CELLS = SIDE // CELL  # 65


CONTEXT = 4.5  # window over target, width and height separately


SCALES = tuple(1.0275**k for k in (-1, 0, 1))


SCALE_PENALTY = 0.985


TARGET = slice(25, 39)  # the central 14 cells: the target itself


LEARNING_RATE = 0.01  # of the correlation filter


RIDGE = 1e-4


HEADS = ("xcorr", "dcf")


MODES = ("clean", "unitrack")


class Head(Protocol):
    """How a target is found again in features [s, c, 65, 65] of search windows."""

    def start(self, features: Tensor) -> None:
        """From the first frame: features [c, 65, 65] of the window of the target."""

    def responses(self, features: Tensor) -> Tensor:
        """[s, r, r]: how well each place of each window fits."""

    def displacement(self, index: tuple[int, int]) -> tuple[float, float]:
        """(row, column) of a response -> the share of the window by which the target moved (down, right)."""

    def update(self, features: Tensor) -> None:
        """From the window at the new place, if `learns`."""

    learns: bool


def hann(cells: int = CELLS, *, like: Tensor) -> Tensor:
    """[cells, cells]: the product of symmetric Hann windows, zero at the border."""
    window = torch.hann_window(cells, periodic=False, dtype=like.dtype, device=like.device)
    return window[:, None] * window


@dataclass
class CrossCorrelation:
    """The first frame's target slides over the search window; nothing is learned.

    `unitrack` keeps two slips of the source: it takes index 26 for no displacement where 25 is right, and a window of
    52 cells where 65 is right, which drags the box towards the top left.
    """

    unitrack: bool = False
    learns = False
    template: Tensor = field(default_factory=lambda: torch.empty(0))

    def start(self, features: Tensor) -> None:
        self.template = features[:, TARGET, TARGET].contiguous()

    def responses(self, features: Tensor) -> Tensor:
        # One matrix product, then a sum along diagonals: a convolution with one output is ten times slower on a CPU.
        products = self.template.flatten(1).T @ (features * hann(like=features)).flatten(2)
        products = products.view(-1, 14, 14, CELLS, CELLS)
        window, down, right, row, column = products.stride()
        places = CELLS - 14 + 1
        shifted = products.as_strided(
            (len(products), 14, 14, places, places), (window, down + row, right + column, row, column)
        )
        return 0.1 * shifted.sum((1, 2))

    def displacement(self, index: tuple[int, int]) -> tuple[float, float]:
        origin, cells = (26, CELLS - 14 + 1) if self.unitrack else (25, CELLS)
        return (index[0] - origin) / cells, (index[1] - origin) / cells

    def update(self, features: Tensor) -> None:
        raise AssertionError("cross-correlation does not learn")


@dataclass
class CorrelationFilter:
    """A filter in the Fourier domain whose response to the target is a narrow peak; it follows the target's looks."""

    learns = True
    numerator: Tensor = field(default_factory=lambda: torch.empty(0))  # F(z), [c, 65, 33]
    alpha: Tensor = field(default_factory=lambda: torch.empty(0))  # [65, 33]

    def start(self, features: Tensor) -> None:
        self.numerator, self.alpha = self._model(features)

    def responses(self, features: Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(features * hann(like=features))
        # irfft2 would guess an even length: 65 is said.
        return torch.fft.irfft2(self.alpha * (spectrum * self.numerator.conj()).sum(1), s=(CELLS, CELLS))

    def displacement(self, index: tuple[int, int]) -> tuple[float, float]:
        row, column = (i - CELLS if i > CELLS / 2 else i for i in index)
        return row / CELLS, column / CELLS

    def update(self, features: Tensor) -> None:
        numerator, alpha = self._model(features)
        self.numerator = (1 - LEARNING_RATE) * self.numerator + LEARNING_RATE * numerator
        self.alpha = (1 - LEARNING_RATE) * self.alpha + LEARNING_RATE * alpha

    def _model(self, features: Tensor) -> tuple[Tensor, Tensor]:
        target = torch.zeros_like(features)
        target[:, TARGET, TARGET] = features[:, TARGET, TARGET]
        spectrum = torch.fft.rfft2(target)
        energy = (spectrum.real.square() + spectrum.imag.square()).sum(0)
        return spectrum, torch.fft.rfft2(label(like=features)) / (energy + RIDGE)


def label(*, like: Tensor) -> Tensor:
    """[65, 65]: a Gaussian of a tenth of the target's size, its peak at index (0, 0)."""
    sigma = CELLS / CONTEXT * 0.1
    steps = torch.arange(CELLS, dtype=like.dtype, device=like.device) - CELLS // 2
    bell = (-(steps[:, None] ** 2 + steps**2) / (2 * sigma**2)).exp()
    return bell.roll((-(CELLS // 2), -(CELLS // 2)), (0, 1))


def crop(image: Tensor, centre: np.ndarray, window: np.ndarray, side: int = SIDE) -> Tensor:
    """[3, side, side]: the window (w, h) px around the centre (x, y), its corners at the corner pixels' centres.

    Bilinear, without antialiasing; outside the normalised image [3, h, w] is 0. Pixel centres are whole numbers.
    """
    h, w = image.shape[-2:]
    steps = torch.linspace(-0.5, 0.5, side, dtype=torch.float64)
    x, y = (float(c) + float(size) * steps for c, size in zip(centre, window))
    # grid_sample's -1 and 1 are the outer borders of the border pixels (align_corners=False).
    grid = torch.stack([((2 * x + 1) / w - 1).expand(side, -1), ((2 * y + 1) / h - 1)[:, None].expand(-1, side)], -1)
    grid = grid.to(image.device, image.dtype)
    return F.grid_sample(image[None], grid[None], mode="bilinear", padding_mode="zeros", align_corners=False)[0]


@dataclass
class Target:
    """Where a tracker believes its object to be: centre (x, y) and size (w, h), px, the top left pixel is (0, 0)."""

    centre: np.ndarray
    size: np.ndarray
    smallest: np.ndarray
    largest: np.ndarray

    @classmethod
    def at(cls, box: np.ndarray, image: tuple[int, int], unitrack: bool = False) -> Target:
        """From a box as in OTB's files (the top left pixel is (1, 1)) in an image of (w, h) px."""
        size = box[2:].copy()
        limit = np.array(image[::-1] if unitrack else image)  # the source compares (w, h) with (h, w)
        return cls(box[:2] - 1 + (size - 1) / 2, size, np.maximum(0.2 * size, 4), np.minimum(limit, 5 * size))

    def box(self) -> np.ndarray:
        """As in OTB's files."""
        return np.concatenate([self.centre - (self.size - 1) / 2 + 1, self.size])

    def move(self, responses: np.ndarray, head: Head) -> None:
        """To the best place of the best scale; responses [3, r, r]."""
        peaks = responses.reshape(len(SCALES), -1).max(1)
        best = int(np.argmax(peaks * [SCALE_PENALTY, 1, SCALE_PENALTY]))  # the smaller of equals
        row, column = divmod(int(responses[best].argmax()), responses.shape[-1])
        window = CONTEXT * SCALES[best] * self.size
        down, right = head.displacement((row, column))
        self.centre = self.centre + np.array([right, down]) * window
        self.size = np.clip(window / CONTEXT, self.smallest, np.maximum(self.smallest, self.largest))


def track(
    appearance: Appearance,
    videos: list[BoxVideo],
    head: str = "xcorr",
    *,
    mode: str = "clean",
    batch_size: int = 16,
) -> list[np.ndarray]:
    """Boxes [n, 4] of each video, one a frame as in OTB's files, from its first box on (which is given back first).

    Args:
        head: "xcorr" or "dcf".
        mode: "clean", or "unitrack" with that code's slips (see `CrossCorrelation` and `Target.at`).
        batch_size: crops of 520 px that go through the encoder together; those of all videos share batches.
    """
    for value, known in ((head, HEADS), (mode, MODES)):
        if value not in known:
            raise BadInput(f"{value!r}: {nearest(value, known)}")
    unitrack = mode == "unitrack"
    heads: list[Head] = [CorrelationFilter() if head == "dcf" else CrossCorrelation(unitrack) for _ in videos]
    readers = [frames_of(video.frames, ahead=2) for video in videos]
    found: list[list[np.ndarray]] = [[video.first] for video in videos]

    def seen(images: dict[int, Tensor], scales: tuple[float, ...]) -> Iterator[tuple[int, Tensor]]:
        """Features [s, c, 65, 65] of the windows of each video, as many videos at a time as a batch holds."""
        for part in _parts([*images], max(1, batch_size // len(scales))):
            windows = [(i, CONTEXT * scale * targets[i].size) for i in part for scale in scales]
            features = appearance.maps(torch.stack([crop(images[i], targets[i].centre, size) for i, size in windows]))
            yield from zip(part, features.split(len(scales)))

    images = {i: appearance.normalised(frame) for i, frame in _next(readers)}
    sizes = [(images[i].shape[2], images[i].shape[1]) for i in images]
    targets = [Target.at(video.first, size, unitrack) for video, size in zip(videos, sizes)]
    for i, features in seen(images, (1.0,)):
        heads[i].start(features[0])
    while images := {i: appearance.normalised(frame) for i, frame in _next(readers)}:
        for i, features in seen(images, SCALES):
            targets[i].move(heads[i].responses(features).cpu().numpy(), heads[i])
            found[i].append(targets[i].box())
        if heads[0].learns:
            for i, features in seen(images, (1.0,)):
                heads[i].update(features[0])
    return [np.array(boxes) for boxes in found]


def stay(videos: list[BoxVideo]) -> list[np.ndarray]:
    """The tracker that never moves, a baseline."""
    return [np.repeat(video.first[None], len(video.frames), 0) for video in videos]


def measure_sot(
    subject: Subject,
    root: Path,
    *,
    stage: str = "both",
    heads: tuple[str, ...] = HEADS,
    mode: str = "clean",
    names: tuple[str, ...] = (),
    batch_size: int = 8,
    video: str | None = None,
) -> Iterator[Result]:
    """Results of a tracker that never moves, then of each stage and head; boxes go to FOLDER/sot/SETTING/NAME.txt.

    The data are read and checked at once, the results come as they are asked for.

    Args:
        root: OTB-2015's folder.
        names: of sequences; all where empty.
        video: "mp4" or "gif" to draw the boxes found (and, as number 0, the true ones) over the frames.
    """
    videos = read_otb(root, names)
    data = fingerprint([root / "OTB2015.json", *(frame for each in videos for frame in each.frames)], root)
    where = {"data": "OTB2015", "data_fingerprint": data}

    maps = appearances(subject, stage)

    def results() -> Iterator[Result]:
        yield from labelled(scores(stay(videos), videos, {"head": "still"}), **where)
        for appearance in maps:
            for head in heads:
                began = time.perf_counter()
                found = track(appearance, videos, head, mode=mode, batch_size=batch_size)
                seconds = time.perf_counter() - began
                settings = {"stage": appearance.stage, "head": head, "mode": mode}
                folder = subject.folder / "sot" / f"stage{appearance.stage}-{head}-{mode}"
                for boxes, each in zip(found, videos):
                    write_boxes(folder / f"{each.name}.txt", boxes)
                    if video is not None:
                        write_video(folder / f"{each.name}.{video}", drawn(each, boxes))
                frames = sum(len(each.frames) for each in videos)
                print(speed(f"sot stage {appearance.stage}, {head}", frames, seconds, folder))
                yield from labelled(scores(found, videos, settings), **where)

    return results()


def drawn(video: BoxVideo, boxes: np.ndarray) -> Iterator[Image.Image]:
    """Frames with the box found (1) over the true one (0)."""
    for frame, box, truth in zip(frames_of(video.frames), boxes, video.boxes):
        yield with_boxes(frame, [truth - [1, 1, 0, 0], box - [1, 1, 0, 0]], (0, 1))


def scores(found: list[np.ndarray], videos: list[BoxVideo], settings: dict) -> list[Result]:
    """AUC of success and precision at 20 px, % (means over sequences)."""
    auc = float(np.mean([success_auc(boxes, video.boxes) for boxes, video in zip(found, videos)]))
    near = float(np.mean([precision(boxes, video.boxes) for boxes, video in zip(found, videos)]))
    settings = {**settings, "sequences": len(videos)}
    return [
        Result("sot", "AUC", 100 * auc, settings=settings),
        Result("sot", "precision@20px", 100 * near, settings=settings),
    ]


def _next(readers: list[Iterator[Tensor]]) -> Iterator[tuple[int, Tensor]]:
    """The next frame of each video that has one."""
    for i, reader in enumerate(readers):
        frame = next(reader, None)
        if frame is not None:
            yield i, frame


def _parts(items: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
