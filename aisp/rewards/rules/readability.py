"""Readability of English: Flesch's reading ease (1948) and the grade of Kincaid and others (1975).

Written here: the library that one would take, textstat, downloads a dictionary when it is first used.
"""

from __future__ import annotations

from typing import Any, Literal

from aisp.errors import ConfigurationError
from aisp.rewards.rules.base import Rule, below_one
from aisp.rewards.rules.units import count_sentences, count_syllables, words

_SCALES = {"ease": 10.0, "grade": 1.0}


class Readability(Rule):
    """1 where a text's readability is within two bounds, else 1/(1 + distance in units of 10 points or 1 grade).

    Syllables are estimated by English rules. A text without words scores 0.

    Args:
        low: At least this; None for no lower bound.
        high: At most this; None for no upper bound.
        measure: "ease", Flesch's reading ease, from about 0 (hard) to 100 (easy); or "grade", the years at school that
            a text takes.
    """

    def __init__(
        self,
        low: float | None = None,
        high: float | None = None,
        *,
        measure: Literal["ease", "grade"] = "ease",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if measure not in _SCALES:
            raise ConfigurationError(f'measure is {measure!r}; expected "ease" or "grade"')
        if (low is None and high is None) or (low is not None and high is not None and high < low):
            raise ConfigurationError(f"readability is between {low} and {high}; expected low <= high, or one of them")
        self.low, self.high, self.measure = low, high, measure

    def grade_text(self, text: str) -> float:
        found = readability(text)
        if found is None:
            return 0.0
        value = found[0] if self.measure == "ease" else found[1]
        if self.low is not None and value < self.low:
            return below_one(1.0 / (1.0 + (self.low - value) / _SCALES[self.measure]))
        if self.high is not None and value > self.high:
            return below_one(1.0 / (1.0 + (value - self.high) / _SCALES[self.measure]))
        return 1.0


def readability(text: str) -> tuple[float, float] | None:
    """Return Flesch's reading ease and the Flesch-Kincaid grade; None for a text without words."""
    found = words(text)
    if not found:
        return None
    length = len(found) / count_sentences(text)
    syllables = sum(map(count_syllables, found)) / len(found)
    return 206.835 - 1.015 * length - 84.6 * syllables, 0.39 * length + 11.8 * syllables - 15.59
