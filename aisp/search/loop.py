"""The one loop: propose, roll out, score, update. It serves one request and keeps the best response so far.

Everything that searches consumes `Search.events`, through `aisp.service.Run`. With `commit_tokens` the same loop runs
once a block: what it found is committed, and the next one goes on from there.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from aisp.engines.base import Engine, Progress
from aisp.errors import (
    AllCandidatesExcludedError,
    DeadlineExceededError,
    EngineError,
    RewardWarning,
)
from aisp.noise import fresh_seed, root_seed, row_seed
from aisp.records import Candidate, Prefix, Proposal, Rollout, Score
from aisp.rewards.deadline import ScoringStoppedError, score_within
from aisp.rewards.findings import findings
from aisp.search.blocks import Block, next_block
from aisp.search.checks import check_budget, check_commits, check_needs
from aisp.search.events import Event, ResponseScored, SearchEnded, SearchStep, TextCommitted
from aisp.search.plan import Plan
from aisp.search.request import Request
from aisp.search.state import SearchState
from aisp.search.stopping import Stops, explain_nothing_left
from aisp.search.trace import Alignment, Cost, Response, Round, StoppedBy
from aisp.strategies.base import Info, SearchContext, Strategy

if TYPE_CHECKING:
    from aisp.rewards.base import Reward

Parse = Callable[[Request, Rollout], Candidate]
Settle = Callable[[Request, Rollout], str]

# Share of a timeout that a reward gets for the first responses, where decoding them took all of it: something that was
# cut short can then still be returned. In seconds, no less than a quick reward takes.
_GRACE, _LEAST_GRACE = 0.1, 0.1
# The round that the final choice is seeded as; no round of a search has this number.
_AFTER_ALL = -1


class Aligner:
    """What a search is made of. It serves any number of requests, also at once.

    Args:
        engine: Draws responses.
        strategy: Proposes them.
        reward: Scores them; None takes the first.
        plan: How many, in rounds of how many.
        parse: Makes a candidate of a rollout.
        settle: Says what stays of an unfinished response's text, to be handed out as committed.
        stops: When to end before that.
        kl_budget: A response along which the steering moved the model by more nats than this counts as vetoed; None
            for no limit. What choosing among responses adds is not counted.
        commit_tokens: Search block after block of this many tokens (`aisp.search.blocks`), each settled once it is
            chosen; None searches whole responses.
        clock: Tells the time in seconds, which deadlines are compared with.

    Raises:
        ConfigurationError: A budget above 1 without a reward, blocks for a reward that can't score them, or a strategy
            that needs what the engine does not offer.
    """

    def __init__(
        self,
        engine: Engine,
        strategy: Strategy[Any],
        reward: Reward | None,
        plan: Plan,
        *,
        parse: Parse,
        settle: Settle,
        stops: Stops | None = None,
        kl_budget: float | None = None,
        commit_tokens: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        check_budget(plan, reward)
        check_commits(commit_tokens, reward)
        check_needs(strategy, engine)
        self.engine = engine
        self.strategy = strategy
        self.reward = reward
        self.plan = plan
        self.stops = stops or Stops()
        self.parse = parse
        self.settle = settle
        self.kl_budget = kl_budget
        self.commit_tokens = commit_tokens
        self.clock = clock

    @property
    def name(self) -> str:
        """What the trace calls the search: the strategy, and blocks where they are committed."""
        blocks = "" if self.commit_tokens is None else f", blocks of {self.commit_tokens}"
        return self.strategy.name + blocks

    def search(self, request: Request, progress: Progress | None = None) -> Search:
        """Return a search for a request; nothing is drawn before its events are asked for."""
        return Search(self, request, progress)


class Search:
    """One request's search.

    Args:
        aligner: What it is made of.
        request: What is asked for.
        progress: Called between decode steps with the number of new tokens.
    """

    def __init__(self, aligner: Aligner, request: Request, progress: Progress | None = None) -> None:
        self._with = aligner
        self._request = request
        self._progress = progress
        self._scorer = None if aligner.reward is None else aligner.reward.session()
        self._strategy_state: Any = None
        self._state = SearchState(
            started=aligner.clock(),
            seed=fresh_seed() if request.seed is None else request.seed,
            block=self._next_block(None, None),
        )

    def events(self) -> Iterator[Event | SearchEnded]:
        """Search, yielding what happens; the last event holds the alignment.

        Raises:
            RewardError: The reward failed (and was not told to exclude what it can't score).
            AllCandidatesExcludedError: Every candidate was vetoed or excluded.
            DeadlineExceededError: The deadline passed, with `on_timeout="raise"`.
            EngineError: Decoding failed, or was cancelled before the first response was complete.
        """
        state, prefix = self._state, self._with.engine.prefill(self._request.prompt_tokens)
        while True:
            self._strategy_state = self._with.strategy.init(self._context())
            chosen, stopped_by = None, self._stopped_by()
            while stopped_by is None:
                round_ = self._round(prefix)
                stopped_by = self._stopped_by()
                if stopped_by is not None:
                    chosen = self._choose()
                if round_ is not None:
                    yield from self._tell(round_, chosen)
            if chosen is None or not chosen.rollout.paused or stopped_by in ("deadline", "cancelled"):
                break
            state.commit(self._next_block(state.block, chosen.rollout), chosen)
        alignment = self._finish(chosen, stopped_by)
        rest = alignment.text[len(state.text) :]
        if rest:
            yield TextCommitted(rest, last=True)
        yield SearchEnded(alignment)

    def _context(self) -> SearchContext:
        """Return what the strategy is told of the block."""
        given = self._with
        return self._state.block.context(
            root_seed=self._root_seed,
            num_samples=given.plan.num_samples,
            max_tokens=self._request.limits.max_tokens,
            partial=given.reward is None or given.reward.partial,
            kl_budget=given.kl_budget,
        )

    @property
    def _root_seed(self) -> int:
        return root_seed(self._state.seed, self._request.prompt_tokens)

    def _next_block(self, last: Block | None, committed: Rollout | None) -> Block:
        spent, limits = (0 if last is None else self._state.spent), self._request.limits
        return next_block(self._with.plan, spent, self._with.commit_tokens, limits.max_tokens, last, committed)

    def _round(self, prefix: Prefix) -> Round | None:
        """Draw and score a round; None where the time ran out and nothing of it is of use."""
        state, strategy, started = self._state, self._with.strategy, self._with.clock()
        proposals = strategy.propose(self._strategy_state, min(self._with.plan.num_samples, state.left))
        drawn = self._request.with_grammar(state.block.to_response(proposals), first=state.spent == 0)
        rollouts = self._with.engine.rollout(prefix, drawn, self._request.limits, self._progress)
        complete = [row for row, rollout in enumerate(rollouts) if rollout.finish_reason != "cancelled"]
        rows = complete
        if len(complete) < len(rollouts):  # the time ran out: what is complete may still be the best
            state.cut_by = "cancelled" if self._cancelled else "deadline"
            if not complete and state.best is None and not self._cancelled:
                rows = list(range(len(rollouts)))
        responses, info = self._score(proposals, rollouts, rows), Info()
        if state.cut_by is None:
            scores = [response.score for response in responses]
            own = state.block.to_block(rollouts)
            self._strategy_state, info = strategy.update(self._strategy_state, proposals, own, scores)
        state.spent += len(rollouts)
        state.forward_tokens += sum(rollout.forward_tokens for rollout in rollouts)
        if not responses:
            return None
        state.keep_best(responses, blocks=self._with.commit_tokens is not None)
        round_ = Round(
            index=len(state.rounds),
            responses=tuple(responses),
            best=state.best,
            ess=info.ess,
            reward_temperature=info.reward_temperature,
            seconds=self._with.clock() - started,
            block=state.block.index,
            start=state.block.start,
        )
        state.rounds.append(round_)
        return round_

    def _score(self, proposals: Sequence[Proposal], rollouts: Sequence[Rollout], rows: Sequence[int]) -> list[Response]:
        candidates = [self._with.parse(self._request, rollouts[row]) for row in rows]
        scores = self._scores(candidates)
        return [
            Response(
                candidate=candidate,
                score=self._veto(score, candidate, rollouts[row]),
                rollout=rollouts[row],
                proposal=proposals[row],
                round_index=len(self._state.rounds),
                row=row,
            )
            for candidate, score, row in zip(candidates, scores, rows, strict=True)
        ]

    def _scores(self, candidates: Sequence[Candidate]) -> list[Score]:
        """Return the reward's scores; where the time runs out over them, none of the candidates has one."""
        state, deadline = self._state, self._request.limits.deadline
        if self._scorer is None:
            return [Score(value=0.0)] * len(candidates)
        if deadline is None or not candidates:
            return self._scorer.score(candidates)
        grace = max(_GRACE * (deadline - state.started), _LEAST_GRACE) if state.best is None else 0.0
        until = time.monotonic() + deadline - self._with.clock()
        cancel = self._request.limits.cancel
        try:
            return score_within(self._scorer, candidates, deadline=until, cancel=cancel, grace=grace)
        except ScoringStoppedError as stopped:
            state.cut_by = stopped.reason
            return [Score(value=math.nan, error=str(stopped))] * len(candidates)

    def _veto(self, score: Score, candidate: Candidate, rollout: Rollout) -> Score:
        """Veto responses that were steered too far, and those that contradict text that was handed out."""
        nats, limit = float(rollout.tokens.kl_to_base.sum()), self._with.kl_budget
        if limit is not None and nats > limit:
            comment = f"steered by {nats:.1f} nats, over the kl_budget of {limit:g}"
            comment = comment if score.comment is None else f"{score.comment}; {comment}"
            score = replace(score, vetoed=True, comment=comment)
        shown = self._state.text
        text = self._with.settle(self._request, rollout) if rollout.paused else candidate.text
        # A text that turns out to be a tool call, for example.
        if text.startswith(shown) or (rollout.paused and shown.startswith(text)):
            return score
        return replace(score, vetoed=True, comment="takes back text that was committed")

    def _tell(self, round_: Round, chosen: Response | None) -> Iterator[Event]:
        """Yield what a round found, with the text that is settled by it where it was its block's last."""
        state = self._state
        if chosen is not None and self._with.commit_tokens is not None:
            text = self._with.settle(self._request, chosen.rollout) if chosen.rollout.paused else chosen.text
            state.rounds[-1] = round_ = replace(round_, committed=text[len(state.text) :])
            state.text += round_.committed
        yield from map(ResponseScored, round_.responses)
        yield SearchStep(round_)
        if round_.committed:
            yield TextCommitted(round_.committed)

    @property
    def _cancelled(self) -> bool:
        cancel = self._request.limits.cancel
        return cancel is not None and cancel.is_set()

    def _stopped_by(self) -> StoppedBy | None:
        state, stops, deadline = self._state, self._with.stops, self._request.limits.deadline
        if self._cancelled:
            return "cancelled"
        if state.best is not None and stops.target_reward is not None and state.best.reward >= stops.target_reward:
            return "target_reward"
        if state.cut_by is not None:
            return state.cut_by
        if state.left <= 0:
            return "budget"
        if deadline is not None and state.spent and self._with.clock() >= deadline:
            return "deadline"
        if stops.patience is not None and state.stale >= stops.patience:
            return "patience"
        return None

    def _choose(self) -> Response | None:
        """Return the block's response: the best, unless the strategy has a rule of its own."""
        state, choose = self._state, getattr(self._with.strategy, "choose", None)
        if state.best is None or choose is None:
            return state.best
        blocks = self._with.commit_tokens is not None
        usable = [r for round_ in state.own_rounds for r in round_.usable if blocks or not r.rollout.paused]
        rng = np.random.default_rng(row_seed(self._root_seed, _AFTER_ALL, state.block.index))
        rewards = np.array([response.reward for response in usable])
        return usable[int(choose(self._strategy_state, rewards, rng))]

    def _finish(self, chosen: Response | None, stopped_by: StoppedBy) -> Alignment:
        state, given = self._state, self._with
        if (
            given.commit_tokens is not None
            and chosen is not None
            and chosen.rollout.finish_reason in ("stop", "length")
        ):
            stopped_by = "complete"
        if stopped_by == "deadline" and given.stops.on_timeout == "raise":
            raise DeadlineExceededError(
                f"the deadline passed after {state.spent} of {given.plan.budget} responses; "
                'give more time, a smaller budget, or on_timeout="best" to take the best so far'
            )
        best = chosen or state.best_unfinished(stopped_by)
        if best is None:
            if stopped_by == "cancelled":
                raise EngineError("cancelled before the first response was complete")
            if stopped_by == "deadline" and not any(_was_scored(round_) for round_ in state.own_rounds):
                raise DeadlineExceededError(
                    f"the deadline passed before the first of {given.plan.budget} responses was scored; give more "
                    "time, fewer tokens, or a faster reward"
                )
            raise AllCandidatesExcludedError(explain_nothing_left(state.own_rounds))
        if best.rollout.paused:  # there is nobody left who would go on with it
            best = replace(best, rollout=replace(best.rollout, finish_reason="cancelled"))
        return Alignment(
            best=best,
            rounds=tuple(state.rounds),
            stopped_by=stopped_by,
            cost=self._cost(),
            strategy=given.name,
            seed=state.seed,
            budget=given.plan.budget,
            reward=None if given.reward is None else given.reward.name,
            warnings=self._warnings(),
        )

    def _warnings(self) -> tuple[str, ...]:
        """Return what is wrong with the reward, as far as this search can tell."""
        if self._scorer is None or self._state.cut_by is not None:
            return ()
        responses = [response for round_ in self._state.rounds for response in round_.responses]
        found = findings([response.score for response in responses], [response.text for response in responses])
        for sentence in found:
            warnings.warn(sentence, RewardWarning, stacklevel=2)
        return tuple(found)

    def _cost(self) -> Cost:
        """Return what was spent. Of a budget of 1, one response is one, however many blocks it is written in."""
        state = self._state
        return Cost(
            responses=min(self._with.plan.budget, sum(len(round_.responses) for round_ in state.rounds)),
            forward_tokens=state.forward_tokens,
            prompt_tokens=len(self._request.prompt_tokens),
            seconds=self._with.clock() - state.started,
        )


def _was_scored(round_: Round) -> bool:
    return any(response.score.error is None for response in round_.responses)
