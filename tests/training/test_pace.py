"""A time budget on a clock that the test turns: it holds where steps become slower, and a resumed run repeats it."""

from itertools import pairwise

import pytest
from helpers import Crash, at_step, crash, identical, tiny_run, weights

from mec.recipes.table import RECIPES
from mec.runtime.distributed import ALONE
from mec.training import pace as module
from mec.training import pretrain as training
from mec.training.pace import Pace
from mec.training.run import Run, RunSettings, read_settings


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    turned = Clock()
    monkeypatch.setattr(module, "time", turned)
    return turned


def trained(folder, clock, minutes, seconds, planned=160, corrections=()):
    """Steps as they go, their positions, and what was said, at so many seconds each."""
    said, positions = [], []
    about = RunSettings(
        "auto", RECIPES["auto"], "photos", "", 640, 0, planned, 10, minutes=minutes, corrections=corrections
    )
    pace = Pace(Run(folder, about, None), 0, ALONE, said.append)  # type: ignore[arg-type]
    done, steps = 0, pace.steps(0)
    while done < steps:
        positions.append(pace.position(done))
        clock.now += seconds(done)
        done += 1
        steps = pace.after(done)
    return positions, said, pace


@pytest.mark.parametrize(("minutes", "seconds"), [(None, 5.0), (160 / 60, 0.95), (160 / 60, 0.5)])
def test_without_a_budget_or_at_its_pace_the_steps_are_those_planned(tmp_path, clock, minutes, seconds):
    positions, said, _ = trained(tmp_path, clock, minutes, lambda _: seconds)
    assert positions == list(range(160))
    assert all(type(position) is int for position in positions)  # the arithmetic is that of no budget
    assert said == []


@pytest.mark.parametrize("slow", [2.0, 3.0, 8.0])
@pytest.mark.parametrize("since", [0, 20, 100])
def test_a_machine_that_becomes_busy_gets_fewer_steps_and_the_time_holds(tmp_path, clock, slow, since):
    positions, said, _ = trained(tmp_path, clock, 160 / 60, lambda step: slow if step >= since else 0.95)
    without = 0.95 * since + slow * (160 - since)
    assert clock.now <= 160 + 0.2 * (without - 160)  # seconds; mostly what passed before the next fixed point
    assert len(positions) < 160
    assert all(b - a > 0 for a, b in pairwise(positions))
    if "time is over" not in said[-1]:  # schedules come to their end
        assert 160 - positions[-1] == pytest.approx(positions[-1] - positions[-2], rel=0.5)
    assert "slower than planned" in said[0]
    assert int(said[0].split()[1].rstrip(":")) <= since + 20  # told at the next fixed point


def test_what_was_corrected_is_stored_and_repeated_whatever_the_clock_says(tmp_path, clock):
    before, _, pace = trained(tmp_path, clock, 160 / 60, lambda step: 2.0 if step >= 20 else 1.0)
    again, said, _ = trained(tmp_path, clock, 160 / 60, lambda _: 0.0, corrections=tuple(pace.known))
    assert again == before
    assert said == []


def test_a_run_cut_off_around_a_correction_ends_with_the_weights_of_one_that_was_not(tmp_path, monkeypatch, clock):
    monkeypatch.setattr(training, "steps_within", lambda minutes, trainer: (16, "planned"))
    options = {"epochs": None, "time_budget": 1.0, "save_minutes": 0.0}

    def busy():
        clock.now = 12.0

    with monkeypatch.context() as patch:
        at_step(patch, 2, busy)
        whole = tiny_run(tmp_path / "whole", **options)
    assert read_settings(whole).corrections[1].steps == 5  # after two steps: 12 s a step, 48 s are left
    clock.now = 0.0
    with monkeypatch.context() as patch:
        at_step(patch, 2, busy)
        at_step(patch, 3, crash)
        with pytest.raises(Crash):
            tiny_run(tmp_path / "cut", **options)
    (tmp_path / "cut" / "checkpoints" / "step-2.pt").unlink()  # it goes on from before the correction
    clock.now = 0.0
    cut = tiny_run(tmp_path / "cut", resume=True, **options)
    assert identical(weights(whole), weights(cut))
    assert [c.steps for c in read_settings(cut).corrections] == [c.steps for c in read_settings(whole).corrections]
    assert tiny_run(tmp_path / "cut", resume=True, **options) == cut  # finished: nothing is left to do


def test_a_budget_of_too_few_steps_is_told_before_they_are_made(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "steps_within", lambda minutes, trainer: (3, "planned"))
    tiny_run(tmp_path / "run", epochs=None, time_budget=1.0, quiet=False)
    said = " ".join(capsys.readouterr().out.split())
    assert said.index("3 steps are too few to train") < said.index("Training was")
