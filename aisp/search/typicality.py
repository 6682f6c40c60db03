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
"""Tokens within which a pair of tokens counts as said again. A long text may well use one again much later."""
PHRASE = 6
"""Tokens of a phrase that counts as said again however long ago it was."""


OUTLIERS = 16
"""One in so many plain samples is left out of their range, since a model's own samples go wrong as well."""


def greatest_typical(values: FloatArray) -> float:
    """Return the greatest of values but for one outlier in sixteen; NaN of none.

    Args:
        values: Shape (samples,); NaN where a sample has none.
    """
    known = np.sort(values[~np.isnan(values)])
    return float(known[-1 - len(known) // OUTLIERS]) if known.size else float("nan")


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
    """Return the greatest share of pairs of tokens, in any run of a text, that were said before.

    A pair counts if it occurred before within the run, or if it is part of `PHRASE` tokens that occurred anywhere
    before: a loop may be a sentence long.

    Args:
        ids: The tokens.
        span: Tokens of a run; a shorter text is one run.

    Returns:
        In [0, 1]: 0 where nothing is said again, 1 for a loop.
    """
    pairs = list(pairwise(ids))
    width = min(span - 1, len(pairs))
    if not width:
        return 0.0
    far = len(pairs)
    gap = np.full(len(pairs), far)  # how far back each pair occurred last
    last: dict[tuple[int, int], int] = {}
    for place, pair in enumerate(pairs):
        gap[place] = place - last.get(pair, place - far)
        last[pair] = place
    gap[_in_repeated_phrases(ids)] = 0
    runs = np.lib.stride_tricks.sliding_window_view(gap, width)
    return float((runs <= np.arange(width)).mean(1).max())


def _in_repeated_phrases(ids: Sequence[int]) -> list[int]:
    """Return the places of the pairs that belong to phrases which occurred before."""
    seen: set[tuple[int, ...]] = set()
    found: dict[int, None] = {}
    for start in range(len(ids) - PHRASE + 1):
        phrase = tuple(ids[start : start + PHRASE])
        if phrase in seen:
            found.update(dict.fromkeys(range(start, start + PHRASE - 1)))
        seen.add(phrase)
    return list(found)
