"""LangChain's agents on our chat model: structured answers, tool loops, and the middleware that asks the model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    ContextEditingMiddleware,
    LLMToolSelectorMiddleware,
    SummarizationMiddleware,
    wrap_model_call,
)
from langchain.agents.middleware.context_editing import ClearToolUsesEdit
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from pydantic import BaseModel

from aisp.errors import ConfigurationError
from aisp.models import LoadedModel
from aisp.records import Candidate
from aisp.rewards import FunctionReward
from aisp.testing import tiny_loaded_model
from aisp_langchain import AISPChatModel
from aisp_langchain.rewards import RubricJudge


class Verdict(BaseModel):
    """A verdict."""

    kind: str


@pytest.fixture(scope="module")
def roomy() -> LoadedModel:
    """A tiny model whose context holds what judges and selectors are told."""
    return tiny_loaded_model(max_position_embeddings=2048)


@pytest.fixture
def asked() -> list[str]:
    """What the tool was asked."""
    return []


@pytest.fixture
def look(asked: list[str]) -> Callable[[str], str]:
    def look(at: str) -> str:
        """Look at something."""
        asked.append(at)
        return f"an oak at the {at}"

    return look


def call(name: str, **args: Any) -> str:
    arguments = ", ".join(f'"{key}": "{value}"' for key, value in args.items())
    return f'<tool_call>\n{{"name": "{name}", "arguments": {{{arguments}}}}}\n</tool_call>'


def by_turn(*wanted: str) -> FunctionReward:
    """Like one text a turn, the first before any tool has answered."""

    def reward(candidate: Candidate) -> float:
        written = " ".join(f"{c['name']} {c['args']}" for c in candidate.tool_calls) or candidate.text
        written += " invalid" * len(candidate.invalid_tool_calls)
        turn = sum(message["role"] == "tool" for message in candidate.messages)
        return float(wanted[turn] in written)

    return FunctionReward(reward)


def kinds(messages: list[AnyMessage]) -> list[str]:
    return [message.type for message in messages]


class TestStructure:
    def test_a_tools_strategy(self, chat, engine, look, asked):
        engine.texts = [call("look", at="brook"), call("Verdict", kind="oak")]
        llm = chat(rewards=by_turn("look", "Verdict"), budget=16)
        state = create_agent(llm, [look], response_format=ToolStrategy(Verdict)).invoke({"messages": [("user", "?")]})
        assert asked == ["brook"]
        assert state["structured_response"] == Verdict(kind="oak")

    def test_a_providers_strategy(self, chat, engine, look, asked):
        engine.texts = [call("look", at="brook"), '{"kind": "oak"}']
        llm = chat(rewards=by_turn("look", "oak"), budget=16)
        agent = create_agent(llm, [look], response_format=ProviderStrategy(Verdict))
        state = agent.invoke({"messages": [("user", "?")]})
        assert asked == ["brook"]
        assert state["structured_response"] == Verdict(kind="oak")

    @pytest.mark.real
    @pytest.mark.parametrize("strategy", [ToolStrategy(Verdict), ProviderStrategy(Verdict), Verdict])
    def test_any_model_keeps_to_the_schema(self, tiny, strategy):
        agent = create_agent(AISPChatModel(model=tiny, seed=1, max_tokens=90), response_format=strategy)
        assert isinstance(agent.invoke({"messages": [("user", "Judge.")]})["structured_response"], Verdict)


class TestLoops:
    def test_parallel_calls_are_answered_each(self, chat, engine, look, asked):
        engine.texts = [call("look", at="brook") + "\n" + call("look", at="hill"), "Oaks."]
        llm = chat(rewards=by_turn("look", "Oaks", "Oaks"), budget=16)
        messages = create_agent(llm, [look]).invoke({"messages": [("user", "?")]})["messages"]
        assert kinds(messages) == ["human", "ai", "tool", "tool", "ai"]
        assert sorted(asked) == ["brook", "hill"]
        ids = [one["id"] for one in messages[1].tool_calls]
        assert len(set(ids)) == 2
        assert [message.tool_call_id for message in messages[2:4]] == ids

    def test_several_turns_on_an_event_loop(self, chat, engine, look, asked):
        engine.texts = [call("look", at="brook"), call("look", at="hill"), "Oaks."]
        agent = create_agent(chat(rewards=by_turn("brook", "hill", "Oaks"), budget=32), [look])
        messages = asyncio.run(agent.ainvoke({"messages": [("user", "?")]}))["messages"]
        assert kinds(messages) == ["human", "ai", "tool", "ai", "tool", "ai"]
        assert asked == ["brook", "hill"]
        assert messages[-1].content == "Oaks."

    def test_a_malformed_call_is_answered_when_the_talk_goes_on(self, chat, engine, look, tiny):
        engine.texts = ['<tool_call>{"name": "look", "arg']
        agent = create_agent(chat(), [look])
        messages = agent.invoke({"messages": [("user", "?")]})["messages"]
        assert kinds(messages) == ["human", "ai"]
        (wrong,) = messages[1].invalid_tool_calls
        agent.invoke({"messages": [*messages, HumanMessage("Well?")]})
        prompt = tiny.tokenizer.decode(engine.prompts[-1])
        assert wrong["args"] in prompt  # the model sees what it wrote
        assert "<|im_start|>tool" in prompt  # and what was wrong with it
        assert prompt.index(wrong["args"]) < prompt.index("<|im_start|>tool") < prompt.index("Well?")

    @pytest.mark.real
    def test_no_token_of_a_judge_is_streamed(self, roomy, look):
        judge = RubricJudge(AISPChatModel(model=roomy, seed=2, max_tokens=90), "Is it kind?")
        llm = AISPChatModel(model=roomy, seed=1, max_tokens=8, rewards=judge, budget=2)
        agent = create_agent(llm, [look])
        pieces, final = [], []
        for mode, part in agent.stream({"messages": [("user", "Hi")]}, stream_mode=["messages", "values"]):
            if mode == "messages":
                pieces.append(part[0].content)
            else:
                final = part["messages"]
        assert len(pieces) > 1
        assert "".join(pieces) == final[-1].content


def words(length: int) -> str:
    return " ".join(["tree"] * length)


class TestMiddleware:
    def test_a_long_history_is_summarised(self, chat, engine, tiny):
        engine.texts = ["It was of trees."]
        llm = chat(max_tokens=20)
        middleware = SummarizationMiddleware(llm, trigger=("fraction", 0.5), keep=("messages", 1))
        history = [HumanMessage(words(150)), AIMessage(words(150)), HumanMessage("And now?")]
        messages = create_agent(llm, middleware=[middleware]).invoke({"messages": history})["messages"]
        assert len(engine.prompts) == 2
        assert "tree tree" in tiny.tokenizer.decode(engine.prompts[0])
        answered = tiny.tokenizer.decode(engine.prompts[1])
        assert "It was of trees." in answered
        assert "tree tree" not in answered
        assert messages[-1].content == "It was of trees."

    def test_a_short_history_is_left_alone(self, chat, engine):
        """What a search has drawn and thrown away must not count as history."""
        llm = chat(max_tokens=20, rewards=lambda text: float(len(text)), budget=64)
        middleware = SummarizationMiddleware(llm, trigger=("tokens", 200), keep=("messages", 1))
        agent = create_agent(llm, middleware=[middleware])
        messages = agent.invoke({"messages": [("user", "Name a tree.")]})["messages"]
        messages = agent.invoke({"messages": [*messages, HumanMessage("Another.")]})["messages"]
        assert len(engine.prompts) == 2
        assert kinds(messages) == ["human", "ai", "human", "ai"]

    @pytest.mark.real
    def test_the_model_selects_tools(self, roomy, look):
        def wait() -> str:
            """Wait."""
            return "done"

        left: list[list[str]] = []

        @wrap_model_call
        def note(request, handler):
            left.append([tool.name for tool in request.tools])
            return handler(request)

        llm = AISPChatModel(model=roomy, seed=1, max_tokens=60)
        selector = LLMToolSelectorMiddleware(model=llm, max_tools=1)
        create_agent(llm, [look, wait], middleware=[selector, note]).invoke({"messages": [("user", "Look!")]})
        assert left in ([["look"]], [["wait"]], [[]])

    def test_the_model_counts_for_an_edited_context(self, chat, engine, look, tiny):
        engine.texts = ["An oak."]
        edit = ClearToolUsesEdit(trigger=200, keep=0)
        middleware = ContextEditingMiddleware(edits=[edit], token_count_method="model")
        told = {"name": "look", "args": {"at": "brook"}, "id": "call_1"}
        history = [HumanMessage("?"), AIMessage("", tool_calls=[told]), ToolMessage(words(200), tool_call_id="call_1")]
        create_agent(chat(), [look], middleware=[middleware]).invoke({"messages": history})
        prompt = tiny.tokenizer.decode(engine.prompts[0])
        assert "tree tree" not in prompt
        assert "[cleared]" in prompt


class TestExploredCalls:
    """Random weights never begin a call by themselves."""

    @pytest.fixture
    def bound(self, tiny, look):
        def build(liked: str | None, **fields: Any) -> Any:
            reward = (
                None if liked is None else lambda outputs: float(("call" if outputs.tool_calls else "text") == liked)
            )
            search = {} if reward is None else {"rewards": reward, "budget": 6, "num_samples": 2}
            return AISPChatModel(model=tiny, seed=1, max_tokens=90, **search, **fields).bind_tools([look])

        return build

    @pytest.mark.real
    def test_rewards_choose_between_calling_and_answering(self, bound):
        (made,) = bound("call", explore_calls=True).invoke("Where?").tool_calls
        assert made["name"] == "look"
        assert bound("text", explore_calls=True).invoke("Where?").tool_calls == []
        assert bound("call").invoke("Where?").tool_calls == []
        assert bound("call").invoke("Where?", explore_calls=True).tool_calls

    @pytest.mark.real
    def test_only_the_first_round_and_only_where_the_model_is_free(self, bound, tiny, monkeypatch):
        from aisp.engines import engine_for

        held: list[list[str | None]] = []
        engine = engine_for(tiny)
        plain = engine.start

        def start(prefix, proposals, limits):
            flight = plain(prefix, proposals, limits)
            add = flight.add
            held.append([one.grammar for one in proposals])
            flight.add = lambda more: held.append([one.grammar for one in more]) or add(more)
            return flight

        monkeypatch.setattr(engine, "start", start)
        bound("call", explore_calls=True).invoke("Where?")
        assert [len(set(asked)) for asked in held] == [2] + [1] * (len(held) - 1)
        assert len(held) > 1
        assert held[0][0] == held[1][0]
        held.clear()
        bound("call", explore_calls=True).invoke("Where?", tool_choice="any")
        assert {len(set(asked)) for asked in held} == {1}

    def test_a_choice_that_is_none_is_refused(self, chat, look):
        with pytest.raises(ConfigurationError, match="tool_choice is"):
            chat().bind_tools([look]).invoke("Hi", tool_choice="jump")
