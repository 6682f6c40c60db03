"""Best-of-n: independent plain samples. The baseline to beat, and what runs where there are no rewards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from aisp.errors import ConfigurationError
from aisp.noise import row_seed
from aisp.records import Capability, Proposal, Rollout, Sampling, Score
from aisp.strategies.base import Info, SearchContext

DEFAULT_SAMPLING = Sampling(temperature=0.8)
"""Better than 1 for best-of-n on the small models that we measured (README, "Does it pay?")."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BestOfNState:
    """Which round comes next."""

    context: SearchContext
    round_index: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BestOfN:
    """Draw independent responses from the base model.

    Args:
        sampling: How a token is taken. Temperature 0 makes all responses equal, so it is refused for more than one.
    """

    name: ClassVar[str] = "best_of_n"
    sampling: Sampling = DEFAULT_SAMPLING

    @property
    def needs(self) -> frozenset[Capability]:
        return frozenset()

    def init(self, context: SearchContext) -> BestOfNState:
        if self.sampling.greedy and context.budget > 1:
            raise ConfigurationError(
                f"{self.name} at temperature=0 would draw the same response {context.budget} times; "
                "give a temperature above 0, or budget=1 for the greedy answer"
            )
        return BestOfNState(context=context)

    def propose(self, state: BestOfNState, n: int) -> tuple[Proposal, ...]:
        root = state.context.root_seed
        seeds = (row_seed(root, state.round_index, row) for row in range(n))
        return tuple(Proposal(seed=seed, sampling=self.sampling, log_start=0.0) for seed in seeds)

    def update(
        self, state: BestOfNState, proposals: Sequence[Proposal], rollouts: Sequence[Rollout], scores: Sequence[Score]
    ) -> tuple[BestOfNState, Info]:
        return BestOfNState(context=state.context, round_index=state.round_index + 1), Info()
