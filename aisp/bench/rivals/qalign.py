"""QAlign (Faria and Smith, arXiv 2504.03790; its proposal is QUEST's, arXiv 2406.00049): Metropolis-Hastings on text.

    cut     i uniform in 0 .. |y| - 1; y[:i] is kept, the suffix is drawn anew from the base model
    accept  with probability min(1, exp((r(y') - r(y))/lambda) |y|/|y'|)

For the target p(y) exp(r(y)/lambda) the model's own probabilities cancel, and of the cuts' only the lengths remain (in
tokens). A round moves `num_samples` chains by a step each; in the limit of many rounds their responses follow the
target. What is returned is the best of all that was drawn, as with every strategy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from aisp.bench.rivals.selection import check_temperature
from aisp.errors import ConfigurationError
from aisp.noise import row_seed
from aisp.records import NO_TOKENS, Capability, Proposal, Rollout, Sampling, Score, Tokens
from aisp.strategies.base import Info, SearchContext
from aisp.strategies.best_of_n import DEFAULT_SAMPLING
from aisp.strategies.weights import solve_reward_temperature

# Streams of a round's own randomness: where to cut, what to accept.
_CUTS, _ACCEPTANCE = 0, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """Where a chain is. The reward is -inf for what was vetoed, so that anything usable takes its place."""

    tokens: Tokens
    reward: float


@dataclass(frozen=True, slots=True, kw_only=True)
class QAlignState:
    """The chains, lambda once there were two rewards to solve it for, and which round comes next."""

    context: SearchContext
    reward_temperature: float | None
    chains: tuple[Chain, ...] = ()
    round_index: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class QAlign:
    """Move chains by resampled suffixes.

    Args:
        sampling: How a token is taken; the target's p is the model under it. Temperature 0 would never move a chain.
        reward_temperature: lambda > 0, in the reward's unit. Towards 0 a chain only climbs; towards infinity it ignores
            the reward. "auto" solves for `target_ess_fraction` on the first round, and keeps to that.
        target_ess_fraction: Wanted share of effective samples among the first round's, in (0, 1].

    Raises:
        ConfigurationError: A value outside its range.
    """

    name: ClassVar[str] = "qalign"
    sampling: Sampling = DEFAULT_SAMPLING
    reward_temperature: float | Literal["auto"] = "auto"
    target_ess_fraction: float = 0.2

    def __post_init__(self) -> None:
        check_temperature(self.reward_temperature, self.target_ess_fraction)
        if self.reward_temperature == 0:
            raise ConfigurationError("reward_temperature is 0; expected a number > 0: a chain must be able to go down")

    @property
    def needs(self) -> frozenset[Capability]:
        return frozenset({"kept"})

    def init(self, context: SearchContext) -> QAlignState:
        if self.sampling.greedy and context.budget > 1:
            raise ConfigurationError(
                f"{self.name} at temperature=0 would draw the same response {context.budget} times; "
                "give a temperature above 0, or budget=1 for the greedy answer"
            )
        fixed = None if self.reward_temperature == "auto" else self.reward_temperature
        return QAlignState(context=context, reward_temperature=fixed)

    def propose(self, state: QAlignState, n: int) -> tuple[Proposal, ...]:
        root = state.context.root_seed
        rng = np.random.default_rng([root, state.round_index, _CUTS])
        cuts = [chain.tokens.head(int(rng.integers(len(chain.tokens)))) for chain in state.chains[:n]]
        return tuple(
            Proposal(
                seed=row_seed(root, state.round_index, row),
                sampling=self.sampling,
                kept=kept,
                # Many cuts of many chains lead to one response, and a proposal knows its own alone.
                log_start=None if cuts else 0.0,
                retain=True,
            )
            for row, kept in enumerate(cuts or [NO_TOKENS] * n)
        )

    def update(
        self, state: QAlignState, proposals: Sequence[Proposal], rollouts: Sequence[Rollout], scores: Sequence[Score]
    ) -> tuple[QAlignState, Info]:
        new = [
            Chain(tokens=rollout.tokens, reward=score.value if score.usable else -math.inf)
            for rollout, score in zip(rollouts, scores, strict=True)
        ]
        temperature = state.reward_temperature
        if temperature is None:
            rewards = np.array([chain.reward for chain in (*state.chains, *new)])
            solved = solve_reward_temperature(rewards, self.target_ess_fraction)
            # 0 where more are tied for best than the target asks for: then any drop is as good as -inf.
            temperature = None if solved is None else max(solved, float(np.finfo(np.float64).tiny))
        chains = self._moved(state, list(zip(proposals, new, strict=True)), temperature)
        following = replace(state, chains=chains, reward_temperature=temperature, round_index=state.round_index + 1)
        return following, Info(reward_temperature=temperature)

    def _moved(
        self, state: QAlignState, new: Sequence[tuple[Proposal, Chain]], temperature: float | None
    ) -> tuple[Chain, ...]:
        """Accept or reject each response as its chain's next step; one of the first round begins a chain."""
        root, chains = state.context.root_seed, list(state.chains)
        places = self._places(state, {proposal.seed for proposal, _ in new if proposal.log_start is None})
        draws = np.random.default_rng([root, state.round_index, _ACCEPTANCE]).random(len(chains))
        for proposal, after in new:
            if proposal.log_start is not None:
                chains.append(after)
            elif draws[place := places[proposal.seed]] < _ratio(chains[place], after, temperature):
                chains[place] = after
        return tuple(chains)

    def _places(self, state: QAlignState, seeds: set[int]) -> dict[int, int]:
        """Return which chain each response moves: they may come in any order and number, but keep their seeds."""
        places: dict[int, int] = {}
        for index in range(state.round_index, -1, -1):
            if seeds <= places.keys():
                break
            rows = range(len(state.chains))
            places |= {row_seed(state.context.root_seed, index, row): row for row in rows}
        return places


def _ratio(old: Chain, new: Chain, temperature: float | None) -> float:
    """Return exp((r' - r)/lambda) |y|/|y'|, at most 1; lambda is None while all finite rewards are equal."""
    gain = 0.0 if old.reward == new.reward else new.reward - old.reward
    if temperature is not None and math.isfinite(gain):
        gain /= temperature
    return math.exp(min(gain + math.log(len(old.tokens) / len(new.tokens)), 0.0))
