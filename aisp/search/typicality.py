"""How a text of a model reads, measured for free: surprisal in windows, and repetition.

A text that scores and that nobody would read shows in one of three ways. A loop is likely once it has begun: its
windows have less surprisal than any of plain samples. Salad has more. And a loop whose tokens keep some surprisal
repeats its bigrams. Means over a whole text show none of this: what leads into a loop is surprising, the loop is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from aisp.records import FloatArray

WINDOW = 12
"""Tokens over which surprisal is averaged: about the length of a phrase that a loop repeats."""
SPAN = 32
"""Tokens within which a bigram counts as repeated. A long text may well say a thing again much later."""


def window_surprisals(log_prob: FloatArray, width: int = WINDOW) -> FloatArray:
    """Return the mean surprisal of each run of tokens, in nats a token.

    Args:
        log_prob: Log-probabilities of the tokens under the base model at temperature 1, shape (tokens,).
        width: Tokens of a run.

    Returns:
        Shape (max(tokens - width + 1, 1),); a text shorter than that is one run, and one without tokens has none.
    """
    width = min(width, len(log_prob))
    if not width:
        return np.zeros(0)
    sums = np.concatenate([[0.0], np.cumsum(-np.asarray(log_prob))])
    return np.asarray((sums[width:] - sums[:-width]) / width)


def repetition(ids: Sequence[int], span: int = SPAN) -> float:
    """Return the greatest share of bigrams, in any run of so many tokens, that occurred in that run before.

    0 for a text that never says a pair of tokens again within the span, towards 1 for a loop.
    """
    bigrams = list(pairwise(ids))
    width = min(span - 1, len(bigrams))
    if not width:
        return 0.0
    last: dict[tuple[int, int], int] = {}
    gaps = []  # how far back each bigram occurred last
    for place, bigram in enumerate(bigrams):
        gaps.append(place - last.get(bigram, -len(bigrams)))
        last[bigram] = place
    gap = np.array(gaps)
    runs = range(len(bigrams) - width + 1)
    return max(float(np.mean(gap[start : start + width] <= np.arange(width))) for start in runs)
