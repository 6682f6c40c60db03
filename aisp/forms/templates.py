"""What a chat template can hold, found out by trying, and prompts for those that can't hold everything.

A template that has no place for tools drops them without a word; one that drops past calls makes an agent call for
ever. So a template is given a marked tool, a marked call and a marked result. Where all three come out, and the call is
JSON, the template's own way is used. Where not, tools go into the system message, calls and results into the text, in
the format of `aisp.forms.tools.TAGGED`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aisp.errors import PromptError
from aisp.forms.tools import TAGGED, CallFormat, Tool, name_of, parameters_of
from aisp.models.contents import as_text

Messages = list[dict[str, Any]]

_TOOL = {
    "type": "function",
    "function": {
        "name": "zq7_listed",
        "description": "Zq7.",
        "parameters": {"type": "object", "properties": {"zq7_key": {"type": "string"}}, "required": ["zq7_key"]},
    },
}
_TAIL = 8  # prompt tokens that a `<think>` and what follows it take
_SPOKEN = ("system", "user", "assistant", "tool")
_SAME = {
    "developer": "system",
    "function": "tool",
    "human": "user",
    "ai": "assistant",
    "model": "assistant",
    "chatbot": "assistant",
    "bot": "assistant",
}
_CALLED, _RESULT = "zq7_called", "Zq7 result"
_ASKED: Messages = [{"role": "user", "content": "Zq7 question"}]
_INSTRUCTIONS = """\
# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What was found out of a template.

    Args:
        calls: How it writes calls; None where it has no place for tools, calls or results.
        arguments_as_text: Whether it wants the arguments of past calls as JSON text rather than a mapping.
    """

    calls: CallFormat | None
    arguments_as_text: bool = False

    @property
    def style(self) -> CallFormat:
        """How calls are written to and by the model."""
        return self.calls or TAGGED


_lock = threading.Lock()
_traits: weakref.WeakKeyDictionary[Any, Traits] = weakref.WeakKeyDictionary()


def traits_of(loaded: Any) -> Traits:
    """Return what a model's chat template can hold; found out once."""
    with _lock:
        if loaded not in _traits:
            _traits[loaded] = _probe(loaded.tokenizer)
        return _traits[loaded]


def encode(loaded: Any, messages: Messages, tools: Sequence[Tool], options: Mapping[str, Any]) -> list[int]:
    """Return the prompt's tokens.

    A template that refuses messages is given them in other words: system messages first, then within the first of the
    user's.

    Args:
        loaded: A loaded model.
        messages: OpenAI-style, the arguments of calls as mappings.
        tools: OpenAI-style definitions.
        options: Variables of the template.

    Raises:
        PromptError: The template can't hold the messages in any of these ways.
    """
    traits = traits_of(loaded)
    messages = known_roles(messages, str(loaded.tokenizer.chat_template or ""))
    told = in_words(messages, tools)
    if traits.calls is None:
        ways: list[tuple[Messages, Sequence[Tool]]] = [(told, ())]
    else:
        own = [_with_arguments(message, _as_text) for message in messages] if traits.arguments_as_text else messages
        ways = [(own, tools)]
        if any(message.get("tool_calls") or message["role"] == "tool" for message in messages):
            ways.append((told, ()))  # the template may hold one call and not two
    first: PromptError | None = None
    tried: list[Messages] = []
    for (given, listed), rewrite in itertools.product(ways, (_as_they_are, system_first, system_in_user)):
        rewritten = rewrite(given)
        if rewritten in tried:
            continue
        tried.append(rewritten)
        try:
            ids: list[int] = loaded.encode(rewritten, list(listed) or None, **options)
        except PromptError as error:
            first = first or error
        else:
            return ids
    raise first or PromptError("the chat template can't hold these messages")


def opens_reasoning(codec: Any, prompt_tokens: Sequence[int]) -> bool:
    """Return whether a prompt ends within the model's reasoning, so that a response begins with it."""
    return str(codec.tokenizer.decode(list(prompt_tokens[-_TAIL:]))).rstrip().endswith("<think>")


