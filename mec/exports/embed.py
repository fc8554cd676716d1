"""A folder of images -> features, for tools of any kind."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np

from mec.data.shards import is_packed
from mec.errors import BadInput
from mec.evaluation.evaluate import features
from mec.exports.options import Embedding
from mec.runtime.files import atomic
from mec.runtime.flags import takes
from mec.runtime.locks import only_one
from mec.runtime.progress import Console
from mec.runtime.records import write_records


@takes(Embedding)
def embed(run: str | Path, images: str | Path, options: Embedding) -> np.ndarray:
    """Write `paths` [n] (relative to the folder) and `features` [n, e] float32 to an .npz; returns the features.

    What is left out is told by reason, and kept in the .npz as `told`; images that cannot be read are listed, with
    reasons, in OUT.skipped.jsonl.

    Args:
        run: a run folder, a file of weights or a name, as `mec evaluate` takes it.
        images: a folder of images, nested in any way, or tars of them, as `mec pretrain` takes them.
    {options}

    Raises:
        BadInput: no image in the folder, or too many that cannot be read; OUT does not end with .npz.
        FileNotFoundError: no such run or folder.
    """
    console = Console(markup=False, highlight=False)
    out = Path(options.out)
    if out.suffix != ".npz":
        raise BadInput(f"--out is {out}: its name ends with .npz.")
    if not is_packed(str(images)) and not Path(images).is_dir():
        raise FileNotFoundError(f"{images}: no such folder.")
    out.parent.mkdir(parents=True, exist_ok=True)
    said: list[str] = []

    def tell(words: str) -> None:
        said.append(words)
        console.print(words, soft_wrap=True)

    with only_one(out):  # before hours of work: it also tells a place that cannot be written
        with console.status(f"features of {images}"):
            found = features(run, images, device=options.device, workers=options.workers, say=tell)
        with atomic(out) as part, open(part, "wb") as file:
            np.savez(file, paths=np.array(found.names), features=found.x.numpy(), told=np.array(found.told, str))
    console.print(f"{out}: {found.x.shape[0]:,} images, {found.x.shape[1]} features each", soft_wrap=True)
    for words in {*found.told} - {*said}:  # more turned out to be unreadable
        tell(words)
    listing = out.with_suffix(".skipped.jsonl")
    if found.skipped:
        write_records(listing, map(asdict, found.skipped))
        console.print(f"which cannot be read, and why: {listing}", soft_wrap=True)
    else:
        listing.unlink(missing_ok=True)  # of an earlier time
    return found.x.numpy()
