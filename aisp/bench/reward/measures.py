"""What is measured of a reward's verdicts: spread, ties, rank correlations. Numbers only; the words are elsewhere.

A search compares responses to one prompt. So everything here that ranks does so within prompts, and a difference
between prompts counts for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from aisp.records import FloatArray

_PASSING = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How far verdicts lie apart, in the reward's unit.

    Args:
        mean: Of all responses.
        low: The lowest.
        high: The highest.
        within_prompts: Standard deviation among responses to one prompt, pooled: what a search can use.
        between_prompts: Standard deviation of the prompts' means: what it can't.
        best_gain: The best response of a prompt less its mean one, averaged over prompts.
    """

    mean: float
    low: float
    high: float
    within_prompts: float
    between_prompts: float
    best_gain: float

    @property
    def between_share(self) -> float:
        """Share of the variance that lies between prompts, in [0, 1]; 0 where there is none at all."""
        total = self.within_prompts**2 + self.between_prompts**2
        return self.between_prompts**2 / total if total > _PASSING else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ties:
    """How often verdicts are equal.

    Args:
        at_high: Share of responses that get exactly the highest value.
        at_low: Share of responses that get exactly the lowest.
        tied_pairs: Share of the pairs of different responses to one prompt that get the same value.
        values: Different values in all.
    """

    at_high: float
    at_low: float
    tied_pairs: float
    values: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Correlation:
    """A rank correlation within prompts.

    Args:
        value: In [-1, 1]; None where one side never varies.
        z: How many of its own standard errors it is from 0, were the two independent.
    """

    value: float | None
    z: float = 0.0


def spread(groups: Sequence[FloatArray]) -> Spread:
    """Measure how far verdicts lie apart.

    Args:
        groups: One array of values a prompt, none of them empty.
    """
    values, means = np.concatenate(groups), np.array([group.mean() for group in groups])
    squares, degrees = sum(float(((g - g.mean()) ** 2).sum()) for g in groups), sum(len(g) - 1 for g in groups)
    return Spread(
        mean=float(values.mean()),
        low=float(values.min()),
        high=float(values.max()),
        within_prompts=float(np.sqrt(squares / degrees)) if degrees else 0.0,
        between_prompts=float(means.std(ddof=1)) if len(means) > 1 else 0.0,
        best_gain=float(np.mean([group.max() - group.mean() for group in groups])),
    )


def ties(groups: Sequence[FloatArray], distinct: Sequence[FloatArray]) -> Ties:
    """Count equal verdicts.

    Args:
        groups: One array of values a prompt.
        distinct: The same without responses that repeat another word for word, which must be tied.
    """
    values = np.concatenate(groups)
    equal, pairs = 0, 0
    for group in distinct:
        counts = np.unique(group, return_counts=True)[1]
        equal += int((counts * (counts - 1)).sum())
        pairs += len(group) * (len(group) - 1)
    return Ties(
        at_high=float((values == values.max()).mean()),
        at_low=float((values == values.min()).mean()),
        tied_pairs=equal / pairs if pairs else 0.0,
        values=len(np.unique(values)),
    )


def rank_correlation(ones: Sequence[FloatArray], others: Sequence[FloatArray]) -> Correlation:
    """Return Spearman's correlation within prompts: ranks are taken and centred in each prompt, then pooled.

    Args:
        ones: One array a prompt; what is NaN here or in `others` is left out.
        others: Arrays of the same shapes.
    """
    x, y, degrees = _pooled(ones, others)
    norm = float(np.sqrt((x @ x) * (y @ y)))
    if norm < _PASSING or degrees < 1:
        return Correlation(value=None)
    value = float(np.clip((x @ y) / norm, -1.0, 1.0))
    return Correlation(value=value, z=value * degrees**0.5)


def _pooled(ones: Sequence[FloatArray], others: Sequence[FloatArray]) -> tuple[FloatArray, FloatArray, int]:
    pooled: tuple[list[FloatArray], list[FloatArray]] = ([np.zeros(0)], [np.zeros(0)])
    degrees = -1
    for one, other in zip(ones, others, strict=True):
        both = ~(np.isnan(one) | np.isnan(other))
        if both.sum() > 1:
            for side, values in zip(pooled, (one[both], other[both]), strict=True):
                ranks = rankdata(values) / len(values)
                side.append(ranks - ranks.mean())
            degrees += int(both.sum()) - 1
    return np.concatenate(pooled[0]), np.concatenate(pooled[1]), degrees
