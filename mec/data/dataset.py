"""What to train on and what to measure on: splits, limits, fingerprints."""

import hashlib
import math
import os
import re
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from mec.data.contents import contents_hash
from mec.data.decoding import Skipped, quiet, reason
from mec.data.images import MOST_UNREADABLE, Files, Images, InMemory, common_scale, median_size, sample_sizes, too_many
from mec.data.values import Scale
from mec.errors import BadInput
from mec.runtime.machine import cores
from mec.views.views import uniforms

KEEP_BELOW = 64  # px; images of one size up to this live in memory
TRAIN, VALIDATION, TEST = "train", "validation", "test"  # what parts are for
ROLES = {"train": TRAIN, "training": TRAIN, "test": TEST, "testing": TEST} | dict.fromkeys(
    ("val", "valid", "validation"), VALIDATION
)  # by the names of folders, in any case
KEEP_BYTES = 2**30  # of pixels, a process: decoding more than 350,000 images of 32 px would hold up every start


@dataclass(frozen=True)
class Split:
    """Images, and their labels [n] where there are any (-1: this image has none)."""

    images: Images
    labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def y(self) -> np.ndarray:
        """The labels of a split that has some."""
        assert self.labels is not None
        return self.labels

    def take(self, indices: np.ndarray) -> "Split":
        return Split(self.images.take(indices), None if self.labels is None else self.labels[indices])

    def labelled(self) -> "Split":
        """The images that have a label."""
        if self.labels is None or (self.labels >= 0).all():
            return self
        return self.take(np.flatnonzero(self.labels >= 0))


@dataclass(frozen=True)
class Data:
    """What to train on, and, where labels exist, what to measure on and what to choose by."""

    name: str
    train: Split
    test: Split | None = None
    classes: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    fingerprint: str = ""
    typical_size: tuple[int, int] = (0, 0)  # height, width: medians
    suits: Literal["images", "digits", "recordings", "arrays"] = "images"  # the kind of views that make sense
    split: str = TEST  # what the part is called that is measured on
    validation: Split | None = None  # another held-out part: settings are chosen by it, where they are chosen
    scale: Scale | None = None  # of the deep values of these images
    left_out: Mapping[str, int] = field(default_factory=dict)  # a reason in words -> how many files
    told: tuple[str, ...] = ()  # what a user has to know about these images

    @property
    def can_be_measured(self) -> bool:
        """Whether there are labelled images to learn from and others to test on."""
        return self.test is not None and self.test.labels is not None and self.train.labels is not None

    @property
    def about(self) -> dict[str, Any]:
        """What a result on these images says of them."""
        about = {"data": self.name, "split": self.split, "data_fingerprint": self.fingerprint}
        return {**about, "told": tuple(self.words())}

    def fits(self, stored: str) -> bool:
        """Whether a fingerprint is of these images; those of 0.1 are of names and sizes, or pixels in memory, alone."""
        return stored == (self.fingerprint if "-" in stored else self.fingerprint.partition("-")[0])

    def words(self) -> list[str]:
        """What was left out, in one line, and what else there is to know, a line each."""
        counts = dict(self.left_out)
        if self.skipped:
            counts["images that cannot be read"] = len(self.skipped)
        left_out = ", ".join(counted(n, reason) for reason, n in counts.items())
        return [f"Left out: {left_out}"] * bool(counts) + [*self.told]


def counted(number: int, things: str) -> str:
    """A number of things in words: 1 file linked twice, 1,200 files linked twice."""
    one = re.sub(r"\b(file|folder|image|recording|array)s\b", r"\1", things).replace(" are no ", " is no ")
    return f"{number:,} {one if number == 1 else things}"


def with_held_out(data: Data, held_out: Mapping[str, Split], split: str = "") -> Data:
    """The data, measured on the held-out part of a name: by default test images, where there are none validation's.
    Raises BadInput: no part of that name."""
    roles = {name: ROLES.get(name.lower(), TEST) for name in held_out}
    asked = split.lower()
    wanted = [name for name in roles if name.lower() == asked]
    wanted += [name for name, role in roles.items() if ROLES.get(asked) == role]
    if split and not wanted:
        raise BadInput(f"{data.name} has no part {split!r} to measure on. There: {', '.join(held_out) or 'none'}.")
    if not held_out:
        return data
    chosen = wanted[0] if split else min(held_out, key=lambda name: roles[name] != TEST)
    other = next((name for name in held_out if name != chosen and roles[name] == VALIDATION), None)
    unused = [f"{name} ({len(part):,} images)" for name, part in held_out.items() if name not in (chosen, other)]
    if unused and not split:
        words = f"measured on {chosen}{f', settings chosen on {other}' if other else ''}, not on {', '.join(unused)}"
        data = replace(data, told=(*data.told, f"Several held-out parts: {words}; --split NAME measures on another."))
    return replace(data, test=held_out[chosen], split=chosen, validation=held_out.get(other or ""))


def one_sided(data: Data) -> list[str]:
    """What there is to say of classes that only the training images have, or only held-out ones: by the layout, since
    none of their images can be read, or since a limit took none."""
    told = []
    for part, split in ((data.split, data.test), ("validation", data.validation)) if data.can_be_measured else ():
        counts = (np.bincount(x.labelled().y).tolist() if x else [] for x in (data.train, split))
        train, found = (Counter({label: n for label, n in enumerate(of_part) if n}) for of_part in counts)
        for words, there, lacking in (
            ("has images of classes without one to train on, which count as wrong", found, train),
            ("has no image of classes that are trained on, and not measured", train, found or train),
        ):
            few = sorted(there.keys() - lacking.keys())
            some = ", ".join(f"{data.classes[c] if c < len(data.classes) else c} ({there[c]:,})" for c in few[:5])
            told += [f"{part}/ {words}: {some}" + f" and {len(few) - 5:,} more" * (len(few) > 5)] * bool(few)
    return told


