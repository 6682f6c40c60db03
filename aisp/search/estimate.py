"""What a search tells of the reward-tilted distribution q*(y), proportional to p(y) exp(r(y)/lambda).

A round of `tilted_restart` draws nothing again: each response leaves the tree of those before it, and does so with a
known probability. What is in the tree already is known as well, so a round estimates E_p[f] by

    sum over the tree of p(y) f(y)  +  mean over its responses of p(y)/q(y) f(y)

without bias, whatever the rewards (sampling without replacement), but for what is never tried: less than a thousandth
behind a prefix, and what hangs on nothing but parents whose weight is 0 in floating point. A tilted draw is truncated
by its own probabilities, so with top_p or top_k this holds at tilt_nats=0 only.

A response's weight is what all rounds' estimates, averaged by how many responses they have, count it with: p/q of its
own round, and p in the rounds after it. One that was cut late is so much likelier under q than under p that it weighs
next to nothing. How little the search tells of q* for that reason is what the effective sample size says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.special import logsumexp

from aisp.errors import ConfigurationError
from aisp.records import FloatArray
from aisp.search.trace import Alignment, Response
from aisp.strategies.tilted_restart.restarts import Restarts, restarts_from
from aisp.strategies.tilted_restart.strategy import draws_plainly
from aisp.strategies.weights import effective_sample_size, normalise, solve_reward_temperature, tilt

TARGET_ESS_FRACTION = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class TiltedEstimate:
    """A weighted sample of q*, properly weighted: sum_i w_i f(y_i) estimates E_q*[f].

    Args:
        reward_temperature: lambda, in the reward's unit.
        responses: All that were drawn, n of them; those that can't be returned have weight 0.
        log_ratios: Shape (n,): the mean of exp(log_ratio) f(y) estimates E_p[f], p being the base model as restarts
            sample from it. log p(y)/q(y) in a search of one round; -inf for what a round drew of an earlier one's.
        weights: Shape (n,), summing to 1.
        ess: Their effective sample size, in [1, n]. Near 1 the estimate is one response's and tells nothing.
        log_normaliser: Estimate of log E_p[exp((r - r_max)/lambda)], r_max being the best reward found.
    """

    reward_temperature: float
    responses: tuple[Response, ...] = field(repr=False)
    log_ratios: FloatArray = field(repr=False)
    weights: FloatArray = field(repr=False)
    ess: float
    log_normaliser: float

    @property
    def mean_reward(self) -> float:
        """Estimate of E_q*[r]."""
        rewards = [response.reward if response.score.usable else 0.0 for response in self.responses]
        return float(self.weights @ np.array(rewards))


def tilted_estimate(alignment: Alignment, reward_temperature: float | None = None) -> TiltedEstimate:
    """Estimate the reward-tilted distribution from what a search drew.

    Args:
        alignment: Of `tilted_restart` or `best_of_n`, whose proposals' probabilities are known.
        reward_temperature: lambda > 0 of the target; None takes the one at which a fifth of the plain samples (two, if
            that is more) would be effective by their rewards alone.

    Raises:
        ConfigurationError: Another strategy, a search in blocks, a lambda that is not above 0 and finite, or more plain
            samples tied for best than that where lambda is left open.
    """
    name, _, manner = alignment.strategy.partition(", ")
    if name not in ("tilted_restart", "best_of_n"):
        raise ConfigurationError(
            f"the proposals of {alignment.strategy} have no known probabilities; "
            'the distribution can be estimated with strategy="tilted_restart" or "best_of_n"'
        )
    if "blocks of" in manner:
        raise ConfigurationError(
            f"{alignment.strategy}: a search that commits its response block after block has one target a block; "
            "the distribution can be estimated without commit_tokens"
        )
    chosen = _target(alignment) if reward_temperature is None else reward_temperature
    if not chosen or not 0 < chosen < math.inf:
        found = (
            "too many of the plain samples tie for best to tell lambda by"
            if reward_temperature is None
            else (f"reward_temperature is {reward_temperature}")
        )
        raise ConfigurationError(f"{found}; give reward_temperature, a finite number > 0 in the reward's unit")
    responses = tuple(alignment.responses)
    log_ratios = _log_ratios(alignment)
    rewards = np.array([response.reward if response.score.usable else -np.inf for response in responses])
    log_weights = log_ratios + tilt(rewards, chosen)
    weights = normalise(log_weights)
    return TiltedEstimate(
        reward_temperature=chosen,
        responses=responses,
        log_ratios=log_ratios,
        weights=weights,
        ess=effective_sample_size(weights),
        log_normaliser=float(logsumexp(log_weights) - np.log(len(responses))),
    )


def _target(alignment: Alignment) -> float | None:
    rewards = np.array([response.reward for response in _plain(alignment) if response.score.usable])
    if rewards.size < 3:
        return None
    return solve_reward_temperature(rewards, max(TARGET_ESS_FRACTION, 2.0 / rewards.size))


def _plain(alignment: Alignment) -> list[Response]:
    """Return the responses of the rounds that drew plain samples."""
    found: list[Response] = []
    for round_ in alignment.rounds:
        if _is_plain(alignment, found):
            found += round_.responses
    return found


def _is_plain(alignment: Alignment, before: Sequence[Response]) -> bool:
    """Return whether the round behind some responses drew plain samples."""
    usable = sum(response.score.usable for response in before)
    return not alignment.strategy.startswith("tilted_restart") or draws_plainly(usable, alignment.budget)


def _log_ratios(alignment: Alignment) -> FloatArray:
    """Return the logarithm of what each response counts in the mean that estimates E_p[f], shape (n,)."""
    ratios: list[float] = []
    before: list[Response] = []
    for index, now in enumerate(alignment.rounds):
        restarts = _restarts(alignment, index, before)
        own = [_log_ratio(response, restarts) for response in now.responses]
        if restarts is not None:
            first = {response.rollout.tokens.ids: place for place, response in reversed(list(enumerate(before)))}
            for place in first.values():
                log_p = float(before[place].rollout.tokens.log_prior.sum())
                ratios[place] = float(np.logaddexp(ratios[place], np.log(len(own)) + log_p))
        ratios += own
        before += now.responses
    return np.array(ratios)


def _restarts(alignment: Alignment, index: int, before: Sequence[Response]) -> Restarts | None:
    """Return what a round restarted from; None where it drew plain samples."""
    if _is_plain(alignment, before):
        return None
    known = [(response.rollout.tokens, response.reward) for response in before if response.score.usable]
    everything = [response.rollout.tokens for response in before]
    restarts, _ = restarts_from(everything, known, lambda _: alignment.rounds[index - 1].reward_temperature)
    return restarts


def _log_ratio(response: Response, restarts: Restarts | None) -> float:
    """Return log p(y)/q(y); -inf where a round of restarts drew what had been drawn before."""
    tokens, kept = response.rollout.tokens, response.rollout.kept_tokens
    suffix = float((tokens.log_prior[kept:] - tokens.log_proposal[kept:]).sum())
    if restarts is None:
        return suffix
    # It begins with a token that was tried there only where the tilt left no other in a truncated draw.
    departure = restarts.log_departure(tokens) if restarts.explored.leaves(tokens.ids) == kept else -np.inf
    return suffix + float(tokens.log_prior[:kept].sum()) - departure if np.isfinite(departure) else -np.inf
