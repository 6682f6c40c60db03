"""The contract: verdicts are checked in one place, equal candidates are scored once, async is like sync."""

from __future__ import annotations

import asyncio
import contextvars
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aisp.errors import ConfigurationError, RewardError
from aisp.forms import Form
from aisp.records import NO_TOKENS, Candidate, Limits, Rollout, Score
from aisp.rewards import FunctionReward, Length, Reward
from aisp.rewards.event_loop import run
from aisp.search.request import Request


def candidates_of(*texts):
    return [Candidate(messages=[{"role": "user", "content": "Hi"}], text=text) for text in texts]


class Canned(Reward):
    """Returns what it was given, whatever that is."""

    def __init__(self, verdicts, **options):
        super().__init__(name="canned", **options)
        self.verdicts = verdicts
        self.calls = []

    def _score(self, candidates):
        self.calls.append([candidate.text for candidate in candidates])
        if isinstance(self.verdicts, Exception):
            raise self.verdicts
        return self.verdicts(candidates) if callable(self.verdicts) else self.verdicts


@pytest.mark.parametrize(
    ("verdict", "value"), [(1, 1.0), (True, 1.0), (np.float32(0.5), 0.5), (np.array(2.0), 2.0), (-0.25, -0.25)]
)
def test_numbers_of_any_kind_are_scores(verdict, value):
    [score] = Canned([verdict]).score(candidates_of("a"))
    assert score == Score(value=value, parts={"canned": value})


@pytest.mark.parametrize("verdict", [math.nan, math.inf, -math.inf, None, "high", Score(value=math.nan)])
def test_what_is_no_finite_number_is_an_error_that_names_reward_and_candidate(verdict):
    with pytest.raises(RewardError, match=r"reward 'canned' returned .* on the candidate 'a{60}…'"):
        Canned([verdict]).score(candidates_of("a" * 90))


@pytest.mark.parametrize("verdicts", [[1.0], [1.0, 2.0, 3.0], 1.0])
def test_a_wrong_number_of_verdicts_is_an_error(verdicts):
    with pytest.raises(RewardError, match="for 2 candidates"):
        Canned(verdicts).score(candidates_of("a", "b"))


def test_an_exception_is_named_and_chained():
    with pytest.raises(RewardError, match=r"raised ValueError\('no'\).*'a'") as caught:
        Canned(ValueError("no")).score(candidates_of("a"))
    assert isinstance(caught.value.__cause__, ValueError)


def test_excluding_drops_the_culprit_and_scores_the_rest():
    def judge(candidates):
        if any(candidate.text == "bad" for candidate in candidates):
            raise ValueError("no")
        return [float(len(candidate.text)) for candidate in candidates]

    scores = Canned(judge, on_error="exclude").score(candidates_of("good", "bad", "fine!"))
    assert [score.value for score in scores if score.usable] == [4.0, 5.0]
    assert math.isnan(scores[1].value)
    assert "raised ValueError('no') on the candidate 'bad'" in scores[1].error


def test_a_policy_that_is_none_is_an_error():
    with pytest.raises(ConfigurationError, match="on_error is 'ignore'"):
        Canned([1.0], on_error="ignore")


def test_equal_candidates_are_scored_once_in_a_call_and_across_rounds():
    reward = Canned(lambda candidates: [float(len(c.text)) for c in candidates])
    session = reward.session()
    assert [score.value for score in session.score(candidates_of("a", "bb", "a"))] == [1.0, 2.0, 1.0]
    assert [score.value for score in session.score(candidates_of("bb", "ccc"))] == [2.0, 3.0]
    assert reward.calls == [["a", "bb"], ["ccc"]]
    reward.session().score(candidates_of("a"))
    assert reward.calls[-1] == ["a"], "another request starts afresh"


