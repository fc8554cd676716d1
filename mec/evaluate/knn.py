"""k nearest neighbours: the cosine-weighted vote."""

from __future__ import annotations

import torch
from torch import Tensor

from mec.errors import BadInput
from mec.evaluate.features import Features
from mec.results import Result


def knn(train: Features, test: Features, *, k: int = 20, temperature: float = 0.07) -> list[Result]:
    """Top-1 and top-5 (%) of a vote of the k nearest rows of train, each weighing exp(cosine / temperature).

    Source: the k-NN protocol of DINO (protocol numbers: k 20, T 0.07); ties go to the lowest class.

    Raises:
        BadInput: k < 1 or temperature <= 0. A k above the bank's size takes the whole bank.
    """
    if k < 1 or temperature <= 0:
        raise BadInput(f"k is {k}, temperature {temperature}: k is at least 1, the temperature above 0.")
    scores = vote(train, test.unit(), k=k, temperature=temperature)
    best = torch.sort(scores, dim=1, descending=True, stable=True).indices[:, :5]
    right = best == test.y[:, None]
    settings = {"k": k, "temperature": temperature}
    return [
        Result("knn", "top-1", 100 * right[:, :1].any(1).float().mean().item(), settings=settings),
        Result("knn", "top-5", 100 * right.any(1).float().mean().item(), settings=settings),
    ]


def vote(train: Features, queries: Tensor, *, k: int, temperature: float, chunk: int = 512) -> Tensor:
    """[q, classes] sums of votes for unit queries [q, e], in float32, a chunk of queries at a time."""
    bank, labels = train.unit(), train.y
    classes = int(labels.max()) + 1
    k = min(k, len(bank))
    scores = []
    for part in queries.split(chunk):
        similarity, nearest = (part @ bank.T).topk(k, dim=1)
        votes = torch.zeros(len(part), classes)
        # exp(1 / 0.07) is 1.6e6: fine in float32, but the maximum is taken off so that any temperature is.
        weight = ((similarity - similarity[:, :1]) / temperature).exp()
        scores.append(votes.scatter_add_(1, labels[nearest], weight))
    return torch.cat(scores)
