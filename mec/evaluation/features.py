"""The features [n, e] of a frozen backbone, with labels [n], extracted once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mec.data.dataset import Data, Split, limited
from mec.data.decoding import Skipped, reason
from mec.data.images import MOST_UNREADABLE, Images, too_many
from mec.data.loading import prepared
from mec.errors import BadInput
from mec.evaluation.cache import cached, feature_key
from mec.networks.backbones import evaluating
from mec.runtime.distributed import ALONE, Ranks
from mec.runtime.progress import Console

ROWS_AT_ONCE = 65_536


@dataclass(frozen=True)
class Features:
    """x [n, e] float32 on the CPU, in memory or mapped from disk; y [n] int64."""

    x: Tensor
    y: Tensor
    skipped: tuple[Skipped, ...] = ()  # images that could not be read: they have no row
    names: tuple[str, ...] = ()  # of the images, one a row, where `mec.features` made these
    told: tuple[str, ...] = ()  # what was left out by reason, and how deep values were scaled, where it made these

    def __post_init__(self) -> None:
        if self.x.ndim != 2 or self.y.shape != self.x.shape[:1]:
            raise BadInput(f"x is {[*self.x.shape]}, y {[*self.y.shape]}: features [n, e] and one label a row.")

    def unit(self) -> Tensor:
        return nn.functional.normalize(self.x, dim=1)

    def check_finite(self, *others: "Features") -> None:
        """Raise BadInput where some are not finite: neighbours and probes would mean nothing."""
        for x in (self.x, *(each.x for each in others)):
            refuse_infinite(sum(int((~part.isfinite()).any(1).sum()) for part in x.split(ROWS_AT_ONCE)), len(x))


def refuse_infinite(bad: int, images: int) -> None:
    if bad:
        raise BadInput(
            f"the features of {bad:,} of {images:,} images are not finite: the encoder gives NaN or infinity, as one "
            "that diverged does. Evaluate an earlier checkpoint, or train again with a lower learning rate."
        )


@dataclass(frozen=True)
class Extraction:
    """How images become features, a batch at a time; the encoder is in evaluation mode."""

    encoder: nn.Module  # images [m, 3, s, s] -> features [m, e], on `device`
    images: Images
    transform: Callable[[Any], Tensor]
    device: torch.device | str = "cpu"
    batch_size: int = 256
    workers: int = 0
    ranks: Ranks = ALONE  # take whole batches in turn, so that no row knows of them; each gets all rows

    @torch.no_grad()
    def encoded(self, images: Images, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """A row for each image, NaN where it cannot be read, and which can; size: e, or 0 where it is not known yet.
        Raises BadInput: none can be read, and e is not known."""
        waiting: list[Tensor] = []  # batches without an image that can be read, until the width is known
        turns = np.arange(len(images)) // self.batch_size % self.ranks.size
        mine = images if self.ranks.size == 1 else images.take(np.flatnonzero(turns == self.ranks.rank))
        batches = iter(self.inputs(mine) if len(mine) else ())
        for _ in range(0, len(images), self.batch_size * self.ranks.size):
            inputs, kept = next(batches, (torch.empty(0), torch.empty(0, dtype=torch.bool)))
            inputs = inputs.to(self.device, memory_format=torch.channels_last if inputs.ndim == 4 else None)
            flat = self.encoder(inputs).float().flatten() if len(inputs) else inputs
            flat, kept = (self.ranks.gather(x.to(flat)).cpu() for x in (flat, kept))
            waiting.append(kept.bool())
            size = len(flat) // int(kept.sum()) if len(flat) else size
            found = flat.view(-1, size) if size else flat
            while size and waiting:
                which = waiting.pop(0)
                rows = torch.full((len(which), size), torch.nan)
                rows[which] = found[: int(which.sum())]
                yield rows, which
        if waiting:
            first = f"{images.name(0)}: {reading_error(images, 0)}"
            raise BadInput(f"none of {len(images):,} images can be read ({first}). Mend or remove them.")

    def inputs(self, images: Images) -> Iterator[tuple[Tensor, Tensor]]:
        """The inputs of a batch's images that can be read, and which those are [m] bool."""
        if self.workers < 0:
            raise BadInput(f"--workers is {self.workers}: 0 (no processes beside this one) or more.")
        if images.pixels is None:
            transformed = _Transformed(images, self.transform)
            yield from prepared(transformed, self.workers, _collate, batch_size=self.batch_size)
            return
        for part in images.pixels.split(self.batch_size):
            yield self.transform(part), torch.ones(len(part), dtype=torch.bool)

    def batches(self, start: int, size: int = 0) -> Iterator[Tensor]:
        """The rows from one on."""
        rest = self.images if not start else self.images.take(np.arange(start, len(self.images)))
        return (rows for rows, _ in self.encoded(rest, size))

    def second_try(self, lost: np.ndarray, size: int) -> tuple[dict[int, Tensor], list[int]]:
        """Images with rows of NaN, read again (a disk or network may have failed before): rows, and the unreadable."""
        found: dict[int, Tensor] = {}
        unreadable: list[int] = []
        for rows, kept in self.encoded(self.images.take(lost), size) if len(lost) else ():
            now, lost = lost[: len(rows)], lost[len(rows) :]
            found |= {int(i): row for i, row, read in zip(now, rows, kept) if read}
            unreadable += now[~kept.numpy()].tolist()
            if kept.any() and torch.isnan(rows[kept]).all():
                break  # it is the encoder that gives NaN: `check_finite` tells
        return found, unreadable


