"""Adaptive importance sampling in pre-logit space (AISP, arXiv 2510.26219): move an open-loop mean to high reward.

    y_t = argmax W(z_t + v_t),  v_t ~ N(u_t, sigma^2 I)  for t < horizon
    w_i = softmax_i(r_i/lambda - ((1 - alpha)/sigma^2) sum_t u_t . v_t^i)
    u_t <- sum_i w_i v_t^i

Since v^i = u + sigma eps^i and the weights sum to 1, the new mean is the old one plus sigma sum_i w_i eps^i: weighted
seeds (`mean_of_noise`), so the state stays small and no array is ever sent or stored.

Two departures from the paper, both absent from `preset="paper"`: sigma and lambda are found rather than set, and the
positions past a response's end take no part in the update. At each position, the weights of the rows that reach it are
normalised again; where no row does, the mean stays as it was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from aisp.errors import ConfigurationError
from aisp.noise import row_seed
from aisp.records import GREEDY, Capability, FloatArray, NoiseTerm, Proposal, Rollout, Sampling, Score
from aisp.strategies.base import Info, SearchContext
from aisp.strategies.weights import effective_sample_size, log_weights, normalise, solve_reward_temperature

Auto = Literal["auto"]

# A row with less than this share of the weight moves the mean by less than float32 resolves.
_NEGLIGIBLE = 1e-8


@dataclass(frozen=True, slots=True, kw_only=True)
class AISPState:
    """The mean as weighted seeds, the scale once it is known, and which round comes next."""

    context: SearchContext
    scale: float | None
    mean: tuple[NoiseTerm, ...] = ()
    round_index: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AISP:
    """The paper's algorithm, which finds sigma and lambda by itself unless they are given.

    Args:
        scale: sigma, in units of pre-logits. "auto" spends the first response of the budget on a greedy one and takes
            the sigma at which greedy draws leave the argmax as often as softmax draws do. Towards 0 every response is
            the greedy one.
        reward_temperature: lambda, in the reward's unit. "auto" solves for `target_ess_fraction`. Towards 0 the best
            response takes all the weight; towards infinity the rewards don't count.
        prior_shift: alpha in [0, 1].
        target_ess_fraction: Wanted share of effective samples in a round, in (0, 1].
        horizon: Leading tokens that are perturbed; None perturbs all.
        sampling: How a token is taken from the perturbed logits; the paper's is greedy.
        mask_ended: Leave positions past a response's end out of its update.

    Raises:
        ConfigurationError: A value outside its range.
    """

    name: ClassVar[str] = "aisp"
    scale: float | Auto = "auto"
    reward_temperature: float | Auto = "auto"
    prior_shift: float = 0.999
    target_ess_fraction: float = 0.2
    horizon: int | None = None
    sampling: Sampling = GREEDY
    mask_ended: bool = True

    def __post_init__(self) -> None:
        if self.scale != "auto" and not (math.isfinite(self.scale) and self.scale > 0):
            raise ConfigurationError(f'scale is {self.scale}; expected a number > 0, or "auto"')
        if self.reward_temperature != "auto" and not self.reward_temperature >= 0:
            raise ConfigurationError(
                f'reward_temperature is {self.reward_temperature}; expected a number >= 0, or "auto"'
            )
        if not 0 <= self.prior_shift <= 1:
            raise ConfigurationError(f"prior_shift is {self.prior_shift}; expected a number in [0, 1]")
        if not 0 < self.target_ess_fraction <= 1:
            raise ConfigurationError(f"target_ess_fraction is {self.target_ess_fraction}; expected a number in (0, 1]")
        if self.horizon is not None and self.horizon < 1:
            raise ConfigurationError(f"horizon is {self.horizon}; expected an integer >= 1, or None for all tokens")

    @property
    def needs(self) -> frozenset[Capability]:
        calibration: set[Capability] = {"natural_scale"} if self.scale == "auto" else set()
        beyond_the_end: set[Capability] = set() if self.mask_ended else {"unused_mean_dot"}
        return frozenset({"noise", *calibration, *beyond_the_end})

    def init(self, context: SearchContext) -> AISPState:
        return AISPState(context=context, scale=None if self.scale == "auto" else self.scale)

    def propose(self, state: AISPState, n: int) -> tuple[Proposal, ...]:
        root = state.context.root_seed
        if state.scale is None:
            greedy = Proposal(
                seed=row_seed(root, state.round_index, 0), measures=frozenset({"natural_scale"}), log_start=0.0
            )
            return (greedy,)
        horizon = self._horizon(state)
        return tuple(
            Proposal(
                seed=row_seed(root, state.round_index, row),
                sampling=self.sampling,
                scale=state.scale,
                mean=state.mean,
                horizon=horizon,
                measures=frozenset(() if self.mask_ended else {"unused_mean_dot"}),
                log_start=0.0,
            )
            for row in range(n)
        )

    def update(
        self, state: AISPState, proposals: Sequence[Proposal], rollouts: Sequence[Rollout], scores: Sequence[Score]
    ) -> tuple[AISPState, Info]:
        following = replace(state, round_index=state.round_index + 1)
        if state.scale is None:
            return replace(following, scale=rollouts[0].measured.get("natural_scale")), Info()
        rewards = np.array([score.value if score.usable else -np.inf for score in scores])
        if not np.isfinite(rewards).any():
            return following, Info()
        temperature = self.reward_temperature
        if temperature == "auto":
            solved = solve_reward_temperature(rewards, self.target_ess_fraction)
            if solved is None:  # all tied: nothing to learn
                return following, Info(ess=float(np.isfinite(rewards).sum()))
            temperature = solved
        logs = log_weights(
            rewards,
            np.array([self._mean_dot(rollout) for rollout in rollouts]),
            reward_temperature=temperature,
            scale=state.scale,
            prior_shift=self.prior_shift,
        )
        weights = normalise(logs)
        horizon = self._horizon(state)
        ends = [min(len(rollout.tokens), horizon) if self.mask_ended else horizon for rollout in rollouts]
        step = mean_of_noise([proposal.seed for proposal in proposals], weights, ends, state.scale)
        info = Info(ess=effective_sample_size(weights), reward_temperature=float(temperature))
        return replace(following, mean=state.mean + step), info

    def _horizon(self, state: AISPState) -> int:
        tokens = state.context.max_tokens
        return tokens if self.horizon is None else min(self.horizon, tokens)

    def _mean_dot(self, rollout: Rollout) -> float:
        """Return sum_t u_t . v_t: along the response, or to the horizon as the paper has it."""
        along = float(rollout.tokens.mean_dot.sum())
        return along if self.mask_ended else along + float(rollout.measured["unused_mean_dot"])


PAPER = AISP(scale=math.sqrt(0.5), reward_temperature=0.3, prior_shift=0.999, mask_ended=False)
"""The paper's numbers: sigma^2 = 0.5, lambda = 0.3, alpha = 0.999; its rounds are `PAPER_ROUNDS` of `PAPER_SAMPLES`."""
PAPER_SAMPLES, PAPER_ROUNDS = 32, 32


