"""Scoring that ends when the search does, whatever the reward is at."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from aisp.errors import AISPError
from aisp.records import Candidate, Score
from aisp.rewards import scope

if TYPE_CHECKING:
    from aisp.rewards.base import Reward

_LOOK_EVERY = 0.02  # seconds between two looks at a cancel event, which can't be waited for beside the reward


class ScoringStoppedError(AISPError):
    """The time was up, or the search was cancelled, before a reward had scored.

    Args:
        reason: "deadline" or "cancelled".
        name: Of the reward.
    """

    def __init__(self, reason: Literal["deadline", "cancelled"], name: str) -> None:
        why = "the deadline passed" if reason == "deadline" else "the search was cancelled"
        super().__init__(f"{why} before the reward {name!r} had scored; allow more time, or make the reward faster")
        self.reason: Literal["deadline", "cancelled"] = reason


def score_within(
    reward: Reward,
    candidates: Sequence[Candidate],
    *,
    deadline: float | None = None,
    cancel: threading.Event | None = None,
    grace: float = 0.0,
) -> list[Score]:
    """Score candidates, but wait no longer than a deadline or until an event is set.

    With neither, this is `reward.score(candidates)` on the caller's own thread. Else the reward runs on a daemon thread
    of its own, in a copy of the caller's context. What the reward raises is raised here.

    A call that is given up is not undone. Coroutines of it are cancelled, and no further reward, candidate or try
    begins; but a function that is running can't be ended from outside. It goes on to its end on its thread, which then
    ends; its result is dropped. One that never returns holds its thread until the process ends.

    Args:
        reward: What scores, as a rule the session of one search.
        candidates: What is scored.
        deadline: `time.monotonic()` seconds; None for never.
        cancel: An event that ends the waiting once it is set; it is looked at fifty times a second.
        grace: Seconds that the reward gets at least, however near the deadline is or however long ago it passed. 0
            gives a reward no time after the deadline, and then does not ask it.

    Raises:
        ScoringStoppedError: The deadline passed, or the event was set.
        RewardError: As `Reward.score` does.
    """
    if deadline is None and cancel is None:
        return reward.score(candidates)
    until = None if deadline is None else max(deadline, time.monotonic() + grace)
    _check_time(reward, until, cancel)
    return ScoringCall(reward, candidates).within(until, cancel)


class ScoringCall:
    """One call to a reward's `score`, on a daemon thread of its own, in a copy of the caller's context.

    Args:
        reward: What scores.
        candidates: What is scored.
    """

    def __init__(self, reward: Reward, candidates: Sequence[Candidate]) -> None:
        self._reward = reward
        self._scope, self._done = scope.Scope(), threading.Event()
        self._scores: list[Score] = []
        self._error: BaseException | None = None
        context = contextvars.copy_context()
        context.run(scope.current.set, self._scope)
        threading.Thread(target=context.run, args=(self._run, candidates), name="aisp-scoring", daemon=True).start()

    def within(self, deadline: float | None = None, cancel: threading.Event | None = None) -> list[Score]:
        """Wait for the scores, but no longer than a deadline or until an event is set; then the call is given up.

        Raises:
            ScoringStoppedError: The deadline passed, or the event was set.
            RewardError: As `Reward.score` does.
        """
        try:
            while not self._done.wait(_seconds(deadline, cancel)):
                _check_time(self._reward, deadline, cancel)
        except BaseException:
            self.give_up()
            raise
        if self._error is not None:
            raise self._error
        return self._scores

    def give_up(self) -> None:
        """Cancel what runs for it, and let nothing more begin."""
        self._scope.give_up()

    def _run(self, candidates: Sequence[Candidate]) -> None:
        try:
            self._scores = self._reward.score(candidates)
        except BaseException as error:  # noqa: BLE001 - the caller's, whatever it is
            self._error = error
        finally:
            self._done.set()


def _seconds(until: float | None, cancel: threading.Event | None) -> float | None:
    left = None if until is None else min(max(until - time.monotonic(), 0.0), threading.TIMEOUT_MAX)
    return left if cancel is None else min(_LOOK_EVERY, _LOOK_EVERY if left is None else left)


def _check_time(reward: Reward, until: float | None, cancel: threading.Event | None) -> None:
    if cancel is not None and cancel.is_set():
        raise ScoringStoppedError("cancelled", reward.name)
    if until is not None and time.monotonic() >= until:
        raise ScoringStoppedError("deadline", reward.name)
