"""`mec search`, `duplicates`, `outliers`, `mislabelled`: a CSV each, and a page of thumbnails beside it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mec.answers.classifying import STRENGTHS, calibrated, calibration, crossed
from mec.answers.neighbours import nearest, others
from mec.answers.options import Duplicates, Mislabelled, Outliers, Searching
from mec.answers.pool import gather, of_source, reserved, write_csv
from mec.data.sources import BY_FOLDER, open_images
from mec.errors import BadInput, needs, plain
from mec.evaluation.subject import resolve
from mec.pages.page import data_uri, write_page
from mec.runtime.flags import takes
from mec.runtime.progress import say

Row = tuple[Any, ...]
SIDE, MOST = 128, 600  # px of a thumbnail; most of them in a page
LINKED = 10  # nearest images by which copies find each other


def answered(out: Path, title: str, header: Sequence[str], rows: list[Row], groups: Any, words: str) -> list[Row]:
    """Write the CSV and the page of thumbnails, say so, and give the rows.

    groups: each with a heading and images: a pool, an index and a caption. Those beyond `MOST` are counted."""
    write_csv(out, header, rows)
    shown, left = [], MOST
    for heading, images in groups:
        each = [(data_uri(pool.thumbnail(index, SIDE), "image/jpeg"), plain(f"{pool.names[index]} {caption}"))
                for pool, index, caption in images[:left]]  # fmt: skip
        shown += [(plain(heading), each)] * bool(each)
        left -= len(each)
    facts = {"title": title, "groups": shown, "more": sum(len(images) for _, images in groups) - MOST + left}
    write_page(out.with_suffix(".html"), "thumbnails.html", {}, facts)
    say(f"{out}: {words} Thumbnails: {out.with_suffix('.html')}")
    return rows


@takes(Searching)
def search(run: Any, images: Any, options: Searching) -> list[Row]:
    """Write the images most like each given one to a CSV; returns its rows (query, rank, path, similarity).

    Args:
        run: a run folder, a file of weights or a name, as `mec evaluate` takes it.
        images: a folder, tars, a CSV or text of paths, a file, or a list of paths.
    {options}

    Raises:
        BadInput: no image, or OUT does not end with .csv. FileNotFoundError: no such run, folder or query."""
    out, given = Path(options.out), str(options.query)
    with reserved(out, ".csv"):
        subject = resolve(run, device=options.device, workers=options.workers)
        scale, several = subject.info.scale, "," in given and not Path(given).exists()
        queries = of_source(subject, open_images(given.split(",") if several else given, scale=scale))
        pool = of_source(subject, open_images(images, scale=scale))
        similarity, index = nearest(pool.unit(), queries.unit(), min(options.top, len(pool)))
        rows: list[Row] = []
        groups = []
        for number, name in enumerate(queries.names):
            best = list(zip(index[number].tolist(), similarity[number].tolist()))
            rows += [(name, rank, pool.names[i], f"{s:.4f}") for rank, (i, s) in enumerate(best, 1)]
            groups.append((name, [(queries, number, "(asked)"), *((pool, i, f"{s:.3f}") for i, s in best)]))
        words = f"the {similarity.shape[1]} nearest of {len(pool):,} images to each of {len(queries):,}."
        return answered(out, "Most like", ["query", "rank", "path", "similarity"], rows, groups, words)


@takes(Duplicates)
def duplicates(run: Any, images: Any, options: Duplicates) -> list[Row]:
    """Write groups of images that are alike to a CSV; returns its rows (group, path, part, similarity, leak).

    Images are linked where one is among the ten nearest of the other; what is linked to linked ones is one group.

    Args:
        run: a run folder, a file of weights or a name, as `mec evaluate` takes it.
        images: a folder (its train/ and val|test/ are parts), tars, or a CSV of paths, perhaps with a column split.
    {options}

    Raises:
        BadInput: no image, or OUT does not end with .csv. FileNotFoundError: no such run or folder."""
    out = Path(options.out)
    with reserved(out, ".csv"):
        pool = gather(run, images, options)
        x, rows, groups, leaks = pool.unit(), list[Row](), [], 0
        for number, members in enumerate(alike(x, options.above), 1):
            parts = sorted({pool.source.parts[i] for i in members} - {""})
            leak = " ".join(parts) if len(parts) > 1 else ""
            leaks += bool(leak)
            like = x[members] @ x[members[0]]
            rows += [(number, pool.names[i], pool.source.parts[i], f"{s:.4f}", leak) for i, s in zip(members, like)]
            each = [(pool, int(i), f"{s:.3f}") for i, s in zip(members, like)]
            groups.append((f"{number}: {len(members)} images" + f", LEAK: in {leak}" * bool(leak), each))
        words = f"{len(groups):,} groups of {len(rows):,} images, of {len(pool):,}; {leaks:,} leak between parts."
        return answered(out, "Duplicates", ["group", "path", "part", "similarity", "leak"], rows, groups, words)


def alike(x: np.ndarray, above: float) -> list[np.ndarray]:
    """The indices of each group of unit rows that are linked by cosines of at least `above`, large groups first."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    if len(x) < 2:
        return []
    similarity, index = others(x, min(LINKED, len(x) - 1))
    one, place = np.nonzero(similarity >= above)
    linked = coo_matrix((np.ones(len(one)), (one, index[one, place])), (len(x), len(x)))
    group = connected_components(linked, directed=False)[1]
    order = np.argsort(group, kind="stable")
    found = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    return sorted((members for members in found if len(members) > 1), key=lambda members: -len(members))


