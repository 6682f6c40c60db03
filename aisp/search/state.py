"""What a search knows so far: of the whole response, and of the block of it that is searched for now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from aisp.search.blocks import Block
from aisp.search.trace import Response, Round, StoppedBy, best_of
from aisp.strategies.base import Info


@dataclass(slots=True, kw_only=True)
class SearchState:
    """A search in the making.

    Args:
        started: `time.monotonic()` seconds.
        seed: Of the request.
        block: What is searched for now.
        rounds: All that are over.
        open: Responses of the round that is not.
        opened: When it began, in seconds of the search's clock.
        spent: Responses drawn and scored.
        unscored: Responses that have ended and are being scored.
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
    open: list[Response] = field(default_factory=list)
    opened: float = 0.0
    spent: int = 0
    unscored: int = 0
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
        """Responses that this block may still draw, those in the making and those unscored among them."""
        allowed = self.block.budget + (self.block.reserve if self.best is None else 0)
        return allowed - self.told

    @property
    def told(self) -> int:
        """Responses of this block that the strategy was told of."""
        return self.spent - self.spent_before

    @property
    def own_responses(self) -> list[Response]:
        """The responses of this block, in the order in which they ended."""
        return [*(response for round_ in self.own_rounds for response in round_.responses), *self.open]

    def count_round(self, *, blocks: bool) -> None:
        """Count the open round, which is full, towards `patience` if it found nothing better.

        Args:
            blocks: Whether blocks are committed, so that an unfinished response may be the best.
        """
        before = self.own_rounds[-1].best if self.own_rounds else None
        # Unfinished blocks of a strategy's own are no try.
        if blocks or not all(response.rollout.paused for response in self.open):
            self.stale = self.stale + 1 if self.best is before else 0

    def close_round(self, info: Info, now: float) -> Round:
        """Turn what is open into a round.

        Args:
            info: What the strategy said last.
            now: In seconds of the search's clock.
        """
        round_ = Round(
            index=len(self.rounds),
            responses=tuple(self.open),
            best=self.best,
            ess=info.ess,
            reward_temperature=info.reward_temperature,
            seconds=now - self.opened,
            block=self.block.index,
            start=self.block.start,
        )
        self.rounds.append(round_)
        self.open, self.opened = [], now
        return round_

    def rescore(self, change: Callable[[Response], Response], *, blocks: bool) -> None:
        """Change this block's responses, and find the best of them anew."""
        best: Response | None = None
        for place in range(self.rounds_before, len(self.rounds)):
            responses = tuple(map(change, self.rounds[place].responses))
            best = best_of(responses, best, paused=blocks)
            self.rounds[place] = replace(self.rounds[place], responses=responses, best=best)
        self.open = list(map(change, self.open))
        self.best = best_of(self.open, best, paused=blocks)

    def commit(self, block: Block, committed: Response) -> None:
        """Settle a response, and turn to the next block."""
        self.block, self.committed = block, committed
        self.best, self.stale = None, 0
        self.spent_before, self.rounds_before = self.spent, len(self.rounds)

    def best_unfinished(self, stopped_by: StoppedBy) -> Response | None:
        """Return what there is where a search was ended before the block was: its best part, or what is committed."""
        usable = (response for response in self.own_responses if response.score.usable)
        best = max(usable, key=lambda response: response.reward, default=None) if stopped_by == "deadline" else None
        return best or (self.committed if stopped_by in ("deadline", "cancelled") else None)

    @property
    def best_refused(self) -> Response | None:
        """The best of what only the guard refused: something is returned then, and said to be untypical."""
        refused = (response for response in self.own_responses if response.refused is not None)
        return max(refused, key=lambda response: response.reward, default=None)
