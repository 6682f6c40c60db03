"""What can be a reward, and what a reward must never do to the request that it judges."""

from __future__ import annotations

import re
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langgraph.graph import START, MessagesState, StateGraph
from pydantic import ValidationError

from aisp.errors import AllCandidatesExcludedError, ConfigurationError, RewardError, RewardWarning
from aisp.records import Candidate
from aisp.rewards import Length, Reward, veto
from aisp_langchain import AISPChatModel, as_reward

ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]


def candidate(text: str = "a tree", **fields: Any) -> Candidate:
    return Candidate(messages=ASKED, text=text, **fields)


class Verdict:
    """What evaluators return as an object."""

    def __init__(self, score: float, comment: str | None = None) -> None:
        self.score = score
        self.comment = comment


async def slowly(outputs: AIMessage) -> float:
    return float(len(outputs.content))


class AsyncJudge:
    async def __call__(self, outputs: AIMessage) -> float:
        return float(len(outputs.content))


@pytest.mark.parametrize(
    "source",
    [
        lambda outputs: float(len(outputs.content)),
        lambda outputs, inputs: float(len(outputs.content)) * isinstance(inputs[0].content, str),
        lambda *, outputs, inputs=None, reference_outputs=None, **rest: len(outputs.content),
        lambda text: len(text),
        lambda outputs: {"key": "length", "score": len(outputs.content), "comment": "counted"},
        lambda outputs: Verdict(len(outputs.content), "counted"),
        slowly,
        AsyncJudge(),
        RunnableLambda(lambda x: len(x["outputs"].content)),
        RunnableLambda(lambda x: x["outputs"]) | RunnableLambda(slowly),
        RunnableParallel(score=RunnableLambda(lambda x: len(x["outputs"].content)), inputs=lambda x: x["inputs"]),
        RunnableLambda(lambda x: Verdict(len(x["outputs"].content))).with_config(run_name="judge"),
    ],
)
def test_what_can_be_a_reward(source):
    scores = as_reward(source).score([candidate("a tree"), candidate("a"), candidate("")])
    assert [score.value for score in scores] == [6.0, 1.0, 0.0]


def test_bools_count_as_one_and_zero():
    scores = as_reward(lambda outputs: "tree" in outputs.content).score([candidate("a tree"), candidate("a")])
    assert [score.value for score in scores] == [1.0, 0.0]


def test_comments_survive():
    score = as_reward(lambda outputs: {"score": True, "comment": "kind"}).score([candidate()])[0]
    assert (score.value, score.comment) == (1.0, "kind")


def test_what_a_function_is_given():
    seen = {}

    def judge(inputs, outputs, reference_outputs):
        seen.update(inputs=inputs, outputs=outputs, reference=reference_outputs)
        return 0.0

    calls = ({"name": "look", "args": {"at": "tree"}, "id": "1"},)
    asked = [
        *ASKED,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "0", "type": "function", "function": {"name": "go", "arguments": {"to": "wood"}}}],
        },
        {"role": "tool", "tool_call_id": "0", "content": "there"},
    ]
    as_reward(judge).score([Candidate(messages=asked, text="a tree", tool_calls=calls, reference="an oak")])
    assert [message.type for message in seen["inputs"]] == ["system", "human", "ai", "tool"]
    assert seen["inputs"][2].tool_calls[0]["args"] == {"to": "wood"}
    assert isinstance(seen["inputs"][3], ToolMessage)
    assert seen["outputs"].content == "a tree"
    assert seen["outputs"].tool_calls == [{"name": "look", "args": {"at": "tree"}, "id": "1", "type": "tool_call"}]
    assert seen["reference"] == "an oak"


def test_a_mapping_is_the_sum_of_its_parts_by_name():
    reward = as_reward({"long": lambda text: len(text), "short": Length(0, 1), "tree": lambda outputs: 0.5})
    score = reward.score([candidate("a tree")])[0]
    assert score.parts.keys() == {"long", "short", "tree"}
    assert score.value == pytest.approx(sum(score.parts.values()))
    assert score.parts["long"] == 6.0


def test_a_sequence_is_a_sum():
    reward = as_reward([lambda text: 2.0, Length(0, 100)])
    assert reward.score([candidate()])[0].value == 3.0


