"""Video object segmentation on DAVIS-2017: the first frame's masks are propagated by the similarity of features.

Each cell takes the soft labels of the cells that look most like it, in the first frame and in the five before it.

Source: label propagation as in CRW and UniTrack.
"""

import math
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn import functional as F

from mec.data.decoding import open_image
from mec.errors import BadInput
from mec.evaluation.results import Result, labelled
from mec.evaluation.subject import Subject
from mec.evaluation.tracking.appearance import CELL, Appearance, appearances, feature_maps
from mec.evaluation.tracking.video import chosen_names, files_fingerprint, frames_of, speed, with_masks, write_video
from mec.runtime.files import missing, read_text
from mec.runtime.progress import say

MEMORY = 5  # frames before the present one
RADIUS = 12  # cells: nothing so far off or farther is looked at in those frames
TOPK = 10
PROPAGATION_TEMPERATURE = 0.05
VOID = 255
BOUNDARY = 0.008  # of the image's diagonal: how far apart boundaries may lie


@dataclass(frozen=True)
class MaskVideo:
    """Frames and a palette PNG for each: 0 background, 1, 2, ... objects, 255 void."""

    name: str
    frames: tuple[Path, ...]
    masks: tuple[Path, ...]


def read_davis(root: Path, names: tuple[str, ...] = ()) -> list[MaskVideo]:
    """The sequences of ImageSets/2017/val.txt (only those named, if any are), at 480p.
    Raises FileNotFoundError: no such list. BadInput: an unknown name, fewer than three frames, frames without a mask,
    or masks without a frame."""
    path = root / "ImageSets" / "2017" / "val.txt"
    if not path.is_file():
        layout = "ImageSets/2017/val.txt, JPEGImages/480p/NAME/*.jpg, Annotations/480p/NAME/*.png"
        raise FileNotFoundError(f"{path}: no such file. vos needs DAVIS-2017's layout: {layout}.")
    videos = []
    for name in chosen_names(read_text(path).split(), names, path):
        folder, masked = (root / kind / "480p" / name for kind in ("JPEGImages", "Annotations"))
        frames = tuple(sorted(folder.glob("*.jpg")))
        if len(frames) < 3:
            what = f"{len(frames)} frames (.jpg); the first and the last are not measured, so 3 are needed."
            raise BadInput(f"{folder}: {what}")
        masks = tuple(masked / f"{frame.stem}.png" for frame in frames)
        missing(masks, f"masks of {name}")
        if alone := {path.stem for path in masked.glob("*.png")} - {frame.stem for frame in frames}:
            raise BadInput(f"{folder}: {len(alone)} masks have no frame, the first is {min(alone)}.png.")
        videos.append(MaskVideo(name, frames, masks))
    return videos


