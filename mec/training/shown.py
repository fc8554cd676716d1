"""The images that a run's page shows: in small, where they lie before and after training, and what lies near them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mec.data.dataset import Split
from mec.evaluation.features import Features
from mec.pages.page import data_uri
from mec.recipes.fields import from_file
from mec.runtime.files import read_json, write_json

SHOWN = "shown.json"
SIDE = 64  # px of the longer side
NEAR = 6  # neighbours kept of each image
AROUND = 10  # neighbours that an image's distance from the others is taken over
BEFORE, AFTER = "before", "after"  # training
NAMES = {"pixels": "raw pixels", "untrained": "untrained encoder", "start": "given weights"}  # in tables


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
    of: int = field(default=0)  # images that these were taken from


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
        of: how many images these n were taken from.
    """
    from sklearn.cluster import KMeans

    near, cosine = {}, {}
    for name, rows in features.items():
        unit = rows.unit()
        similar = unit @ unit.T
        similar.fill_diagonal_(-2)
        near[name] = similar.topk(min(NEAR, len(unit) - 1)).indices.tolist()
        around = similar.topk(min(AROUND, len(unit) - 1)).values.mean(1)
        cosine[name] = [round(value, 4) for value in around.tolist()]
    labels = split.labels if split.labels is not None else np.full(len(split), -1)
    groups = min(max(2, len(classes)) if classes else 10, len(split))
    after = features[AFTER].unit().numpy()
    return Shown(
        part=part,
        names=["/".join(Path(split.images.name(i)).parts[-2:]) for i in range(len(split))],  # a page may be sent on
        thumbnails=[thumbnail(split.images.read(i)) for i in range(len(split))],
        labels=[int(label) for label in labels],
        classes=list(classes),
        points={name: np.round(found.astype(float), 3).tolist() for name, found in points.items()},
        near=near,
        cosine=cosine,
        clusters=KMeans(groups, n_init=1, random_state=0).fit_predict(after).tolist(),
        spectrum={name: spectrum(rows) for name, rows in features.items()},
        views=data_uri(encoded(Image.fromarray((views * 255).round().astype(np.uint8)))),
        of=of,
    )


def spectrum(rows: Features) -> list[float]:
    """Shares of the variance of unit rows, by direction, largest first; without those of rounding."""
    unit = rows.unit()
    singular = torch.linalg.svdvals(unit - unit.mean(0)).double()
    shares = singular.square() / singular.square().sum().clamp_min(1e-30)
    return [float(f"{share:.4g}") for share in shares.tolist() if share > 1e-8]  # centred rows have one of nothing


def thumbnail(image: Image.Image) -> str:
    """An image in small, as a data URI: JPEG where it was made smaller, else as it is."""
    small = image.convert("RGB")
    if max(small.size) <= SIDE:
        return data_uri(encoded(small))
    small.thumbnail((SIDE, SIDE), Image.Resampling.BILINEAR)
    return data_uri(encoded(small, "JPEG"), "image/jpeg")


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **({"quality": 80} if kind == "JPEG" else {"optimize": True}))
    return out.getvalue()


def write_shown(folder: Path, shown: Shown) -> None:
    write_json(folder / SHOWN, asdict(shown))


def read_shown(folder: Path) -> Shown | None:
    """What a run's folder has of it; None where it has none.

    Raises:
        BadInput: the file is damaged.
    """
    path = folder / SHOWN
    return from_file(Shown, read_json(path, dict), path) if path.exists() else None
