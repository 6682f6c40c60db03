"""From rollouts to responses: parsed, scored within the deadline, vetoed where the search has a reason of its own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from aisp.records import Candidate, Rollout, Score
from aisp.rewards.deadline import ScoringStoppedError, score_within
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

    def responses(self, state: SearchState, drawn: Sequence[Drawn], rollouts: Sequence[Rollout]) -> list[Response]:
        """Score rollouts, the i-th of which answers the i-th proposal. `state.cut_by` says if the time ran out."""
        candidates = [self.parse(self.request, rollout) for rollout in rollouts]
        scores = self._scores(state, candidates)
        seconds = self.clock() - state.started
        return [
            Response(
                candidate=candidate,
                score=self._veto(state, score, candidate, rollout),
                rollout=rollout,
                proposal=one.proposal,
                round_index=len(state.rounds),
                row=len(state.open) + row,
                known=one.known,
                seconds=seconds,
            )
            for row, (candidate, score, rollout, one) in enumerate(
                zip(candidates, scores, rollouts, drawn, strict=True)
            )
        ]

    def settled_text(self, response: Response) -> str:
        """Return what stays of a response's text, whatever comes after it."""
        rollout = response.rollout
        return self.settle(self.request, rollout) if rollout.paused else response.text

    def _scores(self, state: SearchState, candidates: Sequence[Candidate]) -> list[Score]:
        """Return the reward's scores; where the time runs out over them, none of the candidates has one."""
        deadline = self.request.limits.deadline
        if self.reward is None:
            return [Score(value=0.0)] * len(candidates)
        if deadline is None or not candidates:
            return self.reward.score(candidates)
        grace = max(_GRACE * (deadline - state.started), _LEAST_GRACE) if state.best is None else 0.0
        until = time.monotonic() + deadline - self.clock()
        try:
            return score_within(self.reward, candidates, deadline=until, cancel=self.request.limits.cancel, grace=grace)
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
