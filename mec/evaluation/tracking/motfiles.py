"""Reading and writing the MOT and MOTS benchmarks' files: sequences, rows of boxes, rows of masks.

Boxes:  frame,id,x,y,w,h,flag,class,visibility (truth)   frame,-1,x,y,w,h,confidence[,...] (detections)
        frame,x,y,w,h,confidence (FairMOT's)             frame,id,x,y,w,h,1,-1,-1,-1 (results)
        cx cy w h confidence, as shares of the image, a file a frame (UniTrack's obs)
Masks:  frame id class h w rle, with blanks, the last as COCO's compressed run lengths (all three)
"""

import configparser
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mec.data.decoding import MOST_PIXELS
from mec.errors import BadInput
from mec.evaluation.tracking.objects import Mask
from mec.runtime.files import atomic, read_text, write_text

MOST_FRAMES = 1_000_000  # of a sequence: ten hours
PERSON, IGNORED = 2, 10  # classes of MOTS


@dataclass(frozen=True)
class Clip:
    """A sequence: its frames on disk, in order. The first is frame 1 in all files."""

    name: str
    folder: Path
    frames: list[Path]
    rate: float  # frames a second
    size: tuple[int, int]  # height, width in px


@dataclass(frozen=True)
class Boxes:
    """Rows of a box file. Where a file has no such column: id -1, score 1, kind -1, visibility -1."""

    frame: NDArray[np.int64]  # from 1
    id: NDArray[np.int64]
    box: NDArray[np.float64]  # [n, 4] x, y, w, h in px, as in the file
    score: NDArray[np.float64]  # confidence; of truth the flag, 0 for rows that are not judged
    kind: NDArray[np.int64]
    visibility: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.frame)

    def where(self, rows: NDArray) -> "Boxes":
        return Boxes(*(getattr(self, column.name)[rows] for column in fields(self)))


@dataclass(frozen=True)
class MaskRow:
    frame: int
    id: int
    kind: int
    size: tuple[int, int]  # height, width
    counts: str  # COCO's compressed run lengths

    @property
    def coco(self) -> dict:
        return {"size": list(self.size), "counts": self.counts.encode()}

    def decoded(self) -> Mask:
        h, w = self.size
        runs = runs_of(self.counts)
        return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(w, h).T


def read_clip(folder: Path) -> Clip:
    """A sequence by its seqinfo.ini.
    Raises FileNotFoundError: no seqinfo.ini, or no images. BadInput: a key that is missing or no number; frames that
    are missing or too many."""
    file = folder / "seqinfo.ini"
    if not file.is_file():
        raise FileNotFoundError(f"{folder}: no seqinfo.ini in it; a sequence has one beside its img1/ and gt/.")
    parser = configparser.ConfigParser()
    try:
        parser.read(file)
        info = parser["Sequence"]
        length, rate = int(info["seqLength"]), float(info["frameRate"])
        size = int(info["imHeight"]), int(info["imWidth"])
        images, suffix = folder / info.get("imDir", "img1"), info.get("imExt", ".jpg")
    except (configparser.Error, KeyError, ValueError) as error:
        raise BadInput(
            f"{file}: {error}. It has a section [Sequence] with imDir, frameRate, seqLength, imWidth, imHeight, imExt."
        ) from error
    if not 0 < length <= MOST_FRAMES or not 0 < size[0] * size[1] <= MOST_PIXELS or min(size) < 1 or not rate > 0:
        raise BadInput(
            f"{file}: seqLength {length}, imHeight {size[0]}, imWidth {size[1]}, frameRate {rate:g}: above 0, at most "
            f"{MOST_FRAMES:,} frames of {MOST_PIXELS:,} px."
        )
    wanted = [images / f"{i:06}{suffix}" for i in range(1, length + 1)]
    missing = [path.name for path in wanted if not path.is_file()]
    if len(missing) == length:
        raise FileNotFoundError(f"{images}: none of its {length} frames (000001{suffix}, ...) is there.")
    if missing:
        names = ", ".join(missing[:3])
        raise BadInput(f"{images}: {len(missing)} of {length} frames are missing ({names}, ...); {file} counts them.")
    if more := sorted({*images.glob(f"*{suffix}")} - {*wanted}):
        raise BadInput(f"{images}: {len(more)} frames ({more[0].name}, ...) beyond the seqLength {length} of {file}.")
    return Clip(folder.name, folder, wanted, rate, size)


