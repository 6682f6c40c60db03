"""The one loop: propose, roll out, score, update. It serves one request and keeps the best response so far.

Everything that searches (invoke, stream, the command line, the benchmark) consumes `Aligner.rounds`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from aisp.engines.base import Engine, Progress
from aisp.errors import AllCandidatesExcludedError, ConfigurationError, DeadlineExceededError, EngineError
from aisp.noise import fresh_seed, root_seed, row_seed
from aisp.plan import Plan
from aisp.records import Candidate, Limits, Message, Rollout, Score
from aisp.selection import Best, Selection, choose
from aisp.strategies.base import Info, Setting, Strategy
from aisp.trace import Alignment, Cost, Response, Round, StoppedBy, best_of

if TYPE_CHECKING:
    from aisp.rewards.base import Reward

Parse = Callable[["Request", Rollout], Candidate]

# The round that a selection rule's draw is seeded as: none that a search gets to.
_AFTER_ALL = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked of the aligner.

    Args:
        messages: The prompt's messages, OpenAI-style, as rewards see them.
        prompt_tokens: The same as the model sees them.
        limits: When a response ends; the deadline and the cancel event end the whole search.
        seed: Equal seeds give equal answers; None draws a fresh one, which the alignment names.
        reference: What rewards are given as `reference_outputs`.
        grammar: What every response is held to; see `aisp.records.Proposal`.
    """

    messages: Sequence[Message]
    prompt_tokens: Sequence[int]
    limits: Limits
    seed: int | None = None
    reference: Any = None
    grammar: str | None = None


def text_candidate(request: Request, rollout: Rollout) -> Candidate:
    """Return the candidate whose text is what the model wrote, its reasoning apart."""
    from aisp.forms.parsing import split_reasoning

    reasoning, text = split_reasoning(rollout.text)
    return Candidate(messages=request.messages, text=text, reasoning=reasoning, reference=request.reference)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stops:
    """When a search ends before its budget does.

    Args:
        target_reward: As soon as the best reward is at least this.
        patience: After this many rounds in a row without a better response.
        on_timeout: At the deadline, return the best so far, or raise.
    """

    target_reward: float | None = None
    patience: int | None = None
    on_timeout: Literal["best", "raise"] = "best"

    def __post_init__(self) -> None:
        if self.patience is not None and self.patience < 1:
            raise ConfigurationError(
                f"patience is {self.patience}; expected an integer >= 1, or None to spend the budget"
            )


@dataclass(slots=True)
class _Search:
    """What the loop knows so far."""

    started: float
    seed: int
    rounds: list[Round] = field(default_factory=list)
    best: Response | None = None
    spent: int = 0
    forward_tokens: int = 0
    stale: int = 0


