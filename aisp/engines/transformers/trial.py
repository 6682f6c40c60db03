"""Finding the flight that makes a shared step fail: each of those that were in it is tried beside the proven ones."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from aisp.engines.transformers.sequence import RolloutCall


class Trials:
    """Which flights are under suspicion, which one is being tried, and which have passed.

    A step that failed with one flight in it was that flight's fault, and so was one that failed with one on trial.
    Otherwise all are suspects: the first is tried alone, the next beside those that have passed, and flights that come
    meanwhile wait. Each failure either finds a flight at fault or begins trials, and trials that pass decode a step, so
    that it ends.
    """

    def __init__(self) -> None:
        self._suspects: dict[RolloutCall, None] = {}
        self._passed: set[RolloutCall] = set()
        self._trial: RolloutCall | None = None

    @property
    def running(self) -> bool:
        """Whether anyone is under suspicion."""
        return bool(self._suspects)

    def suspect(self, calls: Collection[RolloutCall]) -> list[RolloutCall]:
        """Return the flights at fault for a step that failed with these in it; without any, all become suspects."""
        trial, self._trial = self._trial, None
        if trial is not None and trial in calls:
            self._acquit(trial)
            return [trial]
        if len(calls) < 2:
            return list(calls)
        self._suspects, self._passed = dict.fromkeys(calls), set()
        return []

    def next(self, open_calls: Collection[RolloutCall], *, empty: bool) -> RolloutCall | None:
        """Return the flight to try next; None where those that passed have to make room first."""
        for call in list(self._suspects):
            if call in open_calls and not call.over and call.undecided():
                if not empty and not self._passed:
                    return None
                self._trial = call
                return call
            self._acquit(call)
        return None

    def may_join(self, call: RolloutCall, trial: RolloutCall | None) -> bool:
        """Whether a flight's sequences may join the batch."""
        return call is trial or call in self._passed or not self._suspects

    def passed(self, calls: Iterable[RolloutCall]) -> None:
        """Take note of the flights that were in a step that did not fail."""
        if self._trial is not None and (self._trial in calls or not self._trial.undecided()):
            self._acquit(self._trial)
            self._trial = None

    def _acquit(self, call: RolloutCall) -> None:
        self._suspects.pop(call, None)
        self._passed.add(call)
        if not self._suspects:
            self._passed = set()
