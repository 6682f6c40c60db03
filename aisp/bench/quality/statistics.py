"""What best-of-n expects of a pool of samples, and paired differences between strategies."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from aisp.records import FloatArray

_RESAMPLES = 4000


def chosen_probabilities(rewards: FloatArray, n: int) -> FloatArray:
    """Return how probable it is that each sample of a pool is the best of n drawn from it without replacement.

    sum_i p_i x_i is then the unbiased estimate of what any x of the chosen answer is on average, its reward included,
    and uses every sample for every n.

    Args:
        rewards: Shape (size,); of equals the first counts as better. NaN (vetoed) is below everything.
        n: Between 1 and the pool's size.

    Returns:
        Shape (size,), summing to 1.
    """
    size = len(rewards)
    if not 1 <= n <= size:
        raise ValueError(f"n is {n}; expected 1 to {size}, the size of the pool")
    order = np.lexsort((-np.arange(size), np.nan_to_num(rewards, nan=-np.inf)))
    below = np.arange(size, dtype=np.float64)  # samples worse than the one at this rank
    with np.errstate(invalid="ignore"):
        log_p = _log_choose(below, n - 1) - _log_choose(np.array([float(size)]), n)
    probabilities = np.empty(size)
    probabilities[order] = np.where(below >= n - 1, np.exp(log_p), 0.0)
    return probabilities


def _log_choose(total: FloatArray, chosen: int) -> FloatArray:
    total = np.maximum(np.asarray(total, dtype=np.float64), chosen)
    return np.asarray(gammaln(total + 1) - gammaln(chosen + 1) - gammaln(total - chosen + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A mean paired difference with its bootstrap interval.

    Args:
        mean: Of the prompts' mean differences.
        low: 2.5 % quantile of the bootstrap over prompts.
        high: 97.5 % quantile.
        bound: One-sided lower 95 % bound.
        prompts: How many.
    """

    mean: float
    low: float
    high: float
    bound: float
    prompts: int


def paired(differences: Sequence[Sequence[float]], seed: int = 0) -> Difference:
    """Summarise differences by a bootstrap that draws prompts, since seeds of one prompt are alike.

    Args:
        differences: One sequence a prompt, one number a seed. Prompts with a NaN among theirs are left out.
        seed: Of the bootstrap.
    """
    means = np.array([np.mean(own) for own in differences])
    means = means[~np.isnan(means)]
    if not means.size:
        return Difference(mean=math.nan, low=math.nan, high=math.nan, bound=math.nan, prompts=0)
    low, bound, high = np.quantile(resampled(means, seed), [0.025, 0.05, 0.975])
    return Difference(
        mean=float(means.mean()), low=float(low), high=float(high), bound=float(bound), prompts=len(means)
    )


def resampled(of_prompts: FloatArray, seed: int = 0) -> FloatArray:
    """Return the means of bootstrap draws of prompts.

    Args:
        of_prompts: Shape (prompts, ...).
        seed: Of the draws: equal for equal numbers of prompts.

    Returns:
        Shape (draws, ...).
    """
    prompts = len(of_prompts)
    times = np.random.default_rng(seed).multinomial(prompts, np.full(prompts, 1.0 / prompts), size=_RESAMPLES)
    return np.asarray(np.tensordot(times / prompts, of_prompts, axes=1))


def diversity(text: str) -> float:
    """Return the product over n = 2, 3, 4 of 1 - rep_n, in [0, 1]: 1 where no n-gram of words occurs twice."""
    words = text.split()
    product = 1.0
    for n in (2, 3, 4):
        grams = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
        total = sum(grams.values())
        product *= len(grams) / total if total else 1.0
    return product
