"""Streams: text as it is committed, progress meanwhile, and an end as soon as nobody reads on."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessageChunk
from langchain_core.prompts import ChatPromptTemplate
from langgraph.graph import START, MessagesState, StateGraph
from pydantic import ValidationError

from aisp.engines import engine_for
from aisp.engines.transformers.decoder import Decoder
from aisp.records import Limits, Proposal, Sampling
from aisp.rewards import FunctionReward
from aisp_langchain import AISPChatModel
from aisp_langchain.tracing import ROUND_EVENT

LONG = 300


def vowels(text: str) -> float:
    return sum(text.count(vowel) for vowel in "aeiou") / (1 + len(text))


@pytest.fixture
def llm(tiny):
    """A search that commits blocks, of a tiny model that rarely ends by itself."""
    reward = FunctionReward(vowels, partial=True)
    return AISPChatModel(model=tiny, rewards=reward, budget=16, num_samples=4, max_tokens=20, commit_tokens=5, seed=1)


def text_of(chunks: list[AIMessageChunk]) -> str:
    return "".join(str(chunk.content) for chunk in chunks)


async def test_every_way_gives_the_same_answer(llm):
    message = llm.invoke("q")
    assert (await llm.ainvoke("q")).content == message.content
    streams = [list(llm.stream("q")), [chunk async for chunk in llm.astream("q")]]
    events = [event async for event in llm.astream_events("q", version="v2")]
    streams.append([event["data"]["chunk"] for event in events if event["event"] == "on_chat_model_stream"])
    for chunks in streams:
        assert text_of(chunks) == message.content
        assert sum(bool(chunk.content) for chunk in chunks) > 1
        assert [chunk.chunk_position for chunk in chunks] == [None] * (len(chunks) - 1) + ["last"]
        assert [bool(chunk.usage_metadata) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
        assert ["aisp" in chunk.response_metadata for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
        trace = chunks[-1].response_metadata["aisp"]
        assert {**trace, "cost": 0, "rounds": 0} == {**message.response_metadata["aisp"], "cost": 0, "rounds": 0}
    assert message.usage_metadata["output_token_details"]["discarded"] == 16 * 5 - 20


async def test_events_of_rounds_and_text_take_turns(llm):
    chain = ChatPromptTemplate.from_template("{q}") | llm
    for runnable, asked in ((llm, "q"), (chain, {"q": "q"})):
        events = [event async for event in runnable.astream_events(asked, version="v2")]
        told = [e for e in events if e["event"] in ("on_custom_event", "on_chat_model_stream")]
        kinds = [e["event"] for e in told]
        first = kinds.index("on_chat_model_stream")
        assert "on_custom_event" in kinds[:first]
        assert "on_custom_event" in kinds[first:]
        assert len({e["run_id"] for e in told}) == 1, "rounds are the call's own"
        rounds = [e["data"] for e in told if e["name"] == ROUND_EVENT]
        assert [data["round"] for data in rounds] == list(range(len(rounds)))
        assert {"best_so_far", "responses", "block"} <= rounds[0].keys()


async def test_a_whole_response_search_tells_of_rounds_before_its_text(tiny):
    llm = AISPChatModel(model=tiny, rewards=vowels, budget=12, num_samples=4, max_tokens=8, seed=1)
    events = [event async for event in llm.astream_events("q", version="v2")]
    kinds = [e["event"] for e in events if e["event"] in ("on_custom_event", "on_chat_model_stream")]
    assert kinds[:3] == ["on_custom_event"] * 3
    assert set(kinds[3:]) == {"on_chat_model_stream"}


class Ear(BaseCallbackHandler):
    def __init__(self) -> None:
        self.rounds: list[tuple[Any, Any]] = []
        self.run: Any = None

    def on_chat_model_start(self, serialized: Any, messages: Any, *, run_id: Any, **kwargs: Any) -> None:
        self.run = run_id

    def on_custom_event(self, name: str, data: Any, *, run_id: Any, **kwargs: Any) -> None:
        self.rounds.append((run_id, data["best_so_far"]))


async def test_handlers_of_a_stream_hear_of_rounds(llm, tiny):
    ears = [Ear() for _ in range(3)]
    list(llm.stream("q", {"callbacks": [ears[0]]}))
    _ = [chunk async for chunk in llm.astream("q", {"callbacks": [ears[1]]})]
    own = llm.model_copy(update={"callbacks": [ears[2]]})
    list(own.stream("q"))
    for ear in ears:
        assert len(ear.rounds) == len(ears[0].rounds) >= 4
        assert {run for run, _ in ear.rounds} == {ear.run}


async def test_a_graph_streams_rounds_as_custom_and_committed_text_as_messages(llm):
    async def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await llm.ainvoke(state["messages"])]}

    def answer_now(state: MessagesState) -> dict[str, Any]:
        return {"messages": [llm.invoke(state["messages"])]}

    asked = {"messages": [("user", "q")]}
    graphs = [
        StateGraph(MessagesState).add_node("answer", one).add_edge(START, "answer").compile()
        for one in (answer, answer_now)
    ]
    modes = ["custom", "messages"]
    streams = [[part async for part in graphs[0].astream(asked, stream_mode=modes)]]
    streams.append(list(graphs[1].stream(asked, stream_mode=modes)))
    for parts in streams:
        rounds = [data[ROUND_EVENT] for mode, data in parts if mode == "custom"]
        assert [one["round"] for one in rounds] == list(range(len(rounds)))
        assert len(rounds) >= 4
        assert text_of([data[0] for mode, data in parts if mode == "messages"]) == llm.invoke("q").content
        kinds = [mode for mode, _ in parts]
        assert "custom" in kinds[kinds.index("messages") :]


def test_rewards_that_need_the_whole_answer_are_refused(tiny, llm):
    with pytest.raises(ValidationError, match="partial=True"):
        AISPChatModel(model=tiny, rewards=vowels, commit_tokens=5)
    with pytest.raises(Exception, match="partial=True"):
        list(llm.stream("q", rewards=vowels))


def test_tool_calls_are_not_streamed_as_text(tiny):
    def look(at: str) -> str:
        """Look at something."""
        return at

    llm = AISPChatModel(model=tiny, max_tokens=90, commit_tokens=10, seed=1).bind_tools([look], tool_choice="look")
    chunks = list(llm.stream("q"))
    assert text_of(chunks) == ""
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert [call["name"] for call in whole.tool_calls] == ["look"]


class Steps:
    """Counts the decode steps of the tiny model, and holds the one at which a test wants to cancel."""

    def __init__(self, engine: Any, monkeypatch: pytest.MonkeyPatch, hold_at: int) -> None:
        self.count = 0
        self.held, self.go = threading.Event(), threading.Event()
        self.after = 0
        self._hold_at = hold_at
        self._plain = Decoder.step
        self._start = engine.start
        monkeypatch.setattr(Decoder, "step", lambda decoder, *args: self._step(decoder, *args))
        monkeypatch.setattr(engine, "start", self._note_limits)

    def _note_limits(self, prefix: Any, proposals: Any, limits: Limits) -> Any:
        if limits.cancel is not None:
            self.limits = limits
        return self._start(prefix, proposals, limits)

    def _step(self, *args: Any) -> Any:
        self.count += 1
        self.after += self.go.is_set()
        if self.count == self._hold_at:
            self.held.set()
            assert self.go.wait(60)
        return self._plain(*args)

    async def cancelled(self) -> None:
        """Return once the held request was told to end, and let the step go on."""
        for _ in range(100_000):
            if self.limits.cancel.is_set():
                break
            await asyncio.sleep(0)
        assert self.limits.cancel.is_set()
        self.go.set()


@pytest.fixture
def tiny_endless(tiny):
    """The tiny model, whose responses never end by themselves."""
    return replace(tiny, codec=replace(tiny.codec, eos_token_ids=()))


def endless(tiny: Any, **settings: Any) -> AISPChatModel:
    reward = FunctionReward(vowels, partial=True)
    return AISPChatModel(
        model=tiny, rewards=reward, **{"budget": 8, "num_samples": 4, "max_tokens": LONG, "seed": 3, **settings}
    )


async def drained(engine: Any) -> None:
    """Wait until nobody decodes."""
    for _ in range(100_000):
        if not engine.stats().decoding and not engine.stats().driven:
            return
        await asyncio.sleep(0.001)
    pytest.fail("rows stayed in the batch")


@pytest.mark.parametrize("how", ["ainvoke", "astream", "astream, blocks"])
async def test_a_cancelled_call_takes_no_further_step(tiny_endless, monkeypatch, how):
    engine = engine_for(tiny_endless)
    steps = Steps(engine, monkeypatch, hold_at=7)
    llm = endless(tiny_endless, **({"commit_tokens": 150} if "blocks" in how else {}))

    async def call() -> Any:
        return await llm.ainvoke("q") if how == "ainvoke" else [chunk async for chunk in llm.astream("q")]

    task = asyncio.create_task(call())
    await asyncio.to_thread(steps.held.wait, 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await steps.cancelled()
    await drained(engine)
    assert steps.count == 7, "the step that ran, and none after it"


async def test_leaving_a_stream_ends_its_work(tiny_endless, monkeypatch):
    engine = engine_for(tiny_endless)
    steps = Steps(engine, monkeypatch, hold_at=30)  # within a later block than the first
    async for chunk in endless(tiny_endless, commit_tokens=5, budget=60).astream("q"):
        assert chunk.content
        assert await asyncio.to_thread(steps.held.wait, 60)
        break
    await steps.cancelled()
    await drained(engine)
    assert steps.count == 30


def test_closing_a_stream_ends_its_work(tiny_endless, monkeypatch):
    engine = engine_for(tiny_endless)
    steps = Steps(engine, monkeypatch, hold_at=0)
    chunks = endless(tiny_endless, commit_tokens=5, budget=60).stream("q")
    next(chunks)
    before = steps.count
    chunks.close()
    assert before < 20, "of 60 blocks, so many as it takes to have text"
    assert steps.count == before
    assert engine.stats().decoding == 0


async def test_a_cancelled_requests_rows_leave_and_others_go_on_as_alone(tiny_endless, monkeypatch):
    engine = engine_for(tiny_endless)
    prefix = engine.prefill(tiny_endless.encode([{"role": "user", "content": "another"}]))
    proposals = [Proposal(seed=seed, sampling=Sampling()) for seed in range(3)]
    alone = [r.tokens.ids for r in engine.rollout(prefix, proposals, Limits(max_tokens=60))]
    steps = Steps(engine, monkeypatch, hold_at=7)
    task = asyncio.create_task(endless(tiny_endless).ainvoke("q"))
    await asyncio.to_thread(steps.held.wait, 60)
    other = asyncio.create_task(asyncio.to_thread(engine.rollout, prefix, proposals, Limits(max_tokens=60)))
    for _ in range(60_000):
        if engine.stats().waiting:  # its rows are in the queue before the step ends
            break
        await asyncio.sleep(0.001)
    assert engine.stats().waiting
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    sizes: list[int] = []
    plain = steps._plain
    steps._plain = lambda *args: sizes.append(engine.stats().decoding) or plain(*args)
    await steps.cancelled()
    assert [r.tokens.ids for r in await other] == alone
    await drained(engine)
    assert sizes[0] == 4, "the step that ran when it was cancelled"
    assert max(sizes[1:]) == 3, "its rows are gone at the next one"