@pytest.mark.parametrize(
    "source",
    ["kind", 3, {}, [], [3], {"a": "b"}, lambda nothing, at, all_: 1.0, GenericFakeChatModel(messages=iter([]))],
)
def test_what_can_not_be_a_reward_is_an_error_when_the_model_is_built(source):
    with pytest.raises(ConfigurationError):
        as_reward(source)
    with pytest.raises(ValidationError):
        AISPChatModel(rewards=source)


def test_a_language_model_is_no_reward_and_the_error_says_what_is():
    with pytest.raises(ConfigurationError, match="judge"):
        as_reward(GenericFakeChatModel(messages=iter([])))


@pytest.mark.parametrize("result", [None, "good", {"comment": "no score"}, {"score": None}, float("nan"), [1.0]])
def test_results_that_are_no_score_are_errors(chat, result):
    for source in (lambda outputs: result, RunnableLambda(lambda x: result)):
        with pytest.raises(RewardError):
            chat(rewards=source, budget=2).invoke("Hi")


def test_vetoes_reach_through(chat):
    rule = as_reward(lambda outputs: "s" in outputs.content)
    with pytest.warns(RewardWarning, match="vetoes 7 of 8 different responses"):
        message = chat(rewards=veto(rule), budget=64).invoke("Hi")
    assert message.content == "ash"
    assert message.response_metadata["aisp"]["warnings"]
    with pytest.raises(AllCandidatesExcludedError):
        chat(rewards=veto(as_reward(lambda outputs: False)), budget=4).invoke("Hi")


def has(letter: str) -> Any:
    """Two of these have the same name, and so has what core makes of them."""
    return lambda x: float(letter in (x if isinstance(x, str) else x["outputs"].content))


class TestTrapACache:
    """A cache entry belongs to one reward: core's own key knows neither rewards nor settings."""

    def answers(self, first: AISPChatModel, second: AISPChatModel, **kwargs: Any) -> tuple[str, str]:
        return first.invoke("q", **kwargs).content, second.invoke("q", **kwargs).content

    @pytest.mark.parametrize("wrap", [lambda f: f, RunnableLambda, lambda f: {"it": f}])
    def test_functions(self, named, wrap):
        cache = InMemoryCache()
        for_i, for_e = wrap(has("i")), wrap(has("e"))
        first = named(rewards=for_i, budget=8, cache=cache)
        second = named(rewards=for_e, budget=8, cache=cache)
        one, other = self.answers(first, second)
        assert "i" in one
        assert "e" in other
        assert first.invoke("q").content == one

    def test_rewards_differ_by_configuration(self, named):
        cache = InMemoryCache()
        first = named(rewards=Length(0, 1), budget=2, cache=cache)
        second = named(rewards=Length(5, 9), budget=2, cache=cache)
        assert first._get_llm_string() != second._get_llm_string()
        again = named(rewards=Length(0, 1), budget=2, cache=cache)
        assert first._get_llm_string() == again._get_llm_string()

    def test_a_calls_own_rewards(self, named):
        llm = named(budget=8, cache=InMemoryCache())
        assert "i" in llm.invoke("q", rewards=has("i")).content
        assert "e" in llm.invoke("q", rewards=has("e")).content

    @pytest.mark.parametrize("field", [{"budget": 3}, {"seed": 2}, {"temperature": 0.3}, {"dtype": "bfloat16"}])
    def test_settings_differ(self, field):
        base = {"rewards": Length(0, 1), "budget": 2, "seed": 1}
        assert AISPChatModel(**base)._get_llm_string() != AISPChatModel(**{**base, **field})._get_llm_string()

    def test_a_hit_draws_nothing(self, named, engine):
        llm = named(budget=1, cache=InMemoryCache())
        first = llm.invoke("q")
        drawn = engine.drawn
        assert llm.invoke("q").content == first.content
        assert engine.drawn == drawn


class Recorder(BaseCallbackHandler):
    def __init__(self) -> None:
        self.starts = 0
        self.tokens: list[str] = []

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        self.starts += 1

    def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
        self.tokens.append(str(token))


