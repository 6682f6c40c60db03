"""How candidates become checked scores: the one place that calls a reward's own code.

candidates -> distinct ones -> private copies -> _score or _ascore -> verdicts -> checked scores
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from aisp.errors import ConfigurationError, RewardError
from aisp.records import Candidate, Score
from aisp.rewards.candidates import private_copies, unique
from aisp.rewards.event_loop import run, submit
from aisp.rewards.scope import GivenUp, stop_if_given_up
from aisp.rewards.verdicts import VerdictError, as_list, as_score
from aisp.version import __version__

OnError = Literal["raise", "exclude"]
Verdict = Score | float | None
_SHOWN = 60


class Scorer:
    """What has a name and scores candidates: all of a reward except its operators. See `aisp.rewards.Reward`."""

    partial: bool = False
    cost: float = 1.0
    passes_at: float = 0.5
    """The least value that a `veto` lets pass where it is given no bound."""
    gate: bool = False
    """Whether it is asked before others, since it may spare them."""

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

    def check(self) -> None:
        """Find what would fail later, as a model or a package that is missing, without loading weights.

        Raises:
            AISPError: What is missing or doesn't fit, and what to do about it.
        """

    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        """Score candidates; equal ones are scored once.

        Raises:
            RewardError: The reward raised, or returned something else than a finite number a candidate
                (`on_error="raise"`).
        """
        distinct, places = unique(candidates)
        scores = run(self._achecked(distinct)) if self.is_async else self._checked(distinct)
        return [scores[place] for place in places]

    async def ascore(self, candidates: Sequence[Candidate]) -> list[Score]:
        """Score candidates without blocking the caller's event loop. See `score`."""
        if not self.is_async:
            return await asyncio.to_thread(self.score, candidates)
        distinct, places = unique(candidates)
        scores = await asyncio.wrap_future(submit(self._achecked(distinct)))
        return [scores[place] for place in places]

    def config(self) -> Mapping[str, Any]:
        """Return what makes this reward score as it does, as JSON."""
        return {}

    @property
    def fingerprint(self) -> str:
        """A digest of type and configuration: two rewards that may score differently never share one."""
        kind = f"{type(self).__module__}.{type(self).__qualname__}"
        content = [kind, __version__, self.name, self.on_error, self.config()]
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]

    @property
    def is_async(self) -> bool:
        """Whether `_ascore` is what scores."""
        return type(self)._score is Scorer._score

    def _score(self, candidates: Sequence[Candidate]) -> Sequence[Verdict]:
        """Return one verdict a candidate."""
        raise NotImplementedError

    async def _ascore(self, candidates: Sequence[Candidate]) -> Sequence[Verdict]:
        """Return one verdict a candidate, on the event loop that the package owns."""
        raise NotImplementedError

    def _handed(self, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """Return what `_score` and `_ascore` are given."""
        return private_copies(candidates)

    def _checked(self, candidates: Sequence[Candidate]) -> list[Score]:
        if not candidates:
            return []
        stop_if_given_up()
        try:
            verdicts = as_list(self._score(self._handed(candidates)), len(candidates))
        except BaseException as error:
            if not is_own_failure(error):
                raise
            if self._goes_on_singly(candidates):
                return [self._checked([candidate])[0] for candidate in candidates]
            return [self._failed(candidate, error) for candidate in candidates]
        return [self._verdict(candidate, verdict) for candidate, verdict in zip(candidates, verdicts, strict=True)]

    async def _achecked(self, candidates: Sequence[Candidate]) -> list[Score]:
        if not candidates:
            return []
        try:
            verdicts = as_list(await self._ascore(self._handed(candidates)), len(candidates))
        except BaseException as error:
            if not is_tasks_own_failure(error):
                raise
            if self._goes_on_singly(candidates):
                return [(await self._achecked([candidate]))[0] for candidate in candidates]
            return [self._failed(candidate, error) for candidate in candidates]
        return [self._verdict(candidate, verdict) for candidate, verdict in zip(candidates, verdicts, strict=True)]

    def _goes_on_singly(self, candidates: Sequence[Candidate]) -> bool:
        """Return whether candidates that failed together are worth a try one by one."""
        return self.on_error == "exclude" and len(candidates) > 1

    def _verdict(self, candidate: Candidate, verdict: Any) -> Score:
        try:
            return as_score(verdict, self.name)
        except VerdictError as error:
            return self._failed(candidate, error)

    def _failed(self, candidate: Candidate, error: BaseException) -> Score:
        """Exclude a candidate that can't be scored, or raise."""
        if isinstance(error, RewardError) and self.on_error == "raise":
            raise error
        text = candidate.text if len(candidate.text) <= _SHOWN else candidate.text[:_SHOWN] + "…"
        what = f"returned {error}" if isinstance(error, VerdictError) else f"raised {error!r}"
        message = f"reward {self.name!r} {what} on the candidate {text!r}"
        if self.on_error == "exclude":
            return Score(value=math.nan, error=message)
        hint = "; mend the reward, or let it drop such candidates with on_error='exclude'"
        raise RewardError(message + hint) from error

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r})"


def is_own_failure(error: BaseException) -> bool:
    """Return whether what a function raised is the reward's own failure, rather than somebody's wish to end it.

    Signal handlers, which may mean the process, run on the main thread: elsewhere even `sys.exit()` is the reward's
    own. Nobody can cancel a function, nor close it.
    """
    if isinstance(error, Exception | asyncio.CancelledError | GeneratorExit):
        return True
    return not isinstance(error, GivenUp) and threading.current_thread() is not threading.main_thread()


def is_tasks_own_failure(error: BaseException) -> bool:
    """Return whether what a coroutine raised on the event loop is the reward's own failure. See `is_own_failure`."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and not task.cancelling()
    return not isinstance(error, GivenUp | GeneratorExit)
