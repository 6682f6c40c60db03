"""The one loop: propose, roll out, score, update. It serves one request and keeps the best response so far.

Everything that searches (invoke, stream, the command line, the benchmark) consumes `Aligner.rounds`. With
`commit_tokens` the same loop runs once a block: what it found is committed, and the next one goes on from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from aisp.bench.rivals import Best, Selection, choose
from aisp.engines.base import Engine, Progress
from aisp.errors import AllCandidatesExcludedError, ConfigurationError, DeadlineExceededError, EngineError
from aisp.forms.unfinished import stable_prefix as settled
from aisp.noise import fresh_seed, root_seed, row_seed
from aisp.records import Candidate, Limits, Message, Prefix, Proposal, Rollout, Score
from aisp.search.blocks import Block, next_block
from aisp.search.plan import Plan
from aisp.search.state import Search, why_nothing_is_left
from aisp.search.trace import Alignment, Response, Round, StoppedBy, best_of
from aisp.strategies.base import Info, Setting, Strategy

if TYPE_CHECKING:
    from aisp.rewards.base import Reward

Parse = Callable[["Request", Rollout], Candidate]
Settle = Callable[["Request", Rollout], str]

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
        explored: A grammar within it that every second response of the first round is held to, so that the reward sees
            what the model by itself would hardly write; None for none.
        reasoning: Whether the prompt ends within the model's reasoning, so that a response begins with it.
    """

    messages: Sequence[Message]
    prompt_tokens: Sequence[int]
    limits: Limits
    seed: int | None = None
    reference: Any = None
    grammar: str | None = None
    reasoning: bool = False
    explored: str | None = None

    def held(self, proposals: Sequence[Proposal], *, first: bool) -> tuple[Proposal, ...]:
        """Return a round's proposals, each with the grammar that it is held to."""
        every_second = self.explored if first and self.explored is not None else self.grammar
        both = (self.grammar, every_second)
        return tuple(replace(proposal, grammar=both[row % 2]) for row, proposal in enumerate(proposals))


def text_candidate(request: Request, rollout: Rollout) -> Candidate:
    """Return the candidate whose text is what the model wrote, its reasoning apart."""
    from aisp.forms.parsing import split_reasoning

    reasoning, text = split_reasoning(rollout.text)
    return Candidate(messages=request.messages, text=text, reasoning=reasoning, reference=request.reference)


