"""A folder of images -> features, for tools of any kind."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
from rich.console import Console

from mec.data.decoding import nothing_in
from mec.data.folders import readable
from mec.data.listing import list_images
from mec.errors import BadInput
from mec.evaluation.features import extract
from mec.exports.options import Embedding
from mec.networks.encoder_file import load_encoder
from mec.runtime.device import chosen_device
from mec.runtime.files import atomic
from mec.runtime.flags import takes


@takes(Embedding)
def embed(run: str | Path, images: str | Path, options: Embedding) -> np.ndarray:
    """Write `paths` [n] (relative to the folder) and `features` [n, e] float32 to an .npz; returns the features.

    Images that cannot be read are left out and listed, with reasons, in OUT.skipped.jsonl.

    Args:
        run: a run folder, or an encoder.safetensors.
        images: a folder of images, nested in any way.
    {options}

    Raises:
        BadInput: no image in the folder, or too many that cannot be read; OUT does not end with .npz.
        FileNotFoundError: no such run or folder.
    """
    console = Console(markup=False)
    folder, out = Path(images), Path(options.out)
    if out.suffix != ".npz":
        raise BadInput(f"--out is {out}: its name ends with .npz.")
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder.")
    encoder, transform = load_encoder(run)
    listed = list_images(folder)
    paths = [os.path.join(folder, name) for name in listed.names]
    if not paths:
        raise BadInput(nothing_in(folder))
    split, skipped = readable(paths, None, folder, all_of_them=True)
    skipped += listed.closed
    device = chosen_device(options.device)
    with console.status(f"{len(split):,} images"):
        found = extract(encoder.to(device), split, transform, device=device, workers=options.workers)
    features, lost = found.x.numpy(), {image.path for image in found.skipped}  # since it was checked
    skipped += found.skipped
    read = [path for path in map(split.images.name, range(len(split))) if path not in lost]
    names = np.array([os.path.relpath(path, folder) for path in read])
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic(out) as part, open(part, "wb") as file:
        np.savez(file, paths=names, features=features)
    console.print(f"{out}: {features.shape[0]:,} images, {features.shape[1]} features each", highlight=False)
    if skipped:
        listing = out.with_suffix(".skipped.jsonl")
        listing.write_text("".join(json.dumps(asdict(s)) + "\n" for s in skipped))
        console.print(f"{len(skipped)} images cannot be read and are left out: {listing}", highlight=False)
    return features
