"""Rewards that wait for something outside of this process are asked while others are being written."""

from __future__ import annotations

import threading
import time

import pytest

from aisp.errors import RewardError
from aisp.records import Limits
from aisp.rewards import FunctionReward
from aisp.search.plan import Plan
from aisp.search.request import Request
from aisp.search.scoring import has_async_part
from aisp.testing import FakeEngine
from tests.search.fakes import FakeReward, Searches
from tests.search.recorded import Recording

TEXTS = ("a", "b b", "c c c", "d d d d d d", "e e e e e e e e e")
LONGEST = 20.0  # seconds


class Judge(FakeReward):
    """Answers once `ready` says so, as a server would."""

    is_async = True

    def __init__(self, function=len, ready=lambda: True):
        super().__init__(function)
        self.ready, self.asked, self.at_once, self.most = ready, [], 0, 0
        self._lock = threading.Lock()

    def score(self, candidates):
        with self._lock:
            self.asked.append(len(candidates))
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        end = time.monotonic() + LONGEST
        while not self.ready():
            assert time.monotonic() < end, "nothing was drawn meanwhile"
            time.sleep(0.001)
        with self._lock:
            self.at_once -= 1
        return super().score(candidates)


def search_of(reward, strategy=None, budget=32, engine=None, **limits):
    aligner = Searches(
        engine or FakeEngine(TEXTS),
        strategy or Recording(asynchronous=True),
        reward,
        Plan(budget=budget, num_samples=8),
    )
    return aligner.align(Request(messages=[], prompt_tokens=[1], limits=Limits(max_tokens=20, **limits), seed=1))


def test_decoding_goes_on_while_a_judge_is_waited_for():
    engine = FakeEngine(TEXTS)
    judge = Judge(ready=lambda: len(judge.asked) == 1 or judge.most > 1 or engine.drawn == 32)
    alignment = search_of(judge, engine=engine)
    assert len(list(alignment.responses)) == 32
    assert judge.most > 1, "several are asked at once"


def test_the_first_scores_are_waited_for_and_are_of_several():
    """A reward that calibrates itself sees more than one response first."""
    engine = FakeEngine(TEXTS)
    drawn = []
    judge = Judge(ready=lambda: drawn.append(engine.drawn) or True)
    search_of(judge, engine=engine)
    assert judge.asked[0] >= 4
    assert drawn[0] == 8, "no more than the first flight"


@pytest.mark.parametrize("reward", [Judge(), FakeReward(len)], ids=["judge", "rule"])
def test_what_is_known_does_not_hang_on_how_long_a_judge_takes(reward):
    quick = [(r.text, r.known) for r in search_of(reward).responses]
    slow = Judge(ready=lambda: time.sleep(0.005) or True)
    slow.is_async = reward.is_async
    assert [(r.text, r.known) for r in search_of(slow).responses] == quick


@pytest.mark.parametrize(("reward", "most"), [(Judge(), 16), (FakeReward(len), 8)], ids=["judge", "rule"])
def test_as_many_scores_may_be_on_their_way_as_responses_are_in_flight(reward, most):
    strategy = Recording(asynchronous=True)
    search_of(reward, strategy)
    assert max(strategy.ahead) == most, "asked for, and not told of"


def test_a_judge_that_fails_ends_the_search_with_its_error():
    def fail(text):
        raise RewardError("judge", text, "the server is down")

    with pytest.raises(RewardError, match="the server is down"):
        search_of(Judge(fail))


def test_a_judge_that_never_answers_is_given_up_at_the_deadline():
    over = threading.Event()
    judge = Judge(ready=lambda: over.is_set() or len(judge.asked) == 1)
    alignment = search_of(judge, deadline=time.monotonic() + 1.0)
    over.set()
    assert alignment.stopped_by == "deadline"
    assert alignment.best.reward == max(r.reward for r in alignment.responses if r.score.usable)


def test_what_waits_is_told_by_its_parts():
    class Served(FunctionReward):
        is_async = True

    rule = FunctionReward(len)
    assert not has_async_part(rule + 2 * rule)
    assert has_async_part(rule + 2 * Served(len))
