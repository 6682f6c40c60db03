"""What a search tells of the reward-tilted distribution q*(y), proportional to p(y) exp(r(y)/lambda).

A round of `tilted_restart` draws from a mixture that is known: parent j with probability W_j, cut c of its response
with probability P(c | j), and from there the tilted model. Other parents and cuts could have led to the response too;
with

    B(j, c | y) proportional to W_j P(c | j) / p(y_<c)   over the parents that begin with y_<c

for the probability that it came from just one (multiple importance sampling with the untilted mixture's
responsibilities), the weight of what was drawn needs no further forward pass:

    p(y)/q(y) = [1 / sum_j W_j sum_{c <= lcp(y, y_j)} P(c | j)/p(y_<c)] . [p(y_>=c) / q(y_>=c)]

The second factor is that of the tokens that were drawn, whose probabilities the engine reports. Given the rounds
before, the mean of weight times f is E_p[f] exactly, whatever the rewards; a response cut late is so much likelier
under q than under p that its weight is next to nothing. How little the search tells of q* for that reason is what the
effective sample size says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from aisp.errors import ConfigurationError
from aisp.records import FloatArray, Tokens
from aisp.strategies.tilted_restart import cut_probabilities, draws_plainly
from aisp.trace import Alignment, Response, Round
from aisp.weights import effective_sample_size, normalise, solve_reward_temperature, tilt

TARGET_ESS_FRACTION = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class TiltedEstimate:
    """A weighted sample of q*, properly weighted: sum_i w_i f(y_i) estimates E_q*[f].

    Args:
        reward_temperature: lambda, in the reward's unit.
        responses: All that were drawn, n of them; those that can't be returned have weight 0.
        log_ratios: log p(y)/q(y), shape (n,), p being the base model as it was sampled from.
        weights: Shape (n,), summing to 1.
        ess: Their effective sample size, in [1, n]. Near 1 the estimate is one response's and tells nothing.
        log_normaliser: Estimate of log E_p[exp((r - r_max)/lambda)], r_max being the best reward found.
    """

    reward_temperature: float
    responses: tuple[Response, ...]
    log_ratios: FloatArray
    weights: FloatArray
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
        reward_temperature: lambda > 0 of the target; None takes the one at which a fifth of the first round's plain
            samples would be effective.

    Raises:
        ConfigurationError: Another strategy, a search in blocks, a lambda that is not above 0, or rewards that are all
            equal where lambda is left open.
    """
    if alignment.strategy not in ("tilted_restart", "best_of_n"):
        raise ConfigurationError(
            f"the proposals of {alignment.strategy} have no known probabilities; "
            'the distribution can be estimated with strategy="tilted_restart" or "best_of_n"'
        )
    if any(round_.block for round_ in alignment.rounds):
        raise ConfigurationError(
            "a search that commits its response block after block has one target a block; "
            "the distribution can be estimated without commit_tokens"
        )
    chosen = _target(alignment) if reward_temperature is None else reward_temperature
    if chosen is None or not chosen > 0:
        raise ConfigurationError(
            f"reward_temperature is {reward_temperature}; expected a number > 0"
            + ("" if reward_temperature is not None else ", since the first round's rewards can't tell one")
        )
    responses = tuple(alignment.responses)
    rounds = alignment.rounds
    log_ratios = np.concatenate([_log_ratios(_parents(alignment, k), rounds[:k], now) for k, now in enumerate(rounds)])
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
    rewards = np.array([response.reward for response in alignment.rounds[0].usable])
    return solve_reward_temperature(rewards, TARGET_ESS_FRACTION) if rewards.size else None


def _parents(alignment: Alignment, index: int) -> list[Response]:
    """Return the responses that a round could restart from; none where it drew plain samples."""
    usable = [response for round_ in alignment.rounds[:index] for response in round_.usable]
    plain = alignment.strategy == "best_of_n" or draws_plainly(len(usable), alignment.budget)
    return [] if plain else usable


def _log_ratios(parents: Sequence[Response], before: Sequence[Round], now: Round) -> FloatArray:
    """Return log p(y)/q(y) of a round's responses, shape (n,), given the rounds before it."""
    own = np.array([_suffix_ratio(response) for response in now.responses])
    if not parents:
        return own
    shares = _shares(parents, before[-1].reward_temperature)
    tokens = [parent.rollout.tokens for parent in parents]
    reaches = [_log_reach(parent) for parent in tokens]

    def log_mixture(drawn: Tokens) -> float:
        common = [_common(drawn, parent) for parent in tokens]
        at = [reach[min(length, len(reach) - 1)] for length, reach in zip(common, reaches, strict=True)]
        return float(logsumexp(np.array(at), b=shares))

    mixture: FloatArray = np.array([log_mixture(response.rollout.tokens) for response in now.responses])
    return np.asarray(own - mixture)


def _shares(parents: Sequence[Response], reward_temperature: float | None) -> FloatArray:
    """Return W_j, shape (parents,); None where all rewards were tied."""
    if reward_temperature is None:
        return np.full(len(parents), 1.0 / len(parents))
    return normalise(tilt(np.array([parent.reward for parent in parents]), reward_temperature))


def _suffix_ratio(response: Response) -> float:
    rollout = response.rollout
    drawn = slice(rollout.kept_tokens, None)
    return float((rollout.tokens.log_prior[drawn] - rollout.tokens.log_proposal[drawn]).sum())


def _log_reach(parent: Tokens) -> FloatArray:
    """Return log sum_{c <= k} P(c)/p(y_<c) for every k, shape (length,)."""
    before = np.concatenate([[0.0], parent.log_prior[:-1].cumsum()])
    with np.errstate(divide="ignore"):
        return np.asarray(np.logaddexp.accumulate(np.log(cut_probabilities(parent.entropy)) - before))


def _common(one: Tokens, other: Tokens) -> int:
    """Return the length of the common prefix."""
    length = min(len(one), len(other))
    differs = np.flatnonzero(np.array(one.ids[:length]) != np.array(other.ids[:length]))
    return int(differs[0]) if differs.size else length
