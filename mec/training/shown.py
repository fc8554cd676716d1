"""The images that a run's page and picture show: in small, where they lie before and after training, what is near."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mec.data.batches import ViewBatches
from mec.data.dataset import Split
from mec.data.decoding import open_image
from mec.evaluation.features import Features
from mec.pages.page import data_uri
from mec.recipes.fields import from_file
from mec.recipes.recipe import Recipe
from mec.runtime.files import read_json, write_figure

SHOWN = "shown.json"
SIDE = 64  # px of the longer side
NEAR = 6  # neighbours kept of each image
AROUND = 10  # neighbours that an image's distance from the others is taken over
BEFORE, AFTER = "before", "after"  # training
NAMES = {"pixels": "raw pixels", "untrained": "untrained encoder", "start": "given weights"}  # in tables
DRAWN, DRAWN_SIDE = 150, 28  # most thumbnails in a picture's map, and px of one
VIEWED = 5  # images whose views are shown


@dataclass(frozen=True)
class Shown:
    """What shown.json holds; rows go together, one an image."""

    part: str  # of the data: test, train, ...
    names: Sequence[str]
    thumbnails: Sequence[str]  # as data URIs
    labels: Sequence[int]  # -1: none
    classes: Sequence[str]
    points: Mapping[str, Sequence[Sequence[float]]]  # BEFORE and AFTER: places [n, 2] on a map
    near: Mapping[str, Sequence[Sequence[int]]]  # the most similar images, nearest first
    cosine: Mapping[str, Sequence[float]]  # mean cosine with the nearest ten
    clusters: Sequence[int]  # by k-means of the features after training
    spectrum: Mapping[str, Sequence[float]]  # shares of the features' variance, by direction
    views: str = ""  # what the network was trained on: a table of views, an image a row
    of: int = 0  # images that these were taken from


def shown_images(
    split: Split, part: str, classes: Sequence[str], features: Mapping[str, Features],
    points: Mapping[str, np.ndarray], views: np.ndarray, of: int,
) -> Shown:  # fmt: skip
    """What a page shows of a split's n images.

    Args:
        split: n images that can be read.
        features: [n, e] BEFORE and AFTER training.
        points: [n, 2] of the same, as the map has them.
        views: a picture [h, w, 3] in [0, 1].
        of: how many images these n were taken from."""
    from sklearn.cluster import KMeans

    small = []
    for index in range(len(split)):
        small.append(split.images.read(index))
        small[-1].thumbnail((SIDE, SIDE), Image.Resampling.BILINEAR)
    near, cosine = {}, {}
    for name, rows in features.items():
        unit = rows.unit()
        similar = unit @ unit.T
        similar.fill_diagonal_(-2)
        found = similar.topk(min(AROUND, len(unit) - 1))
        near[name] = found.indices[:, :NEAR].tolist()
        cosine[name] = [round(value, 4) for value in found.values.mean(1).tolist()]
    labels = split.labels if split.labels is not None else np.full(len(split), -1)
    groups = min(max(2, len(classes)) if classes else 10, len(split))
    after = features[AFTER].unit().numpy()
    return Shown(
        part=part, near=near, cosine=cosine, labels=[int(label) for label in labels], classes=list(classes), of=of,
        names=["/".join(Path(split.images.name(i)).parts[-2:]) for i in range(len(split))],  # a page may be sent on
        thumbnails=[min(as_uri(image), as_uri(image, "JPEG"), key=len) for image in small],
        points={name: np.round(found.astype(float), 3).tolist() for name, found in points.items()},
        clusters=KMeans(groups, n_init=1, random_state=0).fit_predict(after).tolist(),
        spectrum={name: spectrum(rows) for name, rows in features.items()},
        views=as_uri(Image.fromarray((views * 255).round().astype(np.uint8))),
    )  # fmt: skip


def spectrum(rows: Features) -> list[float]:
    """Shares of the variance of unit rows, by direction, largest first; without those of rounding."""
    unit = rows.unit()
    singular = torch.linalg.svdvals(unit - unit.mean(0)).double()
    shares = singular.square() / singular.square().sum().clamp_min(1e-30)
    return [float(f"{share:.4g}") for share in shares.tolist() if share > 1e-8]  # centred rows have one of nothing


def as_uri(image: Image.Image, kind: str = "PNG") -> str:
    out = io.BytesIO()
    image.save(out, kind, **({"quality": 80} if kind == "JPEG" else {"optimize": True}))
    return data_uri(out.getvalue(), f"image/{kind.lower()}")


def read_shown(folder: Path) -> Shown | None:
    """What a run's folder has of it; None where it has none. Raises BadInput: the file is damaged."""
    path = folder / SHOWN
    return from_file(Shown, read_json(path, dict), path) if path.exists() else None


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


def unlabelled_picture(shown: Shown, views: np.ndarray, method: str, path: Path) -> None:
    """embedding.png of a run without labels: a map after training, of at most `DRAWN` of the images where they do not
    hide each other; the spectrum of the features; and the views."""
    from matplotlib.figure import Figure
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    figure = Figure(figsize=(13, 7.5), layout="constrained")
    axes: Any = figure.subplot_mosaic([["map", "spectrum"], ["map", "views"]], width_ratios=[1.6, 1])
    points = np.asarray(shown.points[AFTER])
    axes["map"].scatter(*points.T, s=6, color="0.75")
    apart = np.ptp(points, axis=0).max() / 18
    taken: list[np.ndarray] = []
    for point, uri in zip(points, shown.thumbnails):
        if len(taken) < DRAWN and all(np.abs(point - other).max() > apart for other in taken):
            taken.append(point)
            image = open_image(base64.b64decode(uri.partition(",")[2]))
            drawn = OffsetImage(np.asarray(image), zoom=0.9 * DRAWN_SIDE / max(image.size))
            axes["map"].add_artist(AnnotationBbox(drawn, tuple(point), frameon=False, pad=0))
    axes["map"].margins(0.06)
    title = f"{len(points):,} training images, after training ({method}): like ones lie together"
    axes["map"].set(title=title, xticks=[], yticks=[])
    for name, shares in shown.spectrum.items():
        label = f"{name} training" + f" ({method})" * (name == AFTER)
        axes["spectrum"].semilogy(np.arange(1, len(shares) + 1), shares, label=label)
    axes["spectrum"].set(title="spectrum of the features", xlabel="direction", ylabel="share of the variance")
    axes["spectrum"].legend(frameon=False)
    axes["views"].imshow(views, aspect="equal")
    axes["views"].set(title="views, an image a row", xticks=[], yticks=[])
    write_figure(figure, path)
