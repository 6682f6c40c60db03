"""Sequences of all flights meet in one batch, and one thread at a time decodes it: whichever waits first.

A thread that waits for its flight drives the batch for everyone until it has something to take, then hands over. A
thread of our own would be simpler, but on a CPU it would be slower: OpenMP makes a second team of threads for it, finds
more threads than processors, and puts them to sleep at every barrier (measured with SmolLM2-135M on 2 cores: 190 ms a
step at 16 sequences against 140, and 310 to 500 against 180 at 32).

The driver can be interrupted anywhere, and a cycle can fail anywhere. So nothing of a cycle that didn't come to its end
is trusted: the next driver builds a new batch from what the flights still want. Who drives is one entry of a dict, set
and taken back by single operations, since a lock may be taken just as the exception comes that skips its release.
"""

from __future__ import annotations

import itertools
import logging
import threading
import traceback
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar, cast

import torch

from aisp.engines.transformers.admission import Admission
from aisp.engines.transformers.batch import Batch, Parts
from aisp.engines.transformers.memory import out_of_memory
from aisp.engines.transformers.sequence import RolloutCall, Sequence, SequenceError
from aisp.engines.transformers.trial import Trials
from aisp.errors import EngineError

_log = logging.getLogger(__name__)
T = TypeVar("T")

# A driver rings whoever waits after each cycle. Should an interrupt swallow a ring, this is how late it is noticed.
_DEAF_SECONDS = 0.1


class _Driver:
    """A call of `Scheduler.drive`, by which the scheduler knows who drives."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()


class _Task:
    """A function that is run between steps. It may be run again if the thread that ran it was interrupted."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.result: Any = None
        self.error: Exception | None = None
        self.done = False

    def run(self) -> None:
        try:
            self.result = self.function()
        except Exception as error:  # noqa: BLE001 - raised again on the thread that asked
            self.error = error
        self.done = True