def test_candidates_that_differ_in_their_calls_are_not_equal():
    reward = Canned(lambda candidates: [float(len(c.tool_calls)) for c in candidates])
    one, other = candidates_of("a", "a")
    call = {"name": "f", "args": {"x": 1}, "id": "1"}
    same_call = {**call, "id": "2"}
    rows = [one] + [Candidate(messages=one.messages, text="a", tool_calls=(c,)) for c in (call, same_call)]
    assert [score.value for score in reward.score([*rows, other])] == [0.0, 1.0, 1.0, 0.0]
    assert len(reward.calls[0]) == 2


def test_sync_and_async_rewards_behave_alike_on_and_off_a_loop():
    async def patient(text):
        await asyncio.sleep(0)
        return len(text)

    rewards = [FunctionReward(len, name="n"), FunctionReward(patient, name="n")]
    candidates = candidates_of("a", "bb")
    expected = [Score(value=1.0, parts={"n": 1.0}), Score(value=2.0, parts={"n": 2.0})]

    async def inside():
        return [await reward.ascore(candidates) for reward in rewards] + [
            reward.score(candidates) for reward in rewards
        ]

    assert [reward.score(candidates) for reward in rewards] == [expected] * 2
    assert asyncio.run(inside()) == [expected] * 4


def test_async_rewards_see_the_callers_context():
    user = contextvars.ContextVar("user", default="nobody")

    async def who(text):
        return {"ann": 1.0, "nobody": 0.0}[user.get()]

    user.set("ann")
    assert FunctionReward(who).score(candidates_of("a"))[0].value == 1.0


def test_waiting_for_oneself_is_an_error_and_not_a_deadlock():
    async def inner(text):
        return 1.0

    async def outer(text):
        return FunctionReward(inner).score(candidates_of(text))[0].value

    with pytest.raises(RewardError, match="would wait for itself"):
        FunctionReward(outer).score(candidates_of("a"))
    assert run(asyncio.sleep(0, result=3)) == 3


def test_fingerprints_tell_configurations_apart_and_are_stable():
    assert Length(1, 2).fingerprint == Length(1, 2).fingerprint
    prints = {reward.fingerprint for reward in (Length(1, 2), Length(1, 3), Length(1, 2, unit="characters"))}
    assert len(prints) == 3

    def judge(text):
        return 1.0

    assert FunctionReward(judge).fingerprint != FunctionReward(judge).fingerprint, "anonymous code is never shared"
    assert FunctionReward(judge, version="1").fingerprint == FunctionReward(judge, version="1").fingerprint
    assert Length(1, 2).session().fingerprint == Length(1, 2).fingerprint


def test_functions_are_bound_by_name():
    def judge(text, prompt, reference=None):
        return len(text) + 10 * len(prompt) + (0 if reference is None else 100)

    candidate = Candidate(messages=[{"role": "user", "content": "Hi"}], text="abc", reference="r")
    assert FunctionReward(judge).score([candidate])[0].value == 123
    assert FunctionReward(lambda anything: len(anything)).score([candidate])[0].value == 3


@pytest.mark.parametrize("function", [lambda: 1.0, lambda text, mood: 1.0, lambda **rest: 1.0, 3])
def test_functions_that_nothing_can_be_given_to_are_errors_when_built(function):
    with pytest.raises(ConfigurationError):
        FunctionReward(function)


def test_reasoning_is_seen_only_by_those_who_ask():
    rollout = Rollout(tokens=NO_TOKENS, text="<think>42?</think>It is 42.", finish_reason="stop", forward_tokens=0)
    request = Request(messages=[], prompt_tokens=[1], limits=Limits(max_tokens=9))
    candidate = Form().parse(request, rollout)
    assert (candidate.text, candidate.reasoning) == ("It is 42.", "42?")

    def judge(text, reasoning):
        return len(text) + 100 * len(reasoning)

    assert FunctionReward(judge).score([candidate])[0].value == 309
    assert FunctionReward(lambda text: len(text)).score([candidate])[0].value == 9


@given(st.lists(st.text(), max_size=6))
def test_any_text_can_be_scored(texts):
    scores = Length(2, 5).score(candidates_of(*texts))
    assert len(scores) == len(texts)
    assert all(0 <= score.value <= 1 for score in scores)
