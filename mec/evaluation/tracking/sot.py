"""Single-object tracking on OTB-2015: the first frame's box is followed through a video by features alone.

Around the last box three windows of neighbouring scales are cropped, warped to a square, and searched for the target by
cross-correlation or by a correlation filter. All sequences go in step, so that their crops share batches.

Source: UniTrack's single-object tracking, with the heads of SiamFC and CFNet.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mec.errors import MALFORMED, BadInput
from mec.evaluation.results import Result, labelled
from mec.evaluation.subject import Subject
from mec.evaluation.tracking.appearance import CELL, Appearance, appearances
from mec.evaluation.tracking.video import chosen_names, files_fingerprint, frames_of, speed, with_boxes, write_video
from mec.runtime.files import missing, read_json, write_text
from mec.runtime.progress import say

SIDE = 520  # px of a crop
CELLS = SIDE // CELL  # 65
CONTEXT = 4.5  # window over target, width and height separately
SCALES = tuple(1.0275**k for k in (-1, 0, 1))
SCALE_PENALTY = 0.985
TARGET = slice(25, 39)  # the central 14 cells: the target itself
MARGINS = (11, 13, 16)  # cells around the target that its features depend on, of ResNets: the first that do
EQUAL = 3e-5  # of the largest feature
LEARNING_RATE = 0.01  # of the correlation filter
RIDGE = 1e-4
HEADS = ("xcorr", "dcf")
OVERLAP_THRESHOLDS = np.linspace(0, 1, 21)  # of overlap
NEAR_PX = 20  # px between centres


@dataclass(frozen=True)
class BoxVideo:
    """Frames with one object's box in each: x, y, w, h in px, the top left pixel is (1, 1)."""

    name: str
    frames: tuple[Path, ...]
    first: np.ndarray  # [4], where the tracker starts
    boxes: np.ndarray  # [n, 4], the truth


def read_otb(root: Path, names: tuple[str, ...] = ()) -> list[BoxVideo]:
    """The sequences that ROOT/OTB2015.json lists (only those named, if any are), with the frames it lists.
    Raises FileNotFoundError: no such file. BadInput: unreadable, an unknown name, missing frames, other counts of boxes
    than of frames, or an empty box to start from."""
    path = root / "OTB2015.json"
    if not path.is_file():
        layout = "OTB2015.json, and SEQUENCE/img/0001.jpg and so on."
        raise FileNotFoundError(f"{path}: no such file. sot needs OTB-2015's layout: {layout}")
    listed = read_json(path, dict)
    videos = []
    for name in chosen_names(listed, names, path):
        at = f"{path}: {name}"
        try:
            frames = tuple(root / str(frame) for frame in listed[name]["img_names"])
            boxes, first = (np.array(listed[name][key], dtype=np.float64) for key in ("gt_rect", "init_rect"))
        except MALFORMED as error:
            raise BadInput(f"{at} needs img_names, gt_rect and init_rect, lists of numbers ({error!r}).") from error
        if not frames or boxes.shape != (len(frames), 4):
            raise BadInput(f"{at} has {len(frames)} frames and boxes {[*boxes.shape]}: four numbers a frame.")
        if first.shape != (4,) or not np.isfinite(first).all() or (first[2:] <= 0).any():
            raise BadInput(f"{at} starts from the box {first.tolist()}: x, y, w, h with w and h above 0.")
        missing(frames, f"sequence {name}")
        videos.append(BoxVideo(name, frames, first, boxes))
    return videos


def hann(*, like: Tensor) -> Tensor:
    """[65, 65]: the product of symmetric Hann windows, zero at the border."""
    window = torch.hann_window(CELLS, periodic=False, dtype=like.dtype, device=like.device)
    return window[:, None] * window


