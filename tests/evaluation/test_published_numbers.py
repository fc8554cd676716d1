"""Protocols against what was published, read off a second time (tests/transcribed_protocols.py): every number."""

import importlib
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import transcribed_protocols as printed
from helpers import differing

from mec.evaluation.classifier import Training, new_head
from mec.evaluation.detection.network import FULL
from mec.evaluation.detection.presets import PRESETS, SWEEP
from mec.evaluation.finetuning.finetune import FINETUNES
from mec.evaluation.finetuning.semi import SEMI
from mec.evaluation.probing import logistic
from mec.evaluation.probing.probe import PROBES
from mec.evaluation.probing.protocols import FewShot, Knn
from mec.evaluation.tracking import mot, posetrack
from mec.evaluation.tracking.association import Settings
from mec.evaluation.tracking.protocols import Association
from mec.evaluation.transfer.sets import CALTECH_TRAIN, TRANSFER_SETS
from mec.evaluation.transfer.sweeps import FINETUNING


def in_force(recipe: Training | None) -> dict[str, Any] | None:
    """All that decides a training, without what its other values leave unused."""
    if recipe is None:
        return None
    unused = {"source", *(["trust"] if recipe.optimizer != "lars" else []), *(["drop"] if not recipe.drops else [])}
    return {name: value for name, value in asdict(recipe).items() if name not in unused}


@pytest.mark.parametrize(("ours", "theirs"), [(PROBES, printed.PROBES), (FINETUNES, printed.FINETUNES)])
def test_every_number_of_a_training_is_the_one_that_was_published(ours, theirs):
    assert differing({name: in_force(recipe) for name, recipe in ours.items()}, theirs) == {}


def test_every_number_of_training_on_few_labels_is_the_one_that_was_published():
    assert differing({name: tuple(map(in_force, pair)) for name, pair in SEMI.items()}, printed.SEMI) == {}


def test_the_released_head_has_its_batch_norm():
    norm, linear = new_head(8, 3, PROBES["released"], seed=0)
    assert (norm.eps, norm.affine, norm.momentum) == (printed.RELEASED_HEAD_EPS, False, 0.1)
    assert not linear.bias.any()


def test_the_grids_of_transfer_are_those_of_the_protocol():
    ours = {name: {k: v for k, v in asdict(grid).items() if k != "source"} for name, grid in FINETUNING.items()}
    assert differing(ours, printed.FINETUNING) == {}
    assert len(printed.FINETUNING["paper"]["learning_rates"]) * len(printed.FINETUNING["paper"]["weight_decays"]) == 56
    asked = printed.PENALTIES
    expected = np.geomspace(asked["strongest"], asked["weakest"], asked["count"])
    np.testing.assert_allclose(logistic.PENALTIES, expected, rtol=1e-12)


def test_transfer_sets_have_their_metrics_and_the_sizes_of_their_parts():
    held_out = {name: sizes for name, (_, sizes) in printed.TRANSFER.items() if sizes is not None}
    assert {name: entry.metric for name, entry in TRANSFER_SETS.items()} == {
        name: metric for name, (metric, _) in printed.TRANSFER.items()
    }
    assert held_out == {name: entry.held_out for name, entry in TRANSFER_SETS.items() if entry.held_out}
    assert CALTECH_TRAIN == printed.CALTECH_IMAGES_A_CLASS


def test_every_number_of_a_detector_s_training_is_the_one_that_was_published():
    ours = {(p, name): asdict(preset) for p, table in PRESETS.items() for name, preset in table.items()}
    unpublished = {key for key in ours if key[1] in ("quick", "small") or key[0] == "yolo"}  # compare with nothing
    found = {key: {k: v for k, v in ours[key].items() if k != "source"} for key in ours.keys() - unpublished}
    assert differing(found, printed.DETECTORS) == {}
    assert differing(asdict(FULL), printed.REGIONS) == {}
    assert SWEEP == printed.SEARCHED_RATES


@pytest.mark.parametrize("name", printed.TRACKING)
def test_constants_of_tracking_are_unitracks(name):
    module, constant = name.split(".")
    ours = getattr(importlib.import_module(f"mec.evaluation.tracking.{module}"), constant)
    assert differing(ours, printed.TRACKING[name]) == {}


def test_the_life_of_tracks_is_unitracks():
    assert differing({name: asdict(Settings())[name] for name in printed.TRACKS}, printed.TRACKS) == {}
    for kind in (mot.MotBenchmark, mot.MotsBenchmark, posetrack.PoseTrackBenchmark):
        bench = kind.__new__(kind)  # without reading any data
        for motion in (False, True):
            bench.options = Association(data_root="", motion=motion)
            found = bench.rules()
            assert (found.motion, found.gated) == (printed.WITH_MOTION[kind.__name__] if motion else (None, False))


def test_neighbours_and_few_labels_are_those_of_the_protocol():
    assert (Knn.k, Knn.temperature) == (",".join(map(str, printed.KNN["k"])), printed.KNN["temperature"])
    asked = printed.FEW_LABELS
    assert (FewShot.labels_per_class, FewShot.draws) == (",".join(map(str, asked["labels_per_class"])), asked["draws"])