def settled_text(request: Request, rollout: Rollout) -> str:
    """Return what stays of an unfinished response's text."""
    return settled(rollout.text, request.limits.stop)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stops:
    """When a search ends before its budget does.

    Args:
        target_reward: As soon as the best reward is at least this. Of a block, where blocks are committed.
        patience: After this many rounds in a row without a better response; likewise.
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
        commit_tokens: Search block after block of this many tokens (`aisp.search.blocks`), each settled once it is
            chosen; None searches whole responses.
        settle: Says what stays of an unfinished response's text, for the rounds to hand out as committed.

    Raises:
        ConfigurationError: A budget above 1 without a reward, or blocks for a reward that can't score them.
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
        commit_tokens: int | None = None,
        settle: Settle = settled_text,
    ) -> None:
        if reward is None and plan.budget > 1:
            raise ConfigurationError(
                f"budget is {plan.budget} but there are no rewards to choose by; "
                "give rewards, or budget=1 for a plain answer"
            )
        check_commits(commit_tokens, reward)
        self.engine = engine
        self.strategy = strategy
        self.reward = reward
        self.plan = plan
        self.stops = stops or Stops()
        self.parse = parse
        self.selection = selection or Best()
        self.kl_budget = kl_budget
        self.commit_tokens = commit_tokens
        self.settle = settle

    @property
    def name(self) -> str:
        """What the trace calls the search: strategy, selection rule where it isn't the best response, and blocks."""
        rule = [] if isinstance(self.selection, Best) else [self.selection.name]
        blocks = [] if self.commit_tokens is None else [f"blocks of {self.commit_tokens}"]
        return ", ".join([self.strategy.name, *rule, *blocks])

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
        search = Search(
            started=time.monotonic(),
            seed=fresh_seed() if request.seed is None else request.seed,
            block=self._next_block(request, None),
        )
        scorer = None if self.reward is None else self.reward.session()
        prefix = self.engine.prefill(request.prompt_tokens)
        while True:
            stopped_by = yield from self._block_rounds(search, request, prefix, scorer, progress)
            chosen = search.chosen or self._selected(search, request)
            if chosen is None or not chosen.rollout.paused or stopped_by in ("deadline", "cancelled"):
                return self._finish(search, request, stopped_by, chosen)
            search.go_on(self._next_block(request, search, chosen.rollout), chosen)

    def _block_rounds(
        self, search: Search, request: Request, prefix: Prefix, scorer: Reward | None, progress: Progress | None
    ) -> Generator[Round, None, StoppedBy]:
        """Search for one block (the whole response, where none are committed)."""
        block = search.block
        state = self.strategy.init(
            Setting(
                root_seed=root_seed(search.seed, request.prompt_tokens),
                budget=block.budget,
                num_samples=min(self.plan.num_samples, block.budget),
                max_tokens=min(block.length or request.limits.max_tokens, request.limits.max_tokens - block.start),
                partial=self.reward is None or self.reward.partial,
            )
        )
        while (stopped_by := self._stopped_by(search, request)) is None:
            started = time.monotonic()
            proposals = self.strategy.propose(state, min(self.plan.num_samples, search.left))
            placed = block.placed(proposals)
            if request.grammar is not None:
                placed = request.held(placed, first=search.spent == 0)
            rollouts = self.engine.rollout(prefix, placed, request.limits, progress)
            complete = [row for row, rollout in enumerate(rollouts) if rollout.finish_reason != "cancelled"]
            if len(complete) == len(rollouts):
                responses = self._scored(request, scorer, rollouts, complete, search)
                scores = [response.score for response in responses]
                state, info = self.strategy.update(state, proposals, block.own(rollouts), scores)
            else:  # the time ran out: what is complete may still be the best, the rest is not scored
                rows = complete or ([] if search.best or self._cancelled(request) else list(range(len(rollouts))))
                responses, info = self._scored(request, scorer, rollouts, rows, search), Info()
            search.spent += len(rollouts)
            search.forward_tokens += sum(rollout.forward_tokens for rollout in rollouts)
            if responses:
                yield self._record(search, request, responses, info, time.monotonic() - started)
        return stopped_by

    def _next_block(self, request: Request, search: Search | None, committed: Rollout | None = None) -> Block:
        spent, last = (0, None) if search is None else (search.spent, search.block)
        return next_block(self.plan, spent, self.commit_tokens, request.limits.max_tokens, last, committed)

    def _scored(
        self,
        request: Request,
        scorer: Reward | None,
        rollouts: Sequence[Rollout],
        rows: Sequence[int],
        search: Search,
    ) -> list[Response]:
        candidates = [self.parse(request, rollouts[row]) for row in rows]
        scores = [Score(value=0.0)] * len(rows) if scorer is None else scorer.score(candidates)
        return [
            Response(
                candidate=candidate,
                score=self._extending(
                    self._within_budget(score, rollouts[row]), candidate, request, rollouts[row], search
                ),
                rollout=rollouts[row],
                round_index=len(search.rounds),
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

    def _extending(
        self, score: Score, candidate: Candidate, request: Request, rollout: Rollout, search: Search
    ) -> Score:
        """Veto what takes back text that was handed out, as a tool call may that no one could see coming."""
        if rollout.paused:
            text = self.settle(request, rollout)
            extends = text.startswith(search.text) or search.text.startswith(text)
        else:
            extends = candidate.text.startswith(search.text)
        return score if extends else replace(score, vetoed=True, comment="takes back text that was committed")

    def _record(
        self, search: Search, request: Request, responses: Sequence[Response], info: Info, seconds: float
    ) -> Round:
        before, blocks = search.best, self.commit_tokens is not None
        search.best = best_of(responses, before, paused=blocks)
        # Where a strategy writes blocks of its own, they are no try.
        if blocks or not all(response.rollout.paused for response in responses):
            search.stale = search.stale + 1 if search.best is before else 0
        round_ = Round(
            index=len(search.rounds),
            responses=tuple(responses),
            best=search.best,
            ess=info.ess,
            reward_temperature=info.reward_temperature,
            seconds=seconds,
            block=search.block.index,
            start=search.block.start,
        )
        search.rounds.append(round_)
        if blocks and self._stopped_by(search, request) is not None:
            search.rounds[-1] = round_ = replace(round_, committed=self._commit(search, request))
        return round_

    def _commit(self, search: Search, request: Request) -> str:
        """Choose the block's response, and return how much longer the settled text is by it."""
        search.chosen = chosen = self._selected(search, request)
        if chosen is None:
            return ""
        text = self.settle(request, chosen.rollout) if chosen.rollout.paused else chosen.text
        new = text[len(search.text) :]
        search.text += new
        return new

    def _cancelled(self, request: Request) -> bool:
        return request.limits.cancel is not None and request.limits.cancel.is_set()

    def _stopped_by(self, search: Search, request: Request) -> StoppedBy | None:
        if self._cancelled(request):
            return "cancelled"
        best, stops = search.best, self.stops
        if best is not None and stops.target_reward is not None and best.reward >= stops.target_reward:
            return "target_reward"
        if search.left <= 0:
            return "budget"
        if request.limits.deadline is not None and search.spent and time.monotonic() >= request.limits.deadline:
            return "deadline"
        if stops.patience is not None and search.stale >= stops.patience:
            return "patience"
        return None

    def _selected(self, search: Search, request: Request) -> Response | None:
        """Return what the rule takes of all usable responses."""
        if search.best is None or isinstance(self.selection, Best):
            return search.best
        blocks = self.commit_tokens is not None
        usable = [r for round_ in search.own_rounds for r in round_.usable if blocks or not r.rollout.paused]
        root = root_seed(search.seed, request.prompt_tokens)
        rng = np.random.default_rng(row_seed(root, _AFTER_ALL, search.block.index))
        return usable[choose(self.selection, np.array([response.reward for response in usable]), rng)]

    def _finish(self, search: Search, request: Request, stopped_by: StoppedBy, chosen: Response | None) -> Alignment:
        if self.commit_tokens is not None and chosen is not None and chosen.rollout.finish_reason in ("stop", "length"):
            stopped_by = "complete"
        if stopped_by == "deadline" and self.stops.on_timeout == "raise":
            raise DeadlineExceededError(
                f"the deadline passed after {search.spent} of {self.plan.budget} responses; "
                'give more time, a smaller budget, or on_timeout="best" to take the best so far'
            )
        best = chosen or search.best_unfinished(stopped_by)
        if best is None:
            if stopped_by == "cancelled":
                raise EngineError("cancelled before the first response was complete")
            raise AllCandidatesExcludedError(why_nothing_is_left(search.own_rounds))
        if best.rollout.paused:  # there is nobody left who would go on with it
            best = replace(best, rollout=replace(best.rollout, finish_reason="cancelled"))
        return Alignment(
            best=best,
            rounds=tuple(search.rounds),
            stopped_by=stopped_by,
            cost=search.cost(self.plan.budget, len(request.prompt_tokens)),
            strategy=self.name,
            seed=search.seed,
            budget=self.plan.budget,
            reward=None if self.reward is None else self.reward.name,
        )


def check_commits(commit_tokens: int | None, reward: Reward | None) -> None:
    """Raise unless a response may be committed block by block.

    Raises:
        ConfigurationError: Blocks of no tokens, or a reward that does not say that it can score what isn't complete.
    """
    if commit_tokens is None:
        return
    if commit_tokens < 1:
        raise ConfigurationError(f"commit_tokens is {commit_tokens}; expected an integer >= 1")
    if reward is not None and not reward.partial:
        raise ConfigurationError(
            f"commit_tokens chooses blocks by the reward of unfinished text, and the reward {reward.name!r} does not "
            "say that it can score that; give it partial=True if it can (every part of a sum must), or leave "
            "commit_tokens out"
        )
