"""The contract of a reward, its memory for the length of a request, and what its operators return.

    reward.check()                              finds now what would fail later; loads no weights
    reward.score(candidates) -> scores          batch first; higher is better; finite
    reward.ascore(candidates) -> scores         the same, for callers on an event loop
    reward.session() -> reward                  one a request: remembers what it scored, and what it calibrated

A subclass gives one of `_score` and `_ascore`, and `config()`, which its fingerprint is made of. Sums, factors and
bounds are here too, since every reward has operators that return them; `aisp.rewards.algebra` has the rest.
"""

from __future__ import annotations

import copy
import math
import numbers
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from aisp.errors import ConfigurationError
from aisp.records import Candidate, Score
from aisp.rewards.candidates import candidate_key
from aisp.rewards.scorer import OnError, Scorer, Verdict
from aisp.rewards.verdicts import shown

__all__ = ["Clip", "Combined", "Memo", "OnError", "Reward", "Scaled", "Sum", "Verdict", "add", "scaled"]


class Reward(Scorer):
    """Scores candidates.

    Candidates are read-only: a reward gets copies of its own, so what it writes into them is seen by nobody else.

    Args:
        name: What its part is called in traces. The class's name in lower case by default.
        on_error: What can't be scored raises a `RewardError`, or is excluded: never returned, and named in the trace.
        partial: Whether it may score a response that isn't complete.
        cost: Relative cost of a candidate; cheap parts of a sum run first.
    """

    def session(self) -> Reward:
        """Return what scores one request: it may remember and calibrate; this reward itself stays as it is."""
        return Memo(self)

    def fresh(self) -> Reward:
        """Return this reward with the state that one request needs; itself where it needs none."""
        return self

    def leaves(self) -> Iterator[Reward]:
        """Yield the rewards that this one is made of, with repeats; itself where it is made of none."""
        yield self

    def __add__(self, other: Reward | float) -> Sum:
        return add(self, other)

    def __radd__(self, other: Reward | float) -> Sum:
        return add(other, self)

    def __sub__(self, other: Reward | float) -> Sum:
        return add(self, scaled(other, -1.0) if isinstance(other, Reward) else -other)

    def __rsub__(self, other: float) -> Sum:
        return add(other, scaled(self, -1.0))

    def __mul__(self, factor: float) -> Scaled:
        return scaled(self, factor)

    __rmul__ = __mul__

    def __neg__(self) -> Scaled:
        return self * -1.0

    def clip(self, low: float | None = None, high: float | None = None) -> Clip:
        """Return this reward held within bounds; None leaves a side open."""
        return Clip(self, low, high)


def check_reward(given: Any) -> Reward:
    """Return a reward as it was given.

    Raises:
        ConfigurationError: Something else, as a plain function.
    """
    if isinstance(given, Reward):
        return given
    raise ConfigurationError(
        f"{shown(given)} is a {type(given).__name__}, not a reward; make one of a function with "
        "aisp.rewards.FunctionReward"
    )


