"""What a number may be: of a flag, a field of a recipe, or a setting of a formula; said and tested in one way."""

import math
import numbers
from dataclasses import dataclass
from typing import Annotated, Any

from mec.errors import BadInput


@dataclass(frozen=True)
class Range:
    """The finite numbers that fit, in the Annotated type of a field; of a list, each of its numbers.

    >>> Range(float, 0, above=True).check(temperature=math.nan)
    Traceback (most recent call last):
    mec.errors.BadInput: temperature is nan: it takes a number above 0."""

    kind: type[int] | type[float]
    least: float = -math.inf
    most: float = math.inf
    above: bool = False  # `least` itself does not fit
    below: bool = False  # `most` itself does not fit

    def __str__(self) -> str:
        number = "a whole number" if self.kind is int else "a number"
        if self.least == -math.inf:
            return f"a finite {number[2:]}"
        if self.most == math.inf:
            return f"{number} above {self.least:g}" if self.above else f"{number}, at least {self.least:g}"
        if self.above:
            return f"{number} above {self.least:g} and {'below' if self.below else 'at most'} {self.most:,}"
        return f"{number} from {self.least:g} to {'below ' * self.below}{self.most:,}"

    def fits(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, numbers.Integral if self.kind is int else numbers.Real):
            return False
        number: Any = value
        try:
            finite = math.isfinite(number)
        except OverflowError:  # a whole number beyond any float
            return False
        ends = (self.above and number == self.least) or (self.below and number == self.most)
        return finite and self.least <= number <= self.most and not ends

    def check(self, **settings: object) -> None:
        """
        Raises BadInput: repeats the first of these that does not fit, and says what does."""
        for name, value in settings.items():
            if not self.fits(value):
                raise BadInput(f"{name} is {value!r}: it takes {self}.")


FINITE, ABOVE_0, AT_LEAST_0, SHARE = Range(float), Range(float, 0, above=True), Range(float, 0), Range(float, 0, 1)
FROM_0, FROM_1 = Range(int, 0), Range(int, 1)
SEED = Range(int, 0, 2**32 - 1)  # what numpy and scikit-learn take
Finite = Annotated[float, FINITE]
Positive = Annotated[float, ABOVE_0]
NotNegative = Annotated[float, AT_LEAST_0]
Share = Annotated[float, SHARE]
Whole = Annotated[int, FROM_0]
Count = Annotated[int, FROM_1]
