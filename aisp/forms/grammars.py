"""Grammars that answers are held to, as Lark for `aisp.engines.grammar`: strings only, nothing is compiled here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from aisp.forms.schemas import closed
from aisp.forms.tools import CallFormat, Tool, name_of, parameters_of

# The spacing that models saw in training: with compact separators a small model writes other, wrong values.
_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_TEXT = r"/([^{](.|\n)*)?/"


def json_grammar(schema: Mapping[str, Any]) -> str:
    """Return the grammar of one JSON value of a schema."""
    return f"start: {_json(schema)}"


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
        return f"start: call {more} | answer\nanswer: {_json(answer)}\n{calls}"
    if not style.begin:
        return f"start: TEXT | tool\nTEXT: {_TEXT}\n{calls}"
    # The lexer prefers a lazy terminal as soon as it matches: after the opening there is no way back to text.
    opening = style.begin.strip()
    rest = json.dumps(style.begin[style.begin.index(opening) + len(opening) :])
    begun = f"opening {rest if rest != json.dumps('') else ''} body"
    return f"start: TEXT | tool | {begun} {more}\nopening[lazy]: TEXT {json.dumps(opening)}\nTEXT: {_TEXT}\n{calls}"


def _calls(tools: Sequence[Tool], style: CallFormat, *, parallel: bool) -> str:
    """Return the rules `call`, `more` and `body`."""
    lines = [f"tool_{i}: {_json(_call_schema(tool, style))}" for i, tool in enumerate(tools)]
    one = " | ".join(f"tool_{i}" for i in range(len(tools)))
    lines.append(f"tool: {one}")
    inner = f'"[" tool {"(" + json.dumps(", ") + " tool)*" if parallel else ""} "]"' if style.listed else "tool"
    lines.append(f"body: {inner} {_literal(style.end)}")
    lines.append(f"call: {_literal(style.begin)} body")
    lines.append(f"more: {json.dumps(chr(10) if style.begin else '; ')} call")
    return "\n".join(lines)


def _call_schema(tool: Tool, style: CallFormat) -> dict[str, Any]:
    parameters = dict(parameters_of(tool))
    definitions: dict[str, Any] = {key: parameters.pop(key) for key in ("$defs", "definitions") if key in parameters}
    parameters.setdefault("properties", {})
    return {
        "type": "object",
        "properties": {"name": {"const": name_of(tool)}, style.arguments: parameters},
        "required": ["name", style.arguments],
        "additionalProperties": False,
        **definitions,  # references in the parameters are from the root
    }


def _json(schema: Mapping[str, Any]) -> str:
    return "%json " + json.dumps({**closed(schema), "x-guidance": _SPACING}, ensure_ascii=False)


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if text else ""


def _escaped(pattern: str) -> str:
    """Escape the slashes that would end a regular expression in Lark."""
    escaped, skip = "", False
    for character in pattern:
        escaped += "\\/" if character == "/" and not skip else character
        skip = character == "\\" and not skip
    return escaped
