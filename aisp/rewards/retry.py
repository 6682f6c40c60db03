"""Another try, after a while that grows and is not the same for all (tenacity)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tenacity import AsyncRetrying, Retrying, retry_if_exception, stop_after_attempt, stop_before_delay
from tenacity.wait import wait_base, wait_exponential, wait_random

from aisp.errors import ConfigurationError
from aisp.rewards.scope import stop_if_given_up


class RetryPolicy:
    """How often, and for how long, something is tried again.

    Args:
        attempts: Tries in all, at least 1.
        deadline: Seconds for all tries and the waits between them. No try begins after it, and `Remote` ends the last
            one there.
        first_wait: Seconds before the second try; it doubles from try to try, with jitter on top.
        longest_wait: Seconds between two tries at most.

    Raises:
        ConfigurationError: No tries, no time, or waits below 0.
    """

    def __init__(
        self, attempts: int = 4, deadline: float = 60.0, first_wait: float = 0.5, longest_wait: float = 10.0
    ) -> None:
        if attempts < 1:
            raise ConfigurationError(f"attempts is {attempts}; expected an integer >= 1 (1 tries nothing again)")
        if not deadline > 0 or not first_wait >= 0 or not longest_wait >= 0:
            raise ConfigurationError(
                f"deadline is {deadline}, first_wait {first_wait} and longest_wait {longest_wait}; expected seconds, "
                "the deadline above 0"
            )
        self.attempts, self.deadline = attempts, deadline
        self.first_wait, self.longest_wait = first_wait, longest_wait

    def retrying(self, worth: Callable[[BaseException], bool]) -> Retrying:
        """Return tenacity's loop for functions; an error that isn't worth another try is raised at once."""
        return Retrying(**self._options(worth), before=lambda _: stop_if_given_up())

    def aretrying(self, worth: Callable[[BaseException], bool]) -> AsyncRetrying:
        """Return tenacity's loop for coroutines; an error that isn't worth another try is raised at once."""
        return AsyncRetrying(**self._options(worth))

    def _options(self, worth: Callable[[BaseException], bool]) -> dict[str, Any]:
        growing = wait_exponential(multiplier=self.first_wait, max=self.longest_wait) + wait_random(0, self.first_wait)
        return {
            "stop": stop_after_attempt(self.attempts) | stop_before_delay(self.deadline),
            "wait": _AsAsked(growing, self.longest_wait),
            "retry": retry_if_exception(worth),
            "reraise": True,
        }


class _AsAsked(wait_base):
    """Waits as long as the error asks for (`retry_after`, in seconds, up to a limit), else as it would anyway."""

    def __init__(self, otherwise: wait_base, longest: float) -> None:
        self._otherwise, self._longest = otherwise, longest

    def __call__(self, retry_state: Any) -> float:
        error = retry_state.outcome.exception() if retry_state.outcome is not None else None
        asked = getattr(error, "retry_after", None)
        return self._otherwise(retry_state) if asked is None else min(float(asked), self._longest)
