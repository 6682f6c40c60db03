"""Responses of one block: asked for as there is room, handed out as they end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from aisp.engines.base import Engine, Finished, Flight, Progress
from aisp.errors import ConfigurationError, EngineError
from aisp.records import Prefix, Proposal, Rollout
from aisp.search.plan import ceil_div
from aisp.search.request import Request
from aisp.search.state import SearchState
from aisp.strategies.base import Strategy, is_asynchronous


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A response that has ended.

    Args:
        proposal: As the strategy proposed it, its positions counted from the block's start.
        rollout: As the engine wrote it.
        known: How many responses of the block the strategy had been told of when it proposed this one.
    """

    proposal: Proposal
    rollout: Rollout
    known: int


class Draws:
    """Keeps a flight full of what a strategy proposes.

    A strategy that is told of each response as it ends has up to `in_flight` in the making. Another one is asked for a
    round, and told of all of it once its last response has ended.

    Args:
        engine: Draws.
        prefix: The prompt.
        request: What is asked for.
        strategy: Proposes.
        in_flight: Responses in the making at most.
        worth: Tells how many of so many further responses are worth it, given those that are not scored yet.
        progress: Called between decode steps with the number of new tokens.
    """

    def __init__(
        self,
        engine: Engine,
        prefix: Prefix,
        request: Request,
        strategy: Strategy[Any],
        in_flight: int,
        worth: Callable[[Sequence[Proposal], int], int],
        progress: Progress | None = None,
    ) -> None:
        self._engine = engine
        self._prefix = prefix
        self._request = request
        self._strategy = strategy
        self._in_flight = in_flight
        self._worth = worth
        self._progress = progress
        self._flight: Flight | None = None
        self._asked: list[tuple[Proposal, int]] = []
        self._pending: dict[int, Proposal] = {}
        self._done: list[Proposal] = []
        self._generated = 0
        self._handed_out = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._flight is not None:
            self._flight.close()

    @property
    def unused_tokens(self) -> int:
        """Tokens that were generated of responses that have not ended."""
        return self._generated - self._handed_out

    def next(self, state: SearchState, strategy_state: Any) -> list[Drawn]:
        """Ask for what there is room for and is worth it, and return what ends next; nothing where nothing is written.

        The first to be handed out are half of what was asked for first: a reward that calibrates itself has to see
        several at once, and a strategy knows little from fewer.

        Raises:
            EngineError: Decoding failed.
            ConfigurationError: The strategy proposes nothing, or what the engine can't draw from.
        """
        asynchronous = is_asynchronous(self._strategy)
        if asynchronous or not self._pending:
            self._ask(state, strategy_state)
        found: dict[int, Rollout] = {}
        flight, enough = self._flight, len(self._pending)
        if asynchronous:
            enough = 1 if self._handed_out else ceil_div(enough, 2)
        while flight is not None and self._pending and len(found) < enough:
            for place, rollout in _ended(flight, self._count):
                self._pending.pop(place)
                found[place] = rollout
        drawn = [
            Drawn(proposal=self._asked[place][0], rollout=found[place], known=self._asked[place][1])
            for place in (found if asynchronous else sorted(found))  # as they ended, or as they were proposed
        ]
        self._done += [one.proposal for one in drawn]
        self._handed_out += sum(len(one.rollout.tokens) - one.rollout.kept_tokens for one in drawn)
        return drawn

    def _ask(self, state: SearchState, strategy_state: Any) -> None:
        room = self._room(state)
        if room < 1:
            return
        proposals = self._propose(strategy_state, room)
        if not proposals:
            if not self._pending and not state.unscored:
                raise ConfigurationError(
                    f"the strategy {self._strategy.name} proposed nothing; propose(state, n) returns 1 to n proposals"
                )
            return
        drawn = self._request.with_grammar(state.block.to_response(proposals), first=state.spent == 0)
        if self._flight is None:
            self._flight = self._engine.start(self._prefix, drawn, self._request.limits)
        else:
            self._flight.add(drawn)
        self._pending.update(enumerate(proposals, start=len(self._asked)))
        self._asked += [(proposal, state.told) for proposal in proposals]

    def _room(self, state: SearchState) -> int:
        room = min(self._in_flight, state.left - state.unscored) - len(self._pending)
        unscored = self._done[len(self._done) - state.unscored :]
        return self._worth((*self._pending.values(), *unscored), room) if room > 0 else 0

    def _propose(self, strategy_state: Any, room: int) -> Sequence[Proposal]:
        if is_asynchronous(self._strategy):
            return self._strategy.propose(strategy_state, room, tuple(self._pending.values()))
        return self._strategy.propose(strategy_state, room)

    def _count(self, tokens: int) -> None:
        self._generated += tokens
        if self._progress is not None:
            self._progress(tokens)


def _ended(flight: Flight, progress: Progress) -> list[Finished]:
    """Return what ends next of a flight that something is pending of."""
    finished = flight.wait(progress)
    if not finished:
        raise EngineError("the engine closed the flight before its responses had ended")
    return finished
