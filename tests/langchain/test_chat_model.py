"""The chat model as a LangChain Runnable: what it returns, streams, accepts and refuses."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.rate_limiters import BaseRateLimiter
from langchain_core.runnables import ConfigurableField
from pydantic import ValidationError

from aisp.errors import ConfigurationError, DeadlineExceededError, PromptError
from aisp.rewards import FunctionReward
from aisp.settings import override
from aisp.testing.fakes import WORDS
from aisp_langchain import AISPChatModel


def likes(word: str) -> FunctionReward:
    """Score the texts by how near they stand to one, so that there is one best and no tie."""
    order = {text: -abs(i - WORDS.index(word)) + 0.1 * (i > WORDS.index(word)) for i, text in enumerate(WORDS)}
    return FunctionReward(lambda text: order[text], name="likes", version=word)


def test_invoke_returns_the_best_response(chat):
    message = chat(rewards=likes("cedar"), budget=64).invoke("Name a tree.")
    assert isinstance(message, AIMessage)
    assert message.content == "cedar"
    summary = message.response_metadata["aisp"]
    assert summary["reward"] == 0.0
    assert summary["parts"] == {"likes": 0.0}
    assert summary["cost"]["responses"] == 64
    assert message.response_metadata["model_provider"] == "aisp"
    assert message.response_metadata["finish_reason"] == "stop"
    assert isinstance(message.response_metadata["model_name"], str)


def test_an_automatic_budget_ends_where_nothing_is_left_to_gain(chat):
    llm = chat(rewards=likes("cedar"), budget="auto", guard=None)
    summary = llm.invoke("Name a tree.").response_metadata["aisp"]
    assert (summary["stopped_by"], summary["expected_gain"]) == ("converged", 0.0)
    assert 16 <= summary["cost"]["responses"] < summary["budget"] == 64
    assert llm.invoke("Name a tree.", budget=64).response_metadata["aisp"]["stopped_by"] == "budget"


def test_usage_counts_the_answer_and_details_the_rest(chat, engine):
    message = chat(rewards=likes("cedar"), budget=8).invoke("Name a tree.")
    usage = message.usage_metadata
    assert usage["input_tokens"] == len(engine.prompts[0])
    assert usage["output_tokens"] == 2
    assert usage["total_tokens"] == usage["input_tokens"] + 2
    assert usage["output_token_details"] == {"discarded": 14}


def test_stream_equals_invoke(chat, engine):
    engine.texts = ("a tree\n\n  that stands ", "x")
    llm = chat(rewards=FunctionReward(lambda text: float(len(text))), budget=8)
    chunks = list(llm.stream("Name a tree."))
    merged = sum(chunks[1:], chunks[0])
    message = llm.invoke("Name a tree.")
    assert merged.content == message.content == "a tree\n\n  that stands "
    assert len(chunks) == 6
    assert merged.usage_metadata == message.usage_metadata
    summaries = [merged.response_metadata["aisp"], message.response_metadata["aisp"]]
    assert {k: v for k, v in summaries[0].items() if k not in ("rounds", "cost")} == {
        k: v for k, v in summaries[1].items() if k not in ("rounds", "cost")
    }
    assert [chunk.usage_metadata is not None for chunk in chunks] == [False] * 5 + [True]
    assert [bool(chunk.response_metadata.get("aisp")) for chunk in chunks] == [False] * 5 + [True]
    assert [chunk.chunk_position for chunk in chunks] == [None] * 5 + ["last"]


async def test_async_equals_sync(chat):
    llm = chat(rewards=likes("elm"), budget=8)
    prompts = ["Name a tree.", "Another.", "A third."]
    expected = [llm.invoke(prompt).content for prompt in prompts]
    assert [(await llm.ainvoke(prompt)).content for prompt in prompts] == expected
    assert [message.content for message in await llm.abatch(prompts)] == expected
    chunks = [chunk async for chunk in llm.astream(prompts[0])]
    assert all(isinstance(chunk, AIMessageChunk) for chunk in chunks)
    assert "".join(chunk.content for chunk in chunks) == expected[0]


def test_batch_equals_invoke_for_equal_seeds(chat):
    llm = chat(budget=1)
    prompts = [f"Question {i}" for i in range(12)]
    batch = [message.content for message in llm.batch(prompts)]
    assert batch == [llm.invoke(prompt).content for prompt in prompts]
    assert len(set(batch)) > 1


@pytest.mark.real
def test_batch_equals_invoke_on_a_model(tiny):
    llm = AISPChatModel(
        model=tiny, rewards=FunctionReward(lambda text: float(len(text))), budget=8, seed=3, max_tokens=12
    )
    prompts = ["Hello!", "Name a tree, please.", "Why?"]
    alone = [llm.invoke(prompt) for prompt in prompts]
    together = llm.batch(prompts)
    assert [message.content for message in together] == [message.content for message in alone]
    assert [message.usage_metadata for message in together] == [message.usage_metadata for message in alone]


def test_chain(chat):
    prompt = ChatPromptTemplate.from_messages([("system", "Be brief."), ("human", "Name {what}.")])
    chain = prompt | chat(rewards=likes("fir"), budget=64) | StrOutputParser()
    assert chain.invoke({"what": "a tree"}) == "fir"
    assert "".join(chain.stream({"what": "a tree"})) == "fir"


def test_every_kind_of_message_reaches_the_prompt(chat, engine, tiny):
    call = {"name": "look", "args": {"at": "tree"}, "id": "call_1"}
    messages = [
        SystemMessage("Be brief."),
        HumanMessage("What is there?", name="ann"),
        AIMessage("", tool_calls=[call]),
        ToolMessage("an oak", tool_call_id="call_1"),
    ]
    chat().invoke(messages)
    prompt = tiny.tokenizer.decode(engine.prompts[0])
    for piece in ("Be brief.", "What is there?", '"name": "look"', "an oak"):
        assert piece in prompt, piece


def test_call_settings_win_over_the_instances(chat, engine):
    llm = chat(rewards=likes("elm"), budget=8, max_tokens=7, stop=["x"])
    message = llm.invoke("Hi", budget=3, max_tokens=5, stop=["y", "z"])
    assert engine.drawn == 3
    assert message.response_metadata["aisp"]["budget"] == 3
    assert (engine.limits[0].max_tokens, engine.limits[0].stop) == (5, ("y", "z"))
    llm.invoke("Hi")
    assert (engine.limits[-1].max_tokens, engine.limits[-1].stop) == (7, ("x",))
    assert engine.drawn == 3 + 8


def test_a_call_may_bring_rewards_a_reference_and_a_model(chat, tiny):
    llm = chat(budget=64, strategy="best_of_n")
    assert llm.invoke("Hi", rewards=likes("gum")).content == "gum"
    matches = FunctionReward(lambda text, reference: float(text == reference), name="matches")
    assert llm.invoke("Hi", rewards=matches, reference_outputs="ivy").content == "ivy"
    other = chat(model=(tiny.model, tiny.tokenizer))
    assert other.invoke("Hi", model=tiny).response_metadata["model_name"] == tiny.name
    with pytest.raises(ConfigurationError, match="no rewards to choose by"):
        chat(rewards=likes("gum"), budget=4).invoke("Hi", rewards=None)


def test_explicit_zero_is_a_zero(chat):
    llm = chat(temperature=0.0, seed=0)
    assert override(llm, {}).make_strategy(rewarded=False).sampling.temperature == 0.0
    assert llm.invoke("Hi").response_metadata["aisp"]["seed"] == 0
    assert llm.invoke("Hi", seed=0).response_metadata["aisp"]["seed"] == 0


@pytest.mark.parametrize("field", ["budgt", "base_url", "n"])
def test_unknown_names_are_errors(chat, field):
    with pytest.raises(ValidationError, match=field):
        chat(**{field: 1})
    with pytest.raises(ConfigurationError, match=field):
        chat().invoke("Hi", **{field: 1})


@pytest.mark.parametrize(
    "fields",
    [
        {"budget": 4, "num_samples": 3, "num_rounds": 5},
        {"budget": 0},
        {"strategy": "best_of_n", "scale": 1.0, "rewards": likes("ash")},
        {"budget": 4, "strategy": "nonsense"},
        {"model": "smollm2-135m", "model_name": "smollm2-135m"},
        {"model": ("one", "two", "three")},
    ],
)
def test_contradictions_are_errors_when_the_model_is_built(chat, fields):
    with pytest.raises(ValidationError):
        chat(**fields)


def test_a_call_out_of_range_is_an_error(chat):
    with pytest.raises(ConfigurationError, match="max_tokens"):
        chat().invoke("Hi", max_tokens=0)


def test_standard_names_are_accepted():
    llm = AISPChatModel(
        model_name="smollm2-135m", api_key="secret", max_retries=2, streaming=True, timeout=60, stop="x"
    )
    assert llm.model == llm.model_name == "smollm2-135m"
    assert llm.stop == ["x"]
    assert "secret" not in repr(llm)


def test_an_image_is_refused_before_decoding(chat, engine):
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    with pytest.raises(PromptError, match="image_url"):
        chat().invoke([HumanMessage([{"type": "text", "text": "What is it?"}, image])])
    assert engine.prompts == []


@pytest.mark.real
def test_a_prompt_that_is_too_long_is_refused_with_the_numbers(tiny):
    with pytest.raises(PromptError, match=r"\d{3,} tokens and the model's context holds 512"):
        AISPChatModel(model=tiny).invoke("tree " * 400)


def test_timeout_returns_the_best_so_far_or_raises(chat, engine):
    engine.seconds = 0.05
    llm = chat(rewards=likes("elm"), budget=640, num_samples=4, timeout=0.3)
    message = llm.invoke("Hi")
    assert message.response_metadata["aisp"]["stopped_by"] == "deadline"
    assert 0 < message.response_metadata["aisp"]["cost"]["responses"] < 640
    with pytest.raises(DeadlineExceededError):
        llm.invoke("Hi", on_timeout="raise")


@pytest.mark.parametrize("how", ["ainvoke", "astream"])
async def test_cancelling_stops_the_work(chat, engine, how):
    engine.seconds = 30.0
    llm = chat(budget=1)

    async def call():
        if how == "ainvoke":
            return await llm.ainvoke("Hi")
        return [chunk async for chunk in llm.astream("Hi")]

    task = asyncio.create_task(call())
    while not engine.limits:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(engine.cancelled.wait, 5)


async def test_the_event_loop_is_never_blocked(chat, engine):
    engine.seconds = 0.3
    task = asyncio.create_task(chat(budget=1).ainvoke("Hi"))
    gaps, last = [], time.monotonic()
    while not task.done():
        await asyncio.sleep(0.01)
        gaps.append(time.monotonic() - last)
        last = time.monotonic()
    assert len(gaps) > 5
    assert max(gaps) < 0.2


def test_usage_callback(chat):
    handler = UsageMetadataCallbackHandler()
    llm = chat()
    llm.invoke("Hi", config={"callbacks": [handler]})
    assert handler.usage_metadata[llm.model_name]["output_tokens"] == 2


def test_configurable_fields_do_not_reload(chat, engine, tiny, monkeypatch):
    llm = chat(rewards=likes("elm"), budget=4).configurable_fields(
        budget=ConfigurableField(id="budget"), seed=ConfigurableField(id="seed")
    )
    message = llm.with_config(configurable={"budget": 9, "seed": 4}).invoke("Hi")
    assert message.response_metadata["aisp"]["budget"] == 9
    assert message.response_metadata["aisp"]["seed"] == 4
    assert engine.drawn == 9


def test_with_retry_and_fallbacks(chat, engine):
    failing = FunctionReward(lambda text: 1 / 0, name="broken")
    llm = chat(rewards=failing, budget=2)
    assert llm.with_fallbacks([chat(budget=1)]).invoke("Hi").content in WORDS
    drawn = engine.drawn
    with pytest.raises(Exception, match="broken"):
        llm.with_retry(stop_after_attempt=3, wait_exponential_jitter=False).invoke("Hi")
    assert engine.drawn == drawn + 6  # each attempt fails on its first round


def test_a_rate_limiter_is_asked_once_a_call_and_not_for_what_is_cached(named):
    asked: list[bool] = []

    class Limiter(BaseRateLimiter):
        def acquire(self, *, blocking: bool = True) -> bool:
            asked.append(blocking)
            return True

        async def aacquire(self, *, blocking: bool = True) -> bool:
            return self.acquire(blocking=blocking)

    llm = named(rate_limiter=Limiter(), rewards=likes("elm"), budget=16, cache=InMemoryCache())
    llm.invoke("Hi")
    llm.invoke("Hi")
    list(llm.stream("Hello"))
    asyncio.run(llm.ainvoke("Bye"))
    assert asked == [True] * 3


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
def test_fallbacks_and_retries_keep_bound_tools(chat, engine, how):
    def look(at: str) -> str:
        """Look at something."""
        return at

    engine.texts = ['<tool_call>{"name": "look", "arguments": {"at": "oak"}}</tool_call>']
    broken = chat(rewards=FunctionReward(lambda text: 1 / 0), budget=2).bind_tools([look])
    chain = broken.with_retry(stop_after_attempt=2, wait_exponential_jitter=False).with_fallbacks(
        [chat().bind_tools([look])]
    )
    message = chain.invoke("Where?") if how == "invoke" else asyncio.run(chain.ainvoke("Where?"))
    assert message.tool_calls[0]["args"] == {"at": "oak"}


def test_tracing_parameters(chat):
    params = chat(temperature=0.5, max_tokens=9, stop=["x"])._get_ls_params()
    assert params["ls_provider"] == "aisp"
    assert params["ls_temperature"] == 0.5
    assert params["ls_max_tokens"] == 9
    assert params["ls_stop"] == ["x"]
    assert chat()._get_ls_params(model="other")["ls_model_name"] == "other"
    assert chat().metadata["lc_versions"]["aisp-langchain"]


def test_building_loads_nothing_heavy():
    code = (
        "import sys; from aisp_langchain import AISPChatModel; from aisp.rewards import Length; "
        "AISPChatModel(model='smollm2-135m', rewards=Length(1, 5), budget=4); "
        "print(sorted(m for m in sys.modules if m == 'transformers'))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_many_concurrent_requests_with_judges_that_are_chat_models(chat):
    """A bounded pool of request threads would wait for itself here."""
    judge = chat(budget=1, seed=5)

    async def judged(text: str) -> float:
        return float(len((await judge.ainvoke(text)).content))

    llm = chat(rewards=judged, budget=2)

    async def main() -> list[AIMessage]:
        return await asyncio.wait_for(llm.abatch([f"Hi {i}" for i in range(150)]), 60)

    before = threading.active_count()
    assert len(asyncio.run(main())) == 150
    assert threading.active_count() < before + 160
