"""`mec pack`: a folder of images -> tar files with an index, each image checked, and made smaller where asked."""

import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image

from mec.data.dataset import TRAIN, Data, Split
from mec.data.decoding import Picture, Skipped, quiet, read_file, reason
from mec.data.folders import folder_layout
from mec.data.images import MOST_UNREADABLE, Files, common_scale, too_many
from mec.data.options import Packing
from mec.data.shards import QUARANTINE, ShardWriter, write_index
from mec.errors import BadInput
from mec.runtime.files import whole_folder
from mec.runtime.flags import takes
from mec.runtime.machine import cores
from mec.runtime.progress import Console
from mec.runtime.records import write_records
from mec.version import __version__

AT_ONCE = 64  # images in memory


@takes(Packing)
def pack(images: str | Path, out: str | Path, options: Packing) -> Path:
    """Write the images of a folder (train and test by its layout) as shards into `out`, in an order shuffled once.

    Args:
        images: a folder, or a list of images, as for `mec pretrain`.
        out: the folder to write; it does not exist yet, or is empty.
    {options}

    Raises:
        BadInput: no images, too many unreadable, `out` not empty, or a number out of range."""
    folder, out, resize, quality = Path(images), Path(out), options.resize, options.quality
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out} already holds something: choose another folder for the shards.")
    layout = folder_layout(folder, options.labels)
    parts, classes = layout.parts, layout.classes
    if resize and (deep := common_scale(Files(tuple(path for part in parts for path in part.paths)))[0]):
        words = f"it makes JPEGs of 8 bits, and there are deep images ({deep.low:g} to {deep.high:g})"
        raise BadInput(f"--resize is {resize}: {words}. Leave it out: all are then packed as they are.")
    base = folder if folder.is_dir() else parts[0].root  # of a list
    console = Console(quiet=options.quiet)
    with whole_folder(out) as work:
        writers, skipped = [], []
        for part in parts:
            writer = ShardWriter(work, TRAIN if part is parts[0] else part.name.lower(), int(options.shard_size * 1e6))
            order = np.random.Generator(np.random.Philox(key=0)).permutation(len(part.names))
            paths = [os.path.join(part.root, part.names[i]) for i in order]
            with quiet(), console.status(f"{part.name}: {len(paths):,} images"):
                for i, found in zip(order, prepare(paths, resize, quality)):
                    if isinstance(found, Skipped):
                        skipped.append(found)
                    else:
                        label = -1 if part.labels is None else int(part.labels[i])
                        writer.add(*found, os.path.relpath(os.path.join(part.root, part.names[i]), base), label)
            writer.close()
            writers.append(writer)
        total = sum(len(part.names) for part in parts)
        if len(skipped) > MOST_UNREADABLE * total or not any(writer.rows for writer in writers):
            raise BadInput(too_many(skipped, total, folder))
        about = {"version": __version__, "resize": resize, "quality": quality if resize else None}
        write_index(work, writers, classes, about)
        skipped += layout.closed
        write_records(work / QUARANTINE, map(asdict, skipped))
    for words in Data(folder.name, Split(Files(())), left_out=layout.left_out, told=tuple(layout.told)).words():
        console.print(words, soft_wrap=True)
    shards = [shard for writer in writers for shard in writer.shards]
    size = sum(shard["bytes"] for shard in shards) / 1e6
    images_in = sum(len(writer.rows) for writer in writers)
    words = f"{out}: {images_in:,} images in {len(shards)} shards, {size:,.1f} MB"
    console.print(words, highlight=False, soft_wrap=True)
    if skipped:
        console.print(f"{len(skipped)} images cannot be read: {out / QUARANTINE}", highlight=False, soft_wrap=True)
    return out


def prepare(paths: list[str], resize: int | None, quality: int) -> Iterator[tuple[bytes, str] | Skipped]:
    """Each image's bytes and suffix, in order, or why it cannot be read; in threads. The caller holds `quiet`."""

    def one(path: str) -> tuple[bytes, str] | Skipped:
        try:
            return encode(read_file(path), os.path.splitext(path)[1].lower(), resize, quality)
        except Exception as error:  # Pillow's decoders raise almost anything on broken files
            return Skipped(path, reason(error, path))

    with ThreadPoolExecutor(max_workers=cores()) as pool:
        for start in range(0, len(paths), AT_ONCE):
            yield from pool.map(one, paths[start : start + AT_ONCE])


def encode(data: bytes, suffix: str, resize: int | None, quality: int) -> tuple[bytes, str]:
    """The bytes and suffix to store: unchanged, after a trial decode, or of a smaller JPEG."""
    picture = Picture.of(data)
    shorter = min(picture.height, picture.width)
    if resize is None or shorter <= resize:
        picture.pixels()
        return data, suffix
    reduce = next((r for r in (8, 4, 2) if shorter >= 2 * r * resize), 1)  # the filter still sees twice what it keeps
    image = Image.fromarray(picture.pixels(reduce))
    scale = resize / min(image.size)
    size = (max(resize, round(image.width * scale)), max(resize, round(image.height * scale)))
    file = io.BytesIO()
    image.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=quality)
    return file.getvalue(), ".jpg"
