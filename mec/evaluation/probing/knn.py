"""k nearest neighbours: the cosine-weighted vote."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from mec.errors import BadInput
from mec.evaluation.accuracy import accuracies
from mec.evaluation.features import Features
from mec.evaluation.results import Result

QUERIES, BANK = 512, 65_536  # rows compared at a time: 128 MiB of similarities


def knn(
    train: Features, test: Features, *, k: int | Sequence[int] = 20, temperature: float = 0.07, device: str = "cpu"
) -> list[Result]:
    """Top-1, balanced and, of ten classes or more, top-5 accuracy (%) of a vote of the k nearest rows of train.

    Each weighs exp(cosine / temperature). Several numbers k share one search. Those above the number of rows are left
    out; where all are, there is one result, with as many neighbours as there are rows.
    Similarities are computed on `device`.

    Source: the k-NN protocol of DINO (protocol numbers: k 20, T 0.07); ties go to the lowest class.
    Raises BadInput: k < 1, temperature <= 0, or features that are not finite."""
    ks = [k] if isinstance(k, int) else list(k)
    if not ks or min(ks) < 1 or not temperature > 0:
        raise BadInput(f"k is {k}, temperature {temperature}: k is at least 1, the temperature above 0.")
    train.check_finite(test)
    ks = [count for count in ks if count <= len(train.x)] or [len(train.x)]
    shown = 20 if 20 in ks else ks[0]  # whose confusion matrix is kept
    similarity, labels = neighbours(train, test.x, k=max(ks), device=device)
    results = []
    for count in ks:
        scores = weighted_votes(similarity[:, :count], labels[:, :count], classes_of(train), temperature)
        best = torch.sort(scores, dim=1, descending=True, stable=True).indices[:, :5]
        right = best == test.y[:, None]
        settings = {"k": count, "temperature": temperature, "train": len(train.x)}
        # In float32, as ever: figures stay what they were to the last bit.
        top_1, top_5 = (100 * right[:, :most].any(1).float().mean().item() for most in (1, 5))
        found = accuracies(
            "knn", best[:, 0].numpy(), test.y.numpy(), top_5=top_5 if count >= 5 else None, matrix=count == shown,
            settings=settings,
        )  # fmt: skip
        results += [replace(found[0], value=top_1), *found[1:]]
    return results


def neighbours(
    train: Features, queries: Tensor, *, k: int, device: str = "cpu", at_once: tuple[int, int] = (QUERIES, BANK)
) -> tuple[Tensor, Tensor]:
    """Cosines [q, k] in float32, largest first, and labels [q, k], of the k most similar rows of the bank."""
    similarity, index = most_similar(train.x, queries, k=k, device=device, at_once=at_once)
    return similarity, train.y[index]


def most_similar(
    bank: Tensor, queries: Tensor, *, k: int, device: str = "cpu", at_once: tuple[int, int] = (QUERIES, BANK)
) -> tuple[Tensor, Tensor]:
    """Cosines [q, k] in float32, largest first, and indices [q, k], of the k most similar rows of the bank [n, e].
    Chunks of the bank are compared with chunks of queries, so neither has to fit in memory as a whole; features that
    are mapped from disk are read once."""
    k = min(k, len(bank))
    queries = F.normalize(queries.float(), dim=1)
    similarity = torch.empty(len(queries), 0)
    index = torch.empty(len(queries), 0, dtype=torch.int64)
    for start in range(0, len(bank), at_once[1]):
        part = F.normalize(bank[start : start + at_once[1]].float(), dim=1).T.to(device)
        few = min(k, part.shape[1])
        found = [(rows.to(device) @ part).topk(few, dim=1) for rows in queries.split(at_once[0])]
        similarity = torch.cat([similarity, torch.cat([values.cpu() for values, _ in found])], 1)
        index = torch.cat([index, torch.cat([rows.cpu() for _, rows in found]) + start], 1)
        similarity, kept = similarity.topk(min(k, similarity.shape[1]), dim=1)
        index = index.gather(1, kept)
    return similarity, index


def weighted_votes(similarity: Tensor, labels: Tensor, classes: int, temperature: float) -> Tensor:
    """[q, classes] sums of exp(cosine / temperature) over neighbours [q, k]."""
    # exp(1 / 0.07) is 1.6e6: fine in float32, but the maximum is taken off so that any temperature is.
    weight = ((similarity - similarity[:, :1]) / temperature).exp()
    return torch.zeros(len(similarity), classes).scatter_add_(1, labels, weight)


def classes_of(train: Features) -> int:
    return int(train.y.max()) + 1
