"""What a range says is what it does."""

import math
from fractions import Fraction

import numpy as np
import pytest

from mec.errors import BadInput
from mec.runtime.ranges import Range


@pytest.mark.parametrize(
    ("limits", "words", "inside", "outside"),
    [
        (Range(float, 0, 1), "a number from 0 to 1", (0, 1, 0.5, np.float32(0.5), Fraction(1, 3)), (-0.1, 1.1)),
        (Range(float, 0, 1, below=True), "a number from 0 to below 1", (0, 0.99), (1, -1)),
        (Range(float, 0, above=True), "a number above 0", (1e-300, 1e300), (0, -1)),
        (Range(float, 0, 100, above=True), "a number above 0 and at most 100", (1e-9, 100), (0, 101)),
        (Range(float, -1, 1, above=True, below=True), "a number above -1 and below 1", (0,), (-1, 1)),
        (Range(int, 1), "a whole number, at least 1", (1, 10**9, np.int64(3)), (0, 1.0, 10**400)),
        (Range(int, 0, 4095), "a whole number from 0 to 4,095", (0, 4095), (-1, 4096)),
        (Range(float), "a finite number", (-1e300, 0), (10**400,)),
    ],
)
def test_a_range_says_what_it_takes(limits, words, inside, outside):
    assert str(limits) == words
    assert all(limits.fits(value) for value in inside)
    for value in (*outside, math.nan, math.inf, -math.inf, True, "1", None, [1], 1j):
        with pytest.raises(BadInput) as caught:
            limits.check(fine=inside[0], this=value)
        assert str(caught.value) == f"this is {value!r}: it takes {words}."
