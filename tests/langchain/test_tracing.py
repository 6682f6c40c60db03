"""What callbacks hear of a search, and what agents are told of the model."""

from __future__ import annotations

import json
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from pydantic import BaseModel

from aisp_langchain import AISPChatModel
from aisp_langchain.tracing import ROUND_EVENT


class Ear(BaseCallbackHandler):
    def __init__(self) -> None:
        self.rounds: list[dict[str, Any]] = []
        self.runs: list[tuple[str, Any]] = []

    def on_custom_event(self, name: str, data: Any, *, run_id: Any, **kwargs: Any) -> None:
        self.rounds += [data] if name == ROUND_EVENT else []

    def on_chat_model_start(
        self, serialized: Any, messages: Any, *, run_id: Any, parent_run_id: Any, **kwargs: Any
    ) -> None:
        self.runs.append((run_id, parent_run_id))


class AsyncEar(AsyncCallbackHandler):
    def __init__(self) -> None:
        self.rounds: list[dict[str, Any]] = []

    async def on_custom_event(self, name: str, data: Any, **kwargs: Any) -> None:
        self.rounds.append(data)


SEARCH = {"rewards": lambda text: float(len(text)), "budget": 12, "num_samples": 4}


def test_each_round_is_told_of(chat):
    ear = Ear()
    message = chat(**SEARCH).invoke("q", {"callbacks": [ear]})
    rounds = message.response_metadata["aisp"]["rounds"]
    assert [told["round"] for told in ear.rounds] == list(range(len(rounds)))
    assert len(rounds) >= 3
    assert [told["best_so_far"] for told in ear.rounds] == [one["best_so_far"] for one in rounds]
    assert ear.rounds[-1]["best_so_far"] == message.response_metadata["aisp"]["reward"]
    json.dumps(ear.rounds)


async def test_each_round_is_told_of_on_an_event_loop(chat):
    ears = [AsyncEar(), Ear()]
    message = await chat(**SEARCH).ainvoke("q", {"callbacks": ears})
    assert [len(ear.rounds) for ear in ears] == [len(message.response_metadata["aisp"]["rounds"])] * 2


async def test_rounds_are_events_of_a_chain(chat):
    chain = ChatPromptTemplate.from_template("{q}") | chat(**SEARCH)
    events = [event async for event in chain.astream_events({"q": "q"}, version="v2")]
    rounds = [event["data"]["round"] for event in events if event["name"] == ROUND_EVENT]
    assert rounds == list(range(len(rounds)))
    assert len(rounds) >= 3
    kinds = [event["event"] for event in events]
    assert kinds.index("on_custom_event") < kinds.index("on_chat_model_stream")


def test_nobody_listens_and_nothing_is_told(chat):
    assert chat(**SEARCH).invoke("q").content


def judged(outputs: AIMessage) -> float:
    judge = GenericFakeChatModel(messages=iter([AIMessage("7")]))
    return float(judge.invoke(str(outputs.content)).content)


@pytest.mark.parametrize("reward", [judged, RunnableLambda(lambda x: judged(x["outputs"]))])
def test_rewards_are_traced_where_that_is_asked_for(chat, reward):
    for traced in (False, True):
        ear = Ear()
        chat(rewards=reward, budget=2, trace_rewards=traced).invoke("q", {"callbacks": [ear]})
        (run, _), *judges = ear.runs
        assert bool(judges) == traced
        if reward is judged:
            assert {parent for _, parent in judges} <= {run}


def test_profile(chat, tmp_path, tiny):
    profile = chat(max_tokens=9).profile
    assert profile["max_input_tokens"] == tiny.context_length == 512
    assert profile["max_output_tokens"] == 9
    assert profile["tool_calling"]
    assert profile["structured_output"]
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 77}')
    assert AISPChatModel(model=str(tmp_path)).profile["max_input_tokens"] == 77
    assert "max_input_tokens" not in AISPChatModel(model="owner/name").profile


@pytest.mark.real
def test_the_profile_knows_the_embedded_model_before_it_is_loaded(smollm):
    assert AISPChatModel(model="smollm2-135m").profile["max_input_tokens"] == smollm.context_length == 8192


class Verdict(BaseModel):
    """A verdict."""

    kind: str


@pytest.mark.real
def test_an_agent_answers_in_a_format(tiny):
    """The profile makes it a provider's strategy: tools, and JSON of the schema for the last answer."""
    agent = create_agent(AISPChatModel(model=tiny, seed=1, max_tokens=80), response_format=Verdict)
    assert isinstance(agent.invoke({"messages": [("user", "Judge.")]})["structured_response"], Verdict)


def test_an_agent_calls_a_tool_and_answers(chat, engine):
    asked: list[str] = []

    def look(at: str) -> str:
        """Look at something."""
        asked.append(at)
        return "an oak"

    engine.texts = ['<tool_call>{"name": "look", "arguments": {"at": "brook"}}</tool_call>', "An oak."]

    def grounded(inputs: list[Any], outputs: AIMessage) -> float:
        return float(bool(outputs.tool_calls) != any(message.type == "tool" for message in inputs))

    agent = create_agent(chat(rewards=grounded, budget=16), tools=[look])
    messages = agent.invoke({"messages": [("user", "What is at the brook?")]})["messages"]
    assert [message.type for message in messages] == ["human", "ai", "tool", "ai"]
    assert asked == ["brook"]
    assert messages[-1].content == "An oak."
