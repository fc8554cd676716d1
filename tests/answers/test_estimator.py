"""`mec.Encoder` is what scikit-learn calls an estimator."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from helpers import TINY
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks

import mec
from mec.answers.estimator import Encoder
from mec.errors import BadInput

OPTIONS = {"set": list(TINY), "batch_size": 32}
CHECKS = (  # those of scikit-learn that ask for no table of numbers
    *(
        "check_estimator_cloneable",
        "check_no_attributes_set_in_init",
        "check_do_not_raise_errors_in_init_or_set_params",
    ),
    *("check_get_params_invariance", "check_set_params", "check_estimator_repr", "check_valid_tag_types"),
    *("check_estimator_tags_renamed", "check_mixin_order"),
)


def pixels(count: int = 64) -> tuple[np.ndarray, np.ndarray]:
    digits = load_digits()
    return (digits.images[:count] * (255 / 16)).astype(np.uint8), digits.target[:count]


@pytest.mark.parametrize("name", CHECKS)
def test_scikit_learns_own_checks(name):
    check = getattr(estimator_checks, name)
    check("Encoder", Encoder(steps=2))


def test_a_grid_search_over_steps_of_pretraining_in_a_pipeline():
    x, y = pixels()
    pipeline = make_pipeline(Encoder(recipe="digits", options=OPTIONS), LogisticRegression(max_iter=500))
    search = GridSearchCV(pipeline, {"encoder__steps": [1, 4]}, cv=2).fit(x, y)
    assert search.best_score_ > 0.3  # chance: 0.1
    runs = search.best_estimator_["encoder"]
    assert Path(runs.run_, "encoder.safetensors").is_file()
    assert np.allclose(search.predict(x), search.best_estimator_[1].predict(runs.transform(x)))


def test_features_are_those_of_mec_features_and_survive_pickling_without_weights(finished, digit_folder):
    encoder = Encoder(finished).fit(digit_folder)
    found = mec.features(finished, digit_folder)
    assert np.allclose(encoder.transform(digit_folder), found.x.numpy(), atol=1e-5)
    assert len(pickle.dumps(encoder)) < 1000  # what it says of itself: where its files are, no weights
    again = Encoder.__new__(Encoder)  # as pickle would make it; nothing is unpickled here
    again.__setstate__(encoder.__getstate__())
    x = pixels(5)[0]
    assert np.array_equal(again.transform(x), encoder.transform(x))
    paths = sorted(digit_folder.iterdir())[:3]
    assert np.allclose(encoder.transform(paths), found.x.numpy()[:3], atol=1e-5)
    assert np.allclose(encoder.transform(np.array([str(p) for p in paths])), found.x.numpy()[:3], atol=1e-5)
    assert len(encoder.get_feature_names_out()) == encoder.n_features_out_ == found.x.shape[1]


def test_a_clone_is_not_fitted_and_trains_as_the_first_did():
    x, _ = pixels()
    first = Encoder(recipe="digits", steps=2, options=OPTIONS, device="cpu").fit(x)
    again = clone(first)
    with pytest.raises(NotFittedError):
        again.transform(x)
    again.fit(x)
    assert again.run_ != first.run_
    assert np.array_equal(again.transform(x), first.transform(x))
    assert not np.array_equal(clone(first).set_params(seed=1).fit(x).transform(x), first.transform(x))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([], "no images: give a folder"),
        (np.zeros((3, 4)), r"images are float64 \[3, 4\]: pixels are uint8"),
        (np.zeros((3, 4, 4, 2), np.uint8), r"\[3, 4, 4, 2\]"),
        (["nowhere.png"], "nowhere.png"),
    ],
)
def test_what_are_no_images_is_told(images, words, finished):
    with pytest.raises(BadInput, match=words):
        Encoder(finished).fit(images)