class Scheduler:
    """Feeds a batch from a queue of sequences.

    Args:
        parts: What the engine is made of.
        max_sequences: Sequences that are decoded at once.
        max_tokens: Keys and values, counted in tokens, that they may come to hold at once, their prompts included. A
            sequence that alone needs more still runs, alone.
    """

    def __init__(self, parts: Parts, max_sequences: int, max_tokens: int) -> None:
        self.max_sequences = max_sequences
        self.max_tokens = max_tokens
        self.exiting = False
        self._parts = parts
        self._batch = Batch(parts)
        self._waiting: deque[Sequence] = deque()
        self._calls: dict[RolloutCall, None] = {}
        self._tasks: deque[_Task] = deque()
        self._numbers = itertools.count()
        self._queue = threading.Lock()
        self._drivers: dict[str, _Driver] = {}
        self._bells: deque[SimpleQueue[None]] = deque()
        self._trials = Trials()
        self._whole = True
        self._cycling: _Driver | None = None
        self._untidy = False
        self._retried = False

    @property
    def decoding(self) -> int:
        """Sequences in the batch."""
        return len(self._batch.sequences)

    @property
    def waiting(self) -> int:
        """Sequences that wait to join it."""
        return len(self._waiting)

    @property
    def batch_bytes(self) -> int:
        """What the batch's keys and values take, those of its prompts included."""
        return self._batch.nbytes

    @property
    def driven(self) -> bool:
        """Whether a thread decodes."""
        return bool(self._drivers)

    def submit(self, sequences: list[Sequence]) -> None:
        """Queue sequences of one call."""
        with self._queue:
            for sequence in sequences:
                sequence.number = next(self._numbers)
                sequence.call.live[sequence.place] = sequence
                self._calls[sequence.call] = None
            self._waiting.extend(sequences)

    def forget(self, call: RolloutCall) -> None:
        """Take note that everything of a call was handed out."""
        self._calls.pop(call, None)

    def call(self, function: Callable[[], T]) -> T:
        """Run a function between steps, on whichever thread decodes, and return what it returns."""
        task = _Task(function)
        self._tasks.append(task)
        try:
            self.drive(lambda: task.done, _nothing)
        finally:
            task.done = True
        if task.error is not None:
            raise task.error
        return cast(T, task.result)

    def drive(self, done: Callable[[], bool], on_progress: Callable[[], None]) -> None:
        """Decode until `done`, or wait while another thread does. `on_progress` is called about once a step.

        What it raises leaves the batch as it was; an interrupt leaves it to the next driver to make whole.
        """
        me, bell = _Driver(), SimpleQueue[None]()
        try:
            try:
                while not done():
                    driver = self._drivers.setdefault("", me)
                    self.check_running()
                    if driver is me or driver.thread == me.thread:  # the latter if `on_progress` asks for more
                        self._publish()
                        if done():
                            break
                        self._cycle_of(driver)
                        self._publish()
                        self._ring()
                    else:
                        self._listen(bell, done)
                    on_progress()
            finally:
                self._release(me)
        finally:  # again, should an interrupt have come between the loop and the release
            self._release(me)
        if self._untidy:
            self.tidy()

    @torch.inference_mode()
    def tidy(self) -> None:
        """Let the batch free what flights that are over hold, unless a thread decodes, which will do it."""
        self._untidy = True
        me = _Driver()
        try:
            if self._drivers.setdefault("", me) is me and not self.exiting:
                self._untidy = False
                self._begin()
                self._drop_over()
                self._whole = True
        finally:
            self._release(me)

    def check_running(self) -> None:
        """Raise if the interpreter is about to end: from here on nothing may call torch.

        Raises:
            EngineError: It is.
        """
        if self.exiting:
            raise EngineError("the interpreter is shutting down, and nothing is decoded any more")

    def cancel_all(self) -> None:
        """Have all that is under way end as cancelled."""
        for call in list(self._calls):
            call.cancelled = True

    def _publish(self) -> None:
        """Let the flights see what they may hand out. Runs on the thread that decodes, between its steps."""
        for call in list(self._calls):
            call.publish()

    def _listen(self, bell: SimpleQueue[None], done: Callable[[], bool]) -> None:
        """Wait for the driver's next ring."""
        self._bells.append(bell)
        if not done() and self._drivers:
            try:
                bell.get(timeout=_DEAF_SECONDS)
            except Empty:
                return

    def _ring(self) -> None:
        while self._bells:
            try:
                self._bells.popleft().put(None)
            except IndexError:  # another thread was quicker
                return

    def _release(self, me: _Driver) -> None:
        if self._drivers.get("") is me:
            self._drivers.pop("")
            self._ring()

    def _cycle_of(self, driver: _Driver) -> None:
        """Run a cycle on behalf of a driver, unless one of its own is under way, as in a signal handler."""
        if self._cycling is driver:
            raise EngineError("the engine was asked for more from within its own decoding; ask from another thread")
        self._cycling = driver  # an interrupted driver is left here, and is not one ever again
        self._cycle()
        self._cycling = None

    @torch.inference_mode()
    def _cycle(self) -> None:
        """Take in what has come, and run one step."""
        self._begin()
        joining: list[Sequence] = []
        try:
            self._run_tasks()
            self._drop_over()
            joining = self._admit()
            self._batch.join(joining)
            self._batch.step()
        except Exception as error:  # noqa: BLE001 - told to the flights that it is the fault of
            self._blame(error, joining)
            return
        self._trials.passed({sequence.call for sequence in self._batch.sequences} if self._trials.running else ())
        self._retried = self._retried and bool(self._batch.sequences)
        self._whole = not self._batch.spoilt

    def _begin(self) -> None:
        """Start over if the last cycle didn't come to its end."""
        if not self._whole:
            self._rebuild()
        self._whole = False

    def _rebuild(self) -> None:
        """Take a new batch, and queue everything that is still wanted, in the order in which it came."""
        self._parts.decoder.forget_captured()
        self._batch = Batch(self._parts)
        with self._queue:
            live = [sequence for call in list(self._calls) for sequence in call.undecided()]
            self._waiting = deque(sorted(live, key=lambda sequence: sequence.number))
        for sequence in live:
            try:
                sequence.rewind()
                reason = sequence.end_reason(self._parts.eos_token_ids) if sequence.drawn else None
                if reason is not None:  # it had ended, and only not been handed over
                    with self._queue:
                        self._waiting.remove(sequence)
                    self._batch.finish(sequence, reason)
            except Exception as error:  # noqa: BLE001 - told to its flight
                sequence.call.fail(error)

    def _run_tasks(self) -> None:
        while self._tasks:
            task = self._tasks[0]  # taken out behind it, so that an interrupt of this thread leaves it to the next
            if not task.done:
                task.run()
            self._tasks.popleft()

    def _drop_over(self) -> None:
        """Let go of the calls that are over; what was cancelled is handed over as far as it is."""
        over = {call for call in list(self._calls) if call.over}
        if not over:
            return
        with self._queue:
            gone = [sequence for sequence in self._waiting if sequence.call in over]
            self._waiting = deque(sequence for sequence in self._waiting if sequence.call not in over)
        for sequence in [*gone, *(sequence for sequence in self._batch.sequences if sequence.call in over)]:
            if sequence.call.closed or sequence.call.error is not None:
                self._batch.leave(sequence)
            else:
                self._batch.finish(sequence, "cancelled")
        with self._queue:
            for call in over:
                if not call.undecided():  # else more was added meanwhile, for the next cycle to drop
                    self._calls.pop(call, None)

    def _admit(self) -> list[Sequence]:
        """Take the waiting sequences that fit, first come first served."""
        if not self._waiting:
            return []
        admission = Admission(self._batch, self.max_sequences, self.max_tokens)
        trial = self._trials.next(self._calls, empty=not self._batch.sequences) if self._trials.running else None
        with self._queue:
            held_back = deque[Sequence]()
            while self._waiting:
                if self._trials.running and not self._trials.may_join(self._waiting[0].call, trial):
                    held_back.append(self._waiting.popleft())
                elif admission.fits(self._waiting[0]):
                    admission.add(self._waiting.popleft())
                else:
                    break
            self._waiting.extendleft(reversed(held_back))
        return admission.admitted

    def _blame(self, error: Exception, joining: list[Sequence]) -> None:
        """Tell whose fault a failed cycle is; what others had in the batch is decoded again."""
        traceback.clear_frames(
            error.__traceback__
        )  # which hold the batch's tensors as long as somebody holds the error
        if isinstance(error, SequenceError) and isinstance(error.__cause__, Exception):
            traceback.clear_frames(error.__cause__.__traceback__)
            error.sequence.call.fail(error.__cause__)
            return
        sequences = dict.fromkeys([*self._batch.sequences, *joining])
        if out_of_memory(error) and not self._retried and len(sequences) > 1:
            self._retried = True
            self.max_sequences = len(sequences) // 2
            _log.warning(
                "out of memory with %d responses at once; going on with %d", len(sequences), self.max_sequences
            )
            return
        self._retried = False
        for call in self._trials.suspect(dict.fromkeys(sequence.call for sequence in sequences)):
            call.fail(error)


def _nothing() -> None:
    pass
