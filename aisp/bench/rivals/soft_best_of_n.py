"""Soft best-of-n (Verdun et al., arXiv 2505.03156): draw one of n plain samples by its reward.

    P(return y_i) = exp(r_i/lambda) / sum_j exp(r_j/lambda)

The answer's law tends to the tilted one, proportional to p(y) exp(r(y)/lambda), with an error of order 1/n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from aisp.bench.rivals.selection import check_temperature, choose
from aisp.records import FloatArray
from aisp.strategies.best_of_n import BestOfN, BestOfNState
from aisp.strategies.weights import normalise, solve_reward_temperature, tilt


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftBest:
    """Return a response with a probability that grows with its reward.

    Args:
        reward_temperature: lambda, in the reward's unit. Towards 0 the best is returned (one of the best, where they
            are tied); towards infinity any. "auto" solves for `target_ess_fraction`.
        target_ess_fraction: Wanted share of responses among which the choice is open, in (0, 1].

    Raises:
        ConfigurationError: A value outside its range.
    """

    name: ClassVar[str] = "soft_best"
    reward_temperature: float | Literal["auto"] = "auto"
    target_ess_fraction: float = 0.2

    def __post_init__(self) -> None:
        check_temperature(self.reward_temperature, self.target_ess_fraction)

    def probabilities(self, rewards: FloatArray) -> FloatArray:
        temperature = self.reward_temperature
        if temperature == "auto":
            # None: all rewards are tied, and any lambda gives equal weights.
            temperature = solve_reward_temperature(rewards, self.target_ess_fraction) or 0.0
        return normalise(np.asarray(tilt(rewards, temperature)))


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftBestOfN(BestOfN):
    """Draw plain samples, and return one of them by the rule `SoftBest`.

    Args:
        sampling: As in `BestOfN`.
        reward_temperature: As in `SoftBest`.
        target_ess_fraction: As in `SoftBest`.

    Raises:
        ConfigurationError: A value outside its range.
    """

    name: ClassVar[str] = "soft_best_of_n"
    reward_temperature: float | Literal["auto"] = "auto"
    target_ess_fraction: float = 0.2

    def __post_init__(self) -> None:
        check_temperature(self.reward_temperature, self.target_ess_fraction)

    @property
    def rule(self) -> SoftBest:
        """The rule by itself, for samples that are there already."""
        return SoftBest(reward_temperature=self.reward_temperature, target_ess_fraction=self.target_ess_fraction)

    def choose(self, state: BestOfNState, rewards: FloatArray, rng: np.random.Generator) -> int:
        return choose(self.rule, rewards, rng)
