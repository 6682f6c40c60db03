"""How much better than the best so far a response may become that begins like an earlier one.

What is to be expected of a response moves with each of its tokens, and two that begin alike have moved together until
they part. So rewards are modelled as a Gaussian process on the prefix tree, a Brownian motion along each of its
branches that has covered a variance of k^(1/4), in units of what a whole response covers, after k tokens: what comes
first decides most. Its law given all rewards so far is exact in one pass up the tree and one down (Gaussian belief
propagation), and has for each prefix the mean and the variance of a response that goes on from there. Their expected
improvement E[max(r - best, 0)] (Mockus 1975; Jones, Schonlau and Welch 1998) is high behind prefixes of good responses,
and behind those that little is known of; it falls as tries behind a prefix fail.

Rewards enter by their ranks, as normal scores, so that neither scale nor outliers count. The best to be improved on is
that of n responses that differ: what beats n that are tied is as rare as what beats the best of n.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import norm, rankdata

from aisp.records import FloatArray

# Variances, of normal scores: of their mean, of what the tokens of a response decide, and of what is left. The second
# is twice to four times what is likeliest of searches' rewards: the best of them are further out than the normal law's.
_OF_MEAN, _OF_TOKENS, _OF_REST = 1.0, 4.0, 0.05
# Over three rewards, restarts that are weighed by what was expected of them improved by 1.3 times their mean; by 1.2
# with 0.6 here, and by 1.2 where tokens count by their entropy.
_EXPONENT = 0.25


def expected_improvement(
    parents: list[int], depths: list[int], ends: list[int], rewards: Sequence[float]
) -> FloatArray:
    """Return what a response is expected to be better by than the best, for each prefix that it may leave the tree at.

    Args:
        parents: The node before each node, shape (nodes,); the root comes first, and every other node after its own.
        depths: How many tokens lead to each node, shape (nodes,).
        ends: The nodes at which known responses end, at least one.
        rewards: Of each of these, finite.

    Returns:
        Shape (nodes,), >= 0, in units of normal scores.
    """
    n = len(rewards)
    normal_scores, best = norm.ppf((rankdata(rewards) - 0.5) / n), norm.ppf((n - 0.5) / n)
    lengths = np.array(depths, dtype=float)
    covered = _OF_TOKENS * (lengths / lengths[ends].mean()) ** _EXPONENT
    steps = covered - covered[parents]
    means, variances = _posterior(parents, steps.tolist(), ends, normal_scores.tolist())
    spread = np.sqrt(variances + np.maximum(_OF_TOKENS - covered, 0.0) + _OF_REST)
    gap = (means - best) / spread
    return np.asarray(spread * np.maximum(norm.pdf(gap) + gap * norm.cdf(gap), 0.0))


def _posterior(
    parents: list[int], steps: list[float], ends: list[int], values: list[float]
) -> tuple[FloatArray, FloatArray]:
    """Return mean and variance of the motion at each node, given noisy values at some, each of shape (nodes,).

    Args:
        parents: The node before each.
        steps: Variance that the motion covers from there.
        ends: Nodes with a value.
        values: That of each.
    """
    # What a node's own branches tell of it: precision, and precision times mean.
    precision, weighted = [0.0] * len(parents), [0.0] * len(parents)
    for node, value in zip(ends, values, strict=True):
        precision[node] += 1.0 / _OF_REST
        weighted[node] += value / _OF_REST
    for node in range(len(parents) - 1, 0, -1):
        passed = 1.0 / (1.0 + steps[node] * precision[node])
        precision[parents[node]] += passed * precision[node]
        weighted[parents[node]] += passed * weighted[node]
    # What all else tells of it is what its parent knows, without what it had from this branch.
    variances = [1.0 / (1.0 / _OF_MEAN + precision[0])] * len(parents)
    means = [variances[0] * weighted[0]] * len(parents)
    for node in range(1, len(parents)):
        before, passed = parents[node], 1.0 / (1.0 + steps[node] * precision[node])
        others = 1.0 / variances[before] - passed * precision[node]
        mean = (means[before] / variances[before] - passed * weighted[node]) / others
        variance = 1.0 / others + steps[node]
        variances[node] = 1.0 / (1.0 / variance + precision[node])
        means[node] = variances[node] * (mean / variance + weighted[node])
    return np.array(means), np.array(variances)
