"""What is kept of an interrupted probe or fine-tuning belongs to it alone; tests/runtime has how it is resumed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from helpers import small_subject

from mec.data.opening import open_data
from mec.errors import TrainingStopped
from mec.evaluation import classifier
from mec.evaluation.classifier import Training
from mec.evaluation.finetuning.finetune import finetune
from mec.evaluation.probing.probe import train_probe
from mec.runtime import checkpoints

# 12 steps in 4 epochs of 3; unlike rates and momentum show what would not be restored.
RECIPE = Training("", base_lr=0.2, batch_size=40, epochs=4, nesterov=True, crop=(0.7, 1.0))
KINDS = [
    pytest.param(train_probe, replace(RECIPE, frozen=True, head_norm=True, optimizer="lars", base_lr=30.0), id="probe"),
    pytest.param(finetune, replace(RECIPE, norm_rule=True), id="finetune"),
]


class Cut(Exception):
    """Power went off."""


@pytest.fixture
def cut_at(monkeypatch):
    """Sets at which step, counted over all runs, the power goes off; a state is kept after every step."""
    real, steps, when = classifier.backward, [], []

    def counted(*arguments):
        steps.append(1)
        if len(steps) in when:
            raise Cut
        return real(*arguments)

    monkeypatch.setattr(classifier, "backward", counted)
    monkeypatch.setattr(checkpoints, "SAVE_MINUTES", 0.0)
    return when, steps


@pytest.mark.parametrize(("measure", "recipe"), KINDS)
def test_what_was_kept_is_not_resumed_under_other_settings(tmp_path, cut_at, measure, recipe):
    when, steps = cut_at
    data = open_data("digits", limit=120)
    when.append(5)
    with pytest.raises(Cut):
        measure(small_subject(tmp_path), data, recipe)
    other = small_subject(tmp_path)
    other.encoder[0].weight.data *= 1.5
    half = open_data("digits", limit=60)
    for change in (
        lambda: measure(small_subject(tmp_path), data, recipe, seed=1),
        lambda: measure(small_subject(tmp_path), data, replace(recipe, base_lr=0.3)),
        lambda: measure(other, data, recipe),
        lambda: measure(small_subject(tmp_path), half, replace(recipe, batch_size=20)),
    ):
        steps[:] = [1] * 100
        change()
        assert len(steps) == 100 + 12


def test_a_training_that_diverges_leaves_nothing(tmp_path, cut_at):
    with pytest.raises(TrainingStopped):
        finetune(small_subject(tmp_path), open_data("digits", limit=120), replace(RECIPE, base_lr=1e30))
    assert not [*tmp_path.glob("unfinished/*")]
