"""A response written block by block: what is committed stays, and a search of its own goes on behind it.

    proposals --to_response--> behind the committed tokens, pausing at the block's end
    rollouts  --to_block--> without them, so that a strategy sees a block as it would a whole response

A whole-response search is the case of one block without an end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from aisp.errors import ConfigurationError
from aisp.records import NO_TOKENS, TOKEN_FIGURES, NoiseTerm, Proposal, Rollout
from aisp.search.plan import Plan, ceil_div
from aisp.strategies.base import SearchContext


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """The part of a response that is searched for at once.

    Args:
        index: From 0.
        committed: The rollout that it goes on from; None at the start.
        length: Tokens of the block; None for all up to the response's end.
        budget: Responses that it may draw.
        reserve: Responses that it may draw over that, as long as none can be used.
    """

    index: int = 0
    committed: Rollout | None = None
    length: int | None = None
    budget: int
    reserve: int = 0

    @property
    def start(self) -> int:
        """The response position of its first token."""
        return 0 if self.committed is None else len(self.committed.tokens)

    def context(
        self, *, root_seed: int, num_samples: int, max_tokens: int, partial: bool, kl_budget: float | None
    ) -> SearchContext:
        """Return what a strategy is told of the block.

        Args:
            root_seed: Of the request.
            num_samples: Responses a round at most.
            max_tokens: Of the whole response.
            partial: Whether the reward may score a response that isn't complete.
            kl_budget: Nats of steering along a whole response; None for no limit.
        """
        length = min(self.length or max_tokens, max_tokens)
        return SearchContext(
            root_seed=root_seed,
            budget=self.budget,
            num_samples=min(num_samples, self.budget),
            max_tokens=min(length, max_tokens - self.start),
            partial=partial,
            block_share=length / max_tokens,
            kl_budget=kl_budget,
            commits=self.length is not None,
        )

    def to_response(self, proposals: Sequence[Proposal]) -> tuple[Proposal, ...]:
        """Put proposals, whose positions count from the block's start, behind what is committed."""
        return tuple(proposals) if self.length is None else tuple(map(self._to_response, proposals))

    def to_block(self, rollouts: Sequence[Rollout]) -> list[Rollout]:
        """Return rollouts without their committed tokens."""
        return [_behind(rollout, self.start) for rollout in rollouts] if self.start else list(rollouts)

    def _to_response(self, proposal: Proposal) -> Proposal:
        start, length = self.start, self.length or 0
        kept = proposal.kept if self.committed is None else self.committed.tokens.followed_by(proposal.kept)
        shift = proposal.shift
        if shift is not None and start and len(shift) > 1:  # one row holds everywhere
            shift = np.concatenate([np.zeros((start, shift.shape[1]), dtype=shift.dtype), shift])
        return replace(
            proposal,
            kept=kept,
            pause_after=length - len(proposal.kept),
            horizon=start + (length if proposal.horizon is None else min(proposal.horizon, length)),
            mean=tuple(_moved(term, start) for term in proposal.mean) if start else proposal.mean,
            shift=shift,
            retain=True,
        )


def next_block(
    plan: Plan, spent: int, commit_tokens: int | None, max_tokens: int, last: Block | None, committed: Rollout | None
) -> Block:
    """Return the block that comes next, with its even share of what is left of the budget.

    Each block has a search of its own, whose responses count as responses do, short as they are. What a block leaves
    unspent goes to those behind it; where all that it drew is vetoed, it goes on with what they can spare. An answer
    that ends early leaves the rest of the budget unspent.

    Args:
        plan: The whole budget. 1 is one response, however many blocks it is written in.
        spent: Responses drawn for earlier blocks.
        commit_tokens: Tokens of a block; None for one block that is the whole response.
        max_tokens: Of the response.
        last: The block before; None at the start.
        committed: What all blocks before wrote.

    Raises:
        ConfigurationError: More blocks than responses to choose from.
    """
    if commit_tokens is None:
        return Block(budget=plan.budget)
    start = 0 if committed is None else len(committed.tokens)
    left = ceil_div(max_tokens - start, commit_tokens)
    share, reserve = 1, 0
    if plan.budget > 1:
        if last is None and plan.budget < left:
            raise ConfigurationError(
                f"budget={plan.budget} is too little for the {left} blocks that commit_tokens={commit_tokens} makes of "
                f"max_tokens={max_tokens}: each needs a response. Raise budget or commit_tokens, or lower max_tokens"
            )
        share = ceil_div(plan.budget - spent, left)
        reserve = plan.budget - spent - share - (left - 1)
    return Block(
        index=0 if last is None else last.index + 1,
        committed=committed,
        length=commit_tokens,
        budget=share,
        reserve=reserve,
    )


def _moved(term: NoiseTerm, start: int) -> NoiseTerm:
    return replace(term, spans=((start, 0.0), *((stop + start, weight) for stop, weight in term.spans)))


def _behind(rollout: Rollout, start: int) -> Rollout:
    figures = {name: getattr(rollout.tokens, name)[start:] for name in TOKEN_FIGURES}
    measured = dict(rollout.measured)
    if "score_vectors" in measured:
        measured["score_vectors"] = measured["score_vectors"][start:]
    return replace(
        rollout,
        tokens=replace(NO_TOKENS, ids=rollout.tokens.ids[start:], **figures),
        measured=measured,
    )
