"""Inference-time pessimism (InferenceTimePessimism of Huang et al., arXiv 2503.21878): weights that grow linearly.

    w_i = relu((r_i - b)/beta),  with b such that mean_i w_i = 1

the law that trades the reward against the chi-squared divergence from the base model. An error of the reward at one
response then counts for no more than linearly, and more samples don't lead to more over-optimisation. The paper returns
the first response of a second batch that is accepted with a probability in proportion to w; here the same batch
is drawn from again, P(return y_i) = w_i / n, since a budget counts every response.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from scipy.optimize import brentq

from aisp.bench.rivals.selection import check_temperature, choose
from aisp.records import FloatArray
from aisp.strategies.best_of_n import BestOfN, BestOfNState
from aisp.strategies.weights import effective_sample_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Pessimistic:
    """Return a response with a probability in proportion to how far its reward is above a threshold.

    Args:
        reward_temperature: beta, in the reward's unit. Towards 0 the best is returned (one of the best, where they are
            tied); towards infinity any. "auto" solves for `target_ess_fraction`.
        target_ess_fraction: Wanted share of responses among which the choice is open, in (0, 1].

    Raises:
        ConfigurationError: A value outside its range.
    """

    name: ClassVar[str] = "pessimistic"
    reward_temperature: float | Literal["auto"] = "auto"
    target_ess_fraction: float = 0.2

    def __post_init__(self) -> None:
        check_temperature(self.reward_temperature, self.target_ess_fraction)

    def probabilities(self, rewards: FloatArray) -> FloatArray:
        usable = np.isfinite(rewards)
        finite = rewards[usable]
        beta = self.reward_temperature
        if beta == "auto":
            weights = _of_effective_size(finite, self.target_ess_fraction * finite.size)
        else:
            weights = _above(finite, threshold(finite, beta)) if beta < math.inf else np.ones(finite.size)
        chosen = np.zeros(len(rewards))
        chosen[usable] = weights / weights.sum()
        return chosen


@dataclass(frozen=True, slots=True, kw_only=True)
class Pessimism(BestOfN):
    """Draw plain samples, and return one of them by the rule `Pessimistic`.

    Args:
        sampling: As in `BestOfN`.
        reward_temperature: As in `Pessimistic`.
        target_ess_fraction: As in `Pessimistic`.

    Raises:
        ConfigurationError: A value outside its range.
    """

    name: ClassVar[str] = "pessimism"
    reward_temperature: float | Literal["auto"] = "auto"
    target_ess_fraction: float = 0.2

    def __post_init__(self) -> None:
        check_temperature(self.reward_temperature, self.target_ess_fraction)

    @property
    def rule(self) -> Pessimistic:
        """The rule by itself, for samples that are there already."""
        return Pessimistic(reward_temperature=self.reward_temperature, target_ess_fraction=self.target_ess_fraction)

    def choose(self, state: BestOfNState, rewards: FloatArray, rng: np.random.Generator) -> int:
        return choose(self.rule, rewards, rng)


def threshold(rewards: FloatArray, beta: float) -> float:
    """Return b with mean_i relu(r_i - b) = beta, from finite rewards of shape (n,) and beta >= 0.

    With the k best above it, b = (their sum - n beta)/k; of those that are consistent (r_k > b) the largest k holds.
    """
    down = np.sort(rewards)[::-1]
    # Sums relative to the best reward, so that large equal rewards don't cancel; halved, and held to what n of them can
    # sum up to, so that those of the largest finite rewards stay finite.
    gaps = 2.0 * np.maximum(0.5 * down - 0.5 * down[0], -np.finfo(np.float64).max / (4 * len(down)))
    candidates = (np.cumsum(gaps) - len(down) * beta) / np.arange(1, len(down) + 1)
    k = int(np.flatnonzero(gaps >= candidates)[-1])
    return float(down[0] + candidates[k])


def _above(rewards: FloatArray, floor: float) -> FloatArray:
    """Return relu(r - b); where rounding or beta = 0 leaves nothing, the best share the weight."""
    with np.errstate(over="ignore"):
        weights = np.maximum(rewards - floor, 0.0)
    return np.asarray(weights if weights.sum() > 0 else rewards == rewards.max(), dtype=np.float64)


def _of_effective_size(rewards: FloatArray, wanted: float) -> FloatArray:
    """Return relu(r - b) for the b whose effective sample size is `wanted`: it falls as b nears the best."""
    half_gaps = 0.5 * rewards - 0.5 * rewards.max()  # halves, since a difference of finite numbers may be infinite
    best = np.asarray(rewards == rewards.max(), dtype=np.float64)
    if not half_gaps.any() or wanted <= np.count_nonzero(best):
        return best
    unit = half_gaps / -half_gaps.min()

    def excess(log_gap: float) -> float:
        weights = np.maximum(unit + math.exp(log_gap), 0.0)
        return effective_sample_size(weights / weights.sum()) - wanted

    lowest, highest = math.log(1e-12), math.log(1e6)
    if excess(lowest) >= 0:
        return best
    gap = highest if excess(highest) <= 0 else float(brentq(excess, lowest, highest, xtol=1e-10))
    return np.asarray(np.maximum(unit + math.exp(gap), 0.0))
