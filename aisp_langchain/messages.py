"""Messages, from LangChain's to the OpenAI-style ones that `aisp` and chat templates hold, and back."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    InvalidToolCall,
    ToolCall,
    ToolCallChunk,
    ToolMessage,
    convert_to_openai_messages,
    merge_message_runs,
)
from langchain_core.messages.ai import OutputTokenDetails, UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk

from aisp.errors import PromptError
from aisp.search.trace import Alignment

_PIECE = re.compile(r"\s*\S+|\s+")
_REASONING = {"reasoning", "thinking", "redacted_thinking", "reasoning_content"}
_CALLS = {"tool_use", "tool_call", "invalid_tool_call", "function_call"}
_PLAIN = {"text", "input_text", "output_text", "text-plain"}
_SILENT = {  # of blocks of other providers: what is no word of the conversation
    *("type", "id", "index", "status", "signature", "encrypted_content", "data", "base64", "image_url", "file_id"),
    *("tool_use_id", "call_id", "tool_call_id", "extras", "annotations", "citations", "container_id", "mime_type"),
}


def to_openai(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Return OpenAI-style messages with plain text as content, as chat templates want them.

    Runs of one role are merged, since many templates refuse them; arguments of tool calls become mappings. What a model
    of another provider once said is kept as far as it is words: refusals, and the tools that the provider ran.

    Raises:
        PromptError: An image, audio or file from anybody but a model, which a text model can't read.
    """
    messages = [part for message in messages for part in _without_results(message)]
    for message in messages:
        _check_blocks(message)
    flat: list[BaseMessage] = []
    # Core merges whoever speaks by `ChatMessage`, whatever their roles.
    for other, run in groupby(map(_flat, messages), key=lambda one: isinstance(one, (ChatMessage, FunctionMessage))):
        listed = list(run)
        flat += listed if other else merge_message_runs(listed, chunk_separator="\n\n")
    converted = convert_to_openai_messages(flat, text_format="string")
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


def _without_results(message: BaseMessage) -> Iterator[BaseMessage]:
    """Yield a user's message with Anthropic's blocks of tool results taken out, before it as messages of tools."""
    blocks = message.content
    if not isinstance(message, HumanMessage) or not isinstance(blocks, list):
        yield message
        return
    rest = []
    for block in blocks:
        if isinstance(block, Mapping) and block.get("type") == "tool_result":
            found = block.get("content") or ""
            yield ToolMessage(content=found, tool_call_id=str(block.get("tool_use_id") or ""))
        else:
            rest.append(block)
    if rest or not blocks:
        yield message.model_copy(update={"content": rest})


def _check_blocks(message: BaseMessage) -> None:
    if isinstance(message, AIMessage):
        return
    for block in message.content if isinstance(message.content, list) else ():
        kind = block.get("type", "text") if isinstance(block, Mapping) else "text"
        if kind not in _PLAIN:
            raise PromptError(
                f"a {message.type} message holds a block of type {kind!r}, and this model reads text; leave it out, or "
                "describe it in words"
            )


def _flat(message: BaseMessage) -> BaseMessage:
    """Make text of content in blocks, without what a model thought in an earlier turn: templates have no place for it.

    Calls that went wrong are text again, as the model wrote them, so that it can see what it is told of. All this comes
    before runs are merged: core loses text where it merges an empty list with a string.
    """
    if not isinstance(message, AIMessage):
        content = [message.content] if isinstance(message.content, str) else message.content
        return message.model_copy(update={"content": "".join(_words(block) for block in content)})
    wrong = [str(call["args"] or "") for call in message.invalid_tool_calls]
    blocks = [message.content] if isinstance(message.content, str) else message.content
    known = {(call["name"], call["id"]) for call in (*message.tool_calls, *message.invalid_tool_calls)}
    calls = [*message.tool_calls, *(call for call in _other_calls(message) if (call["name"], call["id"]) not in known)]
    if not message.tool_calls and message.invalid_tool_calls:
        calls = []  # the blocks say what the invalid calls say
    text = "".join(_words(block) for block in blocks)
    audio = message.additional_kwargs.get("audio")
    kept = [message.additional_kwargs.get("refusal"), audio.get("transcript") if isinstance(audio, Mapping) else None]
    said = [words for words in kept if isinstance(words, str) and words not in text]
    content_text = "\n".join(filter(None, [text, *said, *wrong]))
    return message.model_copy(update={"content": content_text, "tool_calls": calls})


def _other_calls(message: AIMessage) -> Iterator[ToolCall]:
    """Yield calls that are in a message's blocks, or where providers kept one before there were several."""
    for block in message.content if isinstance(message.content, list) else ():
        if isinstance(block, Mapping) and block.get("type") in _CALLS and block.get("name"):
            given: Any = next((block[key] for key in ("args", "input", "arguments") if key in block), {})
            identity = block.get("call_id") or block.get("id")
            yield ToolCall(name=str(block["name"]), args=_mapping(given), id=identity, type="tool_call")
    called = message.additional_kwargs.get("function_call")
    if isinstance(called, Mapping) and called.get("name") and not message.tool_calls:
        yield ToolCall(name=str(called["name"]), args=_mapping(called.get("arguments")), id="call_0", type="tool_call")


def _mapping(arguments: Any) -> dict[str, Any]:
    if isinstance(arguments, str):
        with contextlib.suppress(ValueError):
            arguments = json.loads(arguments) if arguments.strip() else {}
    if arguments is None:
        return {}
    return dict(arguments) if isinstance(arguments, Mapping) else {"arguments": arguments}


def _words(block: Any) -> str:
    """Return what a block says: its text, a refusal, or what a tool of the provider was asked and found."""
    if not isinstance(block, Mapping):
        return str(block)
    kind = str(block.get("type", "text"))
    if kind in _REASONING or kind in _CALLS:
        return ""
    if kind in _PLAIN:
        return str(block.get("text") or "")
    if kind == "refusal":
        return str(block.get("refusal") or "")
    found = " ".join(_leaves(block))
    return f"[{found}]" if found else ""


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if key not in _SILENT:
                yield from _leaves(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _leaves(inner)


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
