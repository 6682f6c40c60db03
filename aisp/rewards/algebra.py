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
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from aisp.errors import ConfigurationError
from aisp.records import Candidate, Score
from aisp.rewards.base import Reward

_VETOED = Score(value=0.0, vetoed=True)


class Combined(Reward):
    """A reward made of others. What they could not score, it could not; what they vetoed is vetoed."""

    def __init__(self, *parts: Reward, name: str | None = None) -> None:
        strangers = [part for part in parts if not isinstance(part, Reward)]
        if strangers:
            raise ConfigurationError(
                f"{strangers[0]!r} is a {type(strangers[0]).__name__}, not a reward; make one of a function with "
                "aisp.rewards.FunctionReward"
            )
        super().__init__(
            name=name or type(self).__name__.lower(),
            on_error="raise",
            partial=all(part.partial for part in parts),
            cost=sum(part.cost for part in parts),
        )
        self.parts = parts

    def fresh(self) -> Reward:
        clone: Combined = object.__new__(type(self))
        clone.__dict__.update(self.__dict__, parts=tuple(part.fresh() for part in self.parts))
        return clone

    def config(self) -> Mapping[str, Any]:
        return {"parts": [part.fingerprint for part in self.parts]}

    def _score(self, candidates: Sequence[Candidate]) -> Sequence[Score]:
        columns: list[list[Score | None]] = [[None] * len(candidates) for _ in self.parts]
        open_rows = list(range(len(candidates)))
        for column in sorted(range(len(self.parts)), key=lambda i: (not _gates(self.parts[i]), self.parts[i].cost)):
            scores = self.parts[column].score([candidates[row] for row in open_rows])
            for row, score in zip(open_rows, scores, strict=True):
                columns[column][row] = score
            open_rows = [row for row, score in zip(open_rows, scores, strict=True) if score.usable]
        return [self._combined([column[row] for column in columns]) for row in range(len(candidates))]

    def _combined(self, scores: Sequence[Score | None]) -> Score:
        known = [score for score in scores if score is not None]
        parts = self._parts(scores)
        comment = "; ".join(score.comment for score in known if score.comment) or None
        closed = next((score for score in known if not score.usable), None)
        if closed is not None:  # dearer parts were spared
            return replace(closed, parts=parts, comment=comment)
        return Score(value=self.combine([score.value for score in known]), parts=parts, comment=comment)

    def _parts(self, scores: Sequence[Score | None]) -> dict[str, float]:
        parts: dict[str, float] = {}
        for part, score in zip(self.parts, scores, strict=True):
            for name, value in ({} if score is None else score.parts).items():
                parts[_free(_prefix(part) + name, parts)] = value
        return parts

    def combine(self, values: Sequence[float]) -> float:
        """Return the value of this reward from those of its parts, in their order."""
        raise NotImplementedError

    def signs(self) -> Sequence[int | None]:
        """Return 1 for each part that enters the value as it is, -1 if turned, 0 if not, None if not in the trace."""
        return [1] * len(self.parts)


class Sum(Combined):
    """The sum of its parts, and a constant."""

    def __init__(self, *parts: Reward, constant: float = 0.0, name: str | None = None) -> None:
        plain = [part for part in parts if isinstance(part, Sum) and part.name == "sum"]
        flat = [
            inner for part in parts for inner in (part.parts if isinstance(part, Sum) and part in plain else (part,))
        ]
        super().__init__(*flat, name=name)
        self.constant: float = constant + sum(part.constant for part in plain)

    def config(self) -> Mapping[str, Any]:
        return {**super().config(), "constant": self.constant}

    def combine(self, values: Sequence[float]) -> float:
        return math.fsum(values) + self.constant

    def with_weights(self, weights: Mapping[str, float]) -> Sum:
        """Return this sum with other weights for some of its parts, by name.

        Raises:
            ConfigurationError: A name that is none of the parts'.
        """
        names = {part.name: part for part in self.parts}
        unknown = sorted(weights.keys() - names.keys())
        if unknown:
            raise ConfigurationError(
                f"no part is called {', '.join(unknown)}; this reward has {', '.join(sorted(names))}"
            )
        parts = [
            scaled(part.reward if isinstance(part, Scaled) else part, weights[part.name])
            if part.name in weights
            else part
            for part in self.parts
        ]
        return Sum(*parts, constant=self.constant, name=self.name)


