"""Blockwise search (blockwise best-of-K, Mudgal et al., arXiv 2310.17022; chunk-level beams, Zhou et al., 2405.19262).

    round   each of the `beams` best unfinished responses is gone on with for `block_tokens` tokens, `num_samples`
            continuations in all; the best `beams` of them are what the next round goes on with
    last    its continuations are written to their end

With one beam it is best-of-K, block by block. A round spends `num_samples` of the budget though its responses grow by a
block only. It reads the reward of unfinished text, so it is for rewards that declare `partial=True`: others are
refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from aisp.errors import ConfigurationError
from aisp.noise import row_seed
from aisp.records import NO_TOKENS, Capability, Proposal, Rollout, Sampling, Score, Tokens
from aisp.strategies.base import Info, SearchContext
from aisp.strategies.best_of_n import DEFAULT_SAMPLING


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockwiseState:
    """The unfinished responses to go on with (none: start anew), what was spent, and which round comes next."""

    context: SearchContext
    beams: tuple[Tokens, ...] = ()
    spent: int = 0
    round_index: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Blockwise:
    """Write the response block by block, keeping the best.

    Args:
        sampling: How a token is taken; temperature 0 would draw the same block again and again.
        beams: Unfinished responses that are kept, at least 1.
        block_tokens: Tokens that a round adds. None divides `max_tokens` among the rounds.

    Raises:
        ConfigurationError: A value outside its range.
    """

    name: ClassVar[str] = "blockwise"
    sampling: Sampling = DEFAULT_SAMPLING
    beams: int = 1
    block_tokens: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("beams", self.beams), ("block_tokens", self.block_tokens)):
            if value is not None and value < 1:
                raise ConfigurationError(f"{name} is {value}; expected an integer >= 1")

    @property
    def needs(self) -> frozenset[Capability]:
        return frozenset({"kept"})

    def init(self, context: SearchContext) -> BlockwiseState:
        if context.commits:
            raise ConfigurationError(
                "blockwise searches block by block itself, and commits nothing before its end; "
                "leave commit_tokens out, or take another strategy"
            )
        if not context.partial:
            raise ConfigurationError(
                "blockwise scores responses before they are complete, and the reward does not say that it can; "
                "give it partial=True if it can, or take another strategy"
            )
        if self.sampling.greedy and context.budget > 1:
            raise ConfigurationError(
                f"{self.name} at temperature=0 would draw the same response {context.budget} times; "
                "give a temperature above 0, or budget=1 for the greedy answer"
            )
        return BlockwiseState(context=context)

    def propose(self, state: BlockwiseState, n: int) -> tuple[Proposal, ...]:
        context, beams = state.context, state.beams or (NO_TOKENS,)
        last = state.spent + n >= context.budget
        rounds = math.ceil(context.budget / context.num_samples)
        block = self.block_tokens or math.ceil(context.max_tokens / rounds)
        return tuple(
            Proposal(
                seed=row_seed(context.root_seed, state.round_index, row),
                sampling=self.sampling,
                kept=beams[row % len(beams)],
                pause_after=None if last else block,
                retain=True,
            )
            for row in range(n)
        )

    def update(
        self, state: BlockwiseState, proposals: Sequence[Proposal], rollouts: Sequence[Rollout], scores: Sequence[Score]
    ) -> tuple[BlockwiseState, Info]:
        usable = [(score.value, rollout) for score, rollout in zip(scores, rollouts, strict=True) if score.usable]
        usable.sort(key=lambda pair: -pair[0])
        distinct = {rollout.tokens.ids: rollout for _, rollout in reversed(usable)}
        best = list(reversed(distinct.values()))[: self.beams]
        # A finished one holds its place and isn't gone on with; where all are finished, the next round starts anew.
        # Where none is usable, the last beams are gone on with once more.
        beams = tuple(rollout.tokens for rollout in best if rollout.paused) if best else state.beams
        spent = state.spent + len(rollouts)
        return replace(state, beams=beams, spent=spent, round_index=state.round_index + 1), Info()