def list_clips(root: Path, split: str, seqmap: str) -> list[Path]:
    """Folders of the sequences of a split: those that seqmaps/NAME lists, or without it all in images/SPLIT."""
    images, listing = root / "images" / split, root / "seqmaps" / seqmap
    if not images.is_dir():
        near = sorted(p.name for p in root.glob("images/*")) or sorted(p.name for p in root.glob("*"))
        raise FileNotFoundError(f"{images}: no such folder. Beside it: {', '.join(near[:8]) or 'nothing'}.")
    if listing.is_file():
        names = [line.strip() for line in read_text(listing).splitlines() if line.strip()]
        if names and not (images / names[0]).is_dir():
            del names[0]  # a heading; some lists have none
        if absent := [name for name in names if not (images / name).is_dir()]:
            raise BadInput(f"{listing} lists {', '.join(absent[:3])}, which {images} does not hold.")
    else:
        names = sorted(p.name for p in images.iterdir() if (p / "seqinfo.ini").is_file())
    if not names:
        raise FileNotFoundError(f"{images}: no sequence in it (a folder with seqinfo.ini, img1/ and gt/).")
    return [images / name for name in names]


def read_boxes(path: Path, frames: int | None = None, unique: bool = False) -> Boxes:
    """Rows of a box file, in its order; commas or blanks between numbers.

    Args:
        frames: length of the sequence; a row of a later frame is an error.
        unique: whether a frame may have an id only once (truth and results).
    Raises FileNotFoundError: no such file. BadInput: a row of another length, that is no numbers, or of no area; with
    its line."""
    lines = _lines(path)
    rows = []
    for number, line in lines:
        parts = line.replace(",", " ").split()
        try:
            values = [float(part) for part in parts]
        except ValueError:
            raise BadInput(f"{path}, line {number}: {line[:80]!r}: numbers with commas between are wanted.") from None
        if len(values) < 6:
            raise BadInput(f"{path}, line {number}: {len(values)} numbers; frame,id,x,y,w,h,... has 6 or more.")
        if len(values) == 6:  # frame,x,y,w,h,confidence
            values.insert(1, -1.0)
        if not np.isfinite(values[:9]).all() or min(values[4:6]) <= 0:
            raise BadInput(f"{path}, line {number}: {line[:80]!r}: a box has finite numbers, and w and h above 0.")
        _check_frame(path, number, values[0], frames)
        rows.append(values[:9])
    boxes = boxes_of_rows(rows)
    if unique:
        _check_unique(path, zip(zip(boxes.frame.tolist(), boxes.id.tolist()), (number for number, _ in lines)))
    return boxes


def boxes_of_rows(rows: Iterable[Sequence[float]]) -> Boxes:
    """Rows of frame, id, x, y, w, h, score, kind and visibility; the last three are 1, -1 and -1 where a row ends."""
    table = np.array([[*row, *(1, -1, -1)[len(row) - 6 :]] for row in rows], dtype=np.float64).reshape(-1, 9)
    frame, name, kind = table[:, [0, 1, 7]].astype(np.int64).T
    return Boxes(frame, name, table[:, 2:6], table[:, 6], kind, table[:, 8])


def write_boxes(path: Path, boxes: Boxes, truth: bool = False) -> None:
    """As results, or (with flag, class and visibility) as ground truth; numbers are read back as they were."""
    with atomic(path) as part, open(part, "w") as file:
        for i in range(len(boxes)):
            box = ",".join(repr(float(v)) for v in boxes.box[i])
            last = f"{boxes.score[i]:g},{boxes.kind[i]},{float(boxes.visibility[i])!r}" if truth else "1,-1,-1,-1"
            file.write(f"{boxes.frame[i]},{boxes.id[i]},{box},{last}\n")


def read_observed(folder: Path, frames: int, size: tuple[int, int]) -> Boxes:
    """Detections as a file a frame (cx cy w h confidence, shares of the image); a frame without a file has none."""
    h, w = size
    rows = []
    for path in sorted(folder.glob("*.txt")):
        frame = frame_of(path, frames)
        for number, line in _lines(path):
            try:
                cx, cy, bw, bh, score = (float(part) for part in line.replace(",", " ").split()[:5])
            except ValueError:
                raise BadInput(f"{path}, line {number}: {line[:80]!r}: 'cx cy w h confidence' is wanted.") from None
            if not np.isfinite([cx, cy, bw, bh, score]).all() or bw <= 0 or bh <= 0:
                raise BadInput(f"{path}, line {number}: {line[:80]!r}: finite numbers, and w and h above 0.")
            rows.append([frame, -1, (cx - bw / 2) * w, (cy - bh / 2) * h, bw * w, bh * h, score])
    return boxes_of_rows(rows)


