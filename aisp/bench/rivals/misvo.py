"""MISVO (Entesari et al., "Minimally Invasive Steering of Language Models"): score-function steering of pre-logits.

    y_t ~ softmax(W(z_t + u_t)/T)                            one u_t a position, the same behind every prefix
    g_t = (1/K) sum_i (r_i - mean of the others' r) s_t^i    s_t = (W[y_t] - E[W])/T, the gradient of log-probability
    u_t <- u_t + eta (g_t - rho F_t u_t)                     F_t = mean_i s_t^i s_t^i' over the first round

F is the Fisher matrix at u = 0, and u' F u / 2 the nats that u costs, to second order. The paper averages the exact
W'(diag p - p p')W of the visited positions; the products of the drawn tokens' own score vectors have the same mean and
are here already. Positions past a response's end take no part, and rewards count in their own unit, as published: a
step of 0.1 is a step of 0.1 r.

Every round holds a float32 of (responses, tokens, dim) to learn from, the first one to the end of the search.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from aisp.errors import ConfigurationError
from aisp.noise import row_seed
from aisp.records import Capability, FloatArray, Proposal, Rollout, Sampling, Score
from aisp.strategies.base import Info, SearchContext
from aisp.strategies.best_of_n import DEFAULT_SAMPLING


@dataclass(frozen=True, slots=True, kw_only=True)
class MISVOState:
    """What steers, and what it costs to.

    Args:
        mean: U, shape (max_tokens, dim); None before the first round told what dim is.
        basis: s_t^i of the first round, float32 of shape (responses, max_tokens, dim), 0 past a response's end; the
            factors of F.
        round_index: Of the round that comes next.
    """

    context: SearchContext
    mean: FloatArray | None = None
    basis: NDArray[np.float32] | None = None
    round_index: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MISVO:
    """Steer by the policy gradient of the reward, with a Fisher penalty.

    Args:
        sampling: How a token is taken; greedy draws have no gradient.
        step_size: eta > 0, in pre-logits per unit of gradient.
        fisher_penalty: rho >= 0, in the reward's unit per nat. 0 lets the steering drift.

    Raises:
        ConfigurationError: A value outside its range.
    """

    name: ClassVar[str] = "misvo"
    sampling: Sampling = DEFAULT_SAMPLING
    step_size: float = 0.1
    fisher_penalty: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.step_size) and self.step_size > 0):
            raise ConfigurationError(f"step_size is {self.step_size}; expected a number > 0")
        if not (math.isfinite(self.fisher_penalty) and self.fisher_penalty >= 0):
            raise ConfigurationError(f"fisher_penalty is {self.fisher_penalty}; expected a number >= 0 (0 for none)")

    @property
    def needs(self) -> frozenset[Capability]:
        return frozenset({"shift", "score_vectors"})

    def init(self, context: SearchContext) -> MISVOState:
        if self.sampling.greedy and context.budget > 1:
            raise ConfigurationError(
                f"{self.name} at temperature=0 has no gradient to follow; give a temperature above 0, budget=1 for the "
                "greedy answer, or strategy='aisp', whose draws are greedy"
            )
        return MISVOState(context=context)

    def propose(self, state: MISVOState, n: int) -> tuple[Proposal, ...]:
        root = state.context.root_seed
        shift = None if state.mean is None else state.mean.astype(np.float32)
        seeds = (row_seed(root, state.round_index, row) for row in range(n))
        return tuple(
            Proposal(
                seed=seed,
                sampling=self.sampling,
                shift=shift,
                measures=frozenset({"score_vectors"}),
                log_start=0.0,
            )
            for seed in seeds
        )

    def update(
        self, state: MISVOState, proposals: Sequence[Proposal], rollouts: Sequence[Rollout], scores: Sequence[Score]
    ) -> tuple[MISVOState, Info]:
        following = replace(state, round_index=state.round_index + 1)
        pairs = [(rollout, score.value) for rollout, score in zip(rollouts, scores, strict=True) if score.usable]
        if len(pairs) < 2:  # one has no others to be compared with
            return following, Info()
        vectors = self._padded([rollout for rollout, _ in pairs], state.context.max_tokens)
        mean = np.zeros(vectors.shape[1:]) if state.mean is None else state.mean
        basis = vectors if state.basis is None else state.basis
        gradient = np.einsum("i,itd->td", _advantages([reward for _, reward in pairs]), vectors) / len(pairs)
        along = np.einsum("itd,td->it", basis, mean)
        penalty = np.einsum("it,itd->td", along, basis) / len(basis)
        moved = mean + self.step_size * (gradient - self.fisher_penalty * penalty)
        # Rewards count in their own unit: a step that float32 can't hold is not taken.
        fits = bool(np.abs(moved).max() <= np.finfo(np.float32).max)
        return replace(following, mean=moved if fits else mean, basis=basis), Info()

    def _padded(self, rollouts: Sequence[Rollout], max_tokens: int) -> NDArray[np.float32]:
        """Return s of every response, shape (responses, max_tokens, dim), 0 past its end."""
        found = []
        for rollout in rollouts:
            if "score_vectors" not in rollout.measured:
                raise ConfigurationError("misvo needs an engine that measures score vectors, and this one doesn't")
            found.append(rollout.measured["score_vectors"] / np.float32(self.sampling.temperature))
        padded = np.zeros((len(found), max_tokens, found[0].shape[1]), dtype=np.float32)
        for row, vectors in zip(padded, found, strict=True):
            row[: len(vectors)] = vectors
        return padded


def _advantages(rewards: Sequence[float]) -> FloatArray:
    """Return r_i minus the mean of the others, shape (n,)."""
    values = np.array(rewards, dtype=np.float64)
    n = len(values)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray((values - values.mean()) * (n / (n - 1)))
