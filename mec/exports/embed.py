"""A folder of images -> features, for tools of any kind."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np

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

    Images that cannot be read are left out and listed, with reasons, in OUT.skipped.jsonl.

    Args:
        run: a run folder, a file of weights or a name, as `mec evaluate` takes it.
        images: a folder of images, nested in any way.
    {options}

    Raises:
        BadInput: no image in the folder, or too many that cannot be read; OUT does not end with .npz.
        FileNotFoundError: no such run or folder.
    """
    console = Console(markup=False, highlight=False)
    folder, out = Path(images), Path(options.out)
    if out.suffix != ".npz":
        raise BadInput(f"--out is {out}: its name ends with .npz.")
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder.")
    out.parent.mkdir(parents=True, exist_ok=True)
    with only_one(out):  # before hours of work: it also tells a place that cannot be written
        with console.status(f"features of {folder}"):
            found = features(run, folder, device=options.device, workers=options.workers)
        with atomic(out) as part, open(part, "wb") as file:
            np.savez(file, paths=np.array(found.names), features=found.x.numpy())
    console.print(f"{out}: {found.x.shape[0]:,} images, {found.x.shape[1]} features each")
    if found.skipped:
        listing = out.with_suffix(".skipped.jsonl")
        write_records(listing, map(asdict, found.skipped))
        console.print(f"{len(found.skipped)} images cannot be read and are left out: {listing}")
    return found.x.numpy()
