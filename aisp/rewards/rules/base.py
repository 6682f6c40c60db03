"""What rules share: scores in [0, 1], where 1 is kept, a soft one says below it how far off, and a strict one says 0.

grade_text(text)    how well a text keeps the rule: 1 if and only if it is kept
strict=True         what is not kept scores 0
as_strict(reward)   the same rule, strict
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

from aisp.errors import ConfigurationError
from aisp.records import Candidate, Score
from aisp.rewards.base import Reward

_BELOW_ONE = math.nextafter(1.0, 0.0)


class Graded(Reward):
    """A reward in [0, 1] whose 1 means "kept".

    Args:
        strict: Score 0 what is not kept, however near it comes.
    """

    cost = 0.001
    passes_at = 1.0

    def __init__(self, *, strict: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.strict = strict

    def grade(self, candidate: Candidate) -> float | Score:
        """Return how well a candidate keeps the rule, in [0, 1]; 1 if and only if it is kept."""
        raise NotImplementedError

    def config(self) -> Mapping[str, Any]:
        hidden = ("name", "on_error", "partial", "cost")
        return {key: value for key, value in vars(self).items() if not key.startswith("_") and key not in hidden}

    def _score(self, candidates: Sequence[Candidate]) -> Sequence[float | Score]:
        grades = [self.grade(candidate) for candidate in candidates]
        return [_only_kept(grade) for grade in grades] if self.strict else grades


class Rule(Graded):
    """A reward that looks at the text alone."""

    def grade(self, candidate: Candidate) -> float | Score:
        return self.grade_text(candidate.text)

    def grade_text(self, text: str) -> float:
        """Return how well a text keeps the rule, in [0, 1]; 1 if and only if it is kept."""
        raise NotImplementedError


class Counted(Rule):
    """Between two numbers of something.

    1 within the bounds; outside them it falls with the ratio to the nearer bound (twice or half as many score 0.5). Of
    what there should be none, one scores 1/2, two 1/3, and so on.

    Args:
        low: At least this many; 0 for no lower bound.
        high: At most this many; None for no upper bound.
    """

    def __init__(self, low: int = 0, high: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        if low < 0 or (high is not None and high < low):
            raise ConfigurationError(f"{self.name} is between {low} and {high}; expected 0 <= low <= high")
        self.low, self.high = low, high

    def count(self, text: str) -> int:
        """Return how many there are in a text."""
        raise NotImplementedError

    def grade_text(self, text: str) -> float:
        return within(self.count(text), self.low, self.high)


class Every(Rule):
    """The mean of some rules; kept where every one is.

    Args:
        rules: At least one.
    """

    def __init__(self, *rules: Rule, **options: Any) -> None:
        if not rules or not all(isinstance(rule, Rule) for rule in rules):
            raise ConfigurationError(f"every got {rules!r}; expected at least one rule")
        super().__init__(**{"cost": sum(rule.cost for rule in rules), **options})
        self.rules = rules

    def config(self) -> Mapping[str, Any]:
        return {**super().config(), "rules": [rule.fingerprint for rule in self.rules]}

    def grade_text(self, text: str) -> float:
        return average([rule.grade_text(text) for rule in self.rules])


def as_strict(reward: Reward) -> Graded:
    """Return a rule that scores 0 what the given one doesn't find kept.

    Raises:
        ConfigurationError: A reward that isn't a rule: nothing says which of its values mean "kept".
    """
    if not isinstance(reward, Graded):
        raise ConfigurationError(f"{reward!r} is not a rule, so it can't be strict; expected a rule, as length or json")
    strict = copy.copy(reward)
    strict.strict = True
    return strict


def within(count: float, low: float, high: float | None) -> float:
    """Return 1 within two bounds, and outside them the ratio to the nearer one."""
    if count < low:
        return count / low
    if high is not None and count > high:
        return high / count if high else 1.0 / (1.0 + count)
    return 1.0


def average(grades: Sequence[float], weights: Sequence[float] | None = None) -> float:
    """Return a mean that is 1 only where every grade is: rounding never makes it so."""
    weights = [1.0] * len(grades) if weights is None else weights
    if all(grade == 1.0 for grade in grades):
        return 1.0
    mean = math.fsum(grade * weight for grade, weight in zip(grades, weights, strict=True)) / math.fsum(weights)
    return below_one(mean)


def below_one(grade: float) -> float:
    """Return the grade of what is not kept, however near rounding brings it to 1."""
    return min(grade, _BELOW_ONE)


def _only_kept(grade: float | Score) -> float | Score:
    if isinstance(grade, Score):
        return grade.with_value(float(grade.value == 1.0))
    return float(grade == 1.0)
