"""The one decode thread: rows of all callers meet in its batch, join and leave between steps."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import torch

from aisp.engines.batch import Batch, Parts
from aisp.engines.rows import Job, Row
from aisp.errors import EngineError

_log = logging.getLogger(__name__)
_IDLE_SECONDS = 1.0
T = TypeVar("T")


class Scheduler:
    """Feeds a batch from a queue of jobs, on a thread that lives while there is work.

    Args:
        parts: What the engine is made of.
        max_rows: Rows that are decoded at once.
        max_tokens: Keys and values, counted in tokens, that the rows may come to hold at once. A row that alone needs more
            still runs, alone.
    """

    def __init__(self, parts: Parts, max_rows: int, max_tokens: int) -> None:
        self.max_rows = max_rows
        self.max_tokens = max_tokens
        self._batch = Batch(parts)
        self._waiting: deque[Row] = deque()
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._work = threading.Condition()
        self._thread: threading.Thread | None = None
        self._retried = False

    def submit(self, job: Job) -> None:
        """Queue a job's rows; its results appear in the job."""
        with self._work:
            self._waiting.extend(job.rows)
            self._wake()

    def call(self, function: Callable[[], T]) -> T:
        """Run a function on the decode thread, between steps, and return what it returns."""
        future: Future[T] = Future()
        with self._work:
            self._calls.append((function, future))
            self._wake()
        return future.result()

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="aisp-decode", daemon=True)
            self._thread.start()
        self._work.notify()

    @torch.inference_mode()
    def _run(self) -> None:
        while self._await_work():
            self._run_calls()
            self._drop_expired()
            admitted = self._admitted()
            try:
                self._batch.join(admitted)
                self._batch.step()
            except torch.OutOfMemoryError as error:
                self._halve(admitted, error)
            except Exception as error:  # whatever it was, the callers that wait must hear of it
                self._fail(admitted, error)
            self._retried = self._retried and bool(self._batch.rows)

    def _await_work(self) -> bool:
        """Return whether there is work; end the thread after a while without."""
        with self._work:
            idle = not (self._batch.rows or self._waiting or self._calls)
            if idle and not self._work.wait(_IDLE_SECONDS) and not (self._waiting or self._calls):
                self._thread = None
                return False
            return True

    def _run_calls(self) -> None:
        with self._work:
            calls = list(self._calls)
            self._calls.clear()
        for function, future in calls:
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

    def _drop_expired(self) -> None:
        with self._work:
            expired = [row for row in self._waiting if row.job.expired or row.job.error]
            gone = set(expired)
            self._waiting = deque(row for row in self._waiting if row not in gone)
        for row in expired + [row for row in self._batch.rows if row.job.expired]:
            self._batch.finish(row, "cancelled")

    def _admitted(self) -> list[Row]:
        """Take the waiting rows that fit, first come first served."""
        with self._work:
            admitted: list[Row] = []
            held = sum(self._need(row) for row in self._batch.rows)
            while self._waiting and len(self._batch.rows) + len(admitted) < self.max_rows:
                need = self._need(self._waiting[0])
                if held and held + need > self.max_tokens:
                    break
                held += need
                admitted.append(self._waiting.popleft())
            return admitted

    def _need(self, row: Row) -> int:
        prompt = 0 if self._batch.parts.decoder.sharing else len(row.job.prefix.token_ids)
        return prompt + row.job.limits.max_tokens

    def _halve(self, admitted: Sequence[Row], error: BaseException) -> None:
        """Put half of the rows back into the queue, to be taken up again where they are; give up the second time."""
        rows = list(dict.fromkeys([*self._batch.rows, *(row for row in admitted if not row.done)]))
        if self._retried or len(rows) < 2:
            self._fail(admitted, error)
            return
        self._retried = True
        self.max_rows = max(1, len(rows) // 2)
        _log.warning("out of memory with %d rows in the batch; going on with %d at once", len(rows), self.max_rows)
        for row in rows:
            self._batch.leave(row)
        with self._work:
            self._waiting.extendleft(reversed(rows))

    def _fail(self, admitted: Sequence[Row], error: BaseException) -> None:
        """Tell every caller with rows in the batch, and start afresh."""
        for row in [*self._batch.rows, *admitted]:
            self._batch.leave(row)
            row.job.fail(error)
