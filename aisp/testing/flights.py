"""Flights of engines that need no batch: every response is written on its own, a token of each at a time."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from aisp.engines.base import Finished, Flight, Progress
from aisp.records import Limits, Proposal, Rollout


class Writing(ABC):
    """A response in the making."""

    @abstractmethod
    def step(self) -> Rollout | None:
        """Write one token; return the response if it ends with it."""

    @abstractmethod
    def cancel(self) -> Rollout:
        """Return the response as far as it is, as "cancelled"."""


class StepwiseFlight(Flight):
    """Writes a token of every pending response at a time, on the thread that waits.

    Args:
        begin: Turns a proposal into a response in the making; it raises for what can't be drawn from.
        limits: When responses end.
        clock: What the deadline is compared with, in seconds.
        before: Called once before the first token of what was added, as a place to spend time.
    """

    def __init__(
        self,
        begin: Callable[[Proposal], Writing],
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
        before: Callable[[], None] | None = None,
    ) -> None:
        self._begin = begin
        self._limits = limits
        self._clock = clock
        self._before = before
        self._fresh = False
        self._asked = 0
        self._pending: dict[int, Writing] = {}

    @property
    def pending(self) -> int:
        return len(self._pending)

    def add(self, proposals: Sequence[Proposal]) -> None:
        begun = [self._begin(proposal) for proposal in proposals]
        self._pending.update(enumerate(begun, self._asked))
        self._asked += len(begun)
        self._fresh = True

    def wait(self, progress: Progress | None = None) -> list[Finished]:
        while self._pending:
            if self._fresh and self._before is not None:
                self._before()
            self._fresh = False
            if self._over():
                finished = [Finished(place, writing.cancel()) for place, writing in self._pending.items()]
            else:
                count = len(self._pending)
                stepped = [(place, writing.step()) for place, writing in self._pending.items()]
                finished = [Finished(place, rollout) for place, rollout in stepped if rollout is not None]
                if progress is not None:
                    progress(count)
            for place, _ in finished:
                self._pending.pop(place, None)  # the callback may have closed the flight
            if finished:
                return finished
        return []

    def close(self) -> None:
        self._pending.clear()

    def _over(self) -> bool:
        cancel, deadline = self._limits.cancel, self._limits.deadline
        return (cancel is not None and cancel.is_set()) or (deadline is not None and self._clock() >= deadline)


class PlainEncoder:
    """A chat template for engines without a model: the messages' texts, one token a character."""

    supports_tools = False

    def encode(self, messages: Sequence[object], tools: Sequence[object] | None = None, **options: object) -> list[int]:
        return [1 + ord(letter) % 251 for letter in repr(messages)]
