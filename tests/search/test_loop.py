"""The one loop: what it draws, what it keeps, when it stops and what it says."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from aisp.errors import (
    AllCandidatesExcludedError,
    ConfigurationError,
    DeadlineExceededError,
    EngineError,
    RewardWarning,
)
from aisp.records import Limits, Score
from aisp.rewards import Reward
from aisp.search.events import SearchStep, TextCommitted
from aisp.search.plan import Plan, make_plan
from aisp.search.request import Request
from aisp.search.stopping import Stops
from aisp.strategies import AISP, BestOfN
from aisp.testing import FakeClock
from aisp.testing import FakeEngine as Canned
from tests.engines.build import change_rollouts
from tests.search.fakes import FakeReward, Searches

LENGTH = FakeReward(len)


TREES = ("ash", "birch", "cedar", "elm", "fir")


def engine_of(texts=TREES, **options):
    return Canned(texts, **options)


def aligner_of(engine=None, reward=LENGTH, strategy=None, plan=None, kl_budget=None, clock=time.monotonic, **stops):
    plan = plan or Plan(budget=40, num_samples=16)
    return Searches(
        engine or engine_of(),
        strategy or BestOfN(),
        reward,
        plan,
        stops=Stops(**stops),
        kl_budget=kl_budget,
        clock=clock,
    )


def request_of(**limits):
    return Request(
        messages=[{"role": "user", "content": "x"}], prompt_tokens=[1, 2], limits=Limits(max_tokens=5, **limits), seed=3
    )


def test_the_best_of_everything_is_returned_and_the_last_round_may_be_short():
    engine = engine_of()
    alignment = aligner_of(engine).align(request_of())
    assert engine.calls == [16, 16, 8]
    assert alignment.text in ("birch", "cedar")
    assert alignment.best.reward == 5
    assert alignment.stopped_by == "budget"
    assert (alignment.cost.responses, alignment.cost.forward_tokens, alignment.cost.prompt_tokens) == (40, 40, 2)
    assert len(list(alignment.responses)) == 40
    first = next(response for response in alignment.responses if response.reward == 5)
    assert (alignment.best.round_index, alignment.best.row) == (first.round_index, first.row), "the first of a tie"


def test_calibration_is_counted_in_the_budget():
    engine = engine_of()
    aligner_of(engine, strategy=AISP()).align(request_of())
    assert engine.calls == [1, 16, 16, 7]


def test_rounds_are_yielded_as_they_end_with_the_best_so_far():
    rounds = list(aligner_of().rounds(request_of()))
    assert [round_.index for round_ in rounds] == [0, 1, 2]
    bests = [round_.best.reward for round_ in rounds]
    assert bests == sorted(bests)
    assert all(round_.best_reward <= round_.best.reward for round_ in rounds)


def test_equal_seeds_give_equal_searches_and_fresh_ones_are_named():
    texts = [[r.text for r in aligner_of().align(request_of()).responses] for _ in range(2)]
    assert texts[0] == texts[1]
    fresh = Request(messages=[], prompt_tokens=[1], limits=Limits(max_tokens=5))
    seeds = {aligner_of().align(fresh).seed for _ in range(2)}
    assert len(seeds) == 2


def test_a_target_stops_the_search():
    engine = engine_of()
    alignment = aligner_of(engine, target_reward=5).align(request_of())
    assert (alignment.stopped_by, engine.calls) == ("target_reward", [16])
    assert aligner_of(target_reward=6).align(request_of()).stopped_by == "budget"


def test_patience_counts_rounds_without_a_better_response():
    engine = engine_of(texts=["same"])
    alignment = aligner_of(engine, plan=Plan(budget=100, num_samples=4), patience=2).align(request_of())
    assert (alignment.stopped_by, engine.calls) == ("patience", [4, 4, 4])


def timed(seconds, reward=LENGTH, **stops):
    """Return an aligner whose rounds take so many seconds, by a clock that stands still between them."""
    clock = FakeClock()
    return aligner_of(engine_of(seconds=seconds, clock=clock), reward=reward, clock=clock, **stops)


def test_at_the_deadline_the_best_so_far_is_returned():
    alignment = timed(10.0).align(request_of(deadline=15.0))
    assert alignment.stopped_by == "deadline"
    assert alignment.cost.responses == 16
    assert alignment.best.rollout.finish_reason == "stop"
    assert alignment.cost.seconds == 20.0


def test_partial_responses_serve_where_nothing_is_complete():
    alignment = timed(5.0).align(request_of(deadline=2.0))
    assert alignment.best.rollout.finish_reason == "cancelled"
    assert alignment.stopped_by == "deadline"


@pytest.mark.parametrize("plan", [Plan(budget=40, num_samples=16), Plan(budget=16, num_samples=16)], ids=["3", "1"])
@pytest.mark.parametrize("deadline", [5.0, 15.0, 25.0], ids=lambda seconds: f"after {seconds:g} s")
def test_at_the_deadline_it_raises_where_the_caller_chose_so(plan, deadline):
    """It did not in the last round, nor in the only one, since the budget was looked at first."""
    taken = 10.0 * -(-plan.budget // 16)
    search = timed(10.0, plan=plan, on_timeout="raise")
    if deadline >= taken:
        assert search.align(request_of(deadline=deadline)).stopped_by == "budget"
        return
    with pytest.raises(DeadlineExceededError, match=f"of {plan.budget} responses"):
        search.align(request_of(deadline=deadline))


def test_a_plain_sample_that_was_cut_raises_too():
    search = timed(10.0, reward=None, plan=Plan(budget=1, num_samples=1), on_timeout="raise")
    with pytest.raises(DeadlineExceededError, match="of 1 responses"):
        search.align(request_of(deadline=5.0))


class Hangs(Reward):
    """Scores at once until it is asked for the nth time, and then never."""

    def __init__(self, calls):
        super().__init__()
        self.calls = calls
        self.release = threading.Event()

    def _score(self, candidates):
        self.calls -= 1
        if self.calls < 0:
            self.release.wait(30)
        return [float(len(candidate.text)) for candidate in candidates]


def test_a_reward_that_hangs_is_given_up_at_the_deadline():
    """A timeout bounded decoding alone: a judge that never answered was waited for without end."""
    reward = Hangs(calls=0)
    with pytest.raises(DeadlineExceededError, match="before the first of 40 responses was scored"):
        aligner_of(reward=reward).align(request_of(deadline=time.monotonic() + 0.2))
    reward.release.set()


def test_what_was_scored_before_a_reward_hung_is_returned():
    reward = Hangs(calls=1)
    alignment = aligner_of(reward=reward).align(request_of(deadline=time.monotonic() + 0.2))
    reward.release.set()
    assert alignment.stopped_by == "deadline"
    assert alignment.best.reward == 5
    assert "before the reward 'hangs' had scored" in alignment.summary()["rounds"][-1]["excluded"][0]


def test_a_reward_that_tells_nothing_apart_is_said_so():
    texts = [f"{one} {two}" for one in TREES for two in TREES]
    with pytest.warns(RewardWarning, match="exactly 1, so there is nothing to search for"):
        alignment = aligner_of(engine_of(texts), reward=FakeReward(lambda text: 1.0)).align(request_of())
    assert alignment.summary()["warnings"] == list(alignment.warnings)
    assert "nothing to search for" in alignment.warnings[0]


def test_a_cancelled_search_returns_what_it_has_or_says_that_it_has_nothing():
    cancel = threading.Event()
    events = aligner_of().search(request_of(cancel=cancel)).events()
    next(event for event in events if isinstance(event, SearchStep))
    cancel.set()
    *_, last = events
    assert last.alignment.stopped_by == "cancelled"
    with pytest.raises(EngineError, match="cancelled before"):
        aligner_of().align(request_of(cancel=cancel))


def test_events_tell_of_each_response_then_of_the_round_and_at_last_of_the_text():
    events = list(aligner_of().search(request_of()).events())
    kinds = [type(event).__name__ for event in events]
    rounds = [kind for n in (16, 16, 8) for kind in [*["ResponseScored"] * n, "SearchStep"]]
    assert kinds == [*rounds, "TextCommitted", "SearchEnded"]
    assert events[-2] == TextCommitted(events[-1].alignment.text, last=True)
    assert [event.response for event in events[:16]] == list(events[16].round.responses)


def test_vetoed_and_unscored_responses_are_never_returned():
    def judge(text):
        if text == "birch":
            return Score(value=99.0, vetoed=True)
        if text == "cedar":
            return Score(value=float("nan"), error="judge unavailable")
        return float(len(text))

    alignment = aligner_of(reward=FakeReward(judge)).align(request_of())
    assert alignment.best.reward == 3
    summary = alignment.summary()
    assert (
        sum(round_["vetoed"] for round_ in summary["rounds"]) == sum(r.text == "birch" for r in alignment.responses) > 0
    )
    excluded = [error for round_ in summary["rounds"] for error in round_["excluded"]]
    assert excluded == ["judge unavailable"] * sum(r.text == "cedar" for r in alignment.responses)
    assert all(round_["best_reward"] == 3 for round_ in summary["rounds"])


def test_nothing_left_is_an_error_that_says_why():
    reward = FakeReward(lambda text: Score(value=float("nan"), error="no server"))
    with pytest.raises(
        AllCandidatesExcludedError, match=r"none of 40 .* 0 vetoed, 40 not scorable; the first error: no server"
    ):
        aligner_of(reward=reward).align(request_of())


def test_without_a_reward_there_is_nothing_to_choose_by():
    with pytest.raises(ConfigurationError, match="budget is 40 but there are no rewards"):
        aligner_of(reward=None)
    alignment = aligner_of(reward=None, plan=Plan(budget=1, num_samples=1)).align(request_of())
    assert alignment.summary()["reward"] is None


def test_a_reward_has_one_session_a_request():
    reward = FakeReward(len)
    aligner = aligner_of(reward=reward)
    aligner.align(request_of())
    aligner.align(request_of())
    assert reward.sessions == 2


def test_the_trace_is_json():
    alignment = aligner_of(strategy=AISP()).align(request_of())
    trace = json.loads(json.dumps(alignment.to_dict(), allow_nan=False))
    assert {"version", "strategy", "seed", "budget", "stopped_by", "reward", "parts", "rounds", "cost"} <= trace.keys()
    assert len(trace["candidates"]) == 40
    assert trace["best"]["text"] == alignment.text
    assert trace["cost"].keys() == {"responses", "forward_tokens", "prompt_tokens", "seconds"}
    assert "candidates" not in alignment.summary()
    assert alignment.selection_kl_bound == pytest.approx(3.6889 - 39 / 40, abs=1e-3)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((None, None, None), (64, 16)),
        ((64, 32, None), (64, 32)),
        ((64, None, 8), (64, 8)),
        ((None, 8, 4), (32, 8)),
        ((10, 4, 3), (10, 4)),
        ((5, None, None), (5, 5)),
        ((None, 8, None), (64, 8)),
    ],
)
def test_two_of_budget_samples_and_rounds_give_the_third(given, expected):
    plan = make_plan(*given)
    assert (plan.budget, plan.num_samples) == expected


def test_three_that_disagree_are_an_error():
    with pytest.raises(
        ConfigurationError, match="budget=64 in rounds of num_samples=16 makes 4 rounds, not num_rounds=5"
    ):
        make_plan(64, 16, 5)
    with pytest.raises(ConfigurationError, match="num_samples is 0"):
        make_plan(None, 0, None)


def steering_engine():
    """Steers each answer by as many nats as its word has letters."""

    def steered(rollout):
        count = len(rollout.tokens)
        kl = np.full(count, len(rollout.text) / count)
        return replace(rollout, tokens=replace(rollout.tokens, kl_to_base=kl))

    return change_rollouts(Canned(TREES), steered)


def test_what_was_steered_over_the_kl_budget_is_never_returned():
    plan = Plan(budget=40, num_samples=16)
    free = aligner_of(steering_engine(), plan=plan).align(request_of())
    held = aligner_of(steering_engine(), plan=plan, kl_budget=3.5).align(request_of())
    assert len(free.text) == 5
    assert len(held.text) == 3
    over = [response for response in held.responses if len(response.text) > 3]
    assert over
    assert all(response.score.vetoed for response in over)
    assert over[0].score.comment == "steered by 5.0 nats, over the kl_budget of 3.5"
    with pytest.raises(AllCandidatesExcludedError, match="40 vetoed"):
        aligner_of(steering_engine(), plan=plan, kl_budget=2.0).align(request_of())