def mean_of_noise(
    seeds: Sequence[int], weights: FloatArray, ends: Sequence[int], scale: float
) -> tuple[NoiseTerm, ...]:
    """Return sigma sum_i w_i eps_t^i / sum_i w_i, both sums over the rows that are alive at t; 0 where none is.

    Args:
        seeds: The seed of each row's noise.
        weights: w_i, shape (rows,), >= 0.
        ends: Row i is alive at positions t < ends[i].
        scale: sigma, in units of pre-logits.

    Returns:
        One term for each row whose weight counts at some position.
    """
    stops = sorted(set(ends))
    alive = {stop: sum(w for w, end in zip(weights, ends, strict=True) if end >= stop) for stop in stops}
    terms = []
    for seed, weight, end in zip(seeds, weights, ends, strict=True):
        spans = tuple(
            (stop, float(scale * weight / alive[stop]))
            for stop in stops
            if stop <= end and weight > _NEGLIGIBLE * alive[stop]
        )
        if spans:
            terms.append(NoiseTerm(seed=seed, spans=_filled(spans, stops)))
    return tuple(terms)


def _filled(spans: tuple[tuple[int, float], ...], stops: Sequence[int]) -> tuple[tuple[int, float], ...]:
    """Give the stops before the first span a weight of 0, since a span reaches down to the stop before it."""
    leading = tuple((stop, 0.0) for stop in stops if stop < spans[0][0])
    return (leading[-1:] if leading else ()) + spans
