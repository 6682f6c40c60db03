"""Decoding ends before the interpreter does.

A daemon thread that is inside torch when the interpreter ends is made to exit there, which C++ answers by ending the
process with "terminate called without an active exception". So nothing may be inside torch then, or come there: what
decodes ends after its step, and whoever waits for it or asks for more gets an EngineError.
"""

from __future__ import annotations

import atexit
import time
import weakref

from aisp.engines.transformers.scheduler import Scheduler

_LONGEST_SECONDS = 10.0  # that the process waits for a step to end; one of a large model on a CPU takes seconds
_schedulers: weakref.WeakSet[Scheduler] = weakref.WeakSet()


def end_at_exit(scheduler: Scheduler) -> None:
    """Have everything that a scheduler decodes end when the interpreter does."""
    _schedulers.add(scheduler)


@atexit.register
def _end_all() -> None:
    schedulers = list(_schedulers)
    for scheduler in schedulers:
        scheduler.exiting = True
    deadline = time.monotonic() + _LONGEST_SECONDS
    while any(scheduler.driven for scheduler in schedulers) and time.monotonic() < deadline:
        time.sleep(0.01)
