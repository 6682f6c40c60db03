"""The contract of a reward, and the one place where its verdicts are checked.

    reward.score(candidates) -> scores          batch first; higher is better; finite
    reward.ascore(candidates) -> scores         the same, for callers on an event loop
    reward.session() -> reward                  one a request: remembers what it scored, and what it calibrated

A subclass gives one of `_score` and `_ascore`, and `config()`, which its fingerprint is made of.
"""

from __future__ import annotations

import hashlib
import json
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from aisp.errors import ConfigurationError, RewardError
from aisp.records import Candidate, Score

if TYPE_CHECKING:
    from aisp.rewards.algebra import Clip, Scaled, Sum

OnError = Literal["raise", "exclude"]
Verdict = Score | float | None
_SHOWN = 60


class Reward:
    """Scores candidates.

    Args:
        name: What its part is called in traces. The class's name in lower case by default.
        on_error: What can't be scored raises a `RewardError`, or is excluded: never returned, and named in the trace.
        partial: Whether it may score a response that isn't complete.
        cost: Relative cost of a candidate; cheap parts of a sum run first.
    """

    partial: bool = False
    cost: float = 1.0
    passes_at: float = 0.5
    """The least value that a `veto` lets pass where it is given no bound."""

    def __init__(
        self,
        *,
        name: str | None = None,
        on_error: OnError = "raise",
        partial: bool | None = None,
        cost: float | None = None,
    ) -> None:
        if on_error not in ("raise", "exclude"):
            raise ConfigurationError(f'on_error is {on_error!r}; expected "raise" or "exclude"')
        self.name = type(self).__name__.lower() if name is None else name
        if not self.name or "." in self.name:
            raise ConfigurationError(f"the name of a reward is {self.name!r}; expected something without a full stop")
        self.on_error: OnError = on_error
        self.partial = type(self).partial if partial is None else partial
        self.cost = type(self).cost if cost is None else cost

    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        """Score candidates; equal ones are scored once.

        Raises:
            RewardError: The reward raised, or returned what is no finite number a candidate (`on_error="raise"`).
        """
        from aisp.rewards.loop import run

        distinct, places = unique(candidates)
        scores = run(self._achecked(distinct)) if self.is_async else self._checked(distinct)
        return [scores[place] for place in places]

    async def ascore(self, candidates: Sequence[Candidate]) -> list[Score]:
        """Score candidates without blocking the caller's event loop. See `score`."""
        import asyncio

        from aisp.rewards.loop import submit

        if not self.is_async:
            return await asyncio.to_thread(self.score, candidates)
        distinct, places = unique(candidates)
        scores = await asyncio.wrap_future(submit(self._achecked(distinct)))
        return [scores[place] for place in places]

    def session(self) -> Reward:
        """Return what scores one request: it may remember and calibrate; this reward itself stays as it is."""
        from aisp.rewards.session import Memo

        return Memo(self)

    def fresh(self) -> Reward:
        """Return this reward with the state that one request needs; itself where it needs none."""
        return self

    def config(self) -> Mapping[str, Any]:
        """Return what makes this reward score as it does, as JSON."""
        return {}

    @property
    def fingerprint(self) -> str:
        """A digest of type and configuration: two rewards that may score differently never share one."""
        from aisp.version import __version__

        kind = f"{type(self).__module__}.{type(self).__qualname__}"
        content = [kind, __version__, self.name, self.on_error, self.config()]
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]

    @property
    def is_async(self) -> bool:
        """Whether `_ascore` is what scores."""
        return type(self)._score is Reward._score

    def _score(self, candidates: Sequence[Candidate]) -> Sequence[Verdict]:
        """Return one verdict a candidate."""
        raise NotImplementedError

    async def _ascore(self, candidates: Sequence[Candidate]) -> Sequence[Verdict]:
        """Return one verdict a candidate, on the event loop that the package owns."""
        raise NotImplementedError

    def _checked(self, candidates: Sequence[Candidate]) -> list[Score]:
        if not candidates:
            return []
        try:
            verdicts: Sequence[Any] = self._score(candidates)
        except Exception as error:
            if isinstance(error, RewardError) and self.on_error == "raise":
                raise
            if self.on_error == "exclude" and len(candidates) > 1:
                return [self._checked([candidate])[0] for candidate in candidates]
            return [self._failed(candidate, error) for candidate in candidates]
        return self._verdicts(candidates, verdicts)

    async def _achecked(self, candidates: Sequence[Candidate]) -> list[Score]:
        if not candidates:
            return []
        try:
            verdicts: Sequence[Any] = await self._ascore(candidates)
        except Exception as error:
            if isinstance(error, RewardError) and self.on_error == "raise":
                raise
            if self.on_error == "exclude" and len(candidates) > 1:
                return [(await self._achecked([candidate]))[0] for candidate in candidates]
            return [self._failed(candidate, error) for candidate in candidates]
        return self._verdicts(candidates, verdicts)

    def _verdicts(self, candidates: Sequence[Candidate], verdicts: Sequence[Any]) -> list[Score]:
        if not hasattr(verdicts, "__len__") or len(verdicts) != len(candidates):
            got = f"{len(verdicts)} verdicts" if hasattr(verdicts, "__len__") else type(verdicts).__name__
            raise RewardError(
                f"reward {self.name!r} returned {got} for {len(candidates)} candidates; expected one a candidate"
            )
        return [self._verdict(candidate, verdict) for candidate, verdict in zip(candidates, verdicts, strict=True)]

    def _verdict(self, candidate: Candidate, verdict: Any) -> Score:
        if isinstance(verdict, Score):
            if not verdict.usable or math.isfinite(verdict.value):
                return verdict if verdict.parts or not verdict.usable else self._named(verdict)
            return self._failed(candidate, f"a score of {verdict.value}")
        if hasattr(verdict, "item") and getattr(verdict, "size", 1) in (1, ()):
            verdict = verdict.item()
        if isinstance(verdict, numbers.Real) and math.isfinite(float(verdict)):
            return self._named(Score(value=float(verdict)))
        return self._failed(candidate, f"{verdict!r}, where a finite number was expected")

    def _named(self, score: Score) -> Score:
        """Give a score its own value as its one named part."""
        return Score(
            value=score.value,
            parts={self.name: score.value},
            comment=score.comment,
            vetoed=score.vetoed,
            error=score.error,
        )

    def _failed(self, candidate: Candidate, reason: Exception | str) -> Score:
        shown = candidate.text if len(candidate.text) <= _SHOWN else candidate.text[:_SHOWN] + "…"
        what = f"raised {reason!r}" if isinstance(reason, Exception) else f"returned {reason}"
        message = f"reward {self.name!r} {what} on the candidate {shown!r}"
        if self.on_error == "exclude":
            return Score(value=math.nan, error=message)
        hint = "; mend the reward, or let it drop such candidates with on_error='exclude'"
        raise RewardError(message + hint) from (reason if isinstance(reason, Exception) else None)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r})"

    def __add__(self, other: Reward | float) -> Sum:
        from aisp.rewards.algebra import add

        return add(self, other)

    def __radd__(self, other: Reward | float) -> Sum:
        from aisp.rewards.algebra import add

        return add(other, self)

    def __sub__(self, other: Reward | float) -> Sum:
        from aisp.rewards.algebra import add, scaled

        return add(self, scaled(other, -1.0) if isinstance(other, Reward) else -other)

    def __rsub__(self, other: float) -> Sum:
        from aisp.rewards.algebra import add, scaled

        return add(other, scaled(self, -1.0))

    def __mul__(self, factor: float) -> Scaled:
        from aisp.rewards.algebra import scaled

        return scaled(self, factor)

    __rmul__ = __mul__

    def __neg__(self) -> Scaled:
        return self * -1.0

    def clip(self, low: float | None = None, high: float | None = None) -> Clip:
        """Return this reward held within bounds; None leaves a side open."""
        from aisp.rewards.algebra import Clip

        return Clip(self, low, high)


def candidate_key(candidate: Candidate) -> str:
    """Return what two candidates must share to be scored alike."""
    # The ids of tool calls are drawn afresh for every candidate and mean nothing to a reward.
    calls = [{key: value for key, value in call.items() if key != "id"} for call in candidate.tool_calls]
    said = [candidate.text, candidate.reasoning, calls, candidate.invalid_tool_calls, candidate.structure]
    content = [*said, candidate.messages, candidate.reference]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=repr).encode()).hexdigest()


def unique(candidates: Sequence[Candidate]) -> tuple[list[Candidate], list[int]]:
    """Return the distinct candidates, and for each given one its place among them."""
    distinct: list[Candidate] = []
    known: dict[str, int] = {}
    places = []
    for candidate in candidates:
        key = candidate_key(candidate)
        if key not in known:
            known[key] = len(distinct)
            distinct.append(candidate)
        places.append(known[key])
    return distinct, places
