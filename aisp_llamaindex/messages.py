"""Messages and tools, from LlamaIndex's to the OpenAI-style ones that `aisp` holds, and answers back."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    ChatResponse,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.tools import BaseTool

from aisp import forms
from aisp.errors import ConfigurationError, PromptError
from aisp.forms.schemas import inlined, read_schema
from aisp.forms.templates import merged
from aisp.search.trace import Alignment

_PIECE = re.compile(r"\s*\S+|\s+")
_ROLES = {
    MessageRole.SYSTEM: "system",
    MessageRole.DEVELOPER: "system",
    MessageRole.USER: "user",
    MessageRole.ASSISTANT: "assistant",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
    MessageRole.TOOL: "tool",
    MessageRole.FUNCTION: "tool",
}


def to_openai(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """Return OpenAI-style messages with plain text as content; runs of the user's or the assistant's are merged.

    Raises:
        PromptError: An image, audio or file, which a text model can't read.
    """
    return merged([_converted(message) for message in messages])


def to_openai_tools(tools: Sequence[BaseTool | Mapping[str, Any]]) -> tuple[forms.Tool, ...]:
    """Return OpenAI-style definitions of LlamaIndex's tools; what is one already stays.

    Raises:
        ConfigurationError: What is no tool, or two of one name.
    """
    return forms.read_tools([_definition(tool) for tool in tools])


def to_response(alignment: Alignment, *, model_name: str) -> ChatResponse:
    """Return the best response, with what it cost and how it was found in `raw`.

    A call that went wrong is no block, since agents would make it; it is in `additional_kwargs` of the message.
    """
    candidate, rollout = alignment.best.candidate, alignment.best.rollout
    prompt, answer = alignment.cost.prompt_tokens, len(rollout.tokens)
    usage = {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}
    blocks: list[Any] = [ThinkingBlock(content=candidate.reasoning)] if candidate.reasoning else []
    blocks.append(TextBlock(text=candidate.text))
    blocks += [
        ToolCallBlock(tool_call_id=call["id"], tool_name=call["name"], tool_kwargs=dict(call["args"]))
        for call in candidate.tool_calls
    ]
    invalid = {"invalid_tool_calls": list(candidate.invalid_tool_calls)} if candidate.invalid_tool_calls else {}
    return ChatResponse(
        message=ChatMessage(role=MessageRole.ASSISTANT, blocks=blocks, additional_kwargs=invalid),
        raw={
            "model": model_name,
            "finish_reason": "tool_calls" if candidate.tool_calls else rollout.finish_reason,
            "usage": usage,
            "aisp": alignment.summary(),
        },
        additional_kwargs=usage,
    )


def to_pieces(response: ChatResponse, shown: str = "") -> Iterator[ChatResponse]:
    """Cut an answer into pieces of a word each, with all text so far in each; the last one is the whole.

    Args:
        response: The answer.
        shown: The beginning of its text, which was streamed before.
    """
    text = shown
    for piece in _PIECE.findall((response.message.content or "")[len(shown) :]):
        text += piece
        yield ChatResponse(message=ChatMessage(role=MessageRole.ASSISTANT, content=text), delta=piece)
    yield response.model_copy(update={"delta": ""})


def calls_of(message: ChatMessage) -> list[ToolCallBlock]:
    """Return the tool calls of a message."""
    return [block for block in message.blocks if isinstance(block, ToolCallBlock)]


def _converted(message: ChatMessage) -> dict[str, Any]:
    """Return a message as a mapping. What another provider's model said in blocks of its own is passed over."""
    said = message.role in (MessageRole.ASSISTANT, MessageRole.CHATBOT, MessageRole.MODEL)
    for block in () if said else message.blocks:
        if not isinstance(block, (TextBlock, ThinkingBlock, ToolCallBlock, CachePoint)):
            raise PromptError(
                f"a {message.role.value} message holds a block of type {block.block_type!r}, and this model reads "
                "text; leave it out, or describe it in words"
            )
    content = "\n".join(filter(None, [message.content or "", _refusal(message), _spoken(message)]))
    plain: dict[str, Any] = {"role": _ROLES.get(message.role, message.role.value), "content": content}
    calls = [_call(block) for block in calls_of(message)] or _older_calls(message)
    if calls:
        plain["tool_calls"] = calls
    plain |= {
        key: message.additional_kwargs[key] for key in ("tool_call_id", "name") if key in message.additional_kwargs
    }
    return plain


def _call(block: ToolCallBlock) -> dict[str, Any]:
    return {
        "id": block.tool_call_id,
        "type": "function",
        "function": {"name": block.tool_name, "arguments": mapping_of(block.tool_kwargs)},
    }


def _refusal(message: ChatMessage) -> str:
    refusal = message.additional_kwargs.get("refusal")
    return refusal if isinstance(refusal, str) and refusal not in (message.content or "") else ""


def _spoken(message: ChatMessage) -> str:
    audio = message.additional_kwargs.get("audio")
    words = audio.get("transcript") if isinstance(audio, Mapping) else None
    return words if isinstance(words, str) and words not in (message.content or "") else ""


def _older_calls(message: ChatMessage) -> list[dict[str, Any]]:
    """Return calls as LLMs of OpenAI's kind kept them before there were blocks."""
    calls = []
    older = message.additional_kwargs.get("function_call")
    if isinstance(older, Mapping) and not message.additional_kwargs.get("tool_calls"):
        function = {**older, "arguments": mapping_of(older.get("arguments") or {})}
        return [{"id": "call_0", "type": "function", "function": function}]
    for given in message.additional_kwargs.get("tool_calls") or ():
        call = given if isinstance(given, Mapping) else given.model_dump()
        function = {**call["function"], "arguments": mapping_of(call["function"]["arguments"])}
        calls.append({"id": call.get("id"), "type": "function", "function": function})
    return calls


def mapping_of(arguments: Any) -> Any:
    """Return the arguments of a call, which may be JSON text, as a mapping."""
    if isinstance(arguments, str):
        with contextlib.suppress(ValueError):  # what a model once wrote wrong is shown as it was
            return json.loads(arguments)
    return arguments


def _definition(tool: BaseTool | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(tool, Mapping):
        return tool
    if not isinstance(tool, BaseTool):
        raise ConfigurationError(
            f"{tool!r} can't be made a tool; expected a tool of LlamaIndex, as FunctionTool.from_defaults(function)"
        )
    definition = dict(tool.metadata.to_openai_tool(skip_length_check=True))
    if tool.metadata.fn_schema is not None:
        # Core's drops the root of a class that leads into itself.
        schema = inlined(read_schema(tool.metadata.fn_schema).schema)
        parameters = {key: value for key, value in schema.items() if key not in ("title", "description")}
        definition["function"] = {**definition["function"], "parameters": parameters}
    return definition
