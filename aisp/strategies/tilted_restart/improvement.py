"""Expected improvement of a response that goes on from an earlier one's prefix.

The expected reward of a response moves with each of its tokens, and two responses that begin alike move together until
they part. So rewards are modelled as a Gaussian process on the prefix tree: a Brownian motion along each branch, which
has covered a variance of k^(1/4) after k tokens, in units of what a whole response covers, since first tokens decide
most. Given all rewards so far, its law is exact after one pass up the tree and one down (Gaussian belief propagation),
and yields for each prefix the mean and the variance of a response that goes on from there. Where a run of tokens leads
past nothing, variances add up, so that only junctions pass messages: a few for each response. The expected improvement
E[max(r - best, 0)] (Mockus 1975; Jones, Schonlau and Welch 1998) is high behind prefixes of good responses and behind
prefixes that little is known of. It falls as tries behind a prefix fail.

Rewards enter by their ranks, as normal scores, so that neither scale nor outliers count. The best to improve on is the
expected best of n distinct rewards: to beat n tied responses is as rare as to beat the best of n.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import rankdata

from aisp.records import FloatArray

IntArray = NDArray[np.int64]
ComplexArray = NDArray[np.complex128]

# Variances of normal scores: of their mean, of the part that tokens decide, and of the rest. The second is two to
# four times its maximum-likelihood value on rewards of searches, whose best lie further out than a normal law's.
_OF_MEAN, _OF_TOKENS, _OF_REST = 1.0, 4.0, 0.05
# Measured over three rewards: weighing restarts by the expected improvement raises the mean improvement 1.3 times; an
# exponent of 0.6 raises it 1.2 times, and so does counting tokens by their entropy.
_EXPONENT = 0.25


def expected_improvement(parents: IntArray, depths: IntArray, ends: IntArray, rewards: Sequence[float]) -> FloatArray:
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
    normal_scores, best = ndtri((rankdata(rewards) - 0.5) / n), ndtri((n - 0.5) / n)
    lengths = np.arange(depths.max() + 1)
    covered = (_OF_TOKENS * (lengths / depths[ends].mean()) ** _EXPONENT)[depths]
    means, variances = _posterior(parents, covered, ends, normal_scores)
    spread = np.sqrt(variances + np.maximum(_OF_TOKENS - covered, 0.0) + _OF_REST)
    gap = (means - best) / spread
    density = np.exp(-0.5 * gap**2) / math.sqrt(2.0 * math.pi)
    return np.asarray(spread * np.maximum(density + gap * ndtr(gap), 0.0))


def _posterior(
    parents: IntArray, covered: FloatArray, ends: IntArray, values: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return mean and variance of the motion at each node, given noisy values at some, each of shape (nodes,).

    Args:
        parents: The node before each.
        covered: Variance that the motion has covered at each.
        ends: Nodes with a value.
        values: That of each.
    """
    lasts, origins = _runs(parents, ends)
    steps = covered[lasts] - covered[origins]
    places = np.searchsorted(lasts, ends)
    heard = np.bincount(places, minlength=len(lasts)) + 1j * np.bincount(places, values, minlength=len(lasts))
    above, below = _messages(np.searchsorted(lasts, origins), steps, np.asarray(heard / _OF_REST, dtype=np.complex128))
    # Inside a run, the motion is a bridge: each node hears of both ends, by their distance.
    run = np.repeat(np.arange(len(lasts)), np.diff(lasts, prepend=-1))
    walked = covered - covered[origins][run]
    known = _passed(above[run], walked) + _passed(below[run], steps[run] - walked)
    return known.imag / known.real, 1.0 / known.real


def _runs(parents: IntArray, ends: IntArray) -> tuple[IntArray, IntArray]:
    """Return the last node of each run, and the node that it goes out from, each of shape (runs,).

    A run leads from one junction to the next: the root, the ends, and wherever responses part. Its nodes are
    consecutive numbers. The first run is the root alone, which goes out from itself.
    """
    inside = np.bincount(parents[1:], minlength=len(parents)) == 1
    inside[:-1] &= parents[1:] == np.arange(len(parents) - 1)
    inside[0] = inside[ends] = False
    lasts = np.flatnonzero(~inside)
    return lasts, parents[np.append(0, lasts[:-1] + 1)]


def _messages(origins: IntArray, steps: FloatArray, heard: ComplexArray) -> tuple[ComplexArray, ComplexArray]:
    """Return what both ends of each run are told from outside it.

    A message says what is known of a node, as precision + i * precision * mean, so that messages add up.

    Args:
        origins: The run at whose last node each run goes out, shape (runs,): an earlier one.
        steps: Variance that the motion covers along each.
        heard: What the values at its last node tell of that node.

    Returns:
        What all but the run tells of the node that it goes out from, and what the values and the runs at its last node
        tell of that one, each of shape (runs,).
    """
    runs = list(zip(origins.tolist(), steps.tolist(), strict=True))
    below, passed = heard.tolist(), [0j] * len(runs)
    for run in range(len(runs) - 1, 0, -1):
        origin, step = runs[run]
        passed[run] = _passed(below[run], step)
        below[origin] += passed[run]
    above, known = [complex(1.0 / _OF_MEAN)], below.copy()
    known[0] += above[0]
    for run in range(1, len(runs)):
        origin, step = runs[run]
        above.append(known[origin] - passed[run])
        known[run] += _passed(above[run], step)
    return np.array(above), np.array(below)


def _passed(message: Any, step: Any) -> Any:
    """Return what a message (or each of many) tells after a step of so much variance."""
    return message / (1.0 + step * message.real)
