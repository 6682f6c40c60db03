"""The one event loop that async rewards run on, so that sync and async callers, notebooks included, behave alike.

It outlives what runs on it: a coroutine that calls `sys.exit` fails alone, and one that blocks the loop keeps that loop
while the others get another. A process that was forked off has a loop of its own, since threads don't come along.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, NamedTuple, TypeVar

from aisp.errors import RewardError
from aisp.rewards import scope

T = TypeVar("T")


class _Served(NamedTuple):
    """A loop and the thread that runs it."""

    loop: asyncio.AbstractEventLoop
    thread: threading.Thread


_ANSWERS_WITHIN = 1.0  # seconds; a loop that is merely busy answers in milliseconds

_lock = threading.Lock()
_served: _Served | None = None
_left_behind: list[_Served] = []
_closing: set[asyncio.Task[None]] = set()


def submit(coroutine: Coroutine[Any, Any, T]) -> Future[T]:
    """Run a coroutine on the package's loop, in the caller's context; return where its result will be.

    Cancelling the future cancels the coroutine.
    """
    context = contextvars.copy_context()
    future: Future[T] = Future()
    loop = _serving().loop

    def start() -> None:
        if future.cancelled():
            coroutine.close()
            return
        task = context.run(loop.create_task, coroutine)
        task.add_done_callback(lambda done: _pass_on(done, future))
        future.add_done_callback(lambda done: loop.call_soon_threadsafe(task.cancel) if done.cancelled() else None)

    loop.call_soon_threadsafe(start)
    waited_for = scope.current.get()
    if waited_for is not None:
        waited_for.hold(future)
    return future


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the package's loop and wait for it.

    Raises:
        GivenUp: Nobody waits for the result any more.
    """
    served = _served
    if served is not None and threading.current_thread() is served.thread:
        coroutine.close()
        raise RuntimeError(
            "an async reward called score() of another on their loop, which would wait for itself; await ascore()"
        )
    future = submit(coroutine)
    try:
        return future.result()
    except CancelledError:
        raise scope.GivenUp from None
    except BaseException:
        future.cancel()  # where the waiting ended, as by Ctrl-C, and not the coroutine
        raise


def is_served(loop: asyncio.AbstractEventLoop) -> bool:
    """Return whether a loop is the one that coroutines run on now."""
    served = _served
    return served is not None and served.loop is loop and served.thread.is_alive()


def close_soon(loop: asyncio.AbstractEventLoop, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Close what lives on a loop, without waiting; on a loop that isn't served any more, let go of it.

    For finalizers: it takes no lock, since the collector may call it while this thread holds one.
    """
    if is_served(loop):
        loop.call_soon_threadsafe(_hold_until_done, loop, close)


def _hold_until_done(loop: asyncio.AbstractEventLoop, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
    task = loop.create_task(close())
    _closing.add(task)  # the loop itself holds tasks only weakly
    task.add_done_callback(_closing.discard)


def _pass_on(task: asyncio.Task[T], future: Future[T]) -> None:
    error: BaseException | None
    if task.cancelled():
        error = RewardError("an async reward cancelled its own task, so there is no verdict; let it return one")
    else:
        error = task.exception()
        if error is not None and not isinstance(error, Exception):  # as `sys.exit`, meant for the process
            error = RewardError(f"an async reward raised {error!r}")
    if not future.set_running_or_notify_cancel():  # nobody wants to know
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(task.result())


def _serving() -> _Served:
    """Return a loop that answers: one that a coroutine blocks, as by `time.sleep`, is left to that coroutine."""
    served = _current()
    if threading.current_thread() is served.thread or _answers(served.loop):
        return served
    return _current(instead_of=served)


def _answers(loop: asyncio.AbstractEventLoop) -> bool:
    seen = threading.Event()
    loop.call_soon_threadsafe(seen.set)
    return seen.wait(_ANSWERS_WITHIN)


def _current(instead_of: _Served | None = None) -> _Served:
    global _served
    with _lock:
        if _served is None or _served is instead_of or not _served.thread.is_alive() or _served.loop.is_closed():
            loop = asyncio.new_event_loop()
            thread = threading.Thread(target=_serve, args=(loop,), name="aisp-rewards", daemon=True)
            thread.start()
            _served = _Served(loop, thread)
        return _served


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    while not loop.is_closed():
        try:
            loop.run_forever()
        except (SystemExit, KeyboardInterrupt):  # asyncio lets these out of the loop, once the task has them
            continue


def _start_afresh() -> None:
    """Forget the parent's loop, in a process that was forked off."""
    global _lock, _served
    if _served is not None:
        # Closing it, as its end would, unregisters descriptors of a selector that the parent still uses.
        _left_behind.append(_served)
    _lock, _served = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)