def judging_chain() -> Any:
    """A judge that is itself a chat model, and streams when it can."""
    judge = GenericFakeChatModel(messages=iter(AIMessage("JUDGE SAYS 7") for _ in range(999)))
    prompt = ChatPromptTemplate.from_template("Rate: {outputs}")
    return prompt | judge | StrOutputParser() | (lambda text: float(re.findall(r"\d", text)[0]))


def judging_function(outputs: AIMessage) -> float:
    """The same as a function, to which nobody hands a configuration."""
    judge = GenericFakeChatModel(messages=iter([AIMessage("JUDGE SAYS 7")]))
    return float(judge.invoke([HumanMessage(str(outputs.content))]).content[-1])


async def judging_coroutine(outputs: AIMessage) -> float:
    judge = GenericFakeChatModel(messages=iter([AIMessage("JUDGE SAYS 7")]))
    return float((await judge.ainvoke([HumanMessage(str(outputs.content))])).content[-1])


@pytest.mark.parametrize("judge", [judging_chain, lambda: judging_function, lambda: judging_coroutine])
class TestTrapBLeaks:
    """What a judge says must not reach the stream of the one whose answer it judges."""

    def test_callbacks(self, chat, judge):
        for streamed in (False, True):
            recorder = Recorder()
            llm = chat(rewards=judge(), budget=2)
            config = {"callbacks": [recorder]}
            text = "".join(c.content for c in llm.stream("q", config)) if streamed else llm.invoke("q", config).content
            assert recorder.starts == 1
            assert "JUDGE" not in "".join(recorder.tokens)
            assert "JUDGE" not in text

    def test_callbacks_of_a_chain(self, chat, judge):
        """A chain puts its callbacks into the context, which judges inherit."""
        recorder = Recorder()
        chain = ChatPromptTemplate.from_template("{q}") | chat(rewards=judge(), budget=2) | StrOutputParser()
        text = "".join(chain.stream({"q": "q"}, {"callbacks": [recorder]}))
        text += chain.invoke({"q": "q"}, {"callbacks": [recorder]})
        assert recorder.starts == 2
        assert "JUDGE" not in text + "".join(recorder.tokens)

    async def test_astream_events(self, chat, judge):
        llm = chat(rewards=judge(), budget=2)
        events = [event async for event in llm.astream_events("q", version="v2")]
        assert sum(event["event"] == "on_chat_model_start" for event in events) == 1
        assert not any("JUDGE" in str(event) for event in events)
        assert any(event["event"] == "on_chat_model_stream" for event in events)

    async def test_langgraph_messages(self, chat, judge):
        llm = chat(rewards=judge(), budget=2)
        graph = StateGraph(MessagesState)
        graph.add_node("ask", lambda state: {"messages": [llm.invoke(state["messages"])]})
        graph.add_edge(START, "ask")
        pieces = [m.content for m, _ in graph.compile().stream({"messages": [("user", "q")]}, stream_mode="messages")]
        assert "".join(pieces)
        assert not any("JUDGE" in piece for piece in pieces)


def test_trap_c_no_child_manager_is_needed(chat):
    """Managers of chat models have no `get_child`; a steered call under a handler must do without."""
    message = chat(rewards=judging_function, budget=2).invoke("q", {"callbacks": [Recorder()]})
    assert message.response_metadata["aisp"]["reward"] == 7.0


def test_trap_d_the_global_random_state_is_not_used(tiny):
    import torch

    llm = AISPChatModel(model=tiny, seed=3, max_tokens=8)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = llm.invoke("q").content
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert llm.invoke("q").content == first


def test_trap_e_the_total_does_not_count_what_was_thrown_away(chat):
    messages = [chat(rewards=lambda text: len(text), budget=budget).invoke("q") for budget in (1, 32)]
    totals = [message.usage_metadata["total_tokens"] for message in messages]
    assert totals[0] == totals[1]
    assert messages[1].usage_metadata["output_token_details"]["discarded"] > 0
    assert messages[1].response_metadata["aisp"]["cost"]["responses"] == 32


def test_every_reward_has_a_fingerprint():
    sources = [lambda text: 1.0, RunnableLambda(lambda x: 1.0), Length(0, 1)]
    rewards = [as_reward(source) for source in sources]
    assert all(isinstance(reward, Reward) and reward.fingerprint for reward in rewards)
    assert as_reward(sources[0]).fingerprint != rewards[0].fingerprint
