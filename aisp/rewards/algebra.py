"""The algebra of rewards: sums, weights, bounds, gates. Every named part survives into the score.

0.7 * kind + 0.3 * short - 1.0         Sum of Scaled, and a constant
reward.clip(0, 1)                      Clip
minimum(a, b), product(a, b)           Minimum, Product
veto(rule)                             Veto: adds nothing, but takes a candidate out of the race
when(condition, reward)                When: counts only where the condition holds
normalize(reward)                      Normalized: z-scores, calibrated on a request's first round and then frozen
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from aisp.errors import ConfigurationError
from aisp.records import Candidate, Score
from aisp.rewards.base import Combined, Reward, finite_number, free_name, part_prefix

_VETOED = Score(value=0.0, vetoed=True)


class Minimum(Combined):
    """The least of its parts: all must be good."""

    def combine(self, values: Sequence[float]) -> float:
        return min(values)


class Product(Combined):
    """The product of its parts, meant for parts in [0, 1]."""

    def combine(self, values: Sequence[float]) -> float:
        return math.prod(values)


class Veto(Combined):
    """A hard gate: a candidate whose value lies below a bound is never returned. It adds 0 to a sum.

    Args:
        reward: What is looked at.
        below: The bound. None is 0.5, and 1 for a rule, which is kept or broken however nearly it was kept.
    """

    gate = True

    def __init__(self, reward: Reward, below: float | None = None) -> None:
        super().__init__(reward, name=reward.name)
        self.below = finite_number(reward.passes_at if below is None else below, "below")

    def config(self) -> Mapping[str, Any]:
        return {**super().config(), "below": self.below}

    def _combined(self, scores: Sequence[Score | None]) -> Score:
        score = super()._combined(scores)
        if not score.usable:
            return score
        return replace(
            _VETOED if score.value < self.below else Score(value=0.0), parts=score.parts, comment=score.comment
        )

    def combine(self, values: Sequence[float]) -> float:
        return values[0]

    def signs(self) -> Sequence[int | None]:
        return [0]


class Predicate(Reward):
    """A function of a candidate that says yes or no, as the condition of `when`."""

    def __init__(self, function: Callable[[Candidate], bool]) -> None:
        super().__init__(name="condition")
        self.function = function
        self._version = uuid.uuid4().hex

    def config(self) -> Mapping[str, Any]:
        return {"version": self._version}

    def _score(self, candidates: Sequence[Candidate]) -> Sequence[bool]:
        return [self.function(candidate) for candidate in candidates]


class When(Combined):
    """A reward that counts only where a condition holds; elsewhere it is 0 and is not asked.

    Args:
        condition: A reward that must be above 0.
        reward: What counts there.
    """

    def __init__(self, condition: Reward, reward: Reward) -> None:
        self.named = not isinstance(condition, Predicate)  # a predicate is not a part of the trace
        super().__init__(condition, reward, name=reward.name)

    def _score(self, candidates: Sequence[Candidate]) -> Sequence[Score]:
        gate, reward = self.parts
        conditions = gate.score(candidates)
        rows = [row for row, score in enumerate(conditions) if score.usable and score.value > 0]
        scores = dict(zip(rows, reward.score([candidates[row] for row in rows]), strict=True))
        return [self._either(condition, scores.get(row)) for row, condition in enumerate(conditions)]

    def _either(self, condition: Score, score: Score | None) -> Score:
        if condition.error is not None:
            return condition
        score = Score(value=0.0, parts={self.parts[1].name: 0.0}) if score is None else score
        return replace(score, parts=self._parts([condition if self.named else None, score]))

    def signs(self) -> Sequence[int | None]:
        return [0 if self.named else None, 1]


class Normalized(Combined):
    """z-scores: mean and spread are those of a request's first round, and stay.

    Outside a search (no session) each call to `score` is calibrated on its own candidates.
    """

    def __init__(self, reward: Reward) -> None:
        super().__init__(reward, name=reward.name)
        self._remember = False
        self._moments: tuple[float, float] | None = None

    def fresh(self) -> Reward:
        clone = super().fresh()
        clone.__dict__.update(_remember=True, _moments=None)
        return clone

    def _score(self, candidates: Sequence[Candidate]) -> Sequence[Score]:
        scores = self.parts[0].score(candidates)
        values = [score.value for score in scores if score.usable]
        moments = self._moments
        if moments is None:
            if not values:
                return scores
            spread = float(np.std(values))
            moments = (float(np.mean(values)), spread if spread > 0 else 1.0)
            # One response (a calibration round) has no spread to be remembered.
            if self._remember and len(values) > 1:
                self._moments = moments
        return [
            score.with_value((score.value - moments[0]) / moments[1]) if score.usable else score for score in scores
        ]


def minimum(*rewards: Reward) -> Minimum:
    """Return the least of some rewards."""
    return Minimum(*_some(rewards, "minimum"))


def product(*rewards: Reward) -> Product:
    """Return the product of some rewards."""
    return Product(*_some(rewards, "product"))


def veto(reward: Reward, below: float | None = None) -> Veto:
    """Return a gate: what scores below a bound is never returned, has no weight, and is outside every mean.

    Without a bound, what breaks a rule is stopped, and of other rewards what scores below 0.5.
    """
    return Veto(reward, below)


def when(condition: Reward | Callable[[Candidate], bool], reward: Reward) -> When:
    """Return a reward that counts only where a condition (a reward above 0, or a predicate) holds."""
    return When(condition if isinstance(condition, Reward) else Predicate(condition), reward)


def normalize(reward: Reward) -> Normalized:
    """Return a reward in units of its spread over a request's first round."""
    return Normalized(reward)


def part_signs(reward: Reward) -> dict[str, int]:
    """Return how each named part enters the whole: as it is (1), turned by a negative weight (-1), or not (0)."""
    if not isinstance(reward, Combined):
        return {reward.name: 1}
    signs: dict[str, int] = {}
    for part, entering in zip(reward.parts, reward.signs(), strict=True):
        for name, sign in ({} if entering is None else part_signs(part)).items():
            signs[free_name(part_prefix(part) + name, signs)] = (entering or 0) * sign
    return signs


def _some(rewards: Sequence[Reward], what: str) -> Sequence[Reward]:
    if not rewards:
        raise ConfigurationError(f"{what}() got no rewards; give at least one")
    return rewards
