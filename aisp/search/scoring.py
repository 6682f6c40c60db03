"""From rollouts to responses: parsed, scored within the deadline, vetoed where the search has a reason of its own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from aisp.records import Candidate, Rollout, Score
from aisp.rewards.deadline import ScoringCall, ScoringStoppedError, score_within
from aisp.search.draws import Drawn
from aisp.search.request import Request
from aisp.search.state import SearchState
from aisp.search.trace import Response

if TYPE_CHECKING:
    from aisp.rewards.base import Reward

Parse = Callable[[Request, Rollout], Candidate]
Settle = Callable[[Request, Rollout], str]

# Share of a timeout that a reward gets for the first responses, where decoding them took all of it: something that was
# cut short can then still be returned. In seconds, no less than a quick reward takes.
_GRACE, _LEAST_GRACE = 0.1, 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Unscored:
    """Responses that have ended at one moment, and whose scores may be on their way.

    Args:
        drawn: All of them.
        rows: The places of those that are scored.
        candidates: These, as the reward sees them.
        call: The reward at work on them; None where it is yet to be asked.
    """

    drawn: Sequence[Drawn]
    rows: Sequence[int]
    candidates: Sequence[Candidate]
    call: ScoringCall | None

    def __len__(self) -> int:
        return len(self.drawn)

    @property
    def forward_tokens(self) -> int:
        return sum(one.rollout.forward_tokens for one in self.drawn)

    def give_up(self) -> None:
        """Let the reward stop, where it can."""
        if self.call is not None:
            self.call.give_up()


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How a request's responses are scored.

    Args:
        request: What is asked for.
        reward: A session of the reward; None gives everything 0.
        parse: Makes a candidate of a rollout.
        settle: Says what stays of an unfinished response's text.
        kl_budget: Nats of steering from which a response counts as vetoed; None for no limit.
        clock: Tells the time in seconds, which the request's deadline is compared with.
    """

    request: Request
    reward: Reward | None
    parse: Parse
    settle: Settle
    kl_budget: float | None
    clock: Callable[[], float]

    def begin(self, drawn: Sequence[Drawn], rows: Sequence[int], *, ahead: bool) -> Unscored:
        """Parse responses, and have those of some rows scored.

        Args:
            drawn: What has ended.
            rows: What of it is of use.
            ahead: Ask the reward now, on another thread; else `finish` does.
        """
        candidates = [self.parse(self.request, drawn[row].rollout) for row in rows]
        call = ScoringCall(self.reward, candidates) if ahead and self.reward is not None and candidates else None
        return Unscored(drawn=drawn, rows=rows, candidates=candidates, call=call)

    def finish(self, state: SearchState, unscored: Unscored) -> list[Response]:
        """Return the scored responses. `state.cut_by` says if the time ran out over them."""
        scores = self._scores(state, unscored)
        seconds = self.clock() - state.started
        drawn = [unscored.drawn[row] for row in unscored.rows]
        return [
            Response(
                candidate=candidate,
                score=self._veto(state, score, candidate, one.rollout),
                rollout=one.rollout,
                proposal=one.proposal,
                round_index=len(state.rounds),
                row=len(state.open) + row,
                known=one.known,
                seconds=seconds,
            )
            for row, (candidate, score, one) in enumerate(zip(unscored.candidates, scores, drawn, strict=True))
        ]

    def settled_text(self, response: Response) -> str:
        """Return what stays of a response's text, whatever comes after it."""
        rollout = response.rollout
        return self.settle(self.request, rollout) if rollout.paused else response.text

    def _scores(self, state: SearchState, unscored: Unscored) -> list[Score]:
        """Return the reward's scores; where the time runs out over them, none of the candidates has one."""
        candidates, deadline, cancel = unscored.candidates, self.request.limits.deadline, self.request.limits.cancel
        if self.reward is None:
            return [Score(value=0.0)] * len(candidates)
        if unscored.call is None and (deadline is None or not candidates):
            return self.reward.score(candidates)
        grace = max(_GRACE * (deadline - state.started), _LEAST_GRACE) if deadline and state.best is None else 0.0
        until = None if deadline is None else time.monotonic() + deadline - self.clock()
        try:
            if unscored.call is not None:
                return unscored.call.within(None if until is None else until + grace, cancel)
            return score_within(self.reward, candidates, deadline=until, cancel=cancel, grace=grace)
        except ScoringStoppedError as stopped:
            state.cut_by = stopped.reason
            return [Score(value=math.nan, error=str(stopped))] * len(candidates)

    def _veto(self, state: SearchState, score: Score, candidate: Candidate, rollout: Rollout) -> Score:
        """Veto responses that were steered too far, and those that contradict text that was handed out."""
        nats, limit = float(rollout.tokens.kl_to_base.sum()), self.kl_budget
        if limit is not None and nats > limit:
            score = vetoed(score, f"steered by {nats:.1f} nats, over the kl_budget of {limit:g}")
        text = self.settle(self.request, rollout) if rollout.paused else candidate.text
        # A text that turns out to be a tool call, for example.
        if text.startswith(state.text) or (rollout.paused and state.text.startswith(text)):
            return score
        return replace(score, vetoed=True, comment="takes back text that was committed")


def vetoed(score: Score, why: str) -> Score:
    """Return a score as vetoed, with the reason behind what a judge said."""
    return replace(score, vetoed=True, comment=why if score.comment is None else f"{score.comment}; {why}")


def has_async_part(reward: Reward) -> bool:
    """Return whether a reward waits for something outside of this process, as a judge over HTTP does."""
    return any(part.is_async for part in reward.leaves())
