"""embedding.png of a run without labels: a map with thumbnails, the spectrum of its features, and its views."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mec.data.batches import ViewBatches
from mec.data.dataset import Split
from mec.evaluation.features import Features
from mec.recipes.recipe import Recipe
from mec.runtime.files import write_figure

THUMBNAIL = 28  # px
SHOWN, VIEWED = 150, 5  # most thumbnails in the map, and images whose views are shown


def readable_thumbnails(split: Split) -> tuple[Split, list[np.ndarray]]:
    """The images that can be read, and each in small, [h, w, 3] uint8."""
    kept, small = [], []
    for index in range(len(split)):
        try:
            image = split.images.read(index)
        except Exception:  # (Pillow's decoders raise almost anything; the log has told of it)
            continue
        image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR)
        kept.append(index)
        small.append(np.asarray(image))
    return split.take(np.asarray(kept, dtype=np.int64)), small


def views_of(split: Split, recipe: Recipe, seed: int) -> np.ndarray:
    """A table of views, [rows px, columns px, 3] in [0, 1]: an image a row, as they were trained on."""
    count = min(VIEWED, len(split))
    batches = ViewBatches(
        split.take(np.arange(count)), recipe.views, count, seed=seed, device=torch.device("cpu"), workers=0
    )
    batch = next(batches.batches(0, 1, lambda m: slice(0, m)))
    shown = [view for view in recipe.views for _ in range(view.copies)]
    columns = [as_picture(made, view.mean, view.std) for made, view in zip(batch.views, shown)]
    side = max(column.shape[1] for column in columns)
    framed = [np.pad(c, ((0, 0), (1, side - c.shape[1] + 1), (1, side - c.shape[2] + 1), (0, 0)), constant_values=1.0)
              for c in columns]  # fmt: skip
    return np.concatenate([np.concatenate(list(row), 1) for row in zip(*framed)], 0)


def as_picture(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """Normalised [m, 3, s, s] -> [m, s, s, 3] in [0, 1]."""
    scale, shift = (torch.tensor(values).view(3, 1, 1) for values in (std, mean))
    return (images.float().cpu() * scale + shift).clamp(0, 1).permute(0, 2, 3, 1).numpy()


def unlabelled_picture(
    rows: Mapping[str, Features], points: np.ndarray, small: list[np.ndarray], views: np.ndarray, path: Path
) -> None:
    """Draw it: rows are features [n, e] by name, the last those of the trained encoder; points [n, 2] its map; small
    has n thumbnails."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 7.5), layout="constrained")
    axes: Any = figure.subplot_mosaic([["map", "spectrum"], ["map", "views"]], width_ratios=[1.6, 1])
    name = list(rows)[-1]
    place_thumbnails(axes["map"], points, small)
    axes["map"].set(title=f"{len(small):,} training images, {name}: like ones lie together", xticks=[], yticks=[])
    for label, part in rows.items():
        unit = part.unit()
        singular = torch.linalg.svdvals(unit - unit.mean(0)).double()
        shares = (singular.square() / singular.square().sum().clamp_min(1e-30)).numpy()
        shares = shares[shares > 1e-8]  # centred, as many rows as columns have one direction of nothing
        axes["spectrum"].semilogy(np.arange(1, len(shares) + 1), shares, label=label)
    axes["spectrum"].set(title="spectrum of the features", xlabel="direction", ylabel="share of the variance")
    axes["spectrum"].legend(frameon=False)
    axes["views"].imshow(views, aspect="equal")
    axes["views"].set(title="views, an image a row", xticks=[], yticks=[])
    write_figure(figure, path)


def place_thumbnails(axis: Any, points: np.ndarray, small: list[np.ndarray]) -> None:
    """All points, and at most `SHOWN` of the images where they do not hide each other."""
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    axis.scatter(*points.T, s=6, color="0.75")
    apart = np.ptp(points, axis=0).max() / 18
    taken: list[np.ndarray] = []
    for point, image in zip(points, small):
        if len(taken) >= SHOWN:
            break
        if all(np.abs(point - other).max() > apart for other in taken):
            taken.append(point)
            zoom = 0.9 * THUMBNAIL / max(image.shape[:2])
            axis.add_artist(AnnotationBbox(OffsetImage(image, zoom=zoom), tuple(point), frameon=False, pad=0))
    axis.margins(0.06)
