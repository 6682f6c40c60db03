"""When something is tried again: how often, how long, and not all at the same moment."""

from __future__ import annotations

import pytest

from aisp.errors import ConfigurationError
from aisp.rewards.retry import RetryPolicy


class Busy(Exception):  # noqa: N818 - what a server is
    """A failure that may pass, and may say when."""

    def __init__(self, retry_after=None):
        super().__init__("busy")
        self.retry_after = retry_after


def waits(patience, error=None, worth=lambda error: True):
    """Return the waits between tries that all fail, in seconds."""
    slept, tried = [], []

    def fail():
        tried.append(1)
        raise error or Busy()

    with pytest.raises(type(error or Busy())):
        patience.retrying(worth).copy(sleep=slept.append)(fail)
    assert len(tried) == len(slept) + 1
    return slept


def test_waits_double_up_to_a_limit_with_jitter_on_top():
    for _ in range(20):
        first, second, third, fourth = waits(RetryPolicy(attempts=5, deadline=1e9, first_wait=1.0, longest_wait=4.0))
        assert 1 <= first <= 2 <= second <= 3
        assert 4 <= third <= 5
        assert 4 <= fourth <= 5


def test_no_two_wait_alike():
    assert len({tuple(waits(RetryPolicy(attempts=3, deadline=1e9))) for _ in range(8)}) == 8


def test_no_try_begins_after_the_deadline():
    assert waits(RetryPolicy(attempts=9, deadline=0.9, first_wait=1.0)) == []
    assert len(waits(RetryPolicy(attempts=9, deadline=3.5, first_wait=1.0))) == 2, "the third wait would be 4 or more"


def test_a_wait_that_is_asked_for_is_kept_up_to_the_limit():
    assert waits(RetryPolicy(attempts=2, longest_wait=5.0), Busy(retry_after=3)) == [3.0]
    assert waits(RetryPolicy(attempts=2, longest_wait=5.0), Busy(retry_after=300)) == [5.0]


def test_what_is_not_worth_it_is_raised_at_once():
    assert waits(RetryPolicy(), ValueError("no"), worth=lambda error: isinstance(error, Busy)) == []


async def test_coroutines_are_tried_again_alike():
    slept = []

    async def sleep(seconds):
        slept.append(seconds)

    async def fail():
        raise Busy()

    with pytest.raises(Busy):
        await RetryPolicy(attempts=3, first_wait=1.0).aretrying(lambda error: True).copy(sleep=sleep)(fail)
    assert len(slept) == 2


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"deadline": 0}, {"first_wait": -1}, {"longest_wait": -1}])
def test_a_policy_that_tries_nothing_is_refused(wrong):
    with pytest.raises(ConfigurationError, match="expected"):
        RetryPolicy(**wrong)
