"""The one event loop that async rewards run on, so that sync and async callers, notebooks included, behave alike."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_thread: threading.Thread | None = None


def submit(coroutine: Coroutine[Any, Any, T]) -> Future[T]:
    """Run a coroutine on the package's loop, in the caller's context; return where its result will be."""
    context = contextvars.copy_context()
    future: Future[T] = Future()

    def start() -> None:
        task = context.run(asyncio.get_running_loop().create_task, coroutine)
        task.add_done_callback(lambda done: _pass_on(done, future))

    _running().call_soon_threadsafe(start)
    return future


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the package's loop and wait for it."""
    if threading.current_thread() is _thread:
        coroutine.close()
        raise RuntimeError(
            "an async reward called score() of another on their loop, which would wait for itself; await ascore()"
        )
    return submit(coroutine).result()


def _pass_on(task: asyncio.Task[T], future: Future[T]) -> None:
    if task.cancelled():
        future.cancel()
    elif (error := task.exception()) is not None:
        future.set_exception(error)
    else:
        future.set_result(task.result())


def _running() -> asyncio.AbstractEventLoop:
    global _loop, _thread
    with _lock:
        if _loop is None or _loop.is_closed():
            _loop = asyncio.new_event_loop()
            _thread = threading.Thread(target=_loop.run_forever, name="aisp-rewards", daemon=True)
            _thread.start()
        return _loop
