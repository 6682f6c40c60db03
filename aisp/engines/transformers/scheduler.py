"""Rows of all callers meet in one batch, and one thread at a time decodes it: whichever caller came first.

A caller that waits for its rows drives the batch for everyone until its own are done, then hands over. A thread of
our own would be simpler, but on a CPU it would be slower: OpenMP makes a second team of threads for it, finds more
threads than processors, and puts them to sleep at every barrier (measured with SmolLM2-135M on 2 cores: 190 ms a step
at 16 rows against 140, and 310 to 500 against 180 at 32).
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import torch

from aisp.engines.transformers.admission import Load
from aisp.engines.transformers.batch import Batch, Parts
from aisp.engines.transformers.memory import out_of_memory
from aisp.engines.transformers.sequence import Job, Row

_log = logging.getLogger(__name__)
T = TypeVar("T")


class Scheduler:
    """Feeds a batch from a queue of jobs.

    Args:
        parts: What the engine is made of.
        max_rows: Rows that are decoded at once.
        max_tokens: Keys and values, counted in tokens, that the rows may come to hold at once, their prompts included.
            A row that alone needs more still runs, alone.
    """

    def __init__(self, parts: Parts, max_rows: int, max_tokens: int) -> None:
        self.max_rows = max_rows
        self.max_tokens = max_tokens
        self._batch = Batch(parts)
        self._waiting: deque[Row] = deque()
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._queue = threading.Lock()
        self._driving = threading.Lock()
        self._progressed = threading.Condition()
        self._retried = False

    def run(self, job: Job, on_progress: Callable[[], None]) -> None:
        """Return when a job is done. `on_progress` is called on the caller's thread, about once a step.

        If it raises, or the caller is interrupted, the job's rows leave the batch and the exception goes on.
        """
        with self._queue:
            self._waiting.extend(job.rows)
        try:
            self._drive(lambda: job.done, on_progress)
        except BaseException:
            job.abandoned = True
            raise

    def call(self, function: Callable[[], T]) -> T:
        """Run a function between steps, on whichever thread decodes, and return what it returns."""
        future: Future[T] = Future()
        with self._queue:
            self._calls.append((function, future))
        self._drive(future.done, lambda: None)
        return future.result()

    def _drive(self, done: Callable[[], bool], on_progress: Callable[[], None]) -> None:
        """Decode until `done`, or wait while another caller does."""
        while not done():
            if self._driving.acquire(blocking=False):
                try:
                    while not done():
                        self._cycle()
                        self._tell()
                        on_progress()
                finally:
                    self._driving.release()
                    self._tell()
            else:
                with self._progressed:
                    if not done() and self._driving.locked():
                        self._progressed.wait()
                on_progress()

    def _tell(self) -> None:
        with self._progressed:
            self._progressed.notify_all()

    @torch.inference_mode()
    def _cycle(self) -> None:
        """Take in what has come, and run one step."""
        self._run_calls()
        self._drop_expired()
        admitted = self._admitted()
        try:
            self._batch.join(admitted)
            self._batch.step()
        except BaseException as error:  # the callers that wait must hear of it, an interrupt of this one included
            if out_of_memory(error):
                self._halve(admitted, error)
            else:
                self._fail(admitted, error)
            if not isinstance(error, Exception):
                raise
        else:
            self._retried = self._retried and bool(self._batch.rows)

    def _run_calls(self) -> None:
        with self._queue:
            calls = list(self._calls)
            self._calls.clear()
        for function, future in calls:
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)
                if not isinstance(error, Exception):
                    raise

    def _drop_expired(self) -> None:
        with self._queue:
            gone = {row for row in self._waiting if row.job.over}
            self._waiting = deque(row for row in self._waiting if row not in gone)
        for row in [*gone, *(row for row in self._batch.rows if row.job.over)]:
            self._batch.finish(row, "cancelled")

    def _admitted(self) -> list[Row]:
        """Take the waiting rows that fit, first come first served."""
        with self._queue:
            admitted: list[Row] = []
            room = self.max_rows - len(self._batch.rows)
            load = Load(self._batch)
            while self._waiting and len(admitted) < room:
                if not load.take(self._waiting[0], self.max_tokens):
                    break
                admitted.append(self._waiting.popleft())
            return admitted

    def _halve(self, admitted: Sequence[Row], error: BaseException) -> None:
        """Put the rows back into the queue, to be taken up half as many at once; give up the second time."""
        rows = list(dict.fromkeys([*self._batch.rows, *(row for row in admitted if not row.done)]))
        if self._retried or len(rows) < 2:
            self._fail(admitted, error)
            return
        self._retried = True
        self.max_rows = len(rows) // 2
        _log.warning("out of memory with %d rows in the batch; going on with %d at once", len(rows), self.max_rows)
        for row in rows:
            self._batch.leave(row)
        with self._queue:
            self._waiting.extendleft(reversed(rows))

    def _fail(self, admitted: Sequence[Row], error: BaseException) -> None:
        """Tell every caller with rows in the batch, and start afresh."""
        self._retried = False
        for row in [*self._batch.rows, *admitted]:
            self._batch.leave(row)
            row.job.error = error