def read_mask(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Ids [h, w] uint8 of an image of `size` (w, h).
    Raises BadInput: unreadable, of another size, or of colours instead of ids."""
    try:
        with open_image(path) as image:
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
    Raises BadInput: no object in it."""
    ids = read_mask(video.masks[0], size)
    void = int((ids == VOID).sum())
    ids[ids == VOID] = 0
    if not ids.any():
        white = (
            f" Its {void:,} px of 255 are void, which is no object: a mask of 0 and 255 becomes one of object 1 by "
            "numpy.minimum(mask, 1), saved as a PNG."
        )
        raise BadInput(f"{video.masks[0]}: no object in the first frame, nothing to follow.{white if void else ''}")
    return ids


def propagate(
    query: Tensor, free: tuple[Tensor, Tensor], near: tuple[Tensor, Tensor], *, radius: float = RADIUS,
    topk: int = TOPK, temperature: float = PROPAGATION_TEMPERATURE, tile: int = 10,
) -> Tensor:  # fmt: skip
    """Soft labels [k, h, w] of a frame: for each cell those of its `topk` most similar cells, weighted by a softmax.
    Tile by tile: for a tile only cells within the radius are compared, a sixth of a 480p frame.

    Args:
        query: [c, h, w] unit features of the frame.
        free: features [f, c, h, w] and labels [f, k, h, w] of frames searched as a whole.
        near: the same of frames [t, ...] searched only at distances below `radius` cells.
        temperature: a cell weighs exp(cosine / temperature)."""
    h, w = query.shape[1:]
    k = free[1].shape[1]
    free_keys, free_labels = (x.transpose(0, 1).flatten(1) for x in free)  # [c, f h w], [k, f h w]
    reach = int(np.ceil(radius)) - 1
    rows, columns = torch.arange(h, device=query.device), torch.arange(w, device=query.device)
    result = query.new_empty(k, h, w)
    far: dict[tuple[tuple[int, ...], ...], Tensor] = {}
    for top in range(0, h, tile):
        for left in range(0, w, tile):
            here = slice(top, min(top + tile, h)), slice(left, min(left + tile, w))
            around = [slice(max(0, side.start - reach), side.stop + reach) for side in here]
            keys, labels = (x[:, :, around[0], around[1]].transpose(0, 1).flatten(1) for x in near)
            # What is too far is the same for all tiles with as much around them.
            place = tuple(
                (s.start - a.start, s.stop - s.start, min(n, a.stop) - s.stop) for s, a, n in zip(here, around, (h, w))
            )
            if place not in far:  # [tile rows, tile columns, rows around, columns around]
                square = (rows[here[0], None, None, None] - rows[around[0], None]) ** 2
                square = square + (columns[here[1], None, None] - columns[around[1]]) ** 2
                far[place] = (square >= radius**2).flatten(2).flatten(0, 1)[:, None]
            cells = query[:, here[0], here[1]].flatten(1).T
            close = (cells @ keys).unflatten(1, (len(near[0]), -1)).masked_fill_(far[place], -torch.inf).flatten(1)
            values, places = largest(torch.cat([cells @ free_keys, close], 1), topk)
            weights = (values / temperature).softmax(1)
            taken = torch.cat([free_labels, labels], 1)[:, places]  # [k, cells, topk]
            result[:, here[0], here[1]] = (taken * weights).sum(2).view(k, *(s.stop - s.start for s in here))
    return result


def largest(rows: Tensor, count: int, block: int = 64) -> tuple[Tensor, Tensor]:
    """Values and places [n, count] of the largest of each row [n, m], as topk, whose cost on a CPU this divides by ten.
    The `count` largest lie in the `count` blocks of columns with the largest maxima: only those are looked through."""
    n, m = rows.shape
    count = min(count, m)
    if m <= 2 * count * block:
        found = rows.topk(count, dim=1)
        return found.values, found.indices
    blocks = F.pad(rows, (0, -m % block), value=-torch.inf).view(n, -1, block)
    chosen = blocks.amax(2).topk(count, dim=1).indices  # [n, count]
    found = blocks.take_along_dim(chosen[:, :, None], 1).flatten(1).topk(count, dim=1)
    places = chosen.take_along_dim(found.indices // block, 1) * block + found.indices % block
    # Places beyond the row are of -inf, where it has too few finite values: they weigh nothing.
    return found.values, places.clamp(max=m - 1)


def soft_labels(ids: np.ndarray) -> tuple[Tensor, list[int]]:
    """Id map [h, w] -> soft labels [k, ceil(h / 8), ceil(w / 8)], and the id of each channel (background first)."""
    known = sorted({0, *np.unique(ids).tolist()})
    hot = torch.from_numpy(np.stack([ids == number for number in known]).astype(np.float32))
    size = [-(-side // CELL) for side in ids.shape]
    return F.interpolate(hot[None], size, mode="bilinear", align_corners=False)[0], known


def segment(appearance: Appearance, frames: Iterator[Tensor], ids: np.ndarray, **how: Any) -> Iterator[np.ndarray]:
    """Id map [h, w] of each frame, from that of the first on (which is given back as its cells have it).
    how: as `feature_maps` takes it."""
    soft, known = soft_labels(ids)
    soft = soft.to(appearance.device)
    memory: deque[tuple[Tensor, Tensor]] = deque(maxlen=MEMORY)
    first: tuple[Tensor, Tensor] | None = None
    for number, found in enumerate(feature_maps(appearance, frames, **how)):
        features = F.normalize(found, dim=0)
        if first is None:
            first = features[None], soft[None]
            # What lies before the first frame is the first frame, again and again.
            memory.extend([(features, soft)] * MEMORY)
        else:
            if features.shape != first[0].shape[1:]:
                cells = f"{[*features.shape[1:]]} cells, the first {[*first[0].shape[2:]]}"
                raise BadInput(f"frame {number} has {cells}: all frames of a video have one size.")
            keys, labels = (torch.stack(several) for several in zip(*memory))
            soft = propagate(features, first, (keys, labels))
            memory.append((features, soft))
        full = F.interpolate(soft[None], ids.shape, mode="bilinear", align_corners=False)[0]
        yield np.array(known, dtype=np.uint8)[full.argmax(0).cpu().numpy()]


def measure_vos(subject: Subject, options: Any) -> Iterator[Result]:
    """Results of masks that never move, then of each stage; masks go to FOLDER/vos/stageN/NAME/*.png.
    The data are read and checked at once, the results come as they are asked for. options: those of `protocols.Vos`."""
    root, video = Path(options.data_root), options.video
    videos = read_davis(root, options.names())
    files = [path for each in videos for path in (*each.frames, *each.masks)]
    where = {"data": "DAVIS2017", "split": "val", "data_fingerprint": files_fingerprint(files, root)}
    sizes = [next(frames_of(each.frames[:1])).shape[1:] for each in videos]
    firsts = [first_mask(each, (size[1], size[0])) for each, size in zip(videos, sizes)]
    maps = appearances(subject, options.stage)
    how: dict[str, Any] = {"batch_size": options.batch_size, "cache": options.cache}

    def results() -> Iterator[Result]:
        stayed = [davis_score([ids] * len(each.frames), each, int(ids.max())) for each, ids in zip(videos, firsts)]
        yield from labelled(vos_scores(stayed, {"head": "still"}), **where)
        for appearance in maps:
            folder = subject.folder / "vos" / f"stage{appearance.stage}"
            own, seconds = [], 0.0
            for each, ids in subject.ranks.dealt([*zip(videos, firsts)]):
                began = time.perf_counter()
                found = [*segment(appearance, frames_of(each.frames), ids, **how)]
                seconds += time.perf_counter() - began
                write_masks(folder, each, found)
                own.append(davis_score(found, each, int(ids.max())).tolist())
                if video is not None:
                    drawn = (with_masks(frame, ids) for frame, ids in zip(frames_of(each.frames), found))
                    write_video(folder / f"{each.name}.{video}", drawn)
            scores = [np.array(of_one) for of_one in subject.ranks.collected(own)]
            seconds, frames = max(subject.ranks.values(seconds)), sum(len(each.frames) for each in videos)
            say(speed(f"vos stage {appearance.stage}", frames, seconds) + subject.where(folder))
            yield from labelled(vos_scores(scores, {"stage": appearance.stage}), **where)

    return results()


def write_masks(folder: Path, video: MaskVideo, found: Iterable[np.ndarray]) -> None:
    """Result files FOLDER/NAME/FRAME.png: palette PNGs of object ids, in the truth's colours or else greys."""
    with open_image(video.masks[0]) as truth:
        palette = truth.getpalette() or np.arange(256).repeat(3).tolist()
    (folder / video.name).mkdir(parents=True, exist_ok=True)
    for frame, ids in zip(video.frames, found):
        image = Image.fromarray(ids)
        image.putpalette(palette)
        image.save(folder / video.name / f"{frame.stem}.png")


def davis_score(found: Iterable[np.ndarray], video: MaskVideo, objects: int) -> np.ndarray:
    """[objects, 2]: means of J and F over all frames but the first and the last, for objects 1, 2, ...

    Args:
        found: ids [h, w] of every frame of the video, in order."""
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
    reach = math.ceil(BOUNDARY * math.hypot(*found.shape))
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


def vos_scores(scores: list[np.ndarray], settings: dict) -> list[Result]:
    """J-mean and F-mean, %: over frames, then over the objects of all sequences."""
    j, f = np.concatenate(scores).mean(0)
    settings = {**settings, "sequences": len(scores), "objects": sum(map(len, scores))}
    return [Result("vos", name, 100 * float(v), settings=settings) for name, v in (("J-mean", j), ("F-mean", f))]
