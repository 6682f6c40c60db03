"""The LLM as LlamaIndex uses it: chat, complete, their streams, tools, agents, and what it refuses."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, TextBlock, ThinkingBlock, ToolCallBlock
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.evaluation import BaseEvaluator, EvaluationResult
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel, ValidationError

from aisp.errors import ConfigurationError, PromptError, RewardError, StructuredOutputError
from aisp.rewards import FunctionReward, Length
from aisp.testing import tiny_loaded_model
from aisp_llamaindex import AISPLLM, as_reward
from aisp_llamaindex.messages import to_openai
from tests.engines.build import change_rollouts

ASKED = [ChatMessage(role="user", content="Name a tree.")]


def is_cedar(response: str) -> float:
    return float(response == "cedar")


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def find(tree: str) -> str:
    """Find a tree."""
    return f"{tree} is at the brook"


ADD, FIND = FunctionTool.from_defaults(add), FunctionTool.from_defaults(find)
CALL = '<tool_call>\n{"name": "find", "arguments": {"tree": "elm"}}\n</tool_call>'


@pytest.fixture(scope="module")
def roomy():
    """A model whose context holds a prompt with tools, spelt out in bytes."""
    return tiny_loaded_model(max_position_embeddings=2048)


class Twig(BaseModel):
    """A twig."""

    tall: bool
    twigs: list[Twig] = []


class Longer(BaseEvaluator):
    """Says of answers of more than three letters that they pass; scores none."""

    def _update_prompts(self, prompts: Any) -> None: ...

    def _get_prompts(self) -> dict[str, Any]:
        return {}

    async def aevaluate(self, query=None, response=None, contexts=None, **kwargs):
        if response == "gum":
            return EvaluationResult(invalid_result=True, invalid_reason="sticky")
        return EvaluationResult(passing=len(response) > 4, feedback=f"{query} {len(response)}")


class TestAnswers:
    def test_chat_returns_the_best_response(self, llm):
        response = llm(rewards=is_cedar, budget=64).chat(ASKED)
        assert response.message.content == "cedar"
        assert response.message.role == "assistant"
        assert response.raw["aisp"]["reward"] == 1.0
        assert response.raw["aisp"]["parts"] == {"is_cedar": 1.0}
        assert response.raw["finish_reason"] == "stop"

    def test_an_automatic_budget_ends_where_nothing_is_left_to_gain(self, llm):
        raw = llm(rewards=is_cedar, budget="auto").chat(ASKED).raw["aisp"]
        assert (raw["stopped_by"], raw["reward"]) == ("converged", 1.0)

    async def test_all_eight_ways_say_the_same(self, llm):
        model = llm(rewards=is_cedar, budget=64)
        completed, streamed = model.complete("Name a tree."), list(model.stream_complete("Name a tree."))
        chatted, pieces = model.chat(ASKED), list(model.stream_chat(ASKED))
        said = [completed.text, streamed[-1].text, chatted.message.content, pieces[-1].message.content]
        said += [(await model.acomplete("Name a tree.")).text, (await model.achat(ASKED)).message.content]
        said += [[r async for r in await model.astream_complete("Name a tree.")][-1].text]
        said += [[r async for r in await model.astream_chat(ASKED)][-1].message.content]
        assert said == ["cedar"] * 8

    def test_streams_grow_by_their_deltas(self, llm, engine):
        engine.texts = ("a tall tree\n\nby the brook",)
        pieces = list(llm().stream_chat(ASKED))
        assert len(pieces) == 7
        text = ""
        for piece in pieces:
            text += piece.delta
            assert piece.message.content == text
        assert text == engine.texts[0]
        assert [bool(piece.raw) for piece in pieces] == [False] * 6 + [True]

    def test_tokens_are_counted_by_its_counter(self, llm, engine):
        counter = TokenCountingHandler(tokenizer=lambda text: pytest.fail("it should not have to count"))
        llm(callback_manager=CallbackManager([counter]), rewards=is_cedar, budget=8).chat(ASKED)
        assert counter.prompt_llm_token_count == len(engine.prompts[0])
        assert counter.completion_llm_token_count == 2  # of the answer; the other seven are in raw["aisp"]

    def test_settings_of_a_call_win(self, llm, engine):
        model = llm(rewards=is_cedar, budget=4, max_tokens=9)
        response = model.chat(ASKED, budget=8, max_tokens=5, stop="x", rewards=FunctionReward(len, name="long"))
        assert engine.drawn == 8
        assert (engine.limits[0].max_tokens, engine.limits[0].stop) == (5, ("x",))
        assert response.raw["aisp"]["parts"].keys() == {"long"}
        assert llm(rewards=None, max_tokens=9).chat(ASKED, max_tokens=None).message.content

    async def test_a_cancelled_chat_stops(self, llm, engine):
        engine.seconds = 30
        task = asyncio.create_task(llm().achat(ASKED))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(engine.cancelled.wait, 5)


class TestMetadata:
    def test_it_is_the_models(self, llm, tiny):
        metadata = llm(max_tokens=33).metadata
        assert metadata.context_window == 512
        assert metadata.num_output == 33
        assert metadata.is_chat_model
        assert metadata.is_function_calling_model
        assert metadata.model_name == tiny.name
        assert llm().metadata.num_output == 256

    def test_it_is_told_without_what_cant_be_written(self, llm):
        told = llm(rewards=is_cedar, budget=3).to_dict()
        assert told["budget"] == 3
        assert told["class_name"] == "AISPLLM"
        assert "rewards" not in told
        json.dumps(told)


class TestTools:
    def test_a_call_reaches_the_caller(self, llm, engine):
        engine.texts = (CALL,)
        model = llm()
        response = model.chat_with_tools([ADD, FIND], user_msg="Where is the elm?")
        (selected,) = model.get_tool_calls_from_response(response)
        assert (selected.tool_name, selected.tool_kwargs) == ("find", {"tree": "elm"})
        assert selected.tool_id
        assert response.raw["finish_reason"] == "tool_calls"
        assert response.message.content is None or response.message.content == ""
        assert model.predict_and_call([ADD, FIND], user_msg="Where?").response == "elm is at the brook"

    def test_the_model_hears_of_the_tools(self, llm, engine, tiny):
        llm().chat_with_tools([ADD], user_msg="1 + 2?", chat_history=[ChatMessage(role="system", content="Be brief.")])
        prompt = tiny.tokenizer.decode(engine.prompts[0])
        assert "Be brief." in prompt
        assert "Add two numbers." in prompt
        assert "1 + 2?" in prompt

    def test_no_call_is_an_error_where_it_is_asked_for(self, llm):
        model = llm()
        response = model.chat_with_tools([ADD], user_msg="Hi")
        assert model.get_tool_calls_from_response(response, error_on_no_tool_call=False) == []
        with pytest.raises(ValueError, match="holds no tool call: it says"):
            model.get_tool_calls_from_response(response)

    def test_a_call_that_went_wrong_is_not_made(self, llm, engine):
        engine.texts = ('<tool_call>\n{"name": "find", "arguments": {"tree": ',)
        model = llm()
        response = model.chat_with_tools([FIND], user_msg="Hi")
        assert response.message.additional_kwargs["invalid_tool_calls"][0]["name"] == "find"
        with pytest.raises(ValueError, match="no tool call: Expecting"):
            model.get_tool_calls_from_response(response)

    def test_required_calls_are_forced(self, roomy):
        pytest.importorskip("llguidance")
        model = AISPLLM(model=roomy, max_tokens=300, seed=2)
        response = model.chat_with_tools([ADD, FIND], user_msg="Hi", tool_required=True)
        (selected,) = model.get_tool_calls_from_response(response)
        expected = {"add": {"a": int, "b": int}, "find": {"tree": str}}[selected.tool_name]
        assert {name: type(value) for name, value in selected.tool_kwargs.items()} == expected

    def test_rewards_see_the_calls(self, llm, engine):
        engine.texts = (CALL, CALL.replace("elm", "fir"), "I don't know.")
        right = FunctionReward(lambda tool_calls: sum(call["args"]["tree"] == "fir" for call in tool_calls), name="fir")
        response = llm(rewards=right, budget=16).chat_with_tools([FIND], user_msg="Where is the fir?")
        assert response.message.blocks[-1].tool_kwargs == {"tree": "fir"}

    async def test_a_class_that_leads_into_itself_is_predicted(self, llm, engine):
        """Core failed with KeyError: 'properties'."""
        engine.texts = ('{"tall": true, "twigs": [{"tall": false, "twigs": []}]}',)
        prompt = PromptTemplate("Tell me of {name}.")
        twig = llm().structured_predict(Twig, prompt, name="elm")
        assert twig == Twig(tall=True, twigs=[Twig(tall=False)])
        assert await llm().astructured_predict(Twig, prompt, name="elm") == twig

    def test_a_prediction_that_was_cut_off_says_by_what(self, llm, engine):
        engine.texts = ('{"tall": true, "tw',)
        with pytest.raises(StructuredOutputError, match="stop string") as raised:
            llm().structured_predict(Twig, PromptTemplate("Tell me of {name}."), name="elm")
        assert raised.value.finish_reason == "stop"

    def test_structured_prediction_is_held_to_its_schema(self, roomy):
        pytest.importorskip("llguidance")

        class Tree(BaseModel):
            """A tree."""

            tall: bool
            rings: int

        tree = AISPLLM(model=roomy, max_tokens=300, seed=2).structured_predict(
            Tree, PromptTemplate("Tell me of {name}."), name="elm"
        )
        assert isinstance(tree, Tree)

    async def test_an_agent_makes_the_call_and_answers(self, llm, engine):
        answers = iter([CALL, "It is at the brook."])
        change_rollouts(engine, lambda rollout: _with_text(rollout, next(answers)))
        agent = FunctionAgent(tools=[ADD, FIND], llm=llm())
        output = await agent.run("Where is the elm?")
        assert output.response.content == "It is at the brook."
        assert [call.tool_output.content for call in output.tool_calls] == ["elm is at the brook"]
        assert len(engine.prompts) == 2

    @pytest.mark.parametrize("tools", [["find"], [find], [ADD, {"name": "x"}]])
    def test_what_is_no_tool_is_refused(self, llm, tools):
        with pytest.raises(ConfigurationError):
            llm().chat(ASKED, tools=tools)


def _with_text(rollout, text):
    from dataclasses import replace

    return replace(rollout, text=text)


class TestMessages:
    def test_every_part_gets_through(self):
        call = ToolCallBlock(tool_call_id="c1", tool_name="find", tool_kwargs='{"tree": "elm"}')
        messages = [
            ChatMessage(role="developer", content="Be brief."),
            ChatMessage(role="user", blocks=[TextBlock(text="a"), TextBlock(text="b")]),
            ChatMessage(role="user", content="c"),
            ChatMessage(role="assistant", blocks=[ThinkingBlock(content="hm"), TextBlock(text="Wait."), call]),
            ChatMessage(role="tool", content="brook", additional_kwargs={"tool_call_id": "c1", "other": 1}),
        ]
        function = {"name": "find", "arguments": {"tree": "elm"}}
        assert to_openai(messages) == [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "a\nb\n\nc"},
            {
                "role": "assistant",
                "content": "Wait.",
                "tool_calls": [{"id": "c1", "type": "function", "function": function}],
            },
            {"role": "tool", "content": "brook", "tool_call_id": "c1"},
        ]

    def test_calls_of_older_messages_are_read(self):
        kept = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"tree": "elm"}'}}
        (message,) = to_openai([ChatMessage(role="assistant", content="", additional_kwargs={"tool_calls": [kept]})])
        assert message["tool_calls"][0]["function"] == {"name": "find", "arguments": {"tree": "elm"}}

    def test_an_image_is_refused(self, llm):
        with pytest.raises(PromptError, match="of type 'image'"):
            llm().chat([ChatMessage(role="user", blocks=[ImageBlock(image=b"x")])])


class TestRewards:
    def test_an_evaluator_steers(self, llm, engine):
        engine.texts = ("ash", "birch")
        response = llm(rewards=Longer(), budget=16).chat(ASKED)
        assert response.message.content == "birch"
        assert response.raw["aisp"]["parts"] == {"Longer": 1.0}

    def test_an_invalid_evaluation_is_no_zero(self, llm, engine):
        engine.texts = ("gum",)
        with pytest.raises(RewardError, match="sticky"):
            llm(rewards=Longer(), budget=2).chat(ASKED)

    def test_names_of_a_mapping_are_parts(self, llm):
        rewards = {"cedar": is_cedar, "short": Length(1, 2), "asked": lambda query, response: query == "Name a tree."}
        response = llm(rewards=rewards, budget=8).chat(ASKED)
        assert set(response.raw["aisp"]["parts"]) == {"cedar", "short", "asked"}
        assert response.raw["aisp"]["parts"]["asked"] == 1.0
        assert as_reward([is_cedar, Length(1, 2)]).parts[1].name == "length"

    @pytest.mark.parametrize("source", ["cedar", 3, {}, []])
    def test_what_is_no_reward_is_refused(self, source):
        with pytest.raises(ConfigurationError, match="expected a reward"):
            as_reward(source)


class TestRefusals:
    def test_unknown_names(self, llm):
        with pytest.raises(ValidationError, match="bugdet"):
            llm(bugdet=8)
        with pytest.raises(ConfigurationError, match="bugdet"):
            llm().chat(ASKED, bugdet=8)

    def test_settings_that_contradict_each_other(self, llm):
        with pytest.raises(ConfigurationError, match="budget"):
            llm(budget=8).chat(ASKED)
        with pytest.raises(ValueError, match="model is a tuple of 1"):
            llm(model=("x",))
        with pytest.raises(ConfigurationError, match="greater than or equal to 0"):
            llm().chat(ASKED, temperature=-1)

    def test_building_loads_nothing(self, monkeypatch):
        monkeypatch.setattr("aisp.models.load", lambda *args, **kwargs: pytest.fail("loaded"))
        assert AISPLLM(model="no-such-model", rewards=Length(1, 2)).class_name() == "AISPLLM"
