"""The nearest of many unit rows: exact, and above `EXACT` rows by faiss where it is installed."""

import importlib.util
from typing import Any

import numpy as np
import torch

from mec.evaluation.probing.knn import BANK, QUERIES, most_similar
from mec.runtime.progress import say

EXACT = 100_000  # rows
ASKED = 200  # rows of which an index's answer is compared with the exact one
CELLS, PROBES = 2, 4  # cells of the index, times the root of the rows; those that are looked into


def nearest(bank: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines [q, k], largest first, and indices [q, k], of the k nearest of unit rows [n, e]; k is at most n."""
    if len(bank) <= EXACT or len(queries) <= ASKED:
        return exact(bank, queries, k)
    if importlib.util.find_spec("faiss") is None:
        say(f"{len(bank):,} images are compared one by one; pip install 'mec-ssl[search]' makes it many times as fast.")
        return exact(bank, queries, k)
    import faiss

    bank, queries = (np.ascontiguousarray(rows, np.float32) for rows in (bank, queries))
    cells = int(CELLS * np.sqrt(len(bank)))
    index: Any = faiss.index_factory(bank.shape[1], f"IVF{cells},Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(bank[np.sort(np.random.default_rng(0).permutation(len(bank))[: 50 * cells])])
    index.add(bank)
    index.nprobe = PROBES
    similarity, found = index.search(queries, k)
    asked = np.random.default_rng(1).permutation(len(queries))[:ASKED]
    right = exact(bank, queries[asked], k)[1]
    recall = np.mean([len({*a.tolist()} & {*b.tolist()}) / k for a, b in zip(found[asked], right)])
    say(f"Neighbours by faiss: {100 * recall:.1f} % of the {k} nearest of {len(asked)} images are the exact ones.")
    return np.where(found < 0, -1, similarity), np.maximum(found, 0)


def exact(bank: np.ndarray, queries: np.ndarray, k: int, at_once: int = BANK) -> tuple[np.ndarray, np.ndarray]:
    """`nearest`, every row compared with every other, in parts."""
    rows, asked = (torch.from_numpy(np.ascontiguousarray(each, np.float32)) for each in (bank, queries))
    similarity, index = most_similar(rows, asked, k=k, at_once=(QUERIES, at_once))
    return similarity.numpy(), index.numpy()


def others(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """`nearest` of each of unit rows among the others: [n, k] and [n, k], k at most n - 1; a cosine of -1: none."""
    similarity, index = nearest(x, x, k + 1)
    own = index == np.arange(len(x))[:, None]
    own[~own.any(1), -1] = True  # more than k copies came first
    return similarity[~own].reshape(len(x), k), index[~own].reshape(len(x), k)