class Combined(Reward):
    """A reward made of others. What they could not score, it could not; what they vetoed is vetoed."""

    def __init__(self, *parts: Reward, name: str | None = None) -> None:
        for part in parts:
            check_reward(part)
        super().__init__(
            name=name or type(self).__name__.lower(),
            # Where every part leaves out what it can't score, so does the whole: its own sum may overflow.
            on_error="exclude" if parts and all(part.on_error == "exclude" for part in parts) else "raise",
            partial=all(part.partial for part in parts),
            cost=sum(part.cost for part in parts),
        )
        self.parts = parts

    def check(self) -> None:
        for part in self.parts:
            part.check()

    def fresh(self) -> Reward:
        clone: Combined = object.__new__(type(self))
        clone.__dict__.update(self.__dict__, parts=tuple(part.fresh() for part in self.parts))
        return clone

    def leaves(self) -> Iterator[Reward]:
        for part in self.parts:
            yield from part.leaves()

    def config(self) -> Mapping[str, Any]:
        return {"parts": [part.fingerprint for part in self.parts]}

    def _handed(self, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        return candidates  # each part copies for itself

    def _score(self, candidates: Sequence[Candidate]) -> Sequence[Score]:
        columns: list[list[Score | None]] = [[None] * len(candidates) for _ in self.parts]
        open_rows = list(range(len(candidates)))
        for column in sorted(range(len(self.parts)), key=lambda i: (not self.parts[i].gate, self.parts[i].cost)):
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
                parts[free_name(part_prefix(part) + name, parts)] = value
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
        self.factor = finite_number(factor, "the factor of a reward")

    @property
    def reward(self) -> Reward:
        return self.parts[0]

    def config(self) -> Mapping[str, Any]:
        return {**super().config(), "factor": self.factor}

    def combine(self, values: Sequence[float]) -> float:
        return self.factor * values[0]

    def signs(self) -> Sequence[int | None]:
        return [(self.factor > 0) - (self.factor < 0)]


class Clip(Combined):
    """A reward held within bounds; None leaves a side open."""

    def __init__(self, reward: Reward, low: float | None = None, high: float | None = None) -> None:
        super().__init__(reward, name=reward.name)
        self.low = -math.inf if low is None else finite_number(low, "low")
        self.high = math.inf if high is None else finite_number(high, "high")
        if self.low > self.high:
            raise ConfigurationError(f"clip has low={low} above high={high}; swap them")

    def config(self) -> Mapping[str, Any]:
        return {**super().config(), "low": self.low, "high": self.high}

    def combine(self, values: Sequence[float]) -> float:
        return min(max(values[0], self.low), self.high)


class Memo(Reward):
    """Remembers the scores of a reward for the length of a request.

    Equal candidates are scored once, across rounds too, and by a part that occurs twice.

    Args:
        reward: What scores; it is asked for the state of its own that a request needs.
    """

    def __init__(self, reward: Reward) -> None:
        super().__init__(name=reward.name, on_error=reward.on_error, partial=reward.partial, cost=reward.cost)
        self._reward = _sharing(reward.fresh())
        self._known: dict[str, Score] = {}

    def check(self) -> None:
        self._reward.check()

    def session(self) -> Reward:
        return self

    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        keys, new = self._new(candidates)
        return self._recall(keys, new, self._reward.score(list(new.values())) if new else [])

    async def ascore(self, candidates: Sequence[Candidate]) -> list[Score]:
        keys, new = self._new(candidates)
        return self._recall(keys, new, await self._reward.ascore(list(new.values())) if new else [])

    @property
    def is_async(self) -> bool:
        return self._reward.is_async

    @property
    def fingerprint(self) -> str:
        return self._reward.fingerprint

    def _new(self, candidates: Sequence[Candidate]) -> tuple[list[str], dict[str, Candidate]]:
        """Return the candidates' keys, and those of them that have no score yet."""
        keys = [candidate_key(candidate) for candidate in candidates]
        return keys, {key: c for key, c in zip(keys, candidates, strict=True) if key not in self._known}

    def _recall(self, keys: Sequence[str], new: Mapping[str, Candidate], scores: Sequence[Score]) -> list[Score]:
        self._known.update(zip(new, scores, strict=True))
        return [self._known[key] for key in keys]


def add(one: Reward | float, other: Reward | float) -> Sum:
    """Return the sum of two rewards, or of a reward and a number."""
    rewards = [term for term in (one, other) if not isinstance(term, numbers.Real)]
    constant = sum(finite_number(term, "a term") for term in (one, other) if isinstance(term, numbers.Real))
    return Sum(*rewards, constant=constant)  # type: ignore[arg-type]


def scaled(reward: Reward, factor: float) -> Scaled:
    """Return a reward times a number; factors of factors are one."""
    if isinstance(reward, Scaled):
        return Scaled(reward.reward, reward.factor * finite_number(factor, "the factor of a reward"))
    return Scaled(reward, factor)


def part_prefix(part: Reward) -> str:
    """Return what stands before the names of a part's own parts."""
    return f"{part.name}." if isinstance(part, Combined) and len(part.parts) > 1 else ""


def free_name(name: str, taken: Mapping[str, Any]) -> str:
    """Return a name that is not taken yet: a second one of the same name is called name_2."""
    if name not in taken:
        return name
    return next(f"{name}_{i}" for i in range(2, len(taken) + 3) if f"{name}_{i}" not in taken)


def finite_number(value: Any, what: str) -> float:
    """Return a number that an operator was given.

    Raises:
        ConfigurationError: Something else, as a reward or infinity.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise ConfigurationError(
            f"{what} is {value!r}; expected a finite number (rewards are multiplied with product())"
        )
    return float(value)


def _sharing(reward: Reward) -> Reward:
    """Return a reward in which a part that occurs several times, as in `kind + veto(kind)`, is asked once."""
    occurs = Counter(id(leaf) for leaf in reward.leaves())
    memos: dict[int, Memo] = {}

    def rebuilt(node: Reward) -> Reward:
        if isinstance(node, Combined):
            clone = copy.copy(node)
            clone.parts = tuple(rebuilt(part) for part in node.parts)
            return clone
        if occurs[id(node)] == 1:
            return node
        if id(node) not in memos:
            memos[id(node)] = Memo(node)
        return memos[id(node)]

    return rebuilt(reward) if max(occurs.values(), default=0) > 1 else reward
