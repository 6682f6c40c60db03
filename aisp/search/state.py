"""What a search knows so far: of the whole response, and of the block of it that is searched for now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from aisp.search.blocks import Block
from aisp.search.trace import Response, Round, StoppedBy, best_of


@dataclass(slots=True, kw_only=True)
class SearchState:
    """A search in the making.

    Args:
        started: `time.monotonic()` seconds.
        seed: Of the request.
        block: What is searched for now.
        rounds: All so far.
        spent: Responses drawn.
        forward_tokens: Response tokens that the model's body was run over.
        committed: What the blocks before this one wrote; None at the start.
        text: What was handed out of it.
        best: Of this block.
        stale: Rounds in a row without a better response.
        cut_by: What ended responses before they were complete; None as long as nothing did.
        spent_before: Responses that the blocks before this one drew.
        rounds_before: Their rounds.
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
    stale: int = 0
    cut_by: Literal["deadline", "cancelled"] | None = None
    spent_before: int = 0
    rounds_before: int = 0

    @property
    def own_rounds(self) -> Sequence[Round]:
        """The rounds of this block."""
        return self.rounds[self.rounds_before :]

    @property
    def left(self) -> int:
        """Responses that this block may still draw."""
        allowed = self.block.budget + (self.block.reserve if self.best is None else 0)
        return allowed - (self.spent - self.spent_before)

    def keep_best(self, responses: Sequence[Response], *, blocks: bool) -> None:
        """Compare a round's responses with the best so far.

        Args:
            responses: The round's.
            blocks: Whether blocks are committed, so that an unfinished response may be the best.
        """
        before = self.best
        self.best = best_of(responses, before, paused=blocks)
        # Unfinished blocks of a strategy's own are no try, and don't count towards `patience`.
        if blocks or not all(response.rollout.paused for response in responses):
            self.stale = self.stale + 1 if self.best is before else 0

    def commit(self, block: Block, committed: Response) -> None:
        """Settle a response, and turn to the next block."""
        self.block, self.committed = block, committed
        self.best, self.stale = None, 0
        self.spent_before, self.rounds_before = self.spent, len(self.rounds)

    def best_unfinished(self, stopped_by: StoppedBy) -> Response | None:
        """Return what there is where a search was ended before the block was: its best part, or what is committed."""
        usable = (response for round_ in self.own_rounds for response in round_.usable)
        best = max(usable, key=lambda response: response.reward, default=None) if stopped_by == "deadline" else None
        return best or (self.committed if stopped_by in ("deadline", "cancelled") else None)
