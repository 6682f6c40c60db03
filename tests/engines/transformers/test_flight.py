"""Flights: what has finished is handed out while the rest is decoded, and more is taken in between steps."""

from __future__ import annotations

import gc
import threading
import time
from dataclasses import replace

import pytest

from aisp.errors import ConfigurationError, EngineError
from aisp.records import Limits, Proposal, Sampling
from aisp.testing import tiny_model
from tests.engines.build import engine_of

PROMPT = list(range(20, 60))
SHORT = Proposal(seed=1, sampling=Sampling(), pause_after=2)
LONG = Proposal(seed=2, sampling=Sampling())
LIMITS = Limits(max_tokens=40)


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")


@pytest.fixture
def engine(model):
    """An engine whose responses never end by themselves."""
    return engine_of(model, eos=())


def test_what_has_finished_is_handed_out_while_the_rest_is_decoded(engine):
    with engine.start(engine.prefill(PROMPT), [LONG, SHORT], LIMITS) as flight:
        [first] = flight.wait()
        assert (first.place, len(first.rollout.tokens)) == (1, 2)
        assert (flight.pending, engine.stats().decoding, engine.stats().steps) == (1, 1, 1)
        [second] = flight.wait()
        assert (second.place, len(second.rollout.tokens)) == (0, 40)
        assert flight.wait() == []


def test_more_is_taken_in_between_steps_and_shares_the_batch(engine):
    prefix = engine.prefill(PROMPT)
    alone = [rollout.tokens.ids for rollout in engine.rollout(prefix, [LONG, SHORT, LONG], LIMITS)]
    before = engine.stats().steps
    with engine.start(prefix, [LONG, SHORT], LIMITS) as flight:
        flight.wait()
        flight.add([LONG])
        assert flight.pending == 2
        finished = flight.wait()
        assert [one.place for one in finished] == [0]
        assert engine.stats().decoding == 1, "the newcomer is a token behind"
        finished += flight.wait()
    assert [one.rollout.tokens.ids for one in finished] == [alone[0], alone[2]]
    assert engine.stats().steps - before == 40, "39 steps for the first, and one more for what came a step later"


@pytest.mark.parametrize("at_once", [1, 2, 8])
def test_responses_are_handed_out_in_logical_time_however_many_are_decoded_at_once(model, at_once):
    """A search reacts to what it is handed: with an order of the clock's, equal seeds would give unequal answers."""
    engine = engine_of(model, eos=(), max_sequences=at_once)
    asked = [replace(LONG, seed=seed, pause_after=tokens) for seed, tokens in enumerate((5, 3, 9, 3))]
    with engine.start(engine.prefill(PROMPT), asked, LIMITS) as flight:
        first = flight.wait()
        flight.add([SHORT, replace(SHORT, pause_after=7)])
        rest = [flight.wait() for _ in range(4)]
    places = [[one.place for one in handed] for handed in [first, *rest]]
    assert places == [[1, 3], [0, 4], [2], [5], []], "3 tokens; 5 and 3 + 2; 9; 3 + 7"


def test_tokens_of_others_finish_while_a_flight_is_not_waited_for(engine):
    prefix = engine.prefill(PROMPT)
    with engine.start(prefix, [SHORT], LIMITS) as idle:
        engine.rollout(prefix, [LONG], LIMITS)
        steps = engine.stats().steps
        assert [len(one.rollout.tokens) for one in idle.wait()] == [2]
        assert engine.stats().steps == steps


def test_what_cannot_be_drawn_from_is_not_added_and_the_flight_goes_on(engine):
    with engine.start(engine.prefill(PROMPT), [LONG], LIMITS) as flight:
        with pytest.raises(ConfigurationError, match="pause_after is 0"):
            flight.add([SHORT, Proposal(seed=1, pause_after=0)])
        assert flight.pending == 1
        assert [one.place for one in flight.wait()] == [0]


