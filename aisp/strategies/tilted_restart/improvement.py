"""Expected improvement of a response that goes on from an earlier one's prefix.

The expected reward of a response moves with each of its tokens, and two responses that begin alike move together until
they part. So rewards are modelled as a Gaussian process on the prefix tree: a Brownian motion along each branch, which
has covered a variance of k^(1/4) after k tokens, in units of what a whole response covers, since first tokens decide
most. Given all rewards so far, its law is exact after one pass up the tree and one down (Gaussian belief propagation),
and yields for each prefix the mean and the variance of a response that goes on from there. The expected improvement
E[max(r - best, 0)] (Mockus 1975; Jones, Schonlau and Welch 1998) is high behind prefixes of good responses and behind
prefixes that little is known of. It falls as tries behind a prefix fail.

Rewards enter by their ranks, as normal scores, so that neither scale nor outliers count. The best to improve on is the
expected best of n distinct rewards: to beat n tied responses is as rare as to beat the best of n.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import norm, rankdata

from aisp.records import FloatArray

# Variances of normal scores: of their mean, of the part that tokens decide, and of the rest. The second is two to
# four times its maximum-likelihood value on rewards of searches, whose best lie further out than a normal law's.
_OF_MEAN, _OF_TOKENS, _OF_REST = 1.0, 4.0, 0.05
# Measured over three rewards: weighing restarts by the expected improvement raises the mean improvement 1.3 times; an
# exponent of 0.6 raises it 1.2 times, and so does counting tokens by their entropy.
_EXPONENT = 0.25


def expected_improvement(
    parents: list[int], depths: list[int], ends: list[int], rewards: Sequence[float]
) -> FloatArray:
    """Return the expected improvement on the best response, for each prefix at which a new one may leave the tree.

    Args:
        parents: The node before each node, shape (nodes,). The root comes first, and every node after its parent.
        depths: Number of tokens that lead to each node, shape (nodes,).
        ends: The nodes at which known responses end, at least one.
        rewards: The finite reward of each of these responses.

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
    # Messages up the tree: what a node's branches tell of it, as precision and precision times mean.
    precision, weighted = [0.0] * len(parents), [0.0] * len(parents)
    for node, value in zip(ends, values, strict=True):
        precision[node] += 1.0 / _OF_REST
        weighted[node] += value / _OF_REST
    for node in range(len(parents) - 1, 0, -1):
        passed = 1.0 / (1.0 + steps[node] * precision[node])
        precision[parents[node]] += passed * precision[node]
        weighted[parents[node]] += passed * weighted[node]
    # Messages down the tree: what the rest tells of a node is its parent's law without this branch's message.
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
