"""`mec.Encoder`: pretraining and features as a scikit-learn transformer."""

import tempfile
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from mec.data.dataset import Data, fingerprint, in_memory_if_small, with_scale
from mec.data.sources import open_images
from mec.errors import BadInput, home
from mec.evaluation.evaluate import features
from mec.training.options import Options
from mec.training.pretrain import pretrain

OWN = {"quiet": True, "evaluate": False}  # of pretrain, unless `options` say other things


class Encoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """An image encoder: `fit` trains it without labels, `transform` gives features [n, e].

    Args:
        run: a trained one to use, as `mec evaluate` takes it: `fit` then trains nothing. None: `fit` trains.
        recipe, method, steps, epochs, seed, device: as for `mec.pretrain`.
        out: run folder; None: a new temporary one each time. It is kept: what is fitted is the folder, and pickling an
            Encoder keeps its path, no weights.
        options: any other keywords of `mec.pretrain`, {"set": ["views.size=32"], "batch_size": 64}.

    Images are a folder, paths, PIL images, or pixels uint8 [n, h, w] or [n, h, w, 3]. `fit` sets run_, the run used,
    and n_features_out_. Cloning, pipelines and grid searches are scikit-learn's; since images have no columns, those of
    its checks that give tables of numbers do not apply.

    Raises:
        BadInput: no images of these kinds, or as `mec.pretrain` and `mec.features` do."""

    def __init__(
        self, run: Any = None, *, recipe: Any = None, method: str | None = None, steps: int | None = None,
        epochs: int | None = None, seed: int = 0, device: str = "auto", out: Any = None, options: Any = None,
    ):  # fmt: skip
        self.run, self.recipe, self.method, self.steps, self.epochs = run, recipe, method, steps, epochs
        self.seed, self.device, self.out, self.options = seed, device, out, options

    def fit(self, X: Any, y: Any = None) -> "Encoder":
        """Train on images, unless `run` is given; labels y are not used."""
        given = open_images(X, look=False).split
        if self.run is not None:
            self.run_ = str(home(self.run))
        else:
            own = {f.name: getattr(self, f.name) for f in fields(Options) if hasattr(self, f.name)}
            folder = Path(self.out) if self.out is not None else Path(tempfile.mkdtemp(prefix="mec-encoder-")) / "run"
            data = in_memory_if_small(with_scale(Data("images", given)))
            data = replace(data, fingerprint=fingerprint(data))
            self.run_ = str(pretrain(data, **{**OWN, **own, **(self.options or {}), "out": folder}).absolute())
        self._n_features_out = self.n_features_out_ = self.transform(given.take(np.arange(1))).shape[1]
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Features [n, e] float32, a row an image. Raises BadInput: one of them cannot be read."""
        check_is_fitted(self)
        found = features(self.run_, open_images(X, look=False).split, device=self.device)
        if found.skipped:
            first = found.skipped[0]
            raise BadInput(f"{first.path} cannot be read ({first.reason}), and a row needs its image.")
        return found.x.numpy()

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "run_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array, tags.input_tags.string = False, True, True
        tags.requires_fit, tags.no_validation, tags.non_deterministic = True, True, False
        return tags
