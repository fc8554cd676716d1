"""Images -> a file of features, for tools of any kind: in flat memory, and resumed where it stopped."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from mec.data.sources import open_images
from mec.errors import BadInput
from mec.evaluation.cache import feature_key, progress_of, stored
from mec.evaluation.features import Extraction, reasons, refuse_infinite
from mec.evaluation.subject import resolve
from mec.exports.options import Embedding
from mec.exports.rows import Rows, check_out, write_rows
from mec.networks.backbones import evaluating
from mec.runtime.distributed import shared
from mec.runtime.flags import takes
from mec.runtime.locks import only_one
from mec.runtime.progress import Console
from mec.runtime.records import write_records

BLOCK = 1 << 25  # bytes of features that are in memory at once


@takes(Embedding)
def embed(run: str | Path, images: str | Path | Sequence[str | Path], options: Embedding) -> Path:
    """Write the features [n, e] float32 of images, with their paths (relative to the folder), to a file; returns it.

    What is left out is told by reason, and kept in .npz and .parquet as `told`; images that cannot be read are listed,
    with reasons, in OUT.skipped.jsonl. Until it is done, rows are in OUT.unfinished/: the same call goes on from there.

    Args:
        run: a run folder, a file of weights or a name, as `mec evaluate` takes it.
        images: a folder, nested in any way; tars; a CSV with a column of paths; a text with a path a line; or files.
    {options}

    Raises:
        BadInput: no image, too many that cannot be read, or a file that cannot be written; features not finite.
        FileNotFoundError: no such run or folder."""
    console, out = Console(highlight=False), Path(options.out)
    check_out(out)
    ranks = shared()
    # Before hours of work: it also tells a place that cannot be written.
    with nullcontext() if ranks.rank else only_one(out):
        subject = resolve(run, device=options.device, workers=options.workers)
        source = open_images(images, options.labels, scale=subject.info.scale, look=False)
        said = source.data.words()
        for words in (*subject.told, *said):
            console.print(words, soft_wrap=True)
        pictures = source.split.images
        needed, free = 2 * 4 * len(pictures) * subject.info.feature_size, shutil.disk_usage(out.parent).free
        if needed > free:  # the rows are there twice: as they come, and in the file
            raise BadInput(
                f"--out is {out}: {len(pictures):,} images of {subject.info.feature_size} features need {needed:,} "
                f"bytes there while they are made, and {free:,} are free."
            )
        how = subject.transform, subject.device, options.batch_size, options.workers, ranks
        way = Extraction(subject.encoder, pictures, *how)
        work = out.with_name(f"{out.name}.unfinished")
        key = feature_key(way.encoder, pictures, way.transform, str(way.device)) or "once"  # made anew each time
        for old in () if ranks.rank else work.glob("*"):
            if key == "once" or not old.name.startswith(key):
                old.unlink()
        if done := progress_of(work, key, len(pictures)):
            console.print(f"resumed after {done:,} of {len(pictures):,} images")
        with evaluating(way.encoder), console.status(f"features of {len(pictures):,} images") as shown:

            def batches(start: int, size: int) -> Iterator[Tensor]:
                for rows in way.batches(start, size):
                    yield rows
                    start += len(rows)
                    shown.update(f"features of {start:,} of {len(pictures):,} images")

            file = stored(work, key, len(pictures), batches, ranks)
            unreadable, size = mended(way, file)
        if ranks.rank:  # the first process writes
            return out
        skipped = (*source.data.skipped, *reasons(pictures, unreadable))
        data = replace(source.data, skipped=skipped)
        kept = np.setdiff1d(np.arange(len(pictures)), unreadable)
        labels = [data.classes[y] if y >= 0 else "" for y in source.split.y[kept]] if data.classes else None
        names = [source.names[i] for i in kept]
        rows = Rows(names, labels, data.words(), size, lambda: blocks(file, unreadable))
        written = write_rows(rows, out)
        shutil.rmtree(work)
    console.print(f"{out}: {len(names):,} images, {size} features each", soft_wrap=True)
    for beside in written[1:]:
        console.print(f"{beside}: their paths, in the same order", soft_wrap=True)
    for words in {*data.words()} - {*said}:  # more turned out to be unreadable
        console.print(words, soft_wrap=True)
    listing = out.with_suffix(".skipped.jsonl")
    if skipped:
        write_records(listing, map(asdict, skipped))
        console.print(f"which cannot be read, and why: {listing}", soft_wrap=True)
    else:
        listing.unlink(missing_ok=True)  # of an earlier time
    return out


def mended(way: Extraction, file: Path) -> tuple[list[int], int]:
    """Fill in the rows of images that can be read the second time; gives the unreadable, and e.
    Raises BadInput: features that are not finite."""
    lost, done, bad, size = [], 0, 0, 0
    for block in blocks(file):
        nan = np.isnan(block[:, 0])
        lost.append(done + np.flatnonzero(nan))
        bad += int((~np.isfinite(block)).any(1).sum() - nan.sum())
        done, size = done + len(block), block.shape[1]
    found, unreadable = way.second_try(np.concatenate(lost), size)
    given = sum(map(len, lost)) - len(unreadable) - sum(bool(row.isfinite().all()) for row in found.values())
    refuse_infinite(bad + given, done)
    way.ranks.wait()  # until all have seen the rows that are filled in now
    rows = np.load(file, mmap_mode="r+") if way.ranks.rank == 0 else {}
    for i, row in found.items():
        rows[i] = row.numpy()
    return unreadable, size


def blocks(file: Path, unreadable: Sequence[int] = ()) -> Iterator[np.ndarray]:
    """The rows of an .npy but the unreadable, by blocks, each mapped anew: memory holds no more than one."""
    n, size = np.load(file, mmap_mode="r").shape
    step = max(1, BLOCK // (4 * size))
    for start in range(0, n, step):
        block = np.array(np.load(file, mmap_mode="r")[start : start + step])
        yield np.delete(block, [i - start for i in unreadable if start <= i < start + step], axis=0)