def read_masks(path: Path, frames: int | None = None, unique: bool = False, frame: int | None = None) -> list[MaskRow]:
    """Rows of a mask file, in its order.

    Args:
        frames, unique: as in `read_boxes`.
        frame: of a file that holds one frame, whatever number its rows have.
    Raises FileNotFoundError: no such file. BadInput: a row of another form, or run lengths that do not fill the image;
    with its line."""
    lines, rows = _lines(path), []
    for number, line in lines:
        parts = line.split(" ")
        try:
            at, name, kind, h, w = (int(part) for part in parts[:5])
            (counts,) = parts[5:]
        except ValueError:
            raise BadInput(f"{path}, line {number}: {line[:60]!r}: 'frame id class h w rle' is wanted.") from None
        if h < 1 or w < 1 or h * w > MOST_PIXELS or runs_of(counts).sum() != h * w or (runs_of(counts) < 0).any():
            raise BadInput(f"{path}, line {number}: its run lengths are not those of a mask of {h} x {w} px.")
        at = at if frame is None else frame
        _check_frame(path, number, at, frames)
        rows.append(MaskRow(at, name, kind, (h, w), counts))
    if unique:
        persons = [((row.frame, row.id), number) for row, (number, _) in zip(rows, lines) if row.kind != IGNORED]
        _check_unique(path, persons)
    return rows


def write_masks(path: Path, rows: Iterable[MaskRow]) -> None:
    write_text(path, "".join(f"{r.frame} {r.id} {r.kind} {r.size[0]} {r.size[1]} {r.counts}\n" for r in rows))


def encoded_mask(mask: Mask) -> str:
    """COCO's compressed run lengths of a mask."""
    from pycocotools import mask as coco

    return coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


def runs_of(counts: str) -> NDArray[np.int64]:
    """The lengths of runs of 0 and 1, in turn, column by column. pycocotools does not check that they fill the mask.
    A number is digits of 5 bits, lowest first, each + 48 and with 32 added where more follow; from the fourth number on
    it is the difference to the one two before.

    >>> runs_of("c26>0").tolist()  # "c2" is 19 + 32 * 2
    [83, 6, 14, 6]"""
    values: list[int] = []
    value = bits = 0
    for digit in (byte - 48 for byte in counts.encode()):
        if not 0 <= digit < 64 or bits > 30:
            return np.full(1, -1)
        value, bits = value | (digit & 31) << bits, bits + 5
        if not digit & 32:
            number = value - (1 << bits if digit & 16 else 0)
            values.append(number + values[-2] if len(values) > 2 else number)
            value = bits = 0
    return np.array(values if values and not bits else [-1])


def overlapping(rows: Sequence[MaskRow]) -> tuple[int, int] | None:
    """Two masks of one frame that share a pixel, by index, or None."""
    from pycocotools import mask as coco

    codes = [row.coco for row in rows]
    pairs = np.argwhere(np.triu(coco.iou(codes, codes, [0] * len(codes)), 1)).tolist() if codes else []
    return (pairs[0][0], pairs[0][1]) if pairs else None


def _lines(path: Path) -> list[tuple[int, str]]:
    """Numbered lines that are not blank."""
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*"))[:8]
        raise FileNotFoundError(f"{path}: no such file. Beside it: {', '.join(near) or 'nothing'}.")
    return [(i, line.strip()) for i, line in enumerate(read_text(path).splitlines(), start=1) if line.strip()]


def frame_of(path: Path, frames: int) -> int:
    if not path.stem.isdigit() or not 1 <= int(path.stem) <= frames:
        raise BadInput(f"{path}: named after a frame, 000001.txt to {frames:06}.txt, is wanted.")
    return int(path.stem)


def _check_frame(path: Path, number: int, frame: float, frames: int | None) -> None:
    if frame < 1 or frame != int(frame) or (frames is not None and frame > frames):
        most = "" if frames is None else f" to {frames}, the length of the sequence"
        raise BadInput(f"{path}, line {number}: frame {frame:g}; frames are whole numbers from 1{most}.")


def _check_unique(path: Path, rows: Iterable[tuple[tuple[int, int], int]]) -> None:
    """Rows are ((frame, id), line)."""
    seen: dict[tuple[int, int], int] = {}
    for (frame, name), number in rows:
        if before := seen.get((frame, name)):
            what = f"frame {frame} has id {name} twice; an object is in a frame once."
            raise BadInput(f"{path}, lines {before} and {number}: {what}")
        seen[frame, name] = number
