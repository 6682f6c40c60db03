"""How an answer reads: what its tokens repeat, and whether it is as typical of the model as plain samples are.

The range of plain samples is made for each prompt of its pool: of the least mean surprisal of a window of 12 tokens,
of the greatest, and of the repetition, with one outlier in sixteen left out on the outer side. An answer below the
least is a loop, one above the greatest is salad, one above the repetition repeats itself. A sample of the pool is
judged by the others, so that plain samples and searches are held to a range that they had no part in. By this, about
one plain sample in sixteen is outside on each side, or fewer where many are equal: that share is what a search is
compared with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from aisp.records import FloatArray, Tokens
from aisp.search.typicality import greatest_typical, repetition, window_surprisals

MEASURED = ("least_window", "greatest_window", "repetition", "longest_run", "in_loops", "distinct_2")
"""What `reading` measures of an answer."""
OUTSIDE = ("loop", "salad", "repeats")
"""What `PlainRange.outside` says of an answer."""
_TIMES = 3  # as often in a row is a loop; twice is emphasis


def reading(tokens: Tokens) -> dict[str, float | None]:
    """Return what an answer's tokens tell of how it reads, as JSON.

    Returns:
        least_window, greatest_window: The least and greatest mean surprisal of 12 tokens in a row, in nats a token;
        None where there is no token.
        repetition: See `aisp.search.typicality.repetition`.
        longest_run: Tokens of the longest run that occurs twice; the two may overlap.
        in_loops: The share of tokens within something that is said at least three times in a row.
        distinct_2: The share of different pairs among all pairs of neighbouring tokens; 1 where there is none.
    """
    ids, windows = np.array(tokens.ids, dtype=np.int64), window_surprisals(tokens.log_prob)
    pairs = list(pairwise(tokens.ids))
    return {
        "least_window": float(windows.min()) if windows.size else None,
        "greatest_window": float(windows.max()) if windows.size else None,
        "repetition": repetition(tokens.ids),
        "longest_run": float(longest_run(ids)),
        "in_loops": share_in_loops(ids),
        "distinct_2": len(set(pairs)) / len(pairs) if pairs else 1.0,
    }


def longest_run(ids: NDArray[np.int64]) -> int:
    """Return the length of the longest run of tokens that occurs twice; the two may overlap."""
    return max((length for _, _, length in _repeated(ids)), default=0)


def share_in_loops(ids: NDArray[np.int64]) -> float:
    """Return the share of tokens within something, of any length, that is said at least three times in a row."""
    looped = np.zeros(len(ids), dtype=bool)
    for back, start, length in _repeated(ids):
        if length >= (_TIMES - 1) * back:
            looped[start : start + length + back] = True
    return float(looped.mean()) if len(ids) else 0.0


def _repeated(ids: NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
    """Yield each run that equals what stands so many tokens after it: how many, where it starts, its length."""
    for back in range(1, len(ids)):
        same = np.concatenate([[False], ids[back:] == ids[:-back], [False]])
        edges = np.flatnonzero(same[1:] != same[:-1])
        for start, stop in zip(edges[::2], edges[1::2], strict=True):
            yield back, int(start), int(stop - start)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainRange:
    """What is typical of plain samples of one prompt.

    Args:
        least_window: Least mean surprisal of a window of theirs, outliers left out, in nats a token.
        greatest_window: Greatest.
        repetition: Greatest repetition.
    """

    least_window: float
    greatest_window: float
    repetition: float

    @classmethod
    def of(cls, readings: Mapping[str, FloatArray]) -> PlainRange:
        """Return the range of some plain samples.

        Args:
            readings: By name, shape (samples,), NaN where a sample has no tokens.
        """
        return cls(
            least_window=-greatest_typical(-readings["least_window"]),
            greatest_window=greatest_typical(readings["greatest_window"]),
            repetition=greatest_typical(readings["repetition"]),
        )

    def outside(self, answer: Mapping[str, float]) -> dict[str, float]:
        """Return for each of `OUTSIDE` 1 where an answer is, else 0; an answer without tokens is none of them."""
        return {
            "loop": float(answer["least_window"] < self.least_window),
            "salad": float(answer["greatest_window"] > self.greatest_window),
            "repeats": float(answer["repetition"] > self.repetition),
        }


def columns(readings: Sequence[Mapping[str, float | None]]) -> dict[str, list[float | None]]:
    """Return readings by name."""
    return {name: [one[name] for one in readings] for name in MEASURED}


def held_out_shares(readings: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """Return what `PlainRange.outside` says of each plain sample by the range of the others.

    Args:
        readings: By name, shape (samples,), of at least two samples.

    Returns:
        By name, shape (samples,).
    """
    size = len(readings["repetition"])
    judged = []
    for i in range(size):
        others = PlainRange.of({name: np.delete(values, i) for name, values in readings.items()})
        judged.append(others.outside({name: float(values[i]) for name, values in readings.items()}))
    return {name: np.array([one[name] for one in judged]) for name in OUTSIDE}
