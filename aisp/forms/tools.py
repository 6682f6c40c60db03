"""Tools, the choice among them, and the ways in which models write calls of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aisp.errors import ConfigurationError
from aisp.forms.schemas import untitled

Tool = Mapping[str, Any]
"""`{"type": "function", "function": {"name", "description", "parameters"}}`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFormat:
    """How a model writes a call: `begin`, JSON, `end`.

    Args:
        begin: What opens a call; "" where it is bare JSON.
        end: What closes it.
        arguments: The key of the arguments.
        listed: Whether the JSON is a list of calls.
    """

    begin: str
    end: str
    arguments: str = "arguments"
    listed: bool = False


TAGGED = CallFormat(begin="<tool_call>\n", end="\n</tool_call>")
"""What models whose template has no place for tools are asked to write; Qwen's models write so too."""


def read_tools(tools: Sequence[Any]) -> tuple[Tool, ...]:
    """Return tools as prompts and grammars want them: each once, and without titles in their schemas.

    Args:
        tools: OpenAI-style definitions.

    Raises:
        ConfigurationError: What is no definition of a function, or two of one name.
    """
    read: list[Tool] = []
    for tool in tools:
        one = _read_tool(tool)
        if one not in read:  # the same tool in two guises is one
            read.append(one)
    names = [name_of(tool) for tool in read]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigurationError(f"two tools are called {', '.join(twice)}; give each a name of its own")
    return tuple(read)


def _read_tool(tool: Any) -> Tool:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or not function.get("name"):
        raise ConfigurationError(
            f"the tool {tool!r} is one that a provider runs; expected a function with a name and a JSON schema"
        )
    function = dict(function)
    if "parameters" in function:
        function["parameters"] = untitled(function["parameters"])
    return {**tool, "function": function}


def name_of(tool: Tool) -> str:
    return str(tool["function"]["name"])


def parameters_of(tool: Tool) -> Mapping[str, Any]:
    """Return the JSON schema of a tool's arguments."""
    return tool["function"].get("parameters") or {"type": "object", "properties": {}}


def read_choice(choice: Any, tools: Sequence[Tool]) -> str:
    """Return "auto", "none", "any", or the name of the tool that must be called.

    Raises:
        ConfigurationError: A name that no tool has, or a shape that is none of OpenAI's.
    """
    if choice is None or (isinstance(choice, str) and choice in ("auto", "none")):
        return "auto" if choice is None else choice
    names = [name_of(tool) for tool in tools]
    found: Any = choice
    if isinstance(choice, Mapping):
        function = choice.get("function")
        inner: Mapping[str, Any] = function if isinstance(function, Mapping) else choice
        found = inner.get("name", choice.get("type"))
        if found in ("auto", "none"):
            return str(found)
    if found is True or (found in ("any", "required") and found not in names):
        found = "any"
    if found != "any" and found not in names:
        raise ConfigurationError(
            f'tool_choice is {choice!r}; expected "auto", "none", "any", "required" or the name of a tool '
            f"({', '.join(names) or 'there are none'})"
        )
    if not names:
        raise ConfigurationError(f"tool_choice is {choice!r}, and there are no tools to choose from; give tools")
    return str(found)
