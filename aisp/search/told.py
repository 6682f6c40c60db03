"""What a strategy was told, so that it can be told again where a verdict changes afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aisp.records import Proposal, Rollout, Score
from aisp.strategies.base import Info, SearchContext, Strategy


class Told:
    """A strategy's state, and what led to it.

    Args:
        strategy: The strategy.
        context: What it is told of the block.
    """

    def __init__(self, strategy: Strategy[Any], context: SearchContext) -> None:
        self._strategy = strategy
        self._context = context
        self._batches: list[tuple[Sequence[Proposal], Sequence[Rollout]]] = []
        self.state: Any = strategy.init(context)
        self.info = Info()

    def tell(self, proposals: Sequence[Proposal], rollouts: Sequence[Rollout], scores: Sequence[Score]) -> None:
        """Tell it of responses that have ended. The three sequences run in parallel."""
        self._batches.append((proposals, rollouts))
        self.state, self.info = self._strategy.update(self.state, proposals, rollouts, scores)

    def tell_again(self, scores: Sequence[Score]) -> None:
        """Tell it of everything from the start, with other scores for all that it was told of.

        In the same portions, since a strategy may count them.
        """
        self.state, place = self._strategy.init(self._context), 0
        for proposals, rollouts in self._batches:
            own = scores[place : place + len(rollouts)]
            self.state, self.info = self._strategy.update(self.state, proposals, rollouts, own)
            place += len(rollouts)
