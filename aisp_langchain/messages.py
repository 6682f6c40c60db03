"""Messages, from LangChain's to the OpenAI-style ones that `aisp` and chat templates hold, and back."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    InvalidToolCall,
    ToolCall,
    ToolCallChunk,
    convert_to_openai_messages,
    merge_message_runs,
)
from langchain_core.messages.ai import OutputTokenDetails, UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk

from aisp.errors import PromptError
from aisp.search.trace import Alignment

_PIECE = re.compile(r"\s*\S+|\s+")
_REASONING = {"reasoning", "thinking"}
_CALLS = {"tool_use", "tool_call", "invalid_tool_call"}
_TEXT_BLOCKS = {"text", "input_text", "output_text"} | _REASONING | _CALLS


def to_openai(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Return OpenAI-style messages with plain text as content, as chat templates want them.

    Runs of one role are merged, since many templates refuse them; arguments of tool calls become mappings.

    Raises:
        PromptError: An image, audio or file, which a text model can't read.
    """
    for message in messages:
        _check_blocks(message)
    merged = merge_message_runs([_flat(message) for message in messages], chunk_separator="\n\n")
    converted = convert_to_openai_messages(merged, text_format="string")
    return [_plain(message) for message in converted]


def to_ai_message(alignment: Alignment, *, model_name: str) -> AIMessage:
    """Return the best response as a message, with what it cost and how it was found.

    The usage counts what was asked for, prompt and answer, since agents cut their history by it; what the search drew
    and did not return is a detail of it.
    """
    candidate, rollout = alignment.best.candidate, alignment.best.rollout
    prompt, answer = alignment.cost.prompt_tokens, len(rollout.tokens)
    drawn = sum(
        len(response.rollout.tokens) - round_.start for round_ in alignment.rounds for response in round_.responses
    )
    details = OutputTokenDetails(discarded=drawn - answer)  # type: ignore[typeddict-unknown-key] # further keys may be added
    calls = [ToolCall(name=c["name"], args=c["args"], id=c["id"], type="tool_call") for c in candidate.tool_calls]
    invalid = [
        InvalidToolCall(name=c["name"], args=c["args"], id=c["id"], error=c["error"], type="invalid_tool_call")
        for c in candidate.invalid_tool_calls
    ]
    return AIMessage(
        content=candidate.text,
        tool_calls=calls,
        invalid_tool_calls=invalid,
        # Where core looks for it when it makes content blocks.
        additional_kwargs={"reasoning_content": candidate.reasoning} if candidate.reasoning else {},
        usage_metadata=UsageMetadata(
            input_tokens=prompt, output_tokens=answer, total_tokens=prompt + answer, output_token_details=details
        ),
        response_metadata={
            "model_name": model_name,
            "model_provider": "aisp",
            "finish_reason": "tool_calls" if calls else rollout.finish_reason,
            "aisp": alignment.summary(),
        },
    )


def to_chunks(message: AIMessage, shown: int = 0) -> Iterator[ChatGenerationChunk]:
    """Cut an answer into pieces of a word each; the last chunk, an empty one, carries what is known of the whole.

    Args:
        message: The answer.
        shown: Leading characters of its text that were streamed before.
    """
    if message.additional_kwargs:
        yield ChatGenerationChunk(message=AIMessageChunk(content="", additional_kwargs=message.additional_kwargs))
    for piece in _PIECE.findall(str(message.content)[shown:]):
        yield ChatGenerationChunk(message=AIMessageChunk(content=piece))
    calls: list[ToolCall | InvalidToolCall] = [*message.tool_calls, *message.invalid_tool_calls]
    for index, call in enumerate(calls):
        for part in _call_chunks(call, index):
            yield ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=[part]))
    yield ChatGenerationChunk(
        message=AIMessageChunk(
            content="",
            usage_metadata=message.usage_metadata,
            response_metadata=message.response_metadata,
            chunk_position="last",
        )
    )


def _call_chunks(call: ToolCall | InvalidToolCall, index: int) -> Iterator[ToolCallChunk]:
    """Yield a call's name and id, then its arguments in pieces."""
    args = call["args"] if isinstance(call["args"], str) else json.dumps(call["args"], ensure_ascii=False)
    yield tool_call_chunk(name=call["name"], args="", id=call["id"], index=index)
    for piece in _PIECE.findall(args or ""):
        yield tool_call_chunk(name=None, args=piece, id=None, index=index)


def _check_blocks(message: BaseMessage) -> None:
    for block in message.content if isinstance(message.content, list) else ():
        kind = block.get("type", "text") if isinstance(block, Mapping) else "text"
        if kind not in _TEXT_BLOCKS:
            raise PromptError(
                f"a {message.type} message holds a block of type {kind!r}, and this model reads text; leave it out, or "
                "describe it in words"
            )


def _flat(message: BaseMessage) -> BaseMessage:
    """Make text of content in blocks, without what a model thought in an earlier turn: templates have no place for it.

    Calls that went wrong are text again, as the model wrote them, so that it can see what it is told of. All this comes
    before runs are merged: core loses text where it merges an empty list with a string.
    """
    wrong = [str(call["args"] or "") for call in getattr(message, "invalid_tool_calls", ())]
    content = [message.content] if isinstance(message.content, str) else message.content
    kept = [b for b in content if not (isinstance(b, Mapping) and b.get("type") in _REASONING)]
    if wrong or getattr(message, "tool_calls", None):  # they say what these blocks say
        kept = [b for b in kept if not (isinstance(b, Mapping) and b.get("type") in _CALLS)]
    if any(isinstance(block, Mapping) and block.get("type") in _CALLS for block in kept):
        return message.model_copy(update={"content": kept})
    text = "".join(str(block.get("text") or "") if isinstance(block, Mapping) else str(block) for block in kept)
    return message.model_copy(update={"content": "\n".join(filter(None, [text, *wrong]))})


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    plain = {**message, "content": message.get("content") or ""}
    if plain.get("tool_calls"):
        plain["tool_calls"] = [_with_mapping(call) for call in plain["tool_calls"]]
    return plain


def _with_mapping(call: Mapping[str, Any]) -> dict[str, Any]:
    function = dict(call["function"])
    with contextlib.suppress(TypeError, ValueError):  # what a model once wrote wrong is shown as it was
        function["arguments"] = json.loads(function["arguments"])
    return {**call, "function": function}
