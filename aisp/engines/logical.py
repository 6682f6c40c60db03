"""Logical time: in which order the responses of a flight are handed out, whoever shares the batch.

A response takes one tick for each new token, from the tick at which its flight stood when it was asked for. A response
that waits for a place in the batch stands still, and the others are held back until it has caught up. So a search that
reacts to each response as it ends sees the same order on every machine and under every load.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def first_to_end(ended: Mapping[int, int], under_way: Iterable[int]) -> list[int]:
    """Return which responses are to be handed out next: all that ended at the earliest tick.

    Args:
        ended: The tick at which each response ended, by its place.
        under_way: The ticks that the other responses have reached.

    Returns:
        Their places, rising; none as long as another response may still end before or with them.
    """
    if not ended:
        return []
    earliest = min(ended.values())
    if any(tick < earliest for tick in under_way):
        return []
    return sorted(place for place, tick in ended.items() if tick == earliest)
