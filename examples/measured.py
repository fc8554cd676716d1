"""What the examples of other modalities share: rows and a view of them in, accuracy with a handful of labels out."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import mec

Labelled = tuple[Tensor, Tensor]  # rows [n, ...] and classes [n]
Module = Callable[[Tensor], Tensor]


def flat(rows: Tensor) -> Tensor:
    """Rows [n, ...] as they are: [n, e]."""
    return rows.flatten(1)


def standardised(train: Labelled, test: Labelled) -> tuple[Labelled, Labelled]:
    """Series [n, channels, length] with the mean 0 and the standard deviation 1 of a channel's training rows."""
    mean, std = train[0].mean((0, 2), keepdim=True), train[0].std((0, 2), keepdim=True)
    return ((train[0] - mean) / std, train[1]), ((test[0] - mean) / std, test[1])


def few_labels(
    train: Labelled,
    test: Labelled,
    encoder: Callable[[], nn.Module],
    view: Module,
    settings: Sequence[str],
    *,
    batch_size: int,
    epochs: int,
    seeds: int,
    raw: Module = flat,
) -> dict[str, list[float]]:
    """Accuracy (%) of raw features and of encoders, untrained and trained, with 1 and 5 labels a class, by seed.

    A seed draws the encoder's weights, the views and the labels. `raw` makes features [n, e] of rows, `view` one
    view of a batch of them: it is called twice."""

    def two_views(batch: list[tuple[Tensor]]) -> list[Tensor]:
        rows = torch.stack([row for (row,) in batch])
        return [view(rows), view(rows)]

    accuracy: dict[str, list[float]] = {}
    for seed in range(seeds):
        torch.manual_seed(seed)
        untrained = encoder().eval()
        batches = DataLoader(TensorDataset(train[0]), batch_size, shuffle=True, drop_last=True, collate_fn=two_views)
        with tempfile.TemporaryDirectory() as folder:
            module, out = copy.deepcopy(untrained), Path(folder) / "run"
            mec.pretrain(
                batches, encoder=module, out=out, epochs=epochs, batch_size=batch_size, set=settings, seed=seed,
                report=False, quiet=True,
            )  # fmt: skip
            trained, _ = mec.load_encoder(out, module=module)
        kinds: dict[str, Module] = {"raw": raw, "untrained": untrained, "trained": trained}
        for name, features in kinds.items():
            with torch.no_grad():
                known, asked = (mec.Features(features(rows), classes) for rows, classes in (train, test))
            for result in mec.evaluate((known, asked), "fewshot", labels_per_class=[1, 5], seed=seed):
                if result.metric == "top-1":
                    row = f"{name}, {result.settings['labels_per_class']} a class"
                    accuracy.setdefault(row, []).append(result.value)
    return accuracy


def show(title: str, accuracy: dict[str, list[float]]) -> None:
    """A line for each kind of features: mean ± standard deviation over the seeds."""
    print(title)
    for name, values in accuracy.items():
        found = torch.tensor(values)
        spread = f" ± {found.std():.1f}" if len(values) > 1 else ""
        print(f"  {name:24}{found.mean():.1f}{spread}")
