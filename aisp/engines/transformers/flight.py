"""A flight through the shared batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aisp.engines.base import Finished, Flight, Progress
from aisp.engines.transformers.memory import out_of_memory
from aisp.engines.transformers.scheduler import Scheduler
from aisp.engines.transformers.sequence import RolloutCall
from aisp.engines.transformers.sequence import Sequence as Response
from aisp.errors import AISPError, EngineError
from aisp.records import Proposal

_MEMORY_REMEDY = (
    "; memory ran out with half the responses as well. Give the engine less (batch_bytes, cache_bytes, max_sequences), "
    "ask for fewer tokens, or load the model in bfloat16"
)

Prepare = Callable[[RolloutCall, int, Sequence[Proposal]], list[Response]]
"""Turns proposals of a call, the first of them at a place, into sequences."""


class BatchFlight(Flight):
    """Responses that are decoded in the batch of all flights. See `Flight`.

    Args:
        scheduler: Feeds the batch.
        call: What the batch is told of the flight.
        prepare: Turns proposals into sequences.
    """

    def __init__(self, scheduler: Scheduler, call: RolloutCall, prepare: Prepare) -> None:
        self._scheduler = scheduler
        self._call = call
        self._prepare = prepare
        self._asked = 0
        self._reported = 0

    def __del__(self) -> None:  # a caller may be interrupted before it holds the flight
        self._call.closed = True

    @property
    def pending(self) -> int:
        call = self._call
        return 0 if call.closed or call.error is not None else len(call.live)

    def add(self, proposals: Sequence[Proposal]) -> None:
        if self._call.closed:
            raise EngineError("the flight is closed; start another")
        sequences = self._prepare(self._call, self._asked, proposals)
        for sequence in sequences:
            sequence.began = self._call.now
        self._asked += len(sequences)
        self._scheduler.submit(sequences)

    def wait(self, progress: Progress | None = None) -> list[Finished]:
        call = self._call
        if call.closed:
            return []

        def report() -> None:
            generated = call.generated
            if progress is not None and generated > self._reported:
                new, self._reported = generated - self._reported, generated
                progress(new)

        found: list[Finished] = []
        while not found and call.live:
            call.awaited = True
            try:
                self._scheduler.drive(lambda: call.settled, report)
                report()
            except BaseException:
                self.close()
                raise
            call.awaited = False
            if call.error is not None:
                self.close()
                raise _engine_error(call.error) from call.error
            found = self._take()
        return found

    def close(self) -> None:
        if not self._call.closed:
            self._call.closed = True
            self._scheduler.tidy()
            self._call.live.clear()
            self._call.finished.clear()
            self._call.due = []

    def _take(self) -> list[Finished]:
        """Return what ended first and was not handed out yet; of a call that is over, all that ended."""
        call, found = self._call, []
        for sequence in call.due or list(call.finished.values()):
            call.finished.pop(sequence.place, None)
            if call.live.pop(sequence.place, None) is not None and sequence.rollout is not None:
                found.append(Finished(sequence.place, sequence.rollout))
                call.now = max(call.now, sequence.tick)
        call.due = []
        if not call.live:
            self._scheduler.forget(call)
        return sorted(found, key=lambda one: one.place)


def _engine_error(error: Exception) -> EngineError:
    if isinstance(error, AISPError):
        return EngineError(str(error))
    return EngineError(f"decoding failed: {error!r}{_MEMORY_REMEDY if out_of_memory(error) else ''}")
