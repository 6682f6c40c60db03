"""What a model wrote, taken apart: its reasoning, its text, its tool calls, and those that went wrong.

Models write calls within `<tool_call>` tags, in fenced blocks, or as bare JSON; one at a time or in a list; with
`arguments` or `parameters`. All of these are read. What begins as a call and is none becomes an invalid call, so that
an agent can tell the model; it is never an exception, and never text for the user.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_UNREADABLE = re.compile(r"(.*?)(?:</tool_call>|(?=<tool_call>)|\Z)", re.DOTALL)
_READABLE = re.compile(r"\s*(?:</tool_call>|(?=<tool_call>)|\Z)")
_FENCED = re.compile(r"```(?:json|tool_call|tool_code)?\s*\n(.*?)(?:```|\Z)", re.DOTALL)
_BEGUN = re.compile(r'\s*\[?\s*\{\s*"(?:name|type|function|arguments|parameters|args)"\s*:')
_HAS_ARGUMENTS = re.compile(r'"(?:arguments|parameters|args)"\s*:')
_NAME = re.compile(r'"name"\s*:\s*"([^"]*)"')
_ARGUMENTS = ("arguments", "parameters", "args")
_SEPARATORS = " \t\r\n;,"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """An answer in its parts.

    Args:
        text: What is for the user.
        calls: `{"name", "args", "id"}` each.
        invalid: `{"name", "args", "id", "error"}` each, the arguments as they were written.
    """

    text: str
    calls: tuple[dict[str, Any], ...] = ()
    invalid: tuple[dict[str, Any], ...] = ()


def split_reasoning(text: str, *, opened: bool = False, calls: bool = False) -> tuple[str | None, str]:
    """Return a model's reasoning, where it wrote any, and what follows it.

    Args:
        text: The response. `</think>` in one that neither begins with `<think>` nor within reasoning is text.
        opened: Whether the prompt ends within the model's reasoning, as templates that write `<think>` let it.
        calls: Whether tools may be called: a call ends the reasoning, and what its arguments spell is theirs.
    """
    if not opened and not text.lstrip().startswith("<think>"):
        return None, text
    head, _, tail = text.partition("</think>")
    called = head.find(_OPEN) if calls else -1
    if called >= 0:
        head, tail = head[:called], text[called:]
    reasoning = head.lstrip().removeprefix("<think>").strip()
    return reasoning or None, tail.lstrip()


def parse_calls(
    text: str, names: Collection[str], *, tagged: bool = True, forced: bool = False, answer: bool = False
) -> Parsed:
    """Take the calls out of an answer.

    Args:
        text: The answer without its reasoning.
        names: Of the tools. JSON outside tags is a call only if it names one of them; within tags any name is one.
        tagged: Whether the model writes its calls within `<tool_call>` tags. Where it doesn't, a tag round anything but
            a call is text.
        forced: Whether the text can be nothing but calls, so that what can't be read as one is an invalid call.
        answer: Whether what is no call is JSON of a schema, in which a tag is a part of a string.
    """
    if answer and not text.lstrip().startswith(_OPEN):
        return _collect("", [text]) if _looks_like_a_call(text, names) else Parsed(text=text)
    if _OPEN in text:
        rest, blocks = _tagged(text)
        parsed = _collect(rest, blocks, marked=_OPEN)
        if tagged or parsed.calls:
            return parsed
    fenced = [block for block in _FENCED.findall(text) if _looks_like_a_call(block, names)]
    if fenced:
        rest = _FENCED.sub(lambda match: "" if match[1] in fenced else match[0], text)
        return _collect(rest, fenced)
    if forced or _looks_like_a_call(text, names):
        return _collect("", [text])
    return Parsed(text=text)


def _tagged(text: str) -> tuple[str, list[str]]:
    """Return what is outside tags, and what is within each; JSON is read as JSON, since it may spell tags."""
    rest, blocks = "", []
    while _OPEN in text:
        before, _, text = text.partition(_OPEN)
        rest += before
        start = len(text) - len(text.lstrip())
        try:
            _, end = json.JSONDecoder(strict=False).raw_decode(text, start)
        except (ValueError, RecursionError):
            end = -1
        closed = _READABLE.match(text, end) if end >= 0 else None
        found = closed or _UNREADABLE.match(text)
        blocks.append(text[:end] if closed else found[1] if found else text)
        text = text[found.end() :] if found else ""
    return rest + text, blocks


def read_json(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: It isn't one, it isn't complete, or it is nested too deeply to be read.
    """
    try:
        return json.loads(text, strict=False)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply to be read") from None


def _collect(rest: str, blocks: list[str], marked: str = "") -> Parsed:
    calls: list[dict[str, Any]] = []
    invalid: list[dict[str, Any]] = []
    for block in blocks:
        try:
            for value in _values(block):
                name, arguments = _call(value)
                calls.append({"name": name, "args": arguments, "id": new_id()})
        except (ValueError, RecursionError) as error:  # what was read before it stays
            named = _NAME.search(block)
            written = marked + block
            invalid.append({"name": named and named[1], "args": written, "id": new_id(), "error": str(error)})
    return Parsed(text=rest.strip(), calls=tuple(calls), invalid=tuple(invalid))


def _values(block: str) -> Iterator[Any]:
    """Yield the JSON values of a block, of a list its parts."""
    decoder, at = json.JSONDecoder(strict=False), 0
    block = block.strip(_SEPARATORS)
    while at < len(block):
        value, at = decoder.raw_decode(block, at)
        yield from value if isinstance(value, list) else [value]
        while at < len(block) and block[at] in _SEPARATORS:
            at += 1


def _call(value: Any) -> tuple[str, dict[str, Any]]:
    """Return the name and the arguments of a call.

    Raises:
        ValueError: It is none.
    """
    if isinstance(value, Mapping) and isinstance(value.get("function"), Mapping):
        value = value["function"]
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str) or not value["name"]:
        raise ValueError('a tool call has no name; expected {"name": ..., "arguments": {...}}')
    arguments: Any = next((value[key] for key in _ARGUMENTS if key in value), {})
    if isinstance(arguments, str):
        arguments = read_json(arguments) if arguments.strip() else {}
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise ValueError(f"the arguments of {value['name']} are {type(arguments).__name__}; expected a JSON object")
    return value["name"], arguments


def _looks_like_a_call(text: str, names: Collection[str]) -> bool:
    if not _BEGUN.match(text) or not _HAS_ARGUMENTS.search(text):
        return False
    found = _NAME.search(text)
    return found is not None and found[1] in names


def new_id() -> str:
    """Return an id that no other call has."""
    return f"call_{uuid.uuid4().hex[:24]}"
