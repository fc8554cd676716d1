"""`mec select`: which images to label first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mec.answers.choosing import choose
from mec.answers.options import Selecting
from mec.answers.pool import gather, reserved, write_csv
from mec.runtime.flags import takes
from mec.runtime.progress import say


@takes(Selecting)
def select(run: Any, images: Any, options: Selecting) -> list[str]:
    """Write the images that are worth labelling first to a CSV path,label; returns their names.

    Args:
        run: a run folder, a file of weights or a name, as `mec evaluate` takes it.
        images: a folder, tars, a CSV or text of paths, a file, a list of paths or of PIL images.
    {options}

    Raises:
        BadInput: no image, more asked than are not labelled, labels that do not fit; OUT does not end with .csv.
        FileNotFoundError: no such run or folder.
    """
    out = Path(options.out)
    with reserved(out, ".csv"):
        pool = gather(run, images, options, options.labels)
        known = np.flatnonzero(pool.y >= 0)
        found = choose(pool.x, options.n, way=options.way, labelled=known, seed=options.seed)
        names = [pool.names[index] for index in found]
        write_csv(out, ["path", "label"], ([name, ""] for name in names))
    say(f"{out}: {len(names):,} of {len(pool):,} images, beside {len(known):,} labelled. Fill in its column label.")
    return names