def known_roles(messages: Sequence[Mapping[str, Any]], template: str) -> Messages:
    """Return messages in the roles that a template writes, with their text as content.

    A developer is the system where the template doesn't name it; a function's result is a tool's; whoever else speaks
    is quoted by the user. What older or other providers keep beside the content, calls and refusals, is put where
    templates look for it.
    """
    told = [_known_role(_known_keys(message), template) for message in messages]
    changed = any(one["role"] != message.get("role") for one, message in zip(told, messages, strict=True))
    return merged(told) if changed else told


def _known_role(message: dict[str, Any], template: str) -> dict[str, Any]:
    role = str(message.get("role") or "user")
    if role in _SPOKEN or f"'{role}'" in template or f'"{role}"' in template:
        return {**message, "role": role}
    if role in _SAME:
        return {**message, "role": _SAME[role]}
    return {**message, "role": "user", "content": f"{role}: {message['content']}"}


def _known_keys(message: Mapping[str, Any]) -> dict[str, Any]:
    known = {**message, "content": as_text(message)}
    refusal = known.pop("refusal", None)
    if isinstance(refusal, str) and refusal and refusal not in known["content"]:
        known["content"] = "\n".join(filter(None, [known["content"], refusal]))
    called = known.pop("function_call", None)
    if isinstance(called, Mapping) and not known.get("tool_calls"):
        known["tool_calls"] = [{"id": "call_0", "type": "function", "function": dict(called)}]
    if known.get("tool_calls"):
        known["tool_calls"] = [_known_call(call) for call in known["tool_calls"]]
    elif "tool_calls" in known:
        known.pop("tool_calls")
    return known


def _known_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = dict(call["function"]) if isinstance(call.get("function"), Mapping) else dict(call)
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        with contextlib.suppress(ValueError):  # what a model once wrote wrong is shown as it was
            arguments = json.loads(arguments) if arguments.strip() else {}
    return {
        "id": call.get("id"),
        "type": "function",
        "function": {"name": function.get("name"), "arguments": arguments},
    }


def _as_they_are(messages: Messages) -> Messages:
    return messages


def in_words(messages: Messages, tools: Sequence[Tool]) -> Messages:
    """Write tools into the system message, and past calls and their results into the text."""
    told = [_told(message) for message in messages]
    if tools:
        listed = "\n".join(json.dumps(_signature(tool), ensure_ascii=False) for tool in tools)
        told = [{"role": "system", "content": _INSTRUCTIONS.format(tools=listed)}, *told]
    return merged(system_first(told))


def system_first(messages: Messages) -> Messages:
    """Put every system message into one, at the beginning."""
    system = [message["content"] for message in messages if message["role"] == "system"]
    if not system:
        return messages
    rest = [message for message in messages if message["role"] != "system"]
    # Instructions of ours come first in the list, and read better behind the caller's.
    ours = [text for text in system if text.startswith("# Tools\n")]
    theirs = [text for text in system if text not in ours]
    return [{"role": "system", "content": "\n\n".join([*theirs, *ours])}, *merged(rest)]


def system_in_user(messages: Messages) -> Messages:
    """Put every system message in front of what the user says first."""
    ordered = system_first(messages)
    if len(ordered) < 2 or ordered[0]["role"] != "system" or ordered[1]["role"] != "user":
        return ordered
    first = {**ordered[1], "content": f"{ordered[0]['content']}\n\n{ordered[1]['content']}"}
    return [first, *ordered[2:]]


def merged(messages: Messages) -> Messages:
    """Merge runs of user or assistant messages, which many templates refuse."""
    result: Messages = []
    for message in messages:
        last = result[-1] if result else None
        plain = "tool_calls" not in message and message["role"] in ("user", "assistant")
        if last is not None and plain and last["role"] == message["role"] and "tool_calls" not in last:
            result[-1] = {**last, "content": f"{last['content']}\n\n{message['content']}".strip()}
        else:
            result.append(message)
    return result


