"""A strategy that draws plainly and remembers what it was told."""

from __future__ import annotations

import numpy as np

from aisp.noise import row_seed
from aisp.records import Proposal, Sampling
from aisp.strategies import Info


class Recording:
    """Draws plain samples, all that there is room for.

    Args:
        asynchronous: Go without rounds.
        steered: Shift every pre-logit, so that no sample is plain.
    """

    name = "recording"
    needs = frozenset()

    def __init__(self, asynchronous=False, steered=False):
        self.asynchronous = asynchronous
        self.steered = steered
        self.told = []
        self.pending = []
        self.ahead = []

    def init(self, context):
        self.told = []
        return context, 0

    def propose(self, state, n, pending=()):
        context, updates = state
        self.pending.append((n, len(pending)))
        self.ahead.append(sum(asked for asked, _ in self.pending) - len(self.told))
        shift = np.zeros((1, 4), dtype=np.float32) if self.steered else None
        seeds = [row_seed(context.root_seed, updates, row) for row in range(n)]
        return tuple(Proposal(seed=seed, sampling=Sampling(), shift=shift) for seed in seeds)

    def update(self, state, proposals, rollouts, scores):
        context, updates = state
        self.told += zip(rollouts, scores, strict=True)
        return (context, updates + 1), Info()
