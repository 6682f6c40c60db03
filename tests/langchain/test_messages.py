"""Messages to the dicts that templates hold, and nothing lost on the way."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    convert_to_messages,
)

from aisp.errors import PromptError
from aisp.forms import make_form
from aisp.models import load
from aisp.testing import tiny_model, tiny_tokenizer
from aisp_langchain.messages import to_chunks, to_openai

blocks = st.lists(st.text(max_size=5).map(lambda text: {"type": "text", "text": text}), max_size=3)
spoken = st.one_of(
    *(st.builds(kind, st.one_of(st.text(max_size=8), blocks)) for kind in (SystemMessage, HumanMessage, AIMessage))
)


def text_of(message: BaseMessage) -> str:
    return message.content if isinstance(message.content, str) else "".join(b["text"] for b in message.content)


@given(st.lists(spoken, min_size=1, max_size=6))
def test_no_text_is_lost_and_roles_take_turns(messages):
    converted = to_openai(messages)
    roles = [message["role"] for message in converted]
    assert all(one != other for one, other in pairwise(roles))
    assert all(isinstance(message["content"], str) for message in converted)
    whole = "".join("".join(message["content"].split()) for message in converted)
    assert whole == "".join("".join(text_of(message).split()) for message in messages)


def test_what_an_agent_keeps():
    call = {"name": "look", "args": {"at": "tree", "deep": {"n": [1, None]}}, "id": "call_1"}
    converted = to_openai(
        [
            HumanMessage("Where?", name="ann"),
            AIMessage(
                [
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "name": "look", "input": {"at": "tree"}, "id": "call_1"},
                ],
                tool_calls=[call],
            ),
            ToolMessage("an oak", tool_call_id="call_1", status="error"),
        ]
    )
    assert [message["role"] for message in converted] == ["user", "assistant", "tool"]
    assert converted[0]["name"] == "ann"
    (told,) = converted[1]["tool_calls"]
    assert told["function"]["arguments"] == call["args"]
    assert converted[1]["content"] == "I look."
    assert converted[2]["tool_call_id"] == "call_1"


def test_two_results_stay_two():
    results = [ToolMessage(text, tool_call_id=text) for text in ("a", "b")]
    assert [message["content"] for message in to_openai(results)] == ["a", "b"]


@pytest.mark.parametrize("blocks", [False, True])
def test_calls_that_went_wrong_are_shown_as_they_were_written(blocks):
    written = '<tool_call>{"name": "look", "arg'
    wrong = {"type": "invalid_tool_call", "name": "look", "args": written, "id": "call_1", "error": "cut off"}
    content = [{"type": "text", "text": "I look."}, wrong] if blocks else "I look."
    converted = to_openai([AIMessage(content, invalid_tool_calls=[wrong]), ToolMessage("No.", tool_call_id="call_1")])
    assert [message["role"] for message in converted] == ["assistant", "tool"]
    assert converted[0]["content"] == "I look.\n" + written


def test_reasoning_of_earlier_turns_is_left_out():
    content = [{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": "An oak."}]
    assert to_openai([AIMessage(content)]) == [{"role": "assistant", "content": "An oak."}]


@pytest.mark.parametrize("kind", ["image_url", "image", "audio", "file", "input_audio", "video"])
def test_what_is_no_text_is_refused(kind):
    with pytest.raises(PromptError, match=kind):
        to_openai([HumanMessage([{"type": kind, kind: {}}])])


CALL = {"name": "f", "args": {"x": 1}, "id": "call_1", "type": "tool_call"}
ITEM = {"type": "function_call", "name": "f", "arguments": '{"x": 1}', "call_id": "call_1"}
OTHERS = {
    "function call": (AIMessage([ITEM], tool_calls=[CALL]), ""),
    "refusal": (AIMessage([{"type": "refusal", "refusal": "I can't."}]), "I can't."),
    "words that were spoken": (AIMessage("", additional_kwargs={"audio": {"id": "a", "transcript": "Yes."}}), "Yes."),
    "refusal beside the content": (AIMessage("", additional_kwargs={"refusal": "I can't."}), "I can't."),
    "hidden thoughts": (
        AIMessage([{"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": "Fine."}]),
        "Fine.",
    ),
    "search": (
        AIMessage([{"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "oaks"}}]),
        "[web_search oaks]",
    ),
    "found": (
        AIMessage([{"type": "server_tool_result", "tool_call_id": "s", "output": [{"title": "Oaks of Europe"}]}]),
        "[Oaks of Europe]",
    ),
    "non-standard": (AIMessage([{"type": "non_standard", "value": {}}, {"type": "text", "text": "Ok."}]), "Ok."),
}


@pytest.mark.parametrize("kind", list(OTHERS))
def test_what_other_providers_keep_of_a_turn_is_gone_on_with(kind):
    message, text = OTHERS[kind]
    (converted,) = to_openai([message])
    assert converted["content"] == text
    assert bool(converted.get("tool_calls")) == bool(message.tool_calls)


@pytest.mark.parametrize(
    "message",
    [
        AIMessage([ITEM]),
        AIMessage("", additional_kwargs={"function_call": {"name": "f", "arguments": '{"x": 1}'}}),
        AIMessage([{"type": "tool_use", "name": "f", "input": {"x": 1}, "id": "call_1"}]),
    ],
)
def test_calls_are_read_wherever_they_are_kept(message):
    (converted,) = to_openai([message])
    assert converted["tool_calls"][0]["function"] == {"name": "f", "arguments": {"x": 1}}


def test_results_in_a_users_message_are_a_tools():
    """Anthropic keeps them there, and they were refused."""
    call = AIMessage("", tool_calls=[CALL])
    block = {"type": "tool_result", "tool_use_id": "call_1", "content": [{"type": "text", "text": "an oak"}]}
    _, result, user = to_openai([call, HumanMessage([block, {"type": "text", "text": "And?"}])])
    assert (result["role"], result["tool_call_id"], result["content"]) == ("tool", "call_1", "an oak")
    assert (user["role"], user["content"]) == ("user", "And?")


KNOWS_THREE = (
    "{% for m in messages if m.role in ['system', 'user', 'assistant'] %}<|im_start|>{{ m.role }}\n"
    "{{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("template", [KNOWS_THREE, None])
@pytest.mark.parametrize(
    ("message", "told"),
    [
        (convert_to_messages([{"role": "developer", "content": "IN FRENCH"}])[0], "system\nIN FRENCH"),
        (ChatMessage(role="critic", content="IN FRENCH"), "critic: IN FRENCH"),
        (FunctionMessage(name="f", content="IN FRENCH"), "IN FRENCH"),
    ],
)
def test_whoever_speaks_is_in_the_prompt(template, message, told):
    """A developer's rule was missing from the prompts of templates that know no developer."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template or tokenizer.chat_template
    loaded = load(tiny_model(), tokenizer=tokenizer)
    text = loaded.tokenizer.decode(make_form().encode(loaded, to_openai([HumanMessage("hi"), message]), {}))
    assert told in text
    assert "hi" in text


def test_two_who_speak_by_other_roles_stay_two():
    converted = to_openai([ChatMessage(role="a", content="One."), ChatMessage(role="b", content="Two.")])
    assert [(message["role"], message["content"]) for message in converted] == [("a", "One."), ("b", "Two.")]


@given(st.text())
def test_chunks_add_up(text):
    chunks = [chunk.message for chunk in to_chunks(AIMessage(text))]
    assert "".join(str(chunk.content) for chunk in chunks) == text
    assert isinstance(chunks[-1], AIMessageChunk)
    assert [chunk.chunk_position for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].chunk_position == "last"


def test_reasoning_becomes_a_block(chat, engine):
    engine.texts = ["<think>hm</think>An oak."]
    llm = chat()
    chunks = list(llm.stream("q"))
    for message in (llm.invoke("q"), sum(chunks[1:], chunks[0])):
        assert message.content == "An oak."
        assert [block["type"] for block in message.content_blocks] == ["reasoning", "text"]
        assert message.content_blocks[0]["reasoning"] == "hm"