@takes(Outliers)
def outliers(run: Any, images: Any, options: Outliers) -> list[Row]:
    """Write the images that are least like any others to a CSV; returns its rows (rank, path, similarity).

    Args:
        run: a run folder, a file of weights or a name, as `mec evaluate` takes it.
        images: a folder, tars, a CSV or text of paths, or a list of paths.
    {options}

    Raises:
        BadInput: fewer than two images, or OUT does not end with .csv. FileNotFoundError: no such run or folder."""
    out = Path(options.out)
    with reserved(out, ".csv"):
        pool = gather(run, images, options)
        if len(pool) < 2:
            raise BadInput(f"{images}: {len(pool)} image; at least two have anything to be unlike.")
        like = others(pool.unit(), min(options.neighbours, len(pool) - 1))[0].mean(1)
        order = np.argsort(like, kind="stable")[: options.n]
        rows: list[Row] = [(rank, pool.names[i], f"{like[i]:.4f}") for rank, i in enumerate(order, 1)]
        groups = [("The strangest first", [(pool, int(i), f"{like[i]:.3f}") for i in order])]
        words = f"the {len(rows):,} of {len(pool):,} images that are least like others."
        return answered(out, "Outliers", ["rank", "path", "similarity"], rows, groups, words)


@takes(Mislabelled)
def mislabelled(run: Any, images: Any, options: Mislabelled) -> list[Row]:
    """Write the images whose label is likely wrong to a CSV; returns its rows (rank, path, label, suggested, quality).

    By cleanlab's confident learning (Northcutt et al., JAIR 2021), from probabilities of classifiers that have not seen
    the image.

    Args:
        run: a run folder, a file of weights or a name, as `mec evaluate` takes it.
        images: a folder with CLASS/ folders, or images that `labels` names.
    {options}

    Raises:
        BadInput: cleanlab is not installed, too few labels, or OUT does not end with .csv.
        FileNotFoundError: no such run or folder."""
    out = Path(options.out)
    needs("mislabelled", "clean", "cleanlab")
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    with reserved(out, ".csv"):
        pool = gather(run, images, options, options.labels or (BY_FOLDER if Path(images).is_dir() else None))
        known = np.flatnonzero(pool.y >= 0)
        classes, y = np.unique(pool.y[known], return_inverse=True)
        if len(classes) < 2 or len(y) < 4:
            raise BadInput(f"{images}: {len(y)} labels of {len(classes)} classes: at least 4 of two classes.")
        logits = crossed(pool.unit()[known].astype(np.float64), y, len(classes), STRENGTHS[0], options.seed, None)
        chance = calibrated(logits, *calibration(logits, y)).mean(0)
        order = find_label_issues(y, chance, return_indices_ranked_by="self_confidence", n_jobs=1)
        quality = get_label_quality_scores(y, chance)
        rows: list[Row] = []
        each = []
        for rank, i in enumerate(order, 1):
            given, other = (pool.classes[classes[k]] for k in (y[i], chance[i].argmax()))
            rows.append((rank, pool.names[known[i]], given, other, f"{quality[i]:.4f}"))
            each.append((pool, int(known[i]), f"{given}, rather {other}? {quality[i]:.3f}"))
        words = f"{len(rows):,} of {len(known):,} labels are doubtful."
        header = ["rank", "path", "label", "suggested", "quality"]
        return answered(out, "Doubtful labels", header, rows, [("The most doubtful first", each)], words)
