"""Blocking work for callers on an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import AsyncGenerator, Callable, Iterable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


async def run_in_thread(work: Callable[[threading.Event], T]) -> T:
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


async def iterate_in_thread(work: Callable[[threading.Event], Iterable[T]]) -> AsyncGenerator[T, None]:
    """Yield what blocking work yields, as it comes, from a thread of its own in the caller's context.

    Args:
        work: Is given an event, which is set when the caller is cancelled or takes no more; the work should end then.
    """
    cancel = threading.Event()
    context = contextvars.copy_context()
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[tuple[T] | BaseException | None] = asyncio.Queue()

    def put(item: tuple[T] | BaseException | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(queue.put_nowait, item)

    def run() -> None:
        try:
            for item in work(cancel):
                put((item,))
        except BaseException as error:  # noqa: BLE001 - the caller's to see, whatever it is
            put(error)
        else:
            put(None)

    threading.Thread(target=context.run, args=(run,), name="aisp-request", daemon=True).start()
    try:
        while (item := await queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item[0]
    finally:
        cancel.set()