def test_closing_frees_the_batch_at_once(engine):
    flight = engine.start(engine.prefill(PROMPT), [LONG, SHORT], LIMITS)
    flight.wait()
    assert engine.stats().batch_bytes > 0
    flight.close()
    flight.close()
    assert (flight.pending, flight.wait()) == (0, [])
    assert (engine.stats().decoding, engine.stats().waiting, engine.stats().batch_bytes) == (0, 0, 0)
    with pytest.raises(EngineError, match="closed; start another"):
        flight.add([SHORT])


def test_a_flight_that_nobody_holds_any_more_is_not_decoded(engine):
    prefix = engine.prefill(PROMPT)
    flight = engine.start(prefix, [LONG], LIMITS)
    del flight
    gc.collect()
    engine.rollout(prefix, [SHORT], LIMITS)
    assert engine.stats().decoding == 0


def test_closing_while_another_thread_decodes_leaves_the_other_its_answer(engine):
    prefix = engine.prefill(PROMPT)
    expected = engine.rollout(prefix, [LONG], Limits(max_tokens=200))[0].tokens.ids
    flight, started, answer = engine.start(prefix, [LONG, LONG], Limits(max_tokens=200)), threading.Event(), []

    def other():
        answer.extend(engine.rollout(prefix, [LONG], Limits(max_tokens=200), lambda _: started.set()))

    thread = threading.Thread(target=other)
    thread.start()
    assert started.wait(20)
    flight.close()
    thread.join(20)
    assert answer[0].tokens.ids == expected
    assert engine.stats().decoding == 0


@pytest.mark.parametrize("how", ["deadline", "cancel"])
def test_what_is_pending_at_the_end_of_time_finishes_as_cancelled(engine, how):
    cancel = threading.Event()
    cancel.set()
    over = {"deadline": {"deadline": time.monotonic()}, "cancel": {"cancel": cancel}}[how]
    with engine.start(engine.prefill(PROMPT), [LONG, SHORT], Limits(max_tokens=40, **over)) as flight:
        finished = flight.wait()
    assert [(one.place, one.rollout.finish_reason) for one in finished] == [(0, "cancelled"), (1, "cancelled")]


def test_closing_an_engine_ends_flights_as_cancelled_and_frees_what_it_holds(engine):
    prefix = engine.prefill(PROMPT)
    expected = engine.rollout(prefix, [LONG], LIMITS)[0].tokens.ids
    flight = engine.start(prefix, [LONG, SHORT], LIMITS)
    flight.wait()
    engine.close()
    [ended] = flight.wait()
    assert (ended.place, ended.rollout.finish_reason) == (0, "cancelled")
    stats = engine.stats()
    assert (stats.batch_bytes, stats.prefix_cache_bytes, stats.prefix_cache_tokens) == (0, 0, 0)
    assert engine.rollout(engine.prefill(PROMPT), [LONG], LIMITS)[0].tokens.ids == expected, "others may share it"


def test_a_callback_may_ask_the_engine_for_more(engine):
    prefix, asked = engine.prefill(PROMPT), []

    def progress(_):
        if not asked:
            asked.extend(engine.rollout(prefix, [SHORT], LIMITS))

    [long] = engine.rollout(prefix, [LONG], LIMITS, progress)
    assert (len(long.tokens), len(asked[0].tokens)) == (40, 2)


def test_a_callback_that_fails_costs_its_own_flight_only(engine):
    prefix = engine.prefill(PROMPT)
    expected = engine.rollout(prefix, [LONG], LIMITS)[0].tokens.ids
    with engine.start(prefix, [LONG], LIMITS) as bystander:

        def progress(_):
            raise RuntimeError("mine")

        with pytest.raises(RuntimeError, match="mine"):
            engine.rollout(prefix, [LONG, SHORT], LIMITS, progress)
        assert engine.stats().decoding == 1
        assert bystander.wait()[0].rollout.tokens.ids == expected
