"""Which measure that needs no labels ranks views as labels do?

    python benchmarks/views.py run DATA --out FOLDER [--labels CSV] [--limit N] [--settings 30] [--steps 200]
    python benchmarks/views.py tell FOLDER...

`run` trains one encoder for each of some settings of views, drawn at random (the first is the default of `auto`, or of
the recipe digits), from one start, for equal steps, and keeps its features of held-out images, of the same turned, and
of views of them; resumable. `tell` prints for each folder Kendall's τ between every criterion and the k-NN accuracy of
the held-out images (bank: training images), and the accuracy of the setting that the criterion would choose.
"""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.stats import kendalltau
from torch.nn import functional as F

import mec
from mec.data.dataset import Data, Split
from mec.data.images import InMemory
from mec.networks.encoder_file import load_encoder
from mec.objectives.mec import joint_coding
from mec.recipes.recipe import View
from mec.recipes.table import RECIPES
from mec.views.views import Draw, augment, crop_batch

HELD_OUT, COPIES, SIDE = 1000, 4, 48
# One mild view of each family: what an encoder is asked about that was trained with others.
COMMON = {"scale": (0.5, 1.0), "jitter": 1.0, "brightness": 0.2, "contrast": 0.2, "saturation": 0.1, "hue": 0.0,
          "grey": 0.0, "flip": 0.0, "noise": 0.03}  # fmt: skip


def settings_of(count: int, default: View, seed: int = 0) -> list[View]:
    """The default, then so many settings less one, each family on or off or of a strength, at random."""
    draw = np.random.default_rng(seed)

    def one_of(*values: Any) -> Any:
        return values[draw.integers(len(values))]

    found = [default]
    while len(found) < count:
        colour, moved = one_of(0.0, 0.5, 1.0), one_of(False, False, True)
        about: dict[str, Any] = {
            "flip": one_of(0.0, 0.5), "upend": one_of(0.0, 0.0, 0.5), "turn": one_of(0.0, 0.0, 0.5),
            "scale": one_of((0.08, 1.0), (0.2, 1.0), (0.4, 1.0), (0.7, 1.0), (1.0, 1.0)),
            "jitter": 0.8, "brightness": (light := one_of(0.0, 0.2, 0.4, 0.8)), "contrast": light,
            "saturation": 0.4 * colour, "hue": 0.2 * colour, "grey": one_of(0.0, 0.2), "blur": one_of(0.0, 0.5),
            "blur_sigma": (0.1, default.size / 16), "noise": one_of(0.0, 0.05, 0.1), "erase": one_of(0.0, 0.0, 0.5),
            "rotate": 15.0 * moved, "shear": 10.0 * moved, "shift": 0.1 * moved, "zoom": 0.2 * moved,
        }  # fmt: skip
        found.append(replace(default, **about))
    return found


def in_memory(split: Split, side: int) -> Split:
    """The images at one small size, squashed to a square."""
    if split.images.pixels is not None:
        return split
    pixels = [np.asarray(split.images.read(i).resize((side, side), Image.Resampling.BOX)) for i in range(len(split))]
    return Split(InMemory(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()), split.labels)


