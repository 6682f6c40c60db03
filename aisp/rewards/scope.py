"""Giving up a call to a reward: what still runs for it on the event loop is cancelled, and nothing new begins."""

from __future__ import annotations

import contextvars
import threading
from concurrent.futures import Future
from typing import Any


class GivenUp(BaseException):
    """Ends a call to a reward that nobody waits for any more."""


class Scope:
    """One call to a reward, and whether somebody still waits for it. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[Future[Any]] = set()
        self._given_up = False

    @property
    def given_up(self) -> bool:
        return self._given_up

    def hold(self, future: Future[Any]) -> None:
        """Cancel a future when the call is given up, or at once where it was."""
        with self._lock:
            given_up = self._given_up
            if not given_up:
                self._running.add(future)
        if given_up:
            future.cancel()
        else:
            future.add_done_callback(self._forget)

    def give_up(self) -> None:
        """Cancel what runs, and let nothing more begin."""
        with self._lock:
            self._given_up = True
            running = list(self._running)
        for future in running:
            future.cancel()

    def _forget(self, future: Future[Any]) -> None:
        with self._lock:
            self._running.discard(future)


current: contextvars.ContextVar[Scope | None] = contextvars.ContextVar("aisp_reward_scope", default=None)
"""The call that this context scores for; None where the caller waits as long as it takes."""


def stop_if_given_up() -> None:
    """End the call where nobody waits for it any more.

    Raises:
        GivenUp: Nobody does.
    """
    scope = current.get()
    if scope is not None and scope.given_up:
        raise GivenUp