@dataclass
class CrossCorrelation:
    """The first frame's target slides over the search window; nothing is learned.
    `unitrack` reproduces two errors of the source: it takes index 26 for no displacement where 25 is right, and a
    window of 52 cells where 65 is right, which drags the box towards the top left."""

    unitrack: bool = False
    template: Tensor = field(default_factory=lambda: torch.empty(0))

    def start(self, features: Tensor) -> None:
        """From the first frame: features [c, 65, 65] of the window of the target."""
        self.template = features[:, TARGET, TARGET].contiguous()

    def responses(self, features: Tensor) -> Tensor:
        """[s, r, r]: how well each place of search windows [s, c, 65, 65] fits the target."""
        # One matrix product, then a sum along diagonals: a convolution with one output is ten times slower on a CPU.
        products = self.template.flatten(1).T @ (features * hann(like=features)).flatten(2)
        products = products.view(-1, 14, 14, CELLS, CELLS)
        window, down, right, row, column = products.stride()
        places = CELLS - 14 + 1
        shape = (len(products), 14, 14, places, places)
        return 0.1 * products.as_strided(shape, (window, down + row, right + column, row, column)).sum((1, 2))

    def displacement(self, index: tuple[int, int]) -> tuple[float, float]:
        """(row, column) of a response -> the share of the window by which the target moved (down, right)."""
        origin, cells = (26, CELLS - 14 + 1) if self.unitrack else (25, CELLS)
        return (index[0] - origin) / cells, (index[1] - origin) / cells


@dataclass
class CorrelationFilter:
    """A filter in the Fourier domain whose response to the target is a narrow peak; updated in each frame.
    `start`, `responses` and `displacement` are as in `CrossCorrelation`."""

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
        """From the window at the new place."""
        numerator, alpha = self._model(features)
        self.numerator = (1 - LEARNING_RATE) * self.numerator + LEARNING_RATE * numerator
        self.alpha = (1 - LEARNING_RATE) * self.alpha + LEARNING_RATE * alpha

    def _model(self, features: Tensor) -> tuple[Tensor, Tensor]:
        target = torch.zeros_like(features)
        target[:, TARGET, TARGET] = features[:, TARGET, TARGET]
        spectrum = torch.fft.rfft2(target)
        energy = (spectrum.real.square() + spectrum.imag.square()).sum(0)
        return spectrum, torch.fft.rfft2(label(like=features)) / (energy + RIDGE)


Head = CrossCorrelation | CorrelationFilter


