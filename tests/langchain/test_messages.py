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
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from aisp.errors import PromptError
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