def with_scale(data: Data, scale: Scale | None = None) -> Data:
    """The data with a scale for deep values: the one given, or that of a sample of the training images."""
    own, cut = common_scale(data.train.images)
    for part in (data.test, data.validation):  # deep ones beside training images of 8 bits
        own = own or (common_scale(part.images)[0] if part else None)
    words = (f"{counted(number, 'images')} of those looked at {what}." for what, number in cut.items())
    data = replace(data, told=(*data.told, *words))
    if own is None and scale is None:
        return data
    found = scale or own
    told = f"16-bit, float or signed images: {found}, alike for all of them"
    told += ", as the encoder was trained" if scale else " (from a sample); an encoder trained on them keeps that"
    train = replace(data.train, images=data.train.images.scaled(found))
    test, choosing = (part and replace(part, images=part.images.scaled(found)) for part in (data.test, data.validation))
    told_too = (*data.told, *[told] * (own is not None))
    return replace(data, train=train, test=test, validation=choosing, scale=found, told=told_too)


def limited(split: Split, limit: int | None, seed: int) -> Split:
    """At most `limit` of the images, drawn by `stratified`."""
    if limit is None or limit >= len(split):
        return split
    return split.take(stratified(split.labels, len(split), limit, seed))


def stratified(labels: np.ndarray | None, n: int, count: int, seed: int) -> np.ndarray:
    """`count` of n indices, sorted; every class in proportion where there are labels. A smaller draw is a subset."""
    chance = uniforms(seed, 0, np.arange(n), 0, 1)[:, 0]
    if labels is None:
        return np.sort(np.argsort(chance, kind="stable")[:count])
    position = np.empty(n)  # how far through its own class an image comes, in a random order
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        position[members] = (np.argsort(np.argsort(chance[members], kind="stable")) + chance[members]) / len(members)
    return np.sort(np.argsort(position, kind="stable")[:count])


def in_memory_if_small(data: Data) -> Data:
    """The data with its typical size filled in; images of one small size are decoded now and stay in memory."""
    sizes = sample_sizes(data.train.images)
    held_out = [part for part in (data.test, data.validation) if part is not None and len(part)]
    of_one_size = {*sizes}.union(*(sample_sizes(part.images) for part in held_out)) == {sizes[0]}
    skipped, strays = list(data.skipped), list[str]()
    needed = (len(data.train) + sum(map(len, held_out))) * 3 * math.prod(sizes[0])
    if of_one_size and max(sizes[0]) <= KEEP_BELOW and needed <= KEEP_BYTES:
        train = decode_all(data.train, sizes[0], skipped, strays)
        test, choosing = (part and decode_all(part, sizes[0], skipped, strays) for part in (data.test, data.validation))
        data = replace(data, train=train, test=test, validation=choosing, skipped=tuple(skipped))
        if strays:
            height, width = sizes[0]
            words = f"{counted(len(strays), 'images')} of another size made {width} x {height} px, as the others are"
            data = replace(data, told=(*data.told, f"{words}: {', '.join(strays[:3])}{', ...' * (len(strays) > 3)}"))
    return replace(data, typical_size=median_size(sizes))


def decode_all(split: Split, size: tuple[int, int], skipped: list[Skipped], strays: list[str]) -> Split:
    """Decode small images into memory. A stray image of another size is resized (bicubic), an unreadable one dropped;
    `strays` and `skipped` get them.
    Raises BadInput: too many of them cannot be read."""
    images = split.images

    def pixels(index: int) -> np.ndarray | Skipped:
        try:
            found = images.open(index).pixels()
        except Exception as error:  # Pillow's decoders raise almost anything on broken files
            return Skipped(images.name(index), reason(error))
        if found.shape[:2] != size:
            strays.append(images.name(index))
            found = np.asarray(Image.fromarray(found).resize(size[::-1], Image.Resampling.BICUBIC))
        return found

    with quiet(), ThreadPoolExecutor(max_workers=cores()) as pool:
        found = list(pool.map(pixels, range(len(split))))
    bad = [f for f in found if isinstance(f, Skipped)]
    read = {i: f for i, f in enumerate(found) if not isinstance(f, Skipped)}
    if len(bad) > MOST_UNREADABLE * len(found):
        raise BadInput(too_many(bad, len(found), images.name(0)))
    skipped += bad
    in_memory = InMemory(torch.from_numpy(np.stack([*read.values()])).permute(0, 3, 1, 2).contiguous())
    return Split(in_memory, None if split.labels is None else split.labels[[*read]])


def fingerprint(data: Data) -> str:
    """A hash that changes when images in memory, their number or labels do; then one of files' contents."""
    state = hashlib.sha256(data.name.encode())
    for split in (data.train, data.test):
        if split is None:
            continue
        state.update(str(len(split)).encode())
        if split.images.pixels is not None:
            state.update(split.images.pixels.numpy().tobytes())
        if split.labels is not None:
            state.update(split.labels.tobytes())
    files = [part.images for part in (data.train, data.test) if part is not None and isinstance(part.images, Files)]
    paths = [path for images in files for path in images.paths]
    contents = [contents_hash(paths, [os.path.getsize(p) if os.path.exists(p) else 0 for p in paths])] if paths else []
    return "-".join([state.hexdigest()[:16], *contents])
