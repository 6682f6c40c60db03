"""The service: one place that makes requests and searches, whatever the front door."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

import aisp
from aisp.call import make_aligner
from aisp.engines.base import Engine, Finished, Flight
from aisp.errors import ConfigurationError, EngineError
from aisp.records import CAPABILITIES, TOKEN_FIGURES, Prefix, Rollout, Tokens
from aisp.rewards import FunctionReward
from aisp.search.events import ResponseScored, SearchStep, TextCommitted
from aisp.service import Service
from aisp.settings import SearchSettings
from aisp.testing import FakeEngine
from aisp_langchain import AISPChatModel
from aisp_llamaindex import AISPLLM

LONGEST = 60.0  # seconds
LENGTH = FunctionReward(len, name="length", partial=True)


def service_of(tiny, **settings):
    return Service(
        tiny, LENGTH, SearchSettings(**{"budget": 12, "num_samples": 4, "max_tokens": 8, "seed": 1, **settings})
    )


def test_a_run_is_events_and_then_an_alignment(tiny):
    run = service_of(tiny).run("q")
    events = list(run)
    scored = [event.response for event in events if isinstance(event, ResponseScored)]
    steps = [event.round for event in events if isinstance(event, SearchStep)]
    assert scored == list(run.alignment.responses)
    assert steps == list(run.alignment.rounds)
    assert "".join(event.text for event in events if isinstance(event, TextCommitted)) == run.text
    assert list(run) == [], "it runs once"


def test_asking_for_the_alignment_runs_the_search(tiny):
    assert service_of(tiny).run("q").alignment.text == "".join(service_of(tiny).run("q").texts())


def test_a_closed_run_has_no_answer_and_says_so(tiny):
    run = service_of(tiny).run("q")
    next(run)
    run.close()
    run.close()
    with pytest.raises(EngineError, match="closed"):
        run.alignment  # noqa: B018 - it runs


def test_a_run_can_be_closed_by_another_thread(tiny):
    raised = []

    def close():
        try:
            run.close()  # raised "generator already executing"
        except ValueError as error:
            raised.append(error)

    def close_elsewhere(new_tokens):
        thread = threading.Thread(target=close)
        thread.start()
        thread.join(LONGEST)

    run = service_of(tiny, budget=64, max_tokens=48).run("q", progress=close_elsewhere)
    with pytest.raises(EngineError, match="cancelled"):
        _ = run.alignment
    assert raised == []


def test_an_async_run_can_be_closed_by_another_task_and_gone_on_with_after_its_texts(tiny):
    async def close_elsewhere():
        drawing, loop = asyncio.Event(), asyncio.get_running_loop()
        service = service_of(tiny, budget=64, max_tokens=48)
        run = service.arun("q", progress=lambda _: loop.call_soon_threadsafe(drawing.set))
        task = asyncio.create_task(run.alignment())
        await drawing.wait()
        await run.aclose()  # raised "asynchronous generator is already running"
        with pytest.raises(EngineError, match="cancelled"):
            await task

    async def look_at_the_first():
        run = Service(tiny, LENGTH, SearchSettings(budget=8, max_tokens=8, seed=1, commit_tokens=2)).arun("q")
        pieces = run.texts()
        return await anext(pieces), await run.text()

    asyncio.run(close_elsewhere())
    piece, text = asyncio.run(look_at_the_first())
    assert text.startswith(piece)
    assert len(text) > len(piece)


def test_the_async_twin_tells_the_same(tiny):
    async def both():
        run = service_of(tiny).arun("q")
        events = [event async for event in run]
        return events, await run.alignment(), await service_of(tiny).arun("q").text()

    events, alignment, text = asyncio.run(both())
    expected = list(service_of(tiny).run("q"))
    assert [type(event) for event in events] == [type(event) for event in expected]
    assert text == alignment.text == service_of(tiny).run("q").text


def test_cancelling_the_task_ends_the_search(tiny):
    begun, ended = threading.Event(), threading.Event()

    def slow(text):
        begun.set()
        return float(ended.wait(5))

    async def cancelled():
        service = Service(tiny, FunctionReward(slow), SearchSettings(budget=8, max_tokens=4, seed=1))
        task = asyncio.create_task(service.arun("q").alignment())
        await asyncio.to_thread(begun.wait, 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        ended.set()

    asyncio.run(cancelled())


def test_calls_put_their_options_over_the_services_own_and_unknown_ones_are_errors(tiny):
    service = service_of(tiny)
    assert service.run("q", budget=3, num_samples=3).alignment.budget == 3
    assert service.run("q", rewards=None, budget=1).alignment.reward is None
    with pytest.raises(ConfigurationError, match="a call got colour"):
        service.run("q", colour="red")


def test_align_takes_tools_and_formats(tiny):
    shown = aisp.align("q", model=tiny, response_format={"type": "regex", "regex": "[0-9]{3}"}, max_tokens=8, seed=1)
    assert shown.text.isdigit()
    assert len(shown.text) == 3


def test_aalign_equals_align(tiny):
    options = {"model": tiny, "rewards": LENGTH, "budget": 6, "max_tokens": 6, "seed": 2}
    rounds = []
    alone = aisp.align("q", on_round=rounds.append, **options)
    together = asyncio.run(aisp.aalign("q", **options))
    assert together.text == alone.text
    assert tuple(rounds) == alone.rounds


class WholeFlight(Flight):
    """Writes whatever was asked for at once."""

    def __init__(self, write):
        self._write, self._asked, self._ready = write, 0, []

    @property
    def pending(self):
        return len(self._ready)

    def add(self, proposals):
        self._ready += [Finished(self._asked + i, self._write(proposal)) for i, proposal in enumerate(proposals)]
        self._asked += len(proposals)

    def wait(self, progress=None):
        ready, self._ready = self._ready, []
        return ready

    def close(self):
        self._ready = []


class Thinker(Engine):
    """An engine that writes a character a token, and thinks before it answers."""

    context_length = None
    offers = CAPABILITIES
    answer = "<think>hm</think>\n\nHello there."

    codec = None

    def __init__(self, codec):
        self.codec = codec

    def prefill(self, token_ids):
        return Prefix(token_ids=tuple(token_ids))

    def start(self, prefix, proposals, limits):
        flight = WholeFlight(self._write)
        flight.add(proposals)
        return flight

    def _write(self, proposal):
        kept = len(proposal.kept)
        end = len(self.answer) if proposal.pause_after is None else min(kept + proposal.pause_after, len(self.answer))
        ids = tuple(range(end))
        return Rollout(
            tokens=Tokens(ids=ids, **{name: np.full(end, -1.0) for name in TOKEN_FIGURES}),
            text=self.answer[:end],
            finish_reason="stop" if end == len(self.answer) else "paused",
            forward_tokens=end - kept,
            kept_tokens=kept,
        )


BLOCKS = {"budget": 8, "num_samples": 2, "max_tokens": 32, "commit_tokens": 8, "strategy": "best_of_n", "seed": 1}


def streamed_by_align(tiny):
    answer = aisp.stream("q", model=tiny, rewards=LENGTH, **BLOCKS)
    return list(answer), answer.text


def streamed_by_langchain(tiny):
    llm = AISPChatModel(model=tiny, rewards=LENGTH, **BLOCKS)
    pieces = [chunk.content for chunk in llm.stream("q")]
    return pieces, llm.invoke("q").content


def streamed_by_llamaindex(tiny):
    llm = AISPLLM(model=tiny, rewards=LENGTH, **BLOCKS)
    pieces = [piece.delta for piece in llm.stream_complete("q")]
    return pieces, llm.complete("q").text


@pytest.mark.parametrize("door", [streamed_by_align, streamed_by_langchain, streamed_by_llamaindex])
def test_no_front_door_streams_reasoning_as_text(tiny, monkeypatch, door):
    """`aisp.align` handed out `<think>` as text, and then vetoed every answer for taking it back."""
    monkeypatch.setattr("aisp.engines.engine_for", lambda source, **placed: Thinker(tiny.codec))
    pieces, text = door(tiny)
    assert text == "Hello there."
    assert "".join(pieces) == text
    assert len([piece for piece in pieces if piece]) > 1, "it came block by block"


def test_what_an_engine_does_not_offer_is_refused_when_a_search_is_made(tiny):
    class Greedy(Thinker):
        offers = frozenset()

    with pytest.raises(ConfigurationError, match="which Greedy does not offer"):
        make_aligner(Greedy(tiny.codec), replace(service_of(tiny).read({})))


@pytest.mark.parametrize("stranger", [len, "sentiment", 1.0, [LENGTH]])
def test_what_is_no_reward_is_refused_in_words(tiny, stranger):
    for ask in (
        lambda: Service(tiny, stranger),
        lambda: Service(tiny).run("q", rewards=stranger),
        lambda: aisp.align("q", model=tiny, rewards=stranger),
        lambda: aisp.stream("q", model=tiny, rewards=stranger),
        lambda: asyncio.run(aisp.aalign("q", model=tiny, rewards=stranger)),
    ):
        with pytest.raises(ConfigurationError, match=f"is a {type(stranger).__name__}, not a reward"):
            ask()


@pytest.mark.parametrize("model", [AISPChatModel, AISPLLM])
def test_a_model_whose_engine_lacks_what_the_strategy_needs_is_refused_when_it_is_built(model):
    engine = FakeEngine(offers=frozenset({"kept", "excluded"}))
    with pytest.raises(ValidationError, match="tilted_restart needs bag, shift, which FakeEngine does not offer"):
        model(engine=engine, rewards=LENGTH)
    assert model(engine=engine, rewards=LENGTH, strategy="best_of_n").engine is engine


def test_a_search_without_rounds_finds_the_same_whatever_shares_the_batch(tiny):
    """It reacts to each response as it ends: by the clock's order equal seeds would give unequal answers."""

    def found(question):
        run = service_of(tiny, budget=24, num_samples=8, max_tokens=16).run(question)
        return [(response.rollout.tokens.ids, response.known) for response in run.alignment.responses]

    alone = found("q")
    assert len({known for _, known in alone}) > 3, "it goes without rounds"
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(found, ["q", "another", "q", "a third"]))
    assert together[0] == together[2] == alone
