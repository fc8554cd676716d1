"""Any modality: pretrain an encoder of measurements, not images, and see what a handful of labels is worth.

The data are scikit-learn's breast cancer table: 569 patients, 30 measurements each, two diagnoses. A view of a patient
is the row with some measurements replaced by those of other patients. Runs in seconds on a CPU.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

import mec

REPLACED = 0.4  # share of the measurements of a view that come from other patients


class PatientViews:
    """Two views of each batch of patients; an epoch is one pass, a function of its number alone."""

    def __init__(self, rows: Tensor, batch_size: int):
        self.rows, self.batch_size, self.epoch = rows, batch_size, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.rows) // self.batch_size

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.epoch)
        order = torch.randperm(len(self.rows), generator=generator)
        for part in order.split(self.batch_size)[: len(self)]:
            yield [self.view(self.rows[part], generator) for _ in range(2)]

    def view(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        others = torch.randint(len(self.rows), rows.shape, generator=generator)
        donors = self.rows.gather(0, others)
        return torch.where(torch.rand(rows.shape, generator=generator) < REPLACED, donors, rows)


def main(epochs: int = 60, quiet: bool = False) -> dict[str, float]:
    """Accuracy (%) with one and five labels a class, of raw measurements and of the encoder's features."""
    x, y = load_breast_cancer(return_X_y=True)
    train, test = train_test_split(np.arange(len(y)), test_size=0.3, stratify=y, random_state=0)
    x = (x - x[train].mean(0)) / x[train].std(0)
    rows = torch.from_numpy(x).float()

    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(30, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 64))
    with tempfile.TemporaryDirectory() as folder:
        out = mec.pretrain(
            PatientViews(rows[train], batch_size=128),
            encoder=encoder,
            out=Path(folder) / "run",
            epochs=epochs,
            batch_size=128,
            set=["network.projector=[128,64]", "settings.distortion=0.3", "optimizer.base_lr=1"],
            quiet=quiet,
        )
        trained, _ = mec.load_encoder(out, module=encoder)

    accuracy = {}
    with torch.no_grad():
        for name, features in {"raw": rows, "encoder": trained(rows)}.items():
            known, asked = (mec.Features(features[part], torch.from_numpy(y[part])) for part in (train, test))
            for result in mec.evaluate((known, asked), "fewshot", labels_per_class=[1, 5]):
                accuracy[f"{name}, {result.settings['labels_per_class']} a class"] = round(result.value, 1)
    return accuracy


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name}: {value} %")
