"""The contract of a strategy: a pure function of its state.

    init(setting) -> state
    propose(state, n) -> at most n proposals
    update(state, proposals, rollouts, scores) -> (state, Info)

A state is frozen; a strategy holds its configuration and nothing else, and knows neither model nor reward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar

from aisp.records import Proposal, Rollout, Score

State = TypeVar("State")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a strategy is told of the request that it serves.

    Args:
        root_seed: Derived from the request's seed and the prompt's tokens (`aisp.noise.root_seed`).
        budget: Responses in all.
        num_samples: Responses a round at most.
        max_tokens: Response tokens at most.
        partial: Whether the reward may score a response that isn't complete.
    """

    root_seed: int
    budget: int
    num_samples: int
    max_tokens: int
    partial: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """What a reader may want to know of an update.

    Args:
        ess: Effective sample size 1 / sum(w^2) of the weights, at least 1; None where there are none. They are the
            round's n, or the whole population's where a strategy weighs that.
        reward_temperature: The lambda that was used, in the reward's unit; None where there is none.
    """

    ess: float | None = None
    reward_temperature: float | None = None


class Strategy(Protocol[State]):
    """How the next responses are proposed, given those that were scored."""

    name: ClassVar[str]

    def init(self, setting: Setting) -> State:
        """Return the state before the first round."""

    def propose(self, state: State, n: int) -> tuple[Proposal, ...]:
        """Return 1 to n proposals for the next round."""

    def update(
        self, state: State, proposals: Sequence[Proposal], rollouts: Sequence[Rollout], scores: Sequence[Score]
    ) -> tuple[State, Info]:
        """Return the state after a round. The three sequences run in parallel."""
