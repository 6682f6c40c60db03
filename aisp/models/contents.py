"""What messages hold: text, in whatever shape it is given, and whether a prompt holds it too."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from aisp.errors import PromptError

_DEEPEST = 100
_TEXTS = ("text", "input_text", "output_text")
_MARK = "Zq7message{}q"
_BROKEN = "\u200b"


def as_text(message: Mapping[str, Any]) -> str:
    """Return a message's content as text: a string, or blocks of text one behind the other.

    A tool's result may be any JSON value, which is written out.

    Raises:
        PromptError: A block that isn't text, or content that isn't JSON.
    """
    content, role = message.get("content"), message.get("role")
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, (list, tuple)) and all(_is_block(block) for block in content):
        return "".join(_text_of(block, role) for block in content)
    if role in ("tool", "function") and not isinstance(content, (bytes, bytearray)):
        return json.dumps(plain(content), ensure_ascii=False)
    raise PromptError(
        f"a {role} message holds {type(content).__name__} as content; expected text, or blocks as "
        "{'type': 'text', 'text': ...}"
    )


def as_blocks(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return messages whose content, which is text, is a block of it."""
    return [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]


def plain(value: Any, depth: int = 0) -> Any:
    """Return a JSON value in Python's own types: what a template would write of anything else, nothing sanitises.

    Raises:
        PromptError: Something that isn't JSON, or nested more than 100 deep.
    """
    if depth > _DEEPEST:
        raise PromptError(f"a message or tool is nested more than {_DEEPEST} deep; flatten it")
    if isinstance(value, str):
        return str.__str__(value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner, depth + 1) for inner in value]
    raise PromptError(
        f"a message or tool holds {type(value).__name__} ({str(value)[:40]!r}); expected text, numbers, lists and "
        "mappings"
    )


def strings(value: Any) -> Iterator[str]:
    """Yield every string of a JSON value, keys among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key)
            yield from strings(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from strings(inner)


def neutral(value: Any, control: Sequence[str]) -> Any:
    """Return a JSON value in which no string spells a control token any more; keys never do."""
    if isinstance(value, str):
        for token in control:
            value = value.replace(token, _BROKEN.join(token))
        return value
    if isinstance(value, Mapping):
        return {key: neutral(inner, control) for key, inner in value.items()}
    return [neutral(inner, control) for inner in value] if isinstance(value, (list, tuple)) else value


def find_lost(render: Callable[[list[dict[str, Any]]], str], messages: Sequence[Mapping[str, Any]]) -> str | None:
    """Return what of the messages a prompt doesn't hold, in words; None where it holds all.

    A message is there if a mark in its place is, and its text is. What a template may change of a text is the white
    space at its ends, how JSON spells it, and the reasoning at the beginning of what an assistant said.

    Args:
        render: Makes a prompt's text of messages; any error of it is as if it held the text.
        messages: With text, or a block of it, as content.
    """
    prompt = render([dict(message) for message in messages])
    if any(isinstance(message["content"], list) for message in messages) and "'type': 'text'" in prompt:
        return "the shape of its messages, whose blocks it writes as Python does"
    marked = [
        {
            **message,
            "content": _with_text(message["content"], _MARK.format(index)) if text_of(message) else message["content"],
        }
        for index, message in enumerate(messages)
    ]
    try:
        marks = render(marked)
    except Exception:  # noqa: BLE001 - a template may look into texts; the texts themselves are looked for too
        marks = None
    for index, message in enumerate(messages):
        text = text_of(message)
        if text and (
            (marks is not None and _MARK.format(index) not in marks) or not _holds(prompt, _said(message, text))
        ):
            return f"message {index} (role {message.get('role')}: {text.strip()[:40]!r})"
        for part in _called(message):
            if not _holds(prompt, part):
                return f"{part[:40]!r} of a call in message {index} (role {message.get('role')})"
    return None


def text_of(message: Mapping[str, Any]) -> str:
    """Return the text of a message whose content is a string or one block; "" where it is white space."""
    content = message["content"]
    text = content if isinstance(content, str) else "".join(block["text"] for block in content)
    return text if text.strip() else ""


def _said(message: Mapping[str, Any], text: str) -> str:
    if message.get("role") == "assistant" and "</think>" in text:
        return text.rpartition("</think>")[2]
    return text


def _called(message: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of a message's calls, and the strings of their arguments, of those that aren't JSON text."""
    calls = [call.get("function") or call for call in message.get("tool_calls") or () if isinstance(call, Mapping)]
    if isinstance(message.get("function_call"), Mapping):
        calls.append(message["function_call"])
    for call in calls:
        if isinstance(call.get("name"), str):
            yield call["name"]
        arguments = call.get("arguments")
        if isinstance(arguments, Mapping):
            yield from (text for text in strings(arguments) if text.strip())
    if isinstance(message.get("refusal"), str):
        yield message["refusal"]


def _holds(prompt: str, text: str) -> bool:
    text = text.strip()
    spelt = json.dumps(text, ensure_ascii=False)[1:-1]
    return text in prompt or spelt in prompt or json.dumps(text)[1:-1] in prompt or json.dumps(spelt)[1:-1] in prompt


def _with_text(content: Any, text: str) -> Any:
    return text if isinstance(content, str) else [{"type": "text", "text": text}]


def _is_block(block: Any) -> bool:
    return isinstance(block, str) or (isinstance(block, Mapping) and ("type" in block or "text" in block))


def _text_of(block: Any, role: Any) -> str:
    if isinstance(block, str):
        return block
    kind, text = block.get("type", "text"), block.get("text")
    if kind not in _TEXTS or not isinstance(text, str):
        raise PromptError(
            f"a {role} message holds a block of type {kind!r}, and this model reads text; leave it out, or describe it "
            "in words"
        )
    return text
