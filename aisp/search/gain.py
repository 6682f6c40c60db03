"""What a further response is expected to gain, from the rewards of those that are there.

Rewards far out fall off exponentially, whatever their law (Pickands 1975, with a tail index of 0): beyond a threshold
that a third of the latest responses exceed, with their mean excess. The latest are the later half, since a search gets
better as it goes. So the next one is better than the best, and by how much, with a chance and a mean excess that need
neither a model of texts nor a setting. Gains are told in standard deviations of the reward over plain samples, so that
a price of them holds for every reward.

Where a reward has reached its highest value, nothing is left to gain. It shows in ties: a reward that is 0 or one
other value passes or fails, and any other has its limit where the best value is three times as frequent as the second
best. Where all rewards are equal, or nothing can be returned yet, nothing is known, and the search goes on.

Measured on recorded searches, the expected improvement of the Gaussian process that restarts are weighed by told
nothing of what the next responses gained, over searches of one model and two rewards (rank correlation 0.1, against 0.3
of this and 0.2 of the number of responses alone). It orders prefixes of one search; this compares searches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aisp.records import FloatArray, Proposal
from aisp.search.guard import PLAIN_SAMPLES, begins_plainly, is_plain
from aisp.search.trace import Response

DEFAULT_PRICE = 0.01
"""Of a response, for `budget="auto"`: in standard deviations of the reward over plain samples."""
FEWEST = PLAIN_SAMPLES
"""Responses before anything is said."""
_TAIL = 1 / 3  # share of the latest responses that are the tail
_CAP = 3  # times as frequent as the second best is a value that the reward can't exceed


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospect:
    """What a further response may bring.

    Args:
        chance: Probability that it is better than the best so far, in [0, 1].
        excess: How much better it is then, in standard deviations of the reward over plain samples, on average.
    """

    chance: float
    excess: float

    def gain(self, pending: int = 0) -> float:
        """Return the expected gain of a response in standard deviations, over the best of those that end before it.

        Args:
            pending: Responses in the making.
        """
        ahead = pending + 1
        return self.excess * (1.0 - (1.0 - self.chance) ** ahead) / ahead

    def worth(self, price: float, pending: int, room: int, *, together: bool) -> int:
        """Return how many further responses are expected to gain what they cost.

        Args:
            price: Of a response, in standard deviations.
            pending: Responses in the making.
            room: At most.
            together: Whether these are a round, which is drawn as a whole or not at all.
        """
        gains = np.array([self.gain(pending + place) for place in range(room)])
        if together:
            return room if gains.mean() >= price else 0
        return int(np.count_nonzero(gains >= price))  # they fall


def prospect_of(responses: Sequence[Response], unscored: Sequence[Proposal] = ()) -> Prospect | None:
    """Return what a further response may bring; None where too little is known, as before the first plain samples are.

    Args:
        responses: All that might have been returned, in the order in which they ended.
        unscored: What is to come.
    """
    plain = np.array(list(map(is_plain, responses)), dtype=bool)
    if len(responses) < FEWEST or (plain.sum() < PLAIN_SAMPLES and any(map(begins_plainly, unscored))):
        return None
    rewards = np.array([response.reward if response.score.usable else -np.inf for response in responses])
    usable = np.isfinite(rewards)
    levels, counts = np.unique(rewards[usable], return_counts=True)
    if len(levels) < 2:
        return None
    rewards = rewards / np.abs(levels).max()  # whose squares are finite
    spread = _spread(rewards[usable & plain][:PLAIN_SAMPLES]) or _spread(rewards[usable])
    passed = len(levels) == 2 and levels[0] == 0
    if passed or counts[-1] >= _CAP * counts[-2]:
        return Prospect(chance=0.0, excess=0.0)
    return _tail(rewards, spread)


def _tail(rewards: FloatArray, spread: float) -> Prospect | None:
    """Return what the law of the latest rewards says; None where it has no tail: few are usable, or a third are equal.

    Args:
        rewards: Shape (responses,), -inf for those that can't be returned.
        spread: The unit of gains.
    """
    window = max(FEWEST, len(rewards) // 2)
    latest = np.sort(rewards[-window:])
    size = min(int(window * _TAIL), int(np.isfinite(latest).sum()) - 1)
    if size < 1:
        return None
    threshold = latest[-size - 1]
    excess = float((latest[-size:] - threshold).mean())
    if not excess:
        return None
    chance = size / window * float(np.exp((threshold - rewards.max()) / excess))
    return Prospect(chance=chance, excess=excess / spread)


def _spread(rewards: FloatArray) -> float:
    """Return the standard deviation, 0 where there are too few rewards to tell."""
    return float(rewards.std(ddof=1)) if len(rewards) > 1 else 0.0
