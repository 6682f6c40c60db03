"""Blocking work for callers on an event loop."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


async def cancellable(work: Callable[[threading.Event], T]) -> T:
    """Run blocking work on a thread of its own, in the caller's context.

    A thread a request, rather than a pool: a judge that is itself a chat model makes requests within a request, and a
    pool whose threads all wait for inner requests would never run one.

    Args:
        work: Is given an event, which is set when the caller is cancelled; the work should end then.
    """
    cancel = threading.Event()
    context = contextvars.copy_context()
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # a cancelled caller must not make `set_result` fail

    def run() -> None:
        try:
            result = context.run(work, cancel)
        except BaseException as error:  # noqa: BLE001 - the caller's to see, whatever it is
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name="aisp-request", daemon=True).start()
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        cancel.set()
        raise