def _told(message: dict[str, Any]) -> dict[str, Any]:
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
    if not message.get("tool_calls"):
        return message
    calls = [
        TAGGED.begin
        + json.dumps({"name": call["function"]["name"], "arguments": call["function"]["arguments"]}, ensure_ascii=False)
        + TAGGED.end
        for call in message["tool_calls"]
    ]
    rest = {key: value for key, value in message.items() if key != "tool_calls"}
    return {**rest, "content": "\n".join([message["content"], *calls]).strip()}


def _signature(tool: Tool) -> dict[str, Any]:
    function = tool["function"]
    described = {"description": function["description"]} if function.get("description") else {}
    parameters = parameters_of(tool)
    return {"type": "function", "function": {"name": name_of(tool), **described, "parameters": parameters}}


def _probe(tokenizer: Any) -> Traits:
    for spelt in (False, True):
        call = {"name": _CALLED, "arguments": {"zq7_key": "zq7_value"}}
        spoken: dict[str, Any] = {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "zq7callid", "type": "function", "function": call}],
        }
        if spelt:
            spoken = _with_arguments(spoken, _as_text)
        result = {"role": "tool", "tool_call_id": "zq7callid", "name": _CALLED, "content": _RESULT}
        try:
            text = str(tokenizer.apply_chat_template([*_ASKED, spoken, result], tools=[_TOOL], tokenize=False))
        except Exception:  # noqa: BLE001, S112 - a template may object in any way; that it does is what is asked
            continue
        style = _style(text, tokenizer)
        if style is not None and "zq7_listed" in text and _RESULT in text:
            return Traits(calls=style, arguments_as_text=spelt)
    return Traits(calls=None)


def _style(text: str, tokenizer: Any) -> CallFormat | None:
    """Find the marked call in a rendered conversation, and what is written round it."""
    asked = text.find("Zq7 question")
    at = text.find(_CALLED, max(asked, 0))
    if asked < 0 or at < 0:
        return None
    decoder = json.JSONDecoder()
    for start in (match.start() for match in re.finditer(r"[\[{]", text[asked:at])):
        try:
            value, end = decoder.raw_decode(text, asked + start)
        except ValueError:
            continue
        listed = isinstance(value, list)
        call = value[0] if listed and value else value
        key = next((k for k in ("arguments", "parameters") if isinstance(call, Mapping) and k in call), None)
        if key is None or call.get("name") != _CALLED or not isinstance(call[key], Mapping):
            return None  # arguments written as text within JSON would be read back as text, and written so by the model
        special = tuple(tokenizer.all_special_tokens) + tuple(
            token.content for token in tokenizer.added_tokens_decoder.values() if token.special
        )
        begin, tail = _opening(text[asked : asked + start]), _closing(text[end:], special)
        if any(token in begin + tail for token in special):
            return None  # special tokens are not in the text that is parsed
        return CallFormat(begin=begin, end=tail, arguments=key, listed=listed)
    return None


def _opening(before: str) -> str:
    """Return the tag right before a call, with the space behind it; "" where there is none."""
    found = re.search(r"<[^<>|]*call[^<>|]*>\s*\Z", before)
    return found[0] if found else ""


def _closing(behind: str, special: Sequence[str]) -> str:
    """Return what is between a call and the turn's end, if it is a tag."""
    ends = [behind.index(token) for token in special if token and token in behind]
    tail = behind[: min(ends)] if ends else behind
    found = re.match(r"\s*</[^<>|]*call[^<>|]*>", tail)
    return found[0] if found else ""


def _with_arguments(message: dict[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    if not message.get("tool_calls"):
        return message
    calls = [
        {**call, "function": {**call["function"], "arguments": change(call["function"]["arguments"])}}
        for call in message["tool_calls"]
    ]
    return {**message, "tool_calls": calls}


def _as_text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
