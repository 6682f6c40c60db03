"""The one loop: propose, draw, score, update. It serves one request and keeps the best response so far.

Everything that searches consumes `Search.events`, through `aisp.service.Run`. With `commit_tokens` the same loop runs
once a block: what it found is committed, and the next one goes on from there.
"""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
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
from aisp.records import Proposal, Rollout
from aisp.search.blocks import Block, next_block
from aisp.search.checks import check_budget, check_commits, check_needs
from aisp.search.doubts import doubts
from aisp.search.draws import Drawn, Draws
from aisp.search.events import Event, ResponseScored, SearchEnded, SearchStep, TextCommitted
from aisp.search.gain import Prospect, prospect_of
from aisp.search.guard import Bounds, Guard
from aisp.search.plan import Plan
from aisp.search.request import Request
from aisp.search.scoring import Parse, Scoring, Settle, Unscored, has_async_part
from aisp.search.state import SearchState
from aisp.search.stopping import Stops, explain_nothing_left
from aisp.search.told import Told
from aisp.search.trace import Alignment, Cost, Response, StoppedBy, best_of
from aisp.strategies.base import SearchContext, Strategy, is_asynchronous

if TYPE_CHECKING:
    from aisp.rewards.base import Reward

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
        guarded: Refuse what does not read like the model's plain samples (`aisp.search.guard`).
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
        guarded: bool = False,
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
        self.guarded = guarded
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
        self._state = SearchState(
            started=aligner.clock(),
            opened=aligner.clock(),
            seed=fresh_seed() if request.seed is None else request.seed,
            block=self._next_block(None, None),
        )
        self._scoring = Scoring(
            request=request,
            reward=None if aligner.reward is None else aligner.reward.session(),
            parse=aligner.parse,
            settle=aligner.settle,
            kl_budget=aligner.kl_budget,
            clock=aligner.clock,
        )

    def events(self) -> Iterator[Event | SearchEnded]:
        """Search, yielding what happens; the last event holds the alignment.

        Raises:
            RewardError: The reward failed (and was not told to exclude what it can't score).
            AllCandidatesExcludedError: Every candidate was vetoed or excluded.
            DeadlineExceededError: The deadline passed, with `on_timeout="raise"`.
            EngineError: Decoding failed, or was cancelled before the first response was complete.
        """
        state, given = self._state, self._with
        prefix = given.engine.prefill(self._request.prompt_tokens)
        while True:
            self._told = Told(given.strategy, self._context())
            self._guard = Guard() if given.guarded and given.reward is not None else None
            in_flight = given.plan.in_flight if is_asynchronous(given.strategy) else given.plan.num_samples
            with (
                Draws(
                    given.engine, prefix, self._request, given.strategy, in_flight, self._worth, self._progress
                ) as draws,
                closing(self._ended(draws, in_flight)) as ended,
            ):
                for unscored in ended:
                    yield from map(ResponseScored, self._take(unscored))
                    if self._round_is_full:
                        state.count_round(blocks=self._blocks)
                        if self._stopped_by() is None:
                            yield from self._close_round(None)
                state.forward_tokens += draws.unused_tokens
            stopped_by = self._stopped_by() or "converged"
            self._hold_to_bounds(None if self._guard is None else self._guard.close())
            chosen = self._choose()
            if state.open:
                yield from self._close_round(chosen)
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

    def _ended(self, draws: Draws, in_flight: int) -> Generator[Unscored]:
        """Yield what has ended, to be taken in that order.

        A reward that waits for something outside of this process is asked at once, while others are being written: the
        scores of as many responses as are in flight may be on their way. Which are is a matter of their number and
        never of the clock.
        """
        state, waiting = self._state, deque[Unscored]()
        reward = self._with.reward
        overlaps = is_asynchronous(self._with.strategy) and reward is not None and has_async_part(reward)
        try:
            while self._stopped_by() is None:
                drawn = draws.next(state, self._told.state)
                if not drawn and not waiting:  # no further response is worth it
                    return
                if drawn:
                    waiting.append(self._scoring.begin(drawn, self._of_use(drawn), ahead=overlaps))
                    state.unscored += len(drawn)
                most, due = in_flight if overlaps and state.told else 0, not drawn or state.cut_by is not None
                while waiting and (due or state.unscored > most):
                    state.unscored -= len(waiting[0])
                    yield waiting.popleft()
                    due = state.cut_by is not None
                    if self._stopped_by() is not None and not due:
                        return
        finally:
            for unscored in waiting:
                unscored.give_up()
                state.forward_tokens += unscored.forward_tokens
            state.unscored = 0

    def _of_use(self, drawn: Sequence[Drawn]) -> list[int]:
        """Return the places of what is complete; what was cut short is of use only if there is nothing else."""
        state = self._state
        complete = [row for row, one in enumerate(drawn) if one.rollout.finish_reason != "cancelled"]
        if len(complete) == len(drawn):
            return complete
        state.cut_by = "cancelled" if self._cancelled else "deadline"  # what is complete may still be the best
        if not complete and state.best is None and not self._cancelled:
            return list(range(len(drawn)))
        return complete

    def _take(self, unscored: Unscored) -> list[Response]:
        """Score what has ended, and tell the strategy."""
        state, drawn = self._state, unscored.drawn
        state.spent += len(drawn)
        state.forward_tokens += unscored.forward_tokens
        responses, bounds = self._scoring.finish(state, unscored), None
        if self._guard is not None:
            bounds = self._guard.learn(responses)
            responses = [self._guard.judged(response) for response in responses]
        state.open += responses
        state.best = best_of(responses, state.best, paused=self._blocks)
        if state.cut_by is None:
            own = state.block.to_block([one.rollout for one in drawn])
            self._told.tell([one.proposal for one in drawn], own, [response.score for response in responses])
        self._hold_to_bounds(bounds)
        return responses

    def _hold_to_bounds(self, bounds: Bounds | None) -> None:
        """Judge what came before the guard's bounds were known, and tell the strategy anew where that changes it."""
        if bounds is None or self._guard is None:
            return
        before = [response.refused for response in self._state.own_responses]
        self._state.rescore(self._guard.judged, blocks=self._blocks)
        responses = self._state.own_responses
        if self._state.cut_by is None and before != [response.refused for response in responses]:
            self._told.tell_again([response.score for response in responses])

    def _close_round(self, chosen: Response | None) -> Iterator[Event]:
        """Yield a round, with the text that is settled by it where it was its block's last."""
        state = self._state
        round_ = state.close_round(self._told.info, self._with.clock())
        if chosen is not None and self._blocks:
            text = self._scoring.settled_text(chosen)
            state.rounds[-1] = round_ = replace(round_, committed=text[len(state.text) :])
            state.text += round_.committed
        yield SearchStep(round_)
        if round_.committed:
            yield TextCommitted(round_.committed)

    @property
    def _round_is_full(self) -> bool:
        plan, strategy = self._with.plan, self._with.strategy
        return not is_asynchronous(strategy) or len(self._state.open) >= plan.num_samples

    @property
    def _blocks(self) -> bool:
        """Whether blocks are committed, so that an unfinished response may be the best."""
        return self._with.commit_tokens is not None

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

    def _worth(self, unscored: Sequence[Proposal], room: int) -> int:
        """Return how many of so many further responses are expected to gain what they cost."""
        price = self._with.stops.response_price
        if not price or (prospect := self._prospect(unscored)) is None:
            return room
        return prospect.worth(price, len(unscored), room, together=not is_asynchronous(self._with.strategy))

    def _prospect(self, unscored: Sequence[Proposal] = ()) -> Prospect | None:
        """Return what a further response of the block may bring; None where nothing is known of it."""
        if self._with.reward is None:
            return None
        responses = [r for r in self._state.own_responses if self._blocks or not r.rollout.paused]
        return prospect_of(responses, unscored)

    def _choose(self) -> Response | None:
        """Return the block's response: the best, unless the strategy has a rule of its own."""
        state, choose = self._state, getattr(self._with.strategy, "choose", None)
        if state.best is None or choose is None:
            return state.best
        usable = [r for r in state.own_responses if r.score.usable and (self._blocks or not r.rollout.paused)]
        rng = np.random.default_rng(row_seed(self._root_seed, _AFTER_ALL, state.block.index))
        rewards = np.array([response.reward for response in usable])
        return usable[int(choose(self._told.state, rewards, rng))]

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
        best = chosen or state.best_unfinished(stopped_by) or state.best_refused
        if best is None:
            if stopped_by == "cancelled":
                raise EngineError("cancelled before the first response was complete")
            if stopped_by == "deadline" and not any(response.score.error is None for response in state.own_responses):
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
            guarded=given.guarded and given.reward is not None,
            expected_gain=None if (prospect := self._prospect()) is None else prospect.gain(),
            warnings=self._warnings(best),
        )

    def _warnings(self, best: Response) -> tuple[str, ...]:
        """Return what is doubtful of the reward or the answer, as far as this search can tell."""
        if self._with.reward is None or self._state.cut_by is not None:
            return ()
        of_reward, of_answer = doubts(best, [r for round_ in self._state.rounds for r in round_.responses])
        for sentence in of_reward:
            warnings.warn(sentence, RewardWarning, stacklevel=2)
        return (*of_reward, *of_answer)

    def _cost(self) -> Cost:
        """Return what was spent. Of a budget of 1, one response is one, however many blocks it is written in."""
        state = self._state
        return Cost(
            responses=min(self._with.plan.budget, sum(len(round_.responses) for round_ in state.rounds)),
            forward_tokens=state.forward_tokens,
            prompt_tokens=len(self._request.prompt_tokens),
            seconds=self._with.clock() - state.started,
        )
