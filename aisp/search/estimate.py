"""What a search tells of the reward-tilted distribution q*(y), proportional to p(y) exp(r(y)/lambda).

Every proposal records the log-probability of its start (`Proposal.log_start`), and every token its own under the
proposal, so q(y) is a sum over records. A proposal without `excluded` may draw any response, and estimates E_p[f] by
p(y)/q(y) f(y). A restart, whose `excluded` are the tokens tried behind what it keeps, can't draw what was known when it
was proposed (`Response.known`). So a restart estimates E_p[f] by

    sum over the responses known before it of p(y) f(y)  +  p(y)/q(y) f(y)

without bias, whatever the rewards (sampling without replacement), up to two omissions: less than a thousandth of the
probability behind a prefix, and what hangs only on parents whose weight is 0 in floating point. A tilted draw is
truncated by its own probabilities, so with top_p or top_k this holds at tilt_nats=0 only.

A response's weight is its share of the average of all these estimates: p/q once, and p for every restart that knew
it. A response that was cut late is so much likelier under q than under p that it weighs next to nothing. The
effective sample size says how little the search tells of q* for that reason.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from scipy.special import logsumexp

from aisp.errors import ConfigurationError
from aisp.records import FloatArray
from aisp.search.trace import Alignment, Response
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
        alignment: Of a strategy that writes `Proposal.log_start` and draws by softmax, as `tilted_restart` and
            `best_of_n` do.
        reward_temperature: lambda > 0 of the target; None takes the one at which a fifth of the plain samples (two, if
            that is more) would be effective by their rewards alone.

    Raises:
        ConfigurationError: Proposals whose probabilities aren't known, a search in blocks, a lambda that is not above 0
            and finite, or more plain samples tied for best than that where lambda is left open.
    """
    _check(alignment)
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


def _check(alignment: Alignment) -> None:
    """Raise unless the probability of every response under its proposal is known.

    Raises:
        ConfigurationError: It is not.
    """
    responses = list(alignment.responses)
    if any(round_.block or round_.committed for round_ in alignment.rounds):
        raise ConfigurationError(
            f"{alignment.strategy}: a search that commits its response block after block has one target a block; "
            "the distribution can be estimated without commit_tokens"
        )
    if not all(_is_known(response) for response in responses):
        raise ConfigurationError(
            f"the proposals of {alignment.strategy} have no known probabilities; the distribution can be estimated "
            "with strategy='tilted_restart' or 'best_of_n', or with another one that draws by softmax at a temperature "
            "above 0 and writes `Proposal.log_start`"
        )
    laws = {response.proposal.law for response in responses if response.proposal is not None}
    if len(laws) > 1:
        raise ConfigurationError(
            f"the responses of {alignment.strategy} are weighed by {len(laws)} different laws ({laws}); "
            "give all proposals one `prior`"
        )


def _is_known(response: Response) -> bool:
    proposal, tokens = response.proposal, response.rollout.tokens
    if proposal is None or proposal.log_start is None or response.rollout.paused:
        return False
    return not np.isnan(tokens.log_proposal[len(proposal.kept) :]).any()


def _target(alignment: Alignment) -> float | None:
    plain = [response for response in alignment.responses if response.score.usable and _is_plain(response)]
    rewards = np.array([response.reward for response in plain])
    if rewards.size < 3:
        return None
    return solve_reward_temperature(rewards, max(TARGET_ESS_FRACTION, 2.0 / rewards.size))


def _is_plain(response: Response) -> bool:
    """Return whether a response was written from its beginning, by the model itself."""
    proposal = response.proposal
    return proposal is not None and not (proposal.kept.ids or proposal.excluded or proposal.steered)


def _log_ratios(alignment: Alignment) -> FloatArray:
    """Return the log of each response's weight in the mean that estimates E_p[f], shape (n,)."""
    responses = tuple(alignment.responses)
    ratios = np.array([_log_ratio(response) for response in responses])
    # A restart draws none of the responses that were known before it, whose part of the sum is known.
    known = np.sort([r.known for r in responses if r.proposal is not None and r.proposal.excluded])
    seen: set[tuple[int, ...]] = set()
    for place, response in enumerate(responses):
        restarts = len(known) - int(np.searchsorted(known, place, side="right"))
        if restarts and response.rollout.tokens.ids not in seen:
            log_p = float(response.rollout.tokens.log_prior.sum())
            ratios[place] = np.logaddexp(ratios[place], np.log(restarts) + log_p)
        seen.add(response.rollout.tokens.ids)
    return ratios


def _log_ratio(response: Response) -> float:
    """Return log p(y)/q(y); -inf for a restart that drew what had been drawn before."""
    proposal, tokens = response.proposal, response.rollout.tokens
    if proposal is None or proposal.log_start is None:
        return -math.inf
    kept = len(proposal.kept)
    # A truncated draw takes a token that was excluded where the tilt leaves no other.
    repeats = any(token in proposal.excluded for token in tokens.ids[kept : kept + 1])
    if repeats or not math.isfinite(proposal.log_start):
        return -math.inf
    suffix = float((tokens.log_prior[kept:] - tokens.log_proposal[kept:]).sum())
    return suffix + float(tokens.log_prior[:kept].sum()) - proposal.log_start
