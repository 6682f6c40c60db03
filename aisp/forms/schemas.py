"""JSON schemas made fit for small models: short in the prompt, and closed where they may be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_VALUES = ("const", "enum", "default", "examples")  # hold values, which may look like schemas
_NAMED = ("properties", "patternProperties", "$defs", "definitions")  # hold schemas by name
_LEFT_OPEN = ("allOf",)  # its parts add up, so none may be closed


def untitled(schema: Any) -> Any:
    """Return a JSON schema without titles, which pydantic gives to everything and which say what the name says."""
    return _walk(schema, lambda own: {key: value for key, value in own.items() if key != "title"})


def closed(schema: Any) -> Any:
    """Return a JSON schema in which objects with named properties have no others, unless they say so.

    Left open, a small model goes on with properties of its own until its tokens are spent.
    """
    return _walk(schema, _close, _LEFT_OPEN)


def _close(own: dict[str, Any]) -> dict[str, Any]:
    if "properties" in own and "patternProperties" not in own and own.get("type", "object") == "object":
        own.setdefault("additionalProperties", False)
    return own


def _walk(schema: Any, change: Callable[[dict[str, Any]], dict[str, Any]], skipped: tuple[str, ...] = ()) -> Any:
    """Change every schema within a schema, the innermost first."""
    if isinstance(schema, list):
        return [_walk(part, change, skipped) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    done = {}
    for key, value in schema.items():
        if key in _VALUES or key in skipped:
            done[key] = value
        elif key in _NAMED and isinstance(value, Mapping):
            done[key] = {name: _walk(part, change, skipped) for name, part in value.items()}
        else:
            done[key] = _walk(value, change, skipped)
    return change(done)
