"""The weighted mean of rows of noise, kept as their seeds."""

from __future__ import annotations

from collections.abc import Sequence

from aisp.records import FloatArray, NoiseTerm

# A weight below this share of the rows' moves the mean by less than float32 resolves.
_NEGLIGIBLE = 1e-8


def mean_of_noise(
    seeds: Sequence[int], weights: FloatArray, ends: Sequence[int], scale: float
) -> tuple[NoiseTerm, ...]:
    """Return sigma sum_i w_i eps_t^i / sum_i w_i, both sums over the rows that are alive at t; 0 where none is.

    Args:
        seeds: Of the noise of each row.
        weights: w_i, shape (rows,), >= 0.
        ends: Row i is alive at positions t < ends[i].
        scale: sigma, in units of pre-logits.

    Returns:
        A term for each row whose weight counts anywhere.
    """
    stops = sorted(set(ends))
    alive = {stop: sum(w for w, end in zip(weights, ends, strict=True) if end >= stop) for stop in stops}
    terms = []
    for seed, weight, end in zip(seeds, weights, ends, strict=True):
        spans = tuple(
            (stop, float(scale * weight / alive[stop]))
            for stop in stops
            if stop <= end and weight > _NEGLIGIBLE * alive[stop]
        )
        if spans:
            terms.append(NoiseTerm(seed=seed, spans=_filled(spans, stops)))
    return tuple(terms)


def _filled(spans: tuple[tuple[int, float], ...], stops: Sequence[int]) -> tuple[tuple[int, float], ...]:
    """Give the stops before the first span a weight of 0, since a span reaches down to the stop before it."""
    leading = tuple((stop, 0.0) for stop in stops if stop < spans[0][0])
    return (leading[-1:] if leading else ()) + spans
