"""Frames of a video in and out: read a little ahead, drawn over, and written as mp4 or gif."""

import colorsys
import contextlib
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from mec.data.decoding import SUFFIXES, read_image
from mec.errors import BadInput, nearest, needs
from mec.runtime.files import atomic


def read_frame(path: str | Path) -> Tensor:
    """uint8 [3, h, w].
    Raises BadInput: not there, or not an image."""
    try:
        return torch.from_numpy(np.array(read_image(path))).permute(2, 0, 1)
    except Exception as error:  # Pillow's decoders raise almost anything on broken files
        reason = "no such frame" if not Path(path).exists() else f"cannot be read ({error})"
        raise BadInput(f"{path}: {reason}. A tracker needs every frame of the video.") from error


def chosen_names(found: Iterable[str], asked: Sequence[str], where: Path) -> list[str]:
    """The sequences asked for, or all, in the order in which they are found.
    Raises BadInput: one is not there, or none is."""
    found = list(found)
    for name in asked:
        if name not in found:
            raise BadInput(f"{where} has no sequence {name!r}. {nearest(name, found)[:200]}")
    if not found:
        raise BadInput(f"{where}: no sequence in it.")
    return [name for name in found if not asked or name in asked]


def speed(what: str, frames: int, seconds: float) -> str:
    """How fast it went."""
    return f"{what}: {frames} frames, {frames / max(seconds, 1e-9):.2f} a second"


@dataclass(frozen=True)
class Frames:
    """The frames of a video of one's own, uint8 [3, h, w] in order, as often as they are asked for."""

    path: Path
    names: tuple[str, ...]  # of a folder's frames; a file has none
    size: tuple[int, int]  # h, w of the first
    rate: float  # a second

    def __iter__(self) -> Iterator[Tensor]:
        return frames_of([self.path / name for name in self.names]) if self.names else video_frames(self.path)


def open_frames(path: Path) -> Frames:
    """A video file, or a folder of frames in the order of their names, numbers by value."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such video, nor a folder of frames.")
    rate, names = 25.0, []
    if path.is_dir():
        names = [p.name for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file()]
        names.sort(key=lambda name: [(part.isdigit(), int(part) if part.isdigit() else 0, part)
                                     for part in re.split(r"(\d+)", name)])  # fmt: skip
        if not names:
            raise BadInput(f"{path}: no frame in it ({', '.join(sorted(SUFFIXES))}).")
        first = read_frame(path / names[0])
    else:
        with av_opened(path) as container:
            rate = float(container.streams.video[0].average_rate or rate)
        if not (some := [*islice(video_frames(path), 1)]):
            raise BadInput(f"{path}: no frame in it.")
        first = some[0]
    return Frames(path, tuple(names), (first.shape[1], first.shape[2]), rate)


def video_frames(path: Path) -> Iterator[Tensor]:
    """Decoded one by one."""
    with av_opened(path) as container:
        for frame in container.decode(video=0):
            yield torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)


@contextlib.contextmanager
def av_opened(path: Path) -> Iterator[Any]:
    av = needs("a video file (frames and a gif do not)", "tracking", "av")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise BadInput(f"{path}: no video in it.")
            yield container
    except av.FFmpegError as error:
        raise BadInput(f"{path}: not a video that can be read ({error}).") from error


def frames_of(paths: Sequence[str | Path] | Frames, ahead: int = 4) -> Iterator[Tensor]:
    """Each frame in order, uint8 [3, h, w]; the next few are decoded meanwhile."""
    if isinstance(paths, Frames):
        yield from paths
        return
    with ThreadPoolExecutor(1) as pool:
        waiting = [pool.submit(read_frame, path) for path in paths[:ahead]]
        for path in paths[ahead:]:
            waiting.append(pool.submit(read_frame, path))
            yield waiting.pop(0).result()
        yield from (future.result() for future in waiting)


def files_fingerprint(paths: Iterable[Path], root: Path) -> str:
    """16 hex digits over the names and sizes of a benchmark's files."""
    state = hashlib.sha256()
    for path in paths:
        state.update(f"{path.relative_to(root)} {path.stat().st_size}\n".encode())
    return state.hexdigest()[:16]


def colour_of(number: int) -> tuple[int, int, int]:
    """A bright colour for each id, neighbours far apart (golden angle)."""
    red, green, blue = colorsys.hsv_to_rgb(number * 0.618034 % 1, 0.85, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def with_boxes(frame: Tensor, boxes: Iterable[Sequence[float]], ids: Iterable[int], *, width: int = 3) -> Image.Image:
    """The frame with boxes (x, y, w, h from 0, px), each in its id's colour and with its number."""
    image = Image.fromarray(frame.permute(1, 2, 0).numpy())
    draw = ImageDraw.Draw(image)
    for (x, y, w, h), number in zip(boxes, ids):
        right, low = max(x, x + w - 1), max(y, y + h - 1)
        draw.rectangle((x, y, right, low), outline=colour_of(number), width=width)
        draw.text((x + width + 1, y + width), str(number), fill=colour_of(number))
    return image


def with_masks(frame: Tensor, ids: np.ndarray, *, share: float = 0.5) -> Image.Image:
    """The frame with the objects of an id map [h, w] (0 is background) tinted in their colours."""
    pixels = frame.permute(1, 2, 0).numpy().astype(np.float32)
    for number in np.unique(ids[ids > 0]).tolist():
        inside = ids == number
        pixels[inside] = (1 - share) * pixels[inside] + share * np.array(colour_of(number), np.float32)
    return Image.fromarray(pixels.round().astype(np.uint8))


def write_video(path: Path, frames: Iterable[Image.Image], *, rate: float = 25, most: int = 640) -> None:
    """Write frames as .gif (Pillow) or .mp4 (H.264, with the library av), at most `most` px wide.
    Raises BadInput: another ending, no frame, or mp4 without av."""
    if path.suffix not in (".gif", ".mp4"):
        raise BadInput(f"{path}: a video's name ends with .gif or .mp4.")
    images = (_fitting(image, most) for image in frames)
    first = next(images, None)
    if first is None:
        raise BadInput(f"{path}: no frame to write.")
    with atomic(path) as part:
        if path.suffix == ".gif":
            # A palette for each frame, without dither: what is drawn keeps its colour, and the background is still.
            plain = (image.quantize(256, dither=Image.Dither.NONE) for image in chain([first], images))
            next(plain).save(part, format="GIF", save_all=True, append_images=plain, duration=1000 / rate, loop=0)
            return
        av = needs("an mp4 (a gif does not)", "tracking", "av")
        with av.open(part, "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=round(rate))
            stream.width, stream.height, stream.pix_fmt = *first.size, "yuv420p"
            for image in chain([first], images):
                container.mux(stream.encode(av.VideoFrame.from_image(image)))
            container.mux(stream.encode())


def _fitting(image: Image.Image, most: int) -> Image.Image:
    """At most so wide, and of even sides, as H.264 wants."""
    share = min(1, most / image.width)
    return image.resize([max(2, round(side * share) // 2 * 2) for side in image.size], Image.Resampling.BILINEAR)
