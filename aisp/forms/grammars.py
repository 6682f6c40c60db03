"""Grammars that answers are held to, as Lark for `aisp.engines.grammar`: strings only, nothing is compiled here."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from aisp.errors import ConfigurationError
from aisp.forms.holding import Held, SchemaWarning, hold
from aisp.forms.tools import CallFormat, Tool, name_of, parameters_of

# The spacing that models saw in training: with compact separators a small model writes other, wrong values.
_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_TEXT = r"/([^{](.|\n)*)?/"


def json_grammar(schema: Mapping[str, Any]) -> str:
    """Return the grammar of one JSON value of a schema.

    Raises:
        ConfigurationError: No value follows it.
    """
    return f"start: {_json(_answer(schema))}"


def regex_grammar(pattern: str) -> str:
    """Return the grammar of the texts that a regular expression matches in full."""
    return f"start: /{_escaped(pattern)}/"


def forced_grammar(tools: Sequence[Tool], style: CallFormat, *, parallel: bool) -> str:
    """Return the grammar of a call of one of the tools, and of more behind it where they may be parallel."""
    more = "more*" if parallel and not style.listed else ""
    return f"start: call {more}\n{_calls(tools, style, parallel=parallel)}"


def free_grammar(
    tools: Sequence[Tool], style: CallFormat, *, parallel: bool, answer: Mapping[str, Any] | None = None
) -> str:
    """Return the grammar of an answer that may be text, and whose calls are well-formed once they begin.

    Args:
        tools: What may be called.
        style: How the model writes calls. Models that should write tags write bare JSON too, so that no text begins
            with `{`: what does is one call.
        parallel: Whether there may be several calls.
        answer: The JSON schema of an answer that is no call; None for any text.
    """
    calls = _calls(tools, style, parallel=parallel)
    more = "more*" if parallel and not style.listed else ""
    if answer is not None:
        return f"start: call {more} | answer\nanswer: {_json(_answer(answer))}\n{calls}"
    if not style.begin:
        return f"start: TEXT | tool\nTEXT: {_TEXT}\n{calls}"
    # The lexer prefers a lazy terminal as soon as it matches: after the opening there is no way back to text.
    opening = style.begin.strip()
    rest = json.dumps(style.begin[style.begin.index(opening) + len(opening) :])
    begun = f"opening {rest if rest != json.dumps('') else ''} body"
    return f"start: TEXT | tool | {begun} {more}\nopening[lazy]: TEXT {json.dumps(opening)}\nTEXT: {_TEXT}\n{calls}"


def parameters_held(tool: Tool) -> Held:
    """Return what the arguments of a tool are held to."""
    return hold(parameters_of(tool), f"the tool {name_of(tool)}")


def _calls(tools: Sequence[Tool], style: CallFormat, *, parallel: bool) -> str:
    """Return the rules `call`, `more` and `body`.

    Raises:
        ConfigurationError: There is no tool that can be called.
    """
    held = [(tool, parameters_held(tool)) for tool in tools]
    refused = [f"the tool {name_of(tool)} can't be compiled: {one.impossible}" for tool, one in held if one.impossible]
    if len(refused) == len(tools):
        raise ConfigurationError(f"{'; '.join(refused)}; no arguments follow its schema, so repair it or leave it out")
    for reason in refused:
        warnings.warn(f"{reason}; it can't be called", SchemaWarning, stacklevel=4)
    schemas = [_call_schema(tool, one.schema, style) for tool, one in held if not one.impossible]
    lines = [f"tool_{i}: {_json(schema)}" for i, schema in enumerate(schemas)]
    one = " | ".join(f"tool_{i}" for i in range(len(schemas)))
    lines.append(f"tool: {one}")
    inner = f'"[" tool {"(" + json.dumps(", ") + " tool)*" if parallel else ""} "]"' if style.listed else "tool"
    lines.append(f"body: {inner} {_literal(style.end)}")
    lines.append(f"call: {_literal(style.begin)} body")
    lines.append(f"more: {json.dumps(chr(10) if style.begin else '; ')} call")
    return "\n".join(lines)


def _call_schema(tool: Tool, held: Any, style: CallFormat) -> dict[str, Any]:
    parameters = dict(held) if isinstance(held, Mapping) else {}
    definitions = {"$defs": parameters.pop("$defs")} if "$defs" in parameters else {}
    if not any(key in parameters for key in ("type", "anyOf", "allOf", "$ref", "enum", "const")):
        parameters["type"] = "object"
    if parameters.keys() <= {"type"}:
        parameters |= {"properties": {}, "additionalProperties": False}
    return {
        "type": "object",
        "properties": {"name": {"const": name_of(tool)}, style.arguments: parameters},
        "required": ["name", style.arguments],
        "additionalProperties": False,
        **definitions,  # where all references of the parameters lead
    }


def _answer(schema: Mapping[str, Any]) -> dict[str, Any]:
    held = hold(schema, "the JSON schema")
    if held.impossible:
        raise ConfigurationError(
            f"the JSON schema can't be compiled: {held.impossible}; no value follows it, so repair it"
        )
    return held.schema if isinstance(held.schema, dict) else {}


def _json(schema: Mapping[str, Any]) -> str:
    return "%json " + json.dumps({**schema, "x-guidance": _SPACING}, ensure_ascii=False)


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if text else ""


def _escaped(pattern: str) -> str:
    """Escape the slashes that would end a regular expression in Lark."""
    escaped, skip = "", False
    for character in pattern:
        escaped += "\\/" if character == "/" and not skip else character
        skip = character == "\\" and not skip
    return escaped
