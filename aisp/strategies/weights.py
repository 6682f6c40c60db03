"""Importance weights of perturbed responses.

The target is q*(V) proportional to exp(r/lambda) p(V) with the prior p = N(0, sigma^2 I); the proposal is q = N(U,
sigma^2 I). Up to a constant that normalisation removes, log q*/q = r/lambda - (1/sigma^2) sum_t u_t . v_t. The paper
(arXiv 2510.26219) puts (1 - alpha) before the second term, which moves the prior's mean to alpha U.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import brentq

from aisp.errors import ConfigurationError
from aisp.records import FloatArray


def log_weights(
    rewards: FloatArray, mean_dots: FloatArray, *, reward_temperature: float, scale: float, prior_shift: float
) -> FloatArray:
    """Return unnormalised log weights r/lambda - ((1 - alpha)/sigma^2) sum_t u_t . v_t (arXiv 2510.26219).

    Args:
        rewards: r, shape (n,); -inf takes a row out.
        mean_dots: sum_t u_t . v_t of each row, shape (n,).
        reward_temperature: lambda >= 0, in the reward's unit. Towards 0 the best row takes all the weight (rows tied
            for best share it); towards infinity the rewards don't count.
        scale: sigma > 0.
        prior_shift: alpha in [0, 1]. 0 anchors to the base model, 1 to the current mean.

    Returns:
        Shape (n,).

    Raises:
        ConfigurationError: A parameter outside its range, or no row with a finite reward.
    """
    if not reward_temperature >= 0:
        raise ConfigurationError(f"reward_temperature is {reward_temperature}; expected a number >= 0")
    if not scale > 0:
        raise ConfigurationError(f"scale is {scale}; expected a number > 0")
    if not 0 <= prior_shift <= 1:
        raise ConfigurationError(f"prior_shift is {prior_shift}; expected a number in [0, 1]")
    if not np.isfinite(rewards).any():
        raise ConfigurationError("no row has a finite reward, so there is nothing to weight")
    prior_term = (1.0 - prior_shift) / scale**2 * mean_dots
    return tilt(rewards, reward_temperature) - prior_term


def tilt(rewards: FloatArray, reward_temperature: float) -> FloatArray:
    """Return (r - max r)/lambda, shape (n,): at most 0, and -inf for a reward of -inf, whatever lambda.

    At lambda = 0 it is its limit: 0 for the best, else -inf.
    """
    if reward_temperature == 0:
        return np.where(rewards == rewards.max(), 0.0, -np.inf)
    half = _half_gaps(rewards)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        log_weights = np.where(np.isfinite(half), half / (0.5 * reward_temperature), -np.inf)
    return np.asarray(np.where(half == 0, 0.0, log_weights), dtype=np.float64)


def _half_gaps(rewards: FloatArray) -> FloatArray:
    """Return (r - max r)/2, shape (n,): the difference of two finite numbers may be infinite, half of it is not."""
    return np.asarray(0.5 * rewards - 0.5 * rewards.max())


def normalise(log_weights: FloatArray) -> FloatArray:
    """Return weights that sum to 1, shape (n,), from log weights of which at least one is finite."""
    weights = np.exp(log_weights - log_weights.max())
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def effective_sample_size(weights: FloatArray) -> float:
    """Return 1 / sum(w^2), in [1, n], of weights that sum to 1."""
    return float(1.0 / np.square(weights).sum())


def solve_reward_temperature(rewards: FloatArray, target_ess_fraction: float) -> float | None:
    """Find the lambda at which the reward term alone has the wanted effective sample size.

    It makes the weights indifferent to the reward's scale and shift. The effective sample size rises with lambda from
    the number of rows tied for best to n, so there is one solution or none.

    Args:
        rewards: Shape (n,); -inf takes a row out.
        target_ess_fraction: Wanted ESS / n, in (0, 1], n being the rows with a finite reward.

    Returns:
        lambda in the reward's unit; 0 (the rows tied for best share the weight) where more rows are tied for best
        than the target asks for; None where all are tied, which leaves nothing to learn.

    Raises:
        ConfigurationError: `target_ess_fraction` outside (0, 1].
    """
    if not 0 < target_ess_fraction <= 1:
        raise ConfigurationError(f"target_ess_fraction is {target_ess_fraction}; expected a number in (0, 1]")
    finite = rewards[np.isfinite(rewards)]
    half = _half_gaps(finite) if finite.size else np.zeros(1)
    half_spread = -float(half.min())
    if half_spread == 0:
        return None
    unit = half / half_spread
    target = max(1.0, target_ess_fraction * finite.size)
    if target <= np.count_nonzero(unit == 0):
        return 0.0

    def excess(log_temperature: float) -> float:
        return effective_sample_size(normalise(unit / math.exp(log_temperature))) - target

    # Between these shares of the spread the effective sample size goes from 1 to n within rounding errors, for any
    # rewards; a target of n itself is reached in the limit only.
    lowest, highest = math.log(1e-12), math.log(1e6)
    if excess(lowest) >= 0:
        return 0.0
    if excess(highest) <= 0:
        return 2.0 * math.exp(highest) * half_spread
    return 2.0 * math.exp(float(brentq(excess, lowest, highest, xtol=1e-10))) * half_spread
