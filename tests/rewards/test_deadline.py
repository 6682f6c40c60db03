"""A deadline bounds a reward, whatever the reward is at."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time

import pytest

from aisp.errors import RewardError
from aisp.records import Candidate
from aisp.rewards import FunctionReward
from aisp.rewards.deadline import ScoringStoppedError, score_within
from aisp.rewards.function import BatchReward

CANDIDATES = [Candidate(messages=[], text=text) for text in ("a", "bb")]
LATER = 3600.0


def soon():
    return time.monotonic() + 0.05


class Stuck:
    """A reward that waits until it is released, and then says on which thread it was."""

    def __init__(self):
        self.started, self.released, self.ended = threading.Event(), threading.Event(), threading.Event()
        self.calls = []

    def __call__(self, text):
        self.calls.append(text)
        self.started.set()
        self.released.wait()
        self.ended.set()
        return 1.0


@pytest.fixture
def stuck():
    stuck = Stuck()
    yield stuck
    stuck.released.set()


def test_a_reward_that_hangs_is_given_up_at_the_deadline(stuck):
    with pytest.raises(ScoringStoppedError, match="deadline passed before the reward 'stuck'") as stopped:
        score_within(FunctionReward(stuck, name="stuck"), CANDIDATES, deadline=soon())
    assert stopped.value.reason == "deadline"
    assert not stuck.ended.is_set()


def test_or_when_the_search_is_cancelled(stuck):
    cancel = threading.Event()

    def cancel_when_started():
        stuck.started.wait()
        cancel.set()

    threading.Thread(target=cancel_when_started).start()
    with pytest.raises(ScoringStoppedError, match="search was cancelled") as stopped:
        score_within(FunctionReward(stuck), CANDIDATES, deadline=time.monotonic() + LATER, cancel=cancel)
    assert stopped.value.reason == "cancelled"


@pytest.mark.parametrize(
    "first",
    [FunctionReward, lambda stuck, **options: BatchReward(lambda c: [stuck(c[0].text)] * 2, name="first", **options)],
    ids=["candidate by candidate", "all at once"],
)
def test_a_call_that_was_given_up_asks_for_nothing_more(stuck, first):
    others = []
    reward = first(stuck, cost=0.1) + BatchReward(lambda c: others.extend(c) or [1.0] * len(c), name="other")
    with pytest.raises(ScoringStoppedError):
        score_within(reward, CANDIDATES, deadline=soon())
    scoring = [thread for thread in threading.enumerate() if thread.name == "aisp-scoring"]
    stuck.released.set()
    for thread in scoring:
        thread.join()
    assert stuck.calls == ["a"]
    assert others == []


def test_the_task_of_an_async_reward_is_cancelled():
    ended = threading.Event()

    async def endless(text):
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(ScoringStoppedError):
        score_within(FunctionReward(endless) + FunctionReward(len, name="n"), CANDIDATES, deadline=soon())
    assert ended.wait(30)


def test_a_reward_that_is_in_time_is_as_without_a_deadline():
    reward = FunctionReward(len, name="n")
    expected = reward.score(CANDIDATES)
    assert score_within(reward, CANDIDATES) == expected
    assert score_within(reward, CANDIDATES, deadline=time.monotonic() + LATER) == expected
    assert score_within(reward, CANDIDATES, cancel=threading.Event()) == expected


def test_what_it_raises_is_raised_to_the_caller():
    def fails(text):
        raise ValueError("no")

    with pytest.raises(RewardError, match="ValueError"):
        score_within(FunctionReward(fails), CANDIDATES, deadline=time.monotonic() + LATER)

    def exits(text):
        raise SystemExit(3)

    with pytest.raises(RewardError, match=r"SystemExit\(3\)"):  # no signal handler runs on its thread
        score_within(FunctionReward(exits), CANDIDATES, deadline=time.monotonic() + LATER)


def test_it_sees_the_callers_context():
    user = contextvars.ContextVar("user", default="nobody")
    user.set("ann")
    reward = FunctionReward(lambda text: user.get() == "ann")
    assert score_within(reward, CANDIDATES, deadline=time.monotonic() + LATER)[0].value == 1.0


def test_a_deadline_that_has_passed_asks_nobody_unless_there_is_grace():
    asked = []

    def judge(candidates):
        asked.extend(candidates)
        return [1.0] * len(candidates)

    reward, passed = BatchReward(judge, name="judge"), time.monotonic() - 1.0
    with pytest.raises(ScoringStoppedError):
        score_within(reward, CANDIDATES, deadline=passed)
    assert asked == []
    assert [score.value for score in score_within(reward, CANDIDATES, deadline=passed, grace=LATER)] == [1.0, 1.0]


def test_an_event_that_is_set_asks_nobody():
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(ScoringStoppedError, match="cancelled"):
        score_within(FunctionReward(lambda text: 1 / 0), CANDIDATES, cancel=cancel)


def test_without_a_bound_it_runs_on_the_callers_thread():
    here = threading.get_ident()
    reward = FunctionReward(lambda text: threading.get_ident() == here)
    assert score_within(reward, CANDIDATES)[0].value == 1.0
