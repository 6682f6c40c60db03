"""How a flight is kept full: without rounds, with them, and what is known when."""

from __future__ import annotations

import pytest

from aisp.errors import ConfigurationError, EngineError
from aisp.records import Limits
from aisp.search.events import ResponseScored, SearchStep
from aisp.search.plan import Plan
from aisp.search.request import Request
from aisp.search.stopping import Stops
from aisp.testing import FakeEngine
from tests.search.fakes import FakeReward, Searches
from tests.search.recorded import Recording

TEXTS = ("a", "b b", "c c c", "d d d d d d", "e e e e e e e e e")


def search_of(strategy, budget=24, num_samples=8, engine=None, reward=None, **stops):
    engine = engine or FakeEngine(TEXTS)
    plan = Plan(budget=budget, num_samples=num_samples)
    return Searches(engine, strategy, reward or FakeReward(len), plan, stops=Stops(**stops)), engine


def request_of(seed=1, **limits):
    return Request(messages=[], prompt_tokens=[1], limits=Limits(max_tokens=20, **limits), seed=seed)


def test_a_response_that_has_ended_makes_room_for_another_at_once():
    strategy = Recording(asynchronous=True)
    aligner, engine = search_of(strategy)
    alignment = aligner.align(request_of())
    assert len(list(alignment.responses)) == sum(engine.calls) == 24
    assert engine.calls[0] == 8
    assert max(engine.calls[1:]) < 8, "nobody waited for the slowest"
    assert {n + pending for n, pending in strategy.pending[:-4]} == {8}, "the flight is full until the budget ends"


def test_a_strategy_in_rounds_is_told_of_all_of_a_round():
    strategy = Recording()
    aligner, engine = search_of(strategy)
    alignment = aligner.align(request_of())
    assert engine.calls == [8, 8, 8]
    assert [response.known for response in alignment.responses] == [0] * 8 + [8] * 8 + [16] * 8


def test_responses_come_in_the_order_in_which_they_end():
    aligner, _ = search_of(Recording(asynchronous=True), budget=8)
    lengths = [len(response.rollout.tokens) for response in aligner.align(request_of()).responses]
    assert lengths == sorted(lengths)
    assert len(set(lengths)) > 2


def test_what_was_known_when_a_response_was_proposed_is_on_record():
    aligner, _ = search_of(Recording(asynchronous=True))
    known = [response.known for response in aligner.align(request_of()).responses]
    assert known.count(0) == 8
    assert len(set(known)) > 3
    assert all(number <= place for place, number in enumerate(known))


def test_a_search_without_rounds_is_shown_in_portions_of_what_is_in_flight():
    aligner, _ = search_of(Recording(asynchronous=True), budget=20, num_samples=5)
    events = list(aligner.search(request_of()).events())
    steps = [event.round for event in events if isinstance(event, SearchStep)]
    assert len(steps) == 4
    assert all(len(step.responses) >= 5 for step in steps[:-1]), "as many as are in flight at once"
    assert sum(len(step.responses) for step in steps) == 20
    scored = [event.response for event in events if isinstance(event, ResponseScored)]
    assert scored == [response for step in steps for response in step.responses]
    seconds = [response.seconds for response in scored]
    assert seconds == sorted(seconds)


def test_what_a_search_leaves_unfinished_is_paid_for():
    """A target that the shortest response meets ends the search while others are being written."""
    aligner, engine = search_of(
        Recording(asynchronous=True), reward=FakeReward(lambda text: -float(len(text))), target_reward=-1.0
    )
    alignment = aligner.align(request_of())
    assert alignment.stopped_by == "target_reward"
    ended = sum(response.rollout.forward_tokens for response in alignment.responses)
    assert len(list(alignment.responses)) < engine.drawn
    assert alignment.cost.forward_tokens > ended


def test_patience_counts_portions_without_a_better_response():
    aligner, _ = search_of(
        Recording(asynchronous=True), engine=FakeEngine(["same"]), budget=100, num_samples=4, patience=2
    )
    alignment = aligner.align(request_of())
    assert alignment.stopped_by == "patience"
    assert len(alignment.rounds) == 3


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_strategy_that_proposes_nothing_is_an_error_and_not_a_hang(asynchronous):
    class Idle(Recording):
        def propose(self, state, n, pending=()):
            return ()

    aligner, _ = search_of(Idle(asynchronous=asynchronous))
    with pytest.raises(ConfigurationError, match="proposed nothing"):
        aligner.align(request_of())


def test_a_flight_that_its_engine_closes_is_an_error_and_not_a_hang():
    engine = FakeEngine(TEXTS)
    start = engine.start

    def started(*asked):
        flight = start(*asked)
        flight.wait = lambda progress=None: []
        return flight

    engine.start = started
    aligner, _ = search_of(Recording(asynchronous=True), engine=engine)
    with pytest.raises(EngineError, match="closed the flight"):
        aligner.align(request_of())


@pytest.mark.parametrize(
    ("budget", "num_samples", "in_flight"), [(64, 16, 16), (256, 64, 64), (32, 16, 8), (20, 16, 8), (4, 4, 4)]
)
def test_no_more_than_a_quarter_of_the_budget_is_in_flight_but_for_small_ones(budget, num_samples, in_flight):
    assert Plan(budget=budget, num_samples=num_samples).in_flight == in_flight