def extract(
    encoder: nn.Module, split: Split, transform: Callable[[Any], Tensor], *, device: torch.device | str = "cpu",
    batch_size: int = 256, workers: int = 0, cache: Path | None = None, whole: bool = False, ranks: Ranks = ALONE,
) -> Features:  # fmt: skip
    """Features of a split's images, in order; the encoder runs in evaluation mode, and its mode is restored.

    An image that cannot be read, at two attempts, is left out with its label, unless `whole` makes that an error.

    Args:
        encoder: images [m, 3, s, s] -> features [m, e], on `device`.
        transform: PIL image or uint8 images [m, 3, h, w] -> the encoder's input.
        workers: processes that decode images.
        cache: folder where features are stored and found again, see `cache`; None: they are only in memory.
        whole: refuse images that cannot be read, instead of leaving them out.
        ranks: that share the work, each of which gets all features.
    Raises BadInput: too many images cannot be read, or one with `whole`."""
    way = Extraction(encoder, split.images, transform, device, batch_size, workers, ranks)
    with evaluating(encoder):
        key = None if cache is None else feature_key(encoder, split.images, transform, str(device))
        x = cached(cache, key, len(split), way.batches, ranks) if cache and key else torch.cat(list(way.batches(0)))
        lost = torch.isnan(x[:, 0]).nonzero().flatten() if split.images.pixels is None else torch.empty(0)
        found, unreadable = way.second_try(lost.numpy(), x.shape[1])
        if found:
            x[[*found]] = torch.stack([*found.values()])
    features = Features(x, labels_of(split))
    if not unreadable:
        return features
    skipped = reasons(split.images, unreadable)
    if whole:
        first = f"{skipped[0].path} cannot be read: {skipped[0].reason}."
        raise BadInput(f"{first} This measurement needs all of its images.")
    kept = np.setdiff1d(np.arange(len(x)), unreadable)
    return Features(x[kept], features.y[kept], skipped)


def labels_of(split: Split) -> Tensor:
    """[n] int64, -1 where an image has no label."""
    labels = split.labels if split.labels is not None else np.full(len(split), -1)
    return torch.from_numpy(np.asarray(labels, dtype=np.int64))


def reasons(images: Images, unreadable: Sequence[int]) -> tuple[Skipped, ...]:
    """Why these of the images cannot be read. Raises BadInput: they are too many."""
    found = tuple(Skipped(images.name(index), reading_error(images, index)) for index in unreadable)
    if len(found) > MOST_UNREADABLE * len(images):
        raise BadInput(too_many(found, len(images), found[0].path))
    return found


def reading_error(images: Images, index: int) -> str:
    try:
        images.read(index)
    except Exception as error:  # Pillow's decoders raise almost anything on broken files
        return reason(error)
    return "readable only intermittently"


def tell_skipped(parts: Sequence[Features], console: Console) -> None:
    """Print one line about the images that could not be read, where there are any."""
    found = [skipped for part in parts for skipped in part.skipped]
    if found:
        first = ", ".join(f"{s.path} ({s.reason})" for s in found[:3]) + ", ..." * (len(found) > 3)
        number = f"{len(found)} of {sum(len(p.x) for p in parts) + len(found):,}"
        words = f"{number} images cannot be read and are left out: {first}"
        console.print(words, style="yellow", highlight=False, soft_wrap=True)


def is_grey(images: Images) -> bool:
    return images.pixels is not None and bool((images.pixels == images.pixels[:, :1]).all())


def pixels(split: Split, side: int = 32, *, grey: bool | None = None) -> Features:
    """The raw-pixel baseline: images in memory as they are, others resized to side x side px.
    grey: keep one channel; None: where all images are grey."""
    images = split.images
    if images.pixels is None:
        x = torch.stack([torch.from_numpy(np.array(images.read(i).resize((side, side)))) for i in range(len(images))])
    else:
        x = images.pixels[:, :1] if (is_grey(images) if grey is None else grey) else images.pixels
    return Features(x.flatten(1).float() / 255, labels_of(split))


class _Transformed(torch.utils.data.Dataset):
    """The encoder's input for each image; None for one that cannot be read."""

    def __init__(self, images: Images, transform: Callable[[Any], Tensor]):
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor | None:
        try:
            image = self.images.read(index)
        except Exception:  # Pillow's decoders raise almost anything on broken files
            return None
        return self.transform(image)


def _collate(items: list[Tensor | None]) -> tuple[Tensor, Tensor]:
    inputs = [item for item in items if item is not None]
    return torch.stack(inputs) if inputs else torch.empty(0), torch.tensor([item is not None for item in items])


def measured_parts(images: Data, bank: int, test: int) -> tuple[Split, Split]:
    """Labelled training and test images, at most `bank` and `test` of them (drawn with a fixed seed, stratified)."""
    assert images.test is not None
    return limited(images.train.labelled(), bank, seed=0), limited(images.test.labelled(), test, seed=0)