def prepared(asked: argparse.Namespace) -> Data:
    data = mec.open_data(asked.data, labels=asked.labels, limit=asked.limit)
    train, test = in_memory(data.train, SIDE), data.test and in_memory(data.test, SIDE)
    if test is None:
        order = np.random.default_rng(0).permutation(len(train))
        train, test = train.take(np.sort(order[len(order) // 4 :])), train.take(np.sort(order[: len(order) // 4]))
    if len(test) > HELD_OUT:
        test = test.take(np.sort(np.random.default_rng(0).permutation(len(test))[:HELD_OUT]))
    return replace(data, train=train, test=test, validation=None, split="test")


@torch.no_grad()
def features(encoder: Any, images: torch.Tensor, view: View) -> np.ndarray:
    x = F.interpolate(images.float() / 255, (view.size,) * 2, mode="bilinear", antialias=True).clamp(0, 1)
    mean, std = (torch.tensor(of).view(3, 1, 1) for of in (view.mean, view.std))
    return np.concatenate([encoder(part).numpy() for part in ((x - mean) / std).split(256)]).astype(np.float32)


@torch.no_grad()
def of_views(encoder: Any, images: torch.Tensor, view: View, copies: int, seed: int) -> np.ndarray:
    rows = np.arange(len(images))
    draws = [Draw(view, number, seed, 0, rows) for number in range(copies)]
    made = [augment(crop_batch(images, draw), draw) for draw in draws]
    return np.stack([np.concatenate([encoder(p).numpy() for p in x.split(256)]) for x in made]).astype(np.float32)


def run(asked: argparse.Namespace) -> None:
    data = prepared(asked)
    assert data.test is not None
    assert data.train.images.pixels is not None
    assert data.test.images.pixels is not None
    seen = data.train.images.pixels.shape[2]
    size = 16 if seen <= 20 else 24 if seen <= 32 else 32
    auto = RECIPES["auto"]
    base = replace(auto.views[0], size=size, copies=2, interpolation="bilinear")
    kind = RECIPES["digits"] if asked.data == "digits" else replace(
        auto, batch_size=min(128, len(data.train) // 2), network=replace(auto.network, backbone="resnet10-fast"),
        optimizer=replace(auto.optimizer, name="muon", base_lr=3.0),
    )  # fmt: skip
    default = kind.views[0] if asked.data == "digits" else base
    asked.out.mkdir(parents=True, exist_ok=True)
    for number, view in enumerate(settings_of(asked.settings, default)):
        place = asked.out / f"{number:02}.npz"
        if place.exists():
            continue
        folder = asked.out / f"run-{number:02}"
        about = {"evaluate": False, "report": False, "quiet": True, "resume": folder.exists()}
        mec.pretrain(data, recipe=replace(kind, views=(view,)), steps=asked.steps, out=folder, seed=0, **about)
        encoder = load_encoder(folder)[0].eval()
        train, test = data.train.images.pixels[:10_000], data.test.images.pixels
        found = {
            "bank": features(encoder, train, view), "plain": features(encoder, test, view),
            "turned": np.stack([features(encoder, test.rot90(k, (2, 3)), view) for k in range(4)]),
            "own": of_views(encoder, test, view, COPIES, 1),
            "common": of_views(encoder, test, replace(default, **COMMON), COPIES, 2),
            "strong": of_views(encoder, test, replace(base, size=view.size), COPIES, 3),
        }  # fmt: skip
        loss = [line["loss"] for line in map(json.loads, (folder / "metrics.jsonl").open()) if "loss" in line][-1]
        labels = {"y_bank": data.train.y[:10_000], "y": data.test.y}
        np.savez(place, loss=loss, view=json.dumps(asdict(view)), **labels, **found)
        print(number, f"{accuracy(dict(np.load(place))):.1f}", {k: v for k, v in asdict(view).items()
              if v != getattr(default, k)}, flush=True)  # fmt: skip


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-9)


def centred(x: np.ndarray) -> np.ndarray:
    return unit(x - x.reshape(-1, x.shape[-1]).mean(0))


def accuracy(f: dict[str, Any], k: int = 20) -> float:
    """k-NN accuracy of the held-out images, %, weighted as in the rest of mec (exp of cosine / 0.07)."""
    near = unit(f["plain"]) @ unit(f["bank"]).T
    first = np.argsort(-near, 1)[:, :k]
    votes = np.zeros((len(near), int(max(f["y_bank"].max(), f["y"].max())) + 1))
    np.add.at(votes, (np.arange(len(near))[:, None], f["y_bank"][first]),
              np.exp((np.take_along_axis(near, first, 1) - 1) / 0.07))  # fmt: skip
    return 100 * float((votes.argmax(1) == f["y"]).mean())


def effective_rank(x: np.ndarray) -> float:
    s = np.linalg.svd(x, compute_uv=False)
    p = s / s.sum() + 1e-12
    return float(np.exp(-(p * np.log(p)).sum()))


def lidar(views: np.ndarray) -> float:
    """Effective rank of the classes "views of an image" against each other (Thilak et al., ICLR 2024)."""
    centres = views.mean(0)
    within = np.einsum("vnd,vne->de", views - centres, views - centres) / views[..., 0].size + 1e-4 * np.eye(
        views.shape[2]
    )
    values, vectors = np.linalg.eigh(within)
    between = np.cov((centres @ vectors) / np.sqrt(values), rowvar=False)
    p = np.linalg.eigvalsh(between).clip(0)
    p = p / p.sum() + 1e-12
    return float(np.exp(-(p * np.log(p)).sum()))


def spread(views: np.ndarray) -> float:
    """Mean cosine of views of an image less that of different images, in standard deviations of the latter."""
    x = centred(views)
    same = np.mean([(x[0] * other).sum(1).mean() for other in x[1:]])
    different = (x[0] @ x[1].T)[~np.eye(x.shape[1], dtype=bool)]
    return float((same - different.mean()) / different.std())


def retrieval(views: np.ndarray) -> float:
    """Share of images whose other view is the nearest of all."""
    x = centred(views)
    return float(np.mean([((x[0] @ other.T).argmax(1) == np.arange(x.shape[1])).mean() for other in x[1:]]))


def joint(views: np.ndarray, distortion: float = 0.02) -> float:
    """The joint coding length of views (nats), as the objective has it: higher is better."""
    x = torch.from_numpy(views if len(views) > 1 else np.concatenate([views, views])).double()
    return -float(joint_coding(x, distortion=distortion))


def turned_right(turned: np.ndarray) -> float:
    """How well a linear classifier on frozen features tells by which of four quarter turns an image was turned, %."""
    from sklearn.linear_model import LogisticRegression

    n = turned.shape[1]
    x = turned - turned.reshape(-1, turned.shape[2]).mean(0)
    x = x / x.std()
    half = n // 2
    y = np.repeat(np.arange(4), half)
    model = LogisticRegression(C=0.1, max_iter=300).fit(x[:, :half].reshape(4 * half, -1), y)
    return 100 * float(model.score(x[:, half : 2 * half].reshape(4 * half, -1), y))


def overlap(ones: list[np.ndarray]) -> list[float]:
    """How far an encoder's 20 nearest neighbours are those of the other encoders (a mean over them)."""
    sets = []
    for x in ones:
        near = centred(x) @ centred(x).T
        np.fill_diagonal(near, -2)
        mask = np.zeros(near.shape, np.float32)
        np.put_along_axis(mask, np.argsort(-near, 1)[:, :20], 1, 1)
        sets.append(mask)
    total = sum(sets)
    return [float((s * (total - s)).sum() / (len(s) * 20 * (len(sets) - 1))) for s in sets]


def criteria(found: list[dict[str, Any]]) -> dict[str, list[float]]:
    told = {
        "loss, less": lambda f: -float(f["loss"]),
        "RankMe": lambda f: effective_rank(f["plain"]),
        "coding ratio": lambda f: joint(f["plain"][None]),
        "LiDAR, own views": lambda f: lidar(f["own"]),
        "LiDAR, common views": lambda f: lidar(f["common"]),
        "agreement against spread, own": lambda f: spread(f["own"]),
        "agreement against spread, common": lambda f: spread(f["common"]),
        "other view found, common": lambda f: retrieval(f["common"]),
        "other view found, strong": lambda f: retrieval(f["strong"]),
        "joint coding, common": lambda f: joint(f["common"]),
        "joint coding, strong": lambda f: joint(f["strong"]),
        "quarter turn told": lambda f: turned_right(f["turned"]),
    }
    return {name: [of(f) for f in found] for name, of in told.items()} | {
        "neighbours that others have": overlap([f["plain"] for f in found])
    }


def tell(folders: list[Path]) -> None:
    table: dict[str, list[str]] = {}
    for folder in folders:
        found = [dict(np.load(p)) for p in sorted(folder.glob("*.npz"))]
        right = np.array([accuracy(f) for f in found])
        print(f"{folder}: {len(found)} settings, k-NN {right.min():.1f} to {right.max():.1f}, default {right[0]:.1f}")
        for name, values in criteria(found).items():
            tau = kendalltau(values, right).statistic
            table.setdefault(name, []).append(f"{tau:.2f}, {right[int(np.argmax(values))]:.1f}")
    print("| criterion | " + " | ".join(f"{f.name}: τ, chosen" for f in folders) + " |")
    for name, cells in table.items():
        print(f"| {name} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    one = parts.add_parser("run")
    one.add_argument("data")
    one.add_argument("--out", type=Path, required=True)
    one.add_argument("--labels")
    one.add_argument("--limit", type=int)
    one.add_argument("--settings", type=int, default=30)
    one.add_argument("--steps", type=int, default=200)
    one.set_defaults(call=run)
    many = parts.add_parser("tell")
    many.add_argument("folders", type=Path, nargs="+")
    many.set_defaults(call=lambda asked: tell(asked.folders))
    asked = parser.parse_args()
    asked.call(asked)


if __name__ == "__main__":
    main()
