"""What the loop knows so far: of the whole search, and of the block of the response that it is at."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from aisp.search.blocks import Block
from aisp.search.trace import Cost, Response, Round, StoppedBy


@dataclass(slots=True, kw_only=True)
class Search:
    """A search in the making.

    Args:
        started: `time.monotonic()` seconds.
        seed: Of the request.
        block: What is searched for now.
        rounds: All so far.
        spent: Responses drawn.
        committed: What the blocks before this one wrote; None at the start.
        text: What was handed out of it.
        best: Of this block.
        chosen: What this block ends with, once that is known.
        stale: Rounds in a row without a better response.
        spent_before: Responses that the blocks before this one drew.
        rounds_before: Their rounds.
        state: The strategy's.
    """

    started: float
    seed: int
    block: Block
    rounds: list[Round] = field(default_factory=list)
    spent: int = 0
    forward_tokens: int = 0
    committed: Response | None = None
    text: str = ""
    best: Response | None = None
    chosen: Response | None = None
    stale: int = 0
    spent_before: int = 0
    rounds_before: int = 0
    state: Any = None

    @property
    def own_rounds(self) -> Sequence[Round]:
        """The rounds of this block."""
        return self.rounds[self.rounds_before :]

    @property
    def left(self) -> int:
        """Responses that this block may still draw."""
        allowed = self.block.budget + (self.block.reserve if self.best is None else 0)
        return allowed - (self.spent - self.spent_before)

    def go_on(self, block: Block, committed: Response) -> None:
        """Commit a response, and turn to the next block."""
        self.block, self.committed = block, committed
        self.best, self.chosen, self.stale = None, None, 0
        self.spent_before, self.rounds_before = self.spent, len(self.rounds)

    def best_unfinished(self, stopped_by: StoppedBy) -> Response | None:
        """Return what there is where a search was ended before the block was: its best part, or what is committed."""
        usable = (response for round_ in self.own_rounds for response in round_.usable)
        best = max(usable, key=lambda response: response.reward, default=None) if stopped_by == "deadline" else None
        return best or (self.committed if stopped_by in ("deadline", "cancelled") else None)

    def cost(self, budget: int, prompt_tokens: int) -> Cost:
        """Return what was spent. Of a budget of 1, one response is one, however many blocks it is written in."""
        return Cost(
            responses=min(budget, sum(len(round_.responses) for round_ in self.rounds)),
            forward_tokens=self.forward_tokens,
            prompt_tokens=prompt_tokens,
            seconds=time.monotonic() - self.started,
        )


def why_nothing_is_left(rounds: Sequence[Round]) -> str:
    """Return what a caller is told where no response can be returned."""
    responses = [response for round_ in rounds for response in round_.responses]
    vetoed = sum(response.score.vetoed for response in responses)
    errors = [response.score.error for response in responses if response.score.error is not None]
    first = f"; the first error: {errors[0]}" if errors else ""
    return (
        f"none of {len(responses)} responses can be returned: {vetoed} vetoed, {len(errors)} not scorable{first}. "
        "Loosen the veto, mend the reward, or raise the budget"
    )
