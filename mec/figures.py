"""Pictures of results; each is one function that writes one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mec.checkpoint import atomic
from mec.evaluate.features import Features


def embedding_map(features: Mapping[str, Features], classes: Sequence[str], path: Path) -> None:
    """t-SNE of each named set of features [n, e], side by side, coloured by class.

    Perplexity 30, PCA start and a fixed seed (the paper states none of them).
    """
    from matplotlib.figure import Figure
    from sklearn.manifold import TSNE

    figure = Figure(figsize=(4.2 * len(features), 4.4), layout="constrained")
    axes = figure.subplots(1, len(features), squeeze=False)[0]
    for axis, (name, part) in zip(axes, features.items()):
        perplexity = min(30, (len(part.x) - 1) / 3)
        points = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(part.unit().numpy())
        drawn = axis.scatter(*points.T, c=part.y.numpy(), cmap="tab10" if len(classes) <= 10 else "nipy_spectral", s=7)
        axis.set(title=name, xticks=[], yticks=[])
    if len(classes) <= 20:
        handles, _ = drawn.legend_elements(num=list(range(len(classes))))
        figure.legend(handles, classes, loc="outside lower center", ncols=min(10, len(classes)), frameon=False)
    with atomic(path) as part_file:
        figure.savefig(part_file, format="png", dpi=110)
