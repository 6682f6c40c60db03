"""The one loop: what it draws, what it keeps, when it stops and what it says."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from aisp.errors import AllCandidatesExcludedError, ConfigurationError, DeadlineExceededError, EngineError
from aisp.records import Limits, Score
from aisp.search.events import SearchStep, TextCommitted
from aisp.search.plan import Plan, make_plan
from aisp.search.request import Request
from aisp.search.stopping import Stops
from aisp.strategies import AISP, BestOfN
from tests.search.fakes import FakeEngine, FakeReward, Searches

LENGTH = FakeReward(len)


def aligner_of(engine=None, reward=LENGTH, strategy=None, plan=None, kl_budget=None, **stops):
    plan = plan or Plan(budget=40, num_samples=16)
    return Searches(
        engine or FakeEngine(),
        strategy or BestOfN(),
        reward,
        plan,
        stops=Stops(**stops),
        kl_budget=kl_budget,
    )


def request_of(**limits):
    return Request(
        messages=[{"role": "user", "content": "x"}], prompt_tokens=[1, 2], limits=Limits(max_tokens=5, **limits), seed=3
    )


def test_the_best_of_everything_is_returned_and_the_last_round_may_be_short():
    engine = FakeEngine()
    alignment = aligner_of(engine).align(request_of())
    assert engine.calls == [16, 16, 8]
    assert alignment.text in ("birch", "cedar")
    assert alignment.best.reward == 5
    assert alignment.stopped_by == "budget"
    assert (alignment.cost.responses, alignment.cost.forward_tokens, alignment.cost.prompt_tokens) == (40, 80, 2)
    assert len(list(alignment.responses)) == 40
    first = next(response for response in alignment.responses if response.reward == 5)
    assert (alignment.best.round_index, alignment.best.row) == (first.round_index, first.row), "the first of a tie"


def test_calibration_is_counted_in_the_budget():
    engine = FakeEngine()
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
    engine = FakeEngine()
    alignment = aligner_of(engine, target_reward=5).align(request_of())
    assert (alignment.stopped_by, engine.calls) == ("target_reward", [16])
    assert aligner_of(target_reward=6).align(request_of()).stopped_by == "budget"


def test_patience_counts_rounds_without_a_better_response():
    engine = FakeEngine(words=["same"])
    alignment = aligner_of(engine, plan=Plan(budget=100, num_samples=4), patience=2).align(request_of())
    assert (alignment.stopped_by, engine.calls) == ("patience", [4, 4, 4])


def test_at_the_deadline_the_best_so_far_is_returned():
    alignment = aligner_of(FakeEngine(seconds=0.1)).align(request_of(deadline=time.monotonic() + 0.15))
    assert alignment.stopped_by == "deadline"
    assert alignment.cost.responses == 16
    assert alignment.cost.forward_tokens == 64, "what was cancelled was paid for as well"


def test_partial_responses_serve_where_nothing_is_complete():
    alignment = aligner_of(FakeEngine(seconds=0.05)).align(request_of(deadline=time.monotonic()))
    assert alignment.best.rollout.finish_reason == "cancelled"


def test_at_the_deadline_it_raises_where_the_caller_chose_so():
    with pytest.raises(DeadlineExceededError, match="of 40 responses"):
        aligner_of(FakeEngine(seconds=0.1), on_timeout="raise").align(request_of(deadline=time.monotonic() + 0.15))


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


class SteeringEngine(FakeEngine):
    """Steers each answer by as many nats as its word has letters."""

    def _answer(self, proposal, cancelled):
        rollout = super()._answer(proposal, cancelled)
        kl = np.full(3, len(rollout.text) / 3)
        return replace(rollout, tokens=replace(rollout.tokens, kl_to_base=kl))


def test_what_was_steered_over_the_kl_budget_is_never_returned():
    plan = Plan(budget=40, num_samples=16)
    free = aligner_of(SteeringEngine(), plan=plan).align(request_of())
    held = aligner_of(SteeringEngine(), plan=plan, kl_budget=3.5).align(request_of())
    assert len(free.text) == 5
    assert len(held.text) == 3
    over = [response for response in held.responses if len(response.text) > 3]
    assert over
    assert all(response.score.vetoed for response in over)
    assert over[0].score.comment == "steered by 5.0 nats, over the kl_budget of 3.5"
    with pytest.raises(AllCandidatesExcludedError, match="40 vetoed"):
        aligner_of(SteeringEngine(), plan=plan, kl_budget=2.0).align(request_of())