class Aligner:
    """Searches for the response that a reward likes best.

    Args:
        engine: Draws responses.
        strategy: Proposes them.
        reward: Scores them; None takes the first.
        plan: How many, in rounds of how many.
        stops: When to end before that.
        parse: Makes a candidate of a rollout.
        selection: Which response is returned; None for the best.
        kl_budget: A response along which the steering moved the model by more nats than this counts as vetoed; None
            for no limit. What choosing among responses adds is not counted.

    Raises:
        ConfigurationError: A budget above 1 without a reward.
    """

    def __init__(
        self,
        engine: Engine,
        strategy: Strategy[Any],
        reward: Reward | None,
        plan: Plan,
        *,
        stops: Stops | None = None,
        parse: Parse = text_candidate,
        selection: Selection | None = None,
        kl_budget: float | None = None,
    ) -> None:
        if reward is None and plan.budget > 1:
            raise ConfigurationError(
                f"budget is {plan.budget} but there are no rewards to choose by; "
                "give rewards, or budget=1 for a plain answer"
            )
        self.engine = engine
        self.strategy = strategy
        self.reward = reward
        self.plan = plan
        self.stops = stops or Stops()
        self.parse = parse
        self.selection = selection or Best()
        self.kl_budget = kl_budget

    @property
    def name(self) -> str:
        """What the trace calls the search: the strategy, and the selection rule where it isn't the best response."""
        rule = self.selection.name
        return self.strategy.name if isinstance(self.selection, Best) else f"{self.strategy.name}, {rule}"

    def align(self, request: Request, progress: Progress | None = None) -> Alignment:
        """Run the search to its end. See `rounds` for what it raises."""
        search = self.rounds(request, progress)
        while True:
            try:
                next(search)
            except StopIteration as stop:
                alignment: Alignment = stop.value
                return alignment

    def rounds(self, request: Request, progress: Progress | None = None) -> Generator[Round, None, Alignment]:
        """Search, yielding each round as it ends and returning the alignment.

        Raises:
            RewardError: The reward failed (and was not told to exclude what it can't score).
            AllCandidatesExcludedError: Every candidate was vetoed or excluded.
            DeadlineExceededError: The deadline passed, with `on_timeout="raise"`.
            EngineError: Decoding failed, or was cancelled before the first response was complete.
        """
        search = _Search(started=time.monotonic(), seed=fresh_seed() if request.seed is None else request.seed)
        scorer = None if self.reward is None else self.reward.session()
        state = self.strategy.init(
            Setting(
                root_seed=root_seed(search.seed, request.prompt_tokens),
                budget=self.plan.budget,
                num_samples=self.plan.num_samples,
                max_tokens=request.limits.max_tokens,
                partial=self.reward is None or self.reward.partial,
            )
        )
        prefix = self.engine.prefill(request.prompt_tokens)
        while (stopped_by := self._stopped_by(search, request)) is None:
            started = time.monotonic()
            proposals = self.strategy.propose(state, min(self.plan.num_samples, self.plan.budget - search.spent))
            if request.grammar is not None:
                proposals = tuple(replace(proposal, grammar=request.grammar) for proposal in proposals)
            rollouts = self.engine.rollout(prefix, proposals, request.limits, progress)
            complete = [row for row, rollout in enumerate(rollouts) if rollout.finish_reason != "cancelled"]
            if len(complete) == len(rollouts):
                responses = self._scored(request, scorer, rollouts, complete, len(search.rounds))
                scores = [response.score for response in responses]
                state, info = self.strategy.update(state, proposals, rollouts, scores)
            else:  # the time ran out: what is complete may still be the best, the rest is not scored
                rows = complete or ([] if search.best or self._cancelled(request) else list(range(len(rollouts))))
                responses, info = self._scored(request, scorer, rollouts, rows, len(search.rounds)), Info()
            search.spent += len(rollouts)
            search.forward_tokens += sum(rollout.forward_tokens for rollout in rollouts)
            if responses:
                yield self._record(search, responses, info, time.monotonic() - started)
        return self._finish(search, request, stopped_by)

    def _scored(
        self,
        request: Request,
        scorer: Reward | None,
        rollouts: Sequence[Rollout],
        rows: Sequence[int],
        round_index: int,
    ) -> list[Response]:
        candidates = [self.parse(request, rollouts[row]) for row in rows]
        scores = [Score(value=0.0)] * len(rows) if scorer is None else scorer.score(candidates)
        return [
            Response(
                candidate=candidate,
                score=self._within_budget(score, rollouts[row]),
                rollout=rollouts[row],
                round_index=round_index,
                row=row,
            )
            for candidate, score, row in zip(candidates, scores, rows, strict=True)
        ]

    def _within_budget(self, score: Score, rollout: Rollout) -> Score:
        """Veto what was steered too far."""
        nats = float(rollout.tokens.kl_to_base.sum())
        if self.kl_budget is None or nats <= self.kl_budget:
            return score
        comment = f"steered by {nats:.1f} nats, over the kl_budget of {self.kl_budget:g}"
        return replace(score, vetoed=True, comment=comment if score.comment is None else f"{score.comment}; {comment}")

    def _record(self, search: _Search, responses: Sequence[Response], info: Info, seconds: float) -> Round:
        before = search.best
        search.best = best_of(responses, before)
        if not all(response.rollout.paused for response in responses):  # blocks of responses are no try
            search.stale = search.stale + 1 if search.best is before else 0
        round_ = Round(
            index=len(search.rounds),
            responses=tuple(responses),
            best=search.best,
            ess=info.ess,
            reward_temperature=info.reward_temperature,
            seconds=seconds,
        )
        search.rounds.append(round_)
        return round_

    def _cancelled(self, request: Request) -> bool:
        return request.limits.cancel is not None and request.limits.cancel.is_set()

    def _stopped_by(self, search: _Search, request: Request) -> StoppedBy | None:
        if self._cancelled(request):
            return "cancelled"
        best, stops = search.best, self.stops
        if best is not None and stops.target_reward is not None and best.reward >= stops.target_reward:
            return "target_reward"
        if search.spent >= self.plan.budget:
            return "budget"
        if request.limits.deadline is not None and search.spent and time.monotonic() >= request.limits.deadline:
            return "deadline"
        if stops.patience is not None and search.stale >= stops.patience:
            return "patience"
        return None

    def _selected(self, search: _Search, request: Request) -> Response | None:
        """Return what the rule takes of all usable responses."""
        if search.best is None or isinstance(self.selection, Best):
            return search.best
        usable = [r for round_ in search.rounds for r in round_.usable if not r.rollout.paused]
        rng = np.random.default_rng(row_seed(root_seed(search.seed, request.prompt_tokens), _AFTER_ALL, 0))
        return usable[choose(self.selection, np.array([response.reward for response in usable]), rng)]

    def _finish(self, search: _Search, request: Request, stopped_by: StoppedBy) -> Alignment:
        if stopped_by == "deadline" and self.stops.on_timeout == "raise":
            raise DeadlineExceededError(
                f"the deadline passed after {search.spent} of {self.plan.budget} responses; "
                'give more time, a smaller budget, or on_timeout="best" to take the best so far'
            )
        best = self._selected(search, request) or _best_unfinished(search, stopped_by)
        if best is None:
            if stopped_by == "cancelled":
                raise EngineError("cancelled before the first response was complete")
            raise AllCandidatesExcludedError(_why_nothing_is_left(search.rounds))
        return Alignment(
            best=best,
            rounds=tuple(search.rounds),
            stopped_by=stopped_by,
            cost=Cost(
                responses=sum(len(round_.responses) for round_ in search.rounds),
                forward_tokens=search.forward_tokens,
                prompt_tokens=len(request.prompt_tokens),
                seconds=time.monotonic() - search.started,
            ),
            strategy=self.name,
            seed=search.seed,
            budget=self.plan.budget,
            reward=None if self.reward is None else self.reward.name,
        )


def _best_unfinished(search: _Search, stopped_by: StoppedBy) -> Response | None:
    """Return the best of what isn't complete, where the time ran out before anything was."""
    if stopped_by != "deadline":
        return None
    return max(
        (response for round_ in search.rounds for response in round_.usable),
        key=lambda response: response.reward,
        default=None,
    )


def _why_nothing_is_left(rounds: Sequence[Round]) -> str:
    responses = [response for round_ in rounds for response in round_.responses]
    vetoed = sum(response.score.vetoed for response in responses)
    errors = [response.score.error for response in responses if response.score.error is not None]
    first = f"; the first error: {errors[0]}" if errors else ""
    return (
        f"none of {len(responses)} responses can be returned: {vetoed} vetoed, {len(errors)} not scorable{first}. "
        "Loosen the veto, mend the reward, or raise the budget"
    )
