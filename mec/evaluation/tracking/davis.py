"""DAVIS-2017: its files in and out, region overlap J and boundary accuracy F of masks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import distance_transform_edt

from mec.errors import BadInput, nearest
from mec.runtime.files import missing

VOID = 255


TOLERANCE = 0.008  # of the image's diagonal, for boundaries


@dataclass(frozen=True)
class MaskVideo:
    """Frames and a palette PNG for each: 0 background, 1, 2, ... objects, 255 void."""

    name: str
    frames: tuple[Path, ...]
    masks: tuple[Path, ...]


def read_davis(root: Path, names: tuple[str, ...] = ()) -> list[MaskVideo]:
    """The sequences of ImageSets/2017/val.txt (only those named, if any are), at 480p.

    Raises:
        FileNotFoundError: no such list.
        BadInput: an unknown name, fewer than three frames, frames without a mask, or masks without a frame.
    """
    path = root / "ImageSets" / "2017" / "val.txt"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file. vos needs DAVIS-2017's layout: ImageSets/2017/val.txt, JPEGImages/480p/NAME/*.jpg, "
            "Annotations/480p/NAME/*.png."
        )
    listed = path.read_text().split()
    if not listed:
        raise BadInput(f"{path}: no name of a sequence in it.")
    for name in names:
        if name not in listed:
            raise BadInput(f"{path} has no sequence {name!r}. {nearest(name, listed)[:200]}")
    return [_sequence(root, name) for name in names or listed]


def _sequence(root: Path, name: str) -> MaskVideo:
    folder = root / "JPEGImages" / "480p" / name
    frames = tuple(sorted(folder.glob("*.jpg")))
    if len(frames) < 3:
        raise BadInput(
            f"{folder}: {len(frames)} frames (.jpg); the first and the last are not measured, so 3 are needed."
        )
    masks = tuple(root / "Annotations" / "480p" / name / f"{frame.stem}.png" for frame in frames)
    missing(masks, f"masks of {name}")
    alone = {path.stem for path in masks[0].parent.glob("*.png")} - {frame.stem for frame in frames}
    if alone:
        raise BadInput(f"{folder}: {len(alone)} masks have no frame, the first is {min(alone)}.png.")
    return MaskVideo(name, frames, masks)


def read_mask(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Ids [h, w] uint8 of an image of `size` (w, h).

    Raises:
        BadInput: unreadable, of another size, or of colours instead of ids.
    """
    try:
        with Image.open(path) as image:
            image.load()
    except Exception as error:  # Pillow's decoders raise almost anything on broken files
        raise BadInput(f"{path}: cannot be read ({error}).") from error
    if image.mode not in ("P", "L", "1"):
        raise BadInput(f"{path}: an image of mode {image.mode}; a mask is a palette PNG whose values are object ids.")
    if image.size != size:
        raise BadInput(f"{path}: {image.size[0]}x{image.size[1]} px, but its frame has {size[0]}x{size[1]}.")
    return np.array(image, dtype=np.uint8)


def first_mask(video: MaskVideo, size: tuple[int, int]) -> np.ndarray:
    """Ids [h, w] of the first frame; void is background.

    Raises:
        BadInput: no object in it.
    """
    ids = read_mask(video.masks[0], size)
    ids[ids == VOID] = 0
    if not ids.any():
        raise BadInput(f"{video.masks[0]}: no object in the first frame, nothing to follow.")
    return ids


def write_mask(path: Path, ids: np.ndarray, palette: list[int]) -> None:
    """A result file: a palette PNG whose values are object ids."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(ids)
    image.putpalette(palette)
    image.save(path)


def palette_of(path: Path) -> list[int]:
    """The colours of a palette PNG; greys where it has none."""
    with Image.open(path) as image:
        return image.getpalette() or [value for value in range(256) for _ in range(3)]


def score(found: Iterable[np.ndarray], video: MaskVideo, objects: int) -> np.ndarray:
    """[objects, 2]: means of J and F over all frames but the first and the last, for objects 1, 2, ...

    Args:
        found: ids [h, w] of every frame of the video, in order.
    """
    sums = np.zeros((objects, 2))
    for number, ids in enumerate(found):
        if 0 < number < len(video.frames) - 1:
            truth = read_mask(video.masks[number], ids.shape[::-1])  # void is no object's
            for i in range(objects):
                one, other = ids == i + 1, truth == i + 1
                sums[i] += jaccard(one, other), boundary_f(one, other)
    return sums / (len(video.frames) - 2)


def jaccard(found: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of two masks; 1 where both are empty."""
    union = np.count_nonzero(found | truth)
    return np.count_nonzero(found & truth) / union if union else 1.0


def boundary_f(found: np.ndarray, truth: np.ndarray) -> float:
    """Harmonic mean of how much of each boundary has the other within 0.8 % of the diagonal; 1 where both are empty."""
    reach = math.ceil(TOLERANCE * math.hypot(*found.shape))
    one, other = boundary(found), boundary(truth)
    if not one.any() or not other.any():
        return float(one.any() == other.any())
    rows, columns = (np.flatnonzero((one | other).any(axis)) for axis in (1, 0))
    inside = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    one, other = one[inside], other[inside]
    near = (distance_transform_edt(~other)[one] <= reach).mean(), (distance_transform_edt(~one)[other] <= reach).mean()
    return float(2 * near[0] * near[1] / sum(near)) if sum(near) else 0.0


def boundary(mask: np.ndarray) -> np.ndarray:
    """Pixels that differ from the one to the right, below, or both; the image's border is none (DAVIS)."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    return (mask != padded[:-1, 1:]) | (mask != padded[1:, :-1]) | (mask != padded[1:, 1:])