def label(*, like: Tensor) -> Tensor:
    """[65, 65]: a Gaussian of a tenth of the target's size, its peak at index (0, 0)."""
    sigma = CELLS / CONTEXT * 0.1
    steps = torch.arange(CELLS, dtype=like.dtype, device=like.device) - CELLS // 2
    return (-(steps[:, None] ** 2 + steps**2) / (2 * sigma**2)).exp().roll((-(CELLS // 2), -(CELLS // 2)), (0, 1))


def crop(image: Tensor, centre: np.ndarray, window: np.ndarray, side: int = SIDE, part: slice = slice(None)) -> Tensor:
    """[3, side, side]: the window (w, h) px around the centre (x, y), its corners at the corner pixels' centres.
    Bilinear, without antialiasing; outside the normalised image [3, h, w] is 0. Pixel centres are whole numbers. Of the
    square only the rows and columns of `part` are made."""
    h, w = image.shape[-2:]
    steps = torch.linspace(-0.5, 0.5, side, dtype=torch.float64)[part]
    x, y = (float(c) + float(size) * steps for c, size in zip(centre, window))
    # grid_sample's -1 and 1 are the outer borders of the border pixels (align_corners=False).
    grid = torch.stack(torch.meshgrid((2 * x + 1) / w - 1, (2 * y + 1) / h - 1, indexing="xy"), -1)
    grid = grid.to(image.device, image.dtype)
    return F.grid_sample(image[None], grid[None], mode="bilinear", padding_mode="zeros", align_corners=False)[0]


class TargetBox:
    """Where a tracker believes its object to be: centre (x, y) and size (w, h), px, the top left pixel is (0, 0)."""

    def __init__(self, box: np.ndarray, image: tuple[int, int], unitrack: bool = False):
        """From a box as in OTB's files (the top left pixel is (1, 1)) in an image of (w, h) px.
        `unitrack` reproduces two errors of the source: a centre half a pixel towards the top left, and limits of width
        and height that are each other's."""
        self.origin = 2.0 if unitrack else 1.5  # px: a file's x and half the width, minus this, is the centre
        self.centre, self.size = box[:2] + box[2:] / 2 - self.origin, box[2:].copy()
        limit = np.array(image[::-1] if unitrack else image)  # the source compares (w, h) with (h, w)
        self.smallest, self.largest = np.maximum(0.2 * self.size, 4), np.minimum(limit, 5 * self.size)

    def box(self) -> np.ndarray:
        """As in OTB's files."""
        return np.concatenate([self.centre - self.size / 2 + self.origin, self.size])

    def move(self, responses: np.ndarray, head: Head) -> None:
        """To the best place of the best scale; responses [3, r, r]."""
        peaks = responses.reshape(len(SCALES), -1).max(1)
        best = int(np.argmax(peaks * [SCALE_PENALTY, 1, SCALE_PENALTY]))  # the smaller of equals
        row, column = divmod(int(responses[best].argmax()), responses.shape[-1])
        window = CONTEXT * SCALES[best] * self.size
        down, right = head.displacement((row, column))
        self.centre = self.centre + np.array([right, down]) * window
        self.size = np.clip(window / CONTEXT, self.smallest, np.maximum(self.smallest, self.largest))


def around(margin: int) -> slice:
    """The px of a crop that hold the target and so many cells around it."""
    return slice(CELL * (TARGET.start - margin), CELL * (TARGET.stop + margin))


def margin_of(appearance: Appearance) -> int | None:
    """How many cells around the target its features depend on, found out on noise; None: on more, or on the whole."""
    noise = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    whole = appearance.maps(noise)[..., TARGET, TARGET]
    for margin in MARGINS:
        part = appearance.maps(noise[..., around(margin), around(margin)])[..., margin:-margin, margin:-margin]
        if (whole - part).abs().max() <= EQUAL * whole.abs().max():
            return margin
    return None


def track_targets(
    appearance: Appearance, videos: list[BoxVideo], head: str = "xcorr", *, mode: str = "clean", batch_size: int = 16
) -> list[np.ndarray]:
    """Boxes [n, 4] of each video, one a frame as in OTB's files, from its first box on (which is given back first).

    Args:
        head: "xcorr" or "dcf".
        mode: "clean", or "unitrack" with that code's errors (see `CrossCorrelation` and `TargetBox`).
        batch_size: crops of 520 px that go through the encoder together; those of all videos share batches."""
    unitrack, margin = mode == "unitrack", margin_of(appearance) if head == "dcf" else None  # others start, and no more
    heads: list[Head] = [CorrelationFilter() if head == "dcf" else CrossCorrelation(unitrack) for _ in videos]
    readers = [frames_of(video.frames, ahead=2) for video in videos]
    found: list[list[np.ndarray]] = [[video.first] for video in videos]

    def seen(
        images: dict[int, Tensor], scales: tuple[float, ...] = (1.0,), margin: int | None = None
    ) -> Iterator[tuple[int, Tensor]]:
        """Features [s, c, 65, 65] of the windows of each video, as many videos at a time as a batch holds; with a
        margin those of the target's cells, of which alone heads are made: others are 0."""
        numbers, count = [*images], max(1, batch_size // len(scales))
        part = slice(None) if margin is None else around(margin)
        for some in (numbers[start : start + count] for start in range(0, len(numbers), count)):
            windows = [(images[i], targets[i].centre, CONTEXT * s * targets[i].size) for i in some for s in scales]
            features = appearance.maps(torch.stack([crop(*window, part=part) for window in windows]))
            if margin is not None:
                inner, features = features, features.new_zeros(*features.shape[:2], CELLS, CELLS)
                features[..., TARGET, TARGET] = inner[..., margin:-margin, margin:-margin]
            yield from zip(some, features.split(len(scales)))

    def following() -> dict[int, Tensor]:
        """The next frame of each video that has one."""
        frames = ((i, next(reader, None)) for i, reader in enumerate(readers))
        return {i: appearance.normalised(frame) for i, frame in frames if frame is not None}

    images = following()
    sizes = [(images[i].shape[2], images[i].shape[1]) for i in images]
    targets = [TargetBox(video.first, size, unitrack) for video, size in zip(videos, sizes)]
    for i, features in seen(images, margin=margin):
        heads[i].start(features[0])
    while images := following():
        for i, features in seen(images, SCALES):
            targets[i].move(heads[i].responses(features).cpu().numpy(), heads[i])
            found[i].append(targets[i].box())
        for i, features in seen(images, margin=margin) if head == "dcf" else ():
            heads[i].update(features[0])  # type: ignore[union-attr]
    return [np.array(boxes) for boxes in found]


def measure_sot(subject: Subject, options: Any) -> Iterator[Result]:
    """Results of a tracker that never moves, then of each stage and head; boxes go to FOLDER/sot/SETTING/NAME.txt.
    The data are read and checked at once, the results come as they are asked for. options: those of `protocols.Sot`."""
    root, mode, video = Path(options.data_root), options.mode, options.video
    videos = read_otb(root, options.names())
    data = files_fingerprint([root / "OTB2015.json", *(frame for each in videos for frame in each.frames)], root)
    where = {"data": "OTB2015", "data_fingerprint": data}
    maps = appearances(subject, options.stage)

    def results() -> Iterator[Result]:
        still = [np.repeat(each.first[None], len(each.frames), 0) for each in videos]  # never moves
        yield from labelled(sot_scores(still, videos, {"head": "still"}), **where)
        for appearance in maps:
            for head in HEADS if options.head == "both" else (options.head,):
                began = time.perf_counter()
                own = [*subject.ranks.dealt(videos)]
                boxes_of = track_targets(appearance, own, head, mode=mode, batch_size=options.batch_size) if own else []
                settings = {"stage": appearance.stage, "head": head, "mode": mode}
                folder = subject.folder / "sot" / f"stage{appearance.stage}-{head}-{mode}"
                for boxes, each in zip(boxes_of, own):
                    write_otb_boxes(folder / f"{each.name}.txt", boxes)
                    if video is not None:
                        both = zip(frames_of(each.frames), np.stack([each.boxes, boxes], 1) - [1, 1, 0, 0])
                        drawn = (with_boxes(frame, pair, (0, 1)) for frame, pair in both)  # the true one is number 0
                        write_video(folder / f"{each.name}.{video}", drawn)
                found = [np.array(boxes) for boxes in subject.ranks.collected([boxes.tolist() for boxes in boxes_of])]
                seconds, frames = time.perf_counter() - began, sum(len(each.frames) for each in videos)
                say(speed(f"sot stage {appearance.stage}, {head}", frames, seconds) + subject.where(folder))
                yield from labelled(sot_scores(found, videos, settings), **where)

    return results()


def write_otb_boxes(path: Path, boxes: np.ndarray) -> None:
    """A result file: x,y,w,h a line and a frame, the first included."""
    write_text(path, "".join(",".join(f"{value:.4f}" for value in box) + "\n" for box in boxes))


def overlaps(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes [n, 4]; -1 where a number of the true box is not above 0, as OTB has it."""
    low = np.maximum(found[:, :2], truth[:, :2])
    high = np.minimum(found[:, :2] + found[:, 2:], truth[:, :2] + truth[:, 2:])
    both = np.clip(high - low, 0, None).prod(1)
    union = found[:, 2:].prod(1) + truth[:, 2:].prod(1) - both
    share = np.divide(both, union, out=np.zeros(len(both)), where=union > 0)
    return np.where((truth > 0).all(1), share, -1)


def success_auc(found: np.ndarray, truth: np.ndarray) -> float:
    """Mean over 21 thresholds of the share of frames that overlap by more: at most 20 / 21, since none is above 1."""
    return float((overlaps(found, truth)[:, None] > OVERLAP_THRESHOLDS).mean())


def precision(found: np.ndarray, truth: np.ndarray, near: float = NEAR_PX) -> float:
    """Share of frames whose centre is at most so many px off; a true centre that is not above 0 counts as met (OTB)."""
    one, other = (boxes[:, :2] + (boxes[:, 2:] - 1) / 2 for boxes in (found, truth))
    distance = np.where((other > 0).all(1), np.linalg.norm(one - other, axis=1), -1)
    return float((distance <= near).mean())


def sot_scores(found: list[np.ndarray], videos: list[BoxVideo], settings: dict) -> list[Result]:
    """AUC of success and precision at 20 px, % (means over sequences)."""
    auc = float(np.mean([success_auc(boxes, video.boxes) for boxes, video in zip(found, videos)]))
    near = float(np.mean([precision(boxes, video.boxes) for boxes, video in zip(found, videos)]))
    settings = {**settings, "sequences": len(videos)}
    return [Result("sot", k, 100 * v, settings=settings) for k, v in (("AUC", auc), ("precision@20px", near))]