class Scaled(Combined):
    """A reward times a number. Its part in the trace is the unscaled value."""

    def __init__(self, reward: Reward, factor: float) -> None:
        super().__init__(reward, name=reward.name)
        self.factor = _number(factor, "the factor of a reward")

    @property
    def reward(self) -> Reward:
        return self.parts[0]

    def config(self) -> Mapping[str, Any]:
        return {**super().config(), "factor": self.factor}

    def combine(self, values: Sequence[float]) -> float:
        return self.factor * values[0]

    def signs(self) -> Sequence[int | None]:
        return [int(np.sign(self.factor))]


class Clip(Combined):
    """A reward held within bounds; None leaves a side open."""

    def __init__(self, reward: Reward, low: float | None = None, high: float | None = None) -> None:
        super().__init__(reward, name=reward.name)
        self.low = -math.inf if low is None else _number(low, "low")
        self.high = math.inf if high is None else _number(high, "high")
        if self.low > self.high:
            raise ConfigurationError(f"clip has low={low} above high={high}; swap them")

    def config(self) -> Mapping[str, Any]:
        return {**super().config(), "low": self.low, "high": self.high}

    def combine(self, values: Sequence[float]) -> float:
        return min(max(values[0], self.low), self.high)


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

    def __init__(self, reward: Reward, below: float | None = None) -> None:
        super().__init__(reward, name=reward.name)
        self.below = _number(reward.passes_at if below is None else below, "below")

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


class When(Combined):
    """A reward that counts only where a condition holds; elsewhere it is 0 and is not asked.

    Args:
        condition: A reward that must be above 0, or a predicate of the candidate.
        reward: What counts there.
    """

    def __init__(self, condition: Reward | Callable[[Candidate], bool], reward: Reward) -> None:
        from aisp.rewards.function import FunctionReward

        self.named = isinstance(condition, Reward)  # a predicate is no part of the trace
        gate = condition if isinstance(condition, Reward) else FunctionReward(lambda candidate: condition(candidate))
        super().__init__(gate, reward, name=reward.name)

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


def add(one: Reward | float, other: Reward | float) -> Sum:
    """Return the sum of two rewards, or of a reward and a number."""
    rewards = [term for term in (one, other) if not isinstance(term, numbers.Real)]
    constant = sum(_number(term, "a term") for term in (one, other) if isinstance(term, numbers.Real))
    return Sum(*rewards, constant=constant)  # type: ignore[arg-type]


def scaled(reward: Reward, factor: float) -> Scaled:
    """Return a reward times a number; factors of factors are one."""
    if isinstance(reward, Scaled):
        return Scaled(reward.reward, reward.factor * _number(factor, "the factor of a reward"))
    return Scaled(reward, factor)


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
    return When(condition, reward)


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
            signs[_free(_prefix(part) + name, signs)] = (entering or 0) * sign
    return signs


def _prefix(part: Reward) -> str:
    return f"{part.name}." if isinstance(part, Combined) and len(part.parts) > 1 else ""


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise ConfigurationError(
            f"{what} is {value!r}; expected a finite number (rewards are multiplied with product())"
        )
    return float(value)


def _some(rewards: Sequence[Reward], what: str) -> Sequence[Reward]:
    if not rewards:
        raise ConfigurationError(f"{what}() got no rewards; give at least one")
    return rewards


def _gates(part: Reward) -> bool:
    return isinstance(part, Veto)


def _free(name: str, taken: Mapping[str, Any]) -> str:
    """Return a name that is not taken yet: a second one of the same name is called name_2."""
    return (
        name
        if name not in taken
        else next(f"{name}_{i}" for i in range(2, len(taken) + 3) if f"{name}_{i}" not in taken)
    )
