"""The contract of a strategy: a pure function of its state.

    init(context) -> state
    propose(state, n) -> at most n proposals
    update(state, proposals, rollouts, scores) -> (state, Info)

A state is frozen; a strategy holds its configuration and nothing else, and knows neither model nor reward.

Three things are optional. A strategy whose tokens are softmax draws is a dataclass with a field `sampling`: the
request's temperature, top_p and top_k replace those of the field (and those of a second field `plain`, if its plain
samples are drawn by another law). A strategy that does not return the best response has

    choose(state, rewards, rng) -> place of the response that is returned

with `rewards` of all usable responses, shape (n,), in the order in which they were drawn. And a strategy with
`asynchronous = True` goes without rounds: see `AsynchronousStrategy`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeGuard, TypeVar

from aisp.records import Capability, Proposal, Rollout, Score

State = TypeVar("State")


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchContext:
    """What a strategy is told of the request that it serves.

    Args:
        root_seed: Derived from the request's seed and the prompt's tokens (`aisp.noise.root_seed`).
        budget: Responses in all.
        num_samples: Responses a round at most.
        max_tokens: Response tokens at most; of a block, where the response is committed block by block.
        partial: Whether the reward may score a response that isn't complete.
        block_share: Share of the whole response's tokens that is searched for at once, in (0, 1]; 1 where no blocks are
            committed.
        kl_budget: Nats of steering along a whole response above which it is not returned; None for no limit.
        commits: Whether the response is committed block by block.
    """

    root_seed: int
    budget: int
    num_samples: int
    max_tokens: int
    partial: bool = False
    block_share: float = 1.0
    kl_budget: float | None = None
    commits: bool = False


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

    @property
    def name(self) -> str:
        """What the trace calls it."""

    @property
    def needs(self) -> frozenset[Capability]:
        """What it asks of an engine; a model whose engine does not offer all of it is refused when it is built."""

    def init(self, context: SearchContext) -> State:
        """Return the state before the first round.

        Raises:
            ConfigurationError: A request that the strategy can't serve.
        """

    def propose(self, state: State, n: int) -> tuple[Proposal, ...]:
        """Return 1 to n proposals for the next round."""

    def update(
        self, state: State, proposals: Sequence[Proposal], rollouts: Sequence[Rollout], scores: Sequence[Score]
    ) -> tuple[State, Info]:
        """Return the state after some responses. The three sequences run in parallel."""


class AsynchronousStrategy(Strategy[State], Protocol[State]):
    """A strategy that is told of each response as it ends, while others are being written.

    It is asked for more as soon as there is room. A response's number is no place in a round then: it is the order in
    which responses end, in logical time (`aisp.engines.logical`), so that equal seeds give equal answers.
    """

    @property
    def asynchronous(self) -> Literal[True]: ...

    def propose(self, state: State, n: int, pending: Sequence[Proposal] = ()) -> tuple[Proposal, ...]:
        """Return up to n proposals, given those that are being written; none waits until one of these has ended."""


def is_asynchronous(strategy: Strategy[Any]) -> TypeGuard[AsynchronousStrategy[Any]]:
    """Return whether a strategy goes without rounds."""
    return getattr(strategy, "asynchronous", False) is True
