"""Judges: the schedules as the papers print them, and what holds for any run."""

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mec.recipes.recipe import Linear, Optimizer
from mec.recipes.schedules import cosine, learning_rate, setting
from mec.recipes.table import RECIPES


@given(start=st.floats(-10, 10), end=st.floats(-10, 10), t=st.floats(0, 1))
def test_cosine_is_the_printed_half_wave_between_its_endpoints(start, end, t):
    assert cosine(start, end, 0.0) == pytest.approx(start)
    assert cosine(start, end, 1.0) == pytest.approx(end)
    assert cosine(start, end, t) == pytest.approx(end + (start - end) * 0.5 * (1 + math.cos(math.pi * t)), abs=1e-12)
    assert cosine(start, end, 0.5) == pytest.approx((start + end) / 2, abs=1e-12)


def test_cosine_stays_at_its_ends_outside_the_run():
    assert cosine(1.0, 0.25, -0.5) == 1.0
    assert cosine(1.0, 0.25, 1.5) == pytest.approx(0.25)


@settings(max_examples=80, deadline=None)
@given(
    warmup_epochs=st.floats(0, 50),
    each=st.integers(1, 40),
    steps=st.integers(1, 400),
    batch=st.sampled_from([32, 256, 1024]),
)
def test_warm_up_takes_at_most_a_tenth_of_any_run_and_the_rate_then_only_falls(warmup_epochs, each, steps, batch):
    optimizer = Optimizer(base_lr=0.5, end_lr=0.01, warmup_epochs=warmup_epochs)
    rates = [learning_rate(optimizer, batch, step, steps, each) for step in range(steps)]
    peak = rates.index(max(rates))
    assert peak <= math.ceil(steps / 10)
    assert peak <= math.ceil(warmup_epochs * each)
    assert all(a < b for a, b in pairwise(rates[: peak + 1]))
    assert all(a > b for a, b in pairwise(rates[peak:]))
    assert all(0 < rate <= 0.5 * batch / 256 + 1e-12 for rate in rates)


def test_without_warm_up_the_rate_is_the_printed_cosine():
    optimizer = Optimizer(base_lr=0.03)
    for t in (0, 1, 500, 999):
        expected = 0.03 * 1024 / 256 * 0.5 * (1 + math.cos(math.pi * t / 1000))
        assert learning_rate(optimizer, 1024, t, 1000, 10) == pytest.approx(expected, rel=1e-12)


def test_imagenet_warms_up_linearly_for_10_epochs_to_2_0_and_then_falls_to_0_by_cosine():
    recipe, each = RECIPES["imagenet-100ep"], 1251  # 1,281,167 images in batches of 1024, the last one dropped
    rates = [learning_rate(recipe.optimizer, 1024, step, 100 * each, each) for step in range(100 * each)]
    assert max(rates) == rates[10 * each] == pytest.approx(2.0)
    slopes = [b - a for a, b in pairwise(rates[: 10 * each])]
    assert min(slopes) == pytest.approx(max(slopes), rel=1e-6)
    assert rates[0] < 2.0 / 10_000
    assert rates[55 * each] == pytest.approx(1.0)  # half way down
    assert rates[-1] < 1e-6


def test_released_distortion_falls_from_0_25_to_0_03125_in_10_epochs_and_stays():
    value = RECIPES["imagenet-100ep-released"].settings["distortion"]
    assert [setting(value, epoch) for epoch in (0, 5, 10, 50, 99.9)] == [0.25, 0.140625, 0.03125, 0.03125, 0.03125]
    # As released: 1/λ = m ε_d² is 256 at first and 32 at the end, at m 1024; it moves in a straight line.
    assert [1024 * setting(value, epoch) for epoch in (0, 10)] == [256, 32]
    steps = [setting(value, epoch / 7) - setting(value, (epoch + 1) / 7) for epoch in range(69)]
    assert min(steps) == pytest.approx(max(steps), rel=1e-9)


def test_a_plain_setting_never_moves():
    assert setting(0.06, 3.5) == 0.06
    assert setting(4, 99) == 4
    assert setting(None, 1) is None
    assert setting(Linear(1.0, 3.0, epochs=0.5), 0.25) == 2.0


def test_target_momentum_of_the_paper_goes_from_0_996_to_1_by_cosine():
    network = RECIPES["imagenet-100ep"].network
    ends = network.target_momentum, network.target_momentum_end
    assert [cosine(*ends, t) for t in (0, 0.5, 1)] == pytest.approx([0.996, 0.998, 1.0])
