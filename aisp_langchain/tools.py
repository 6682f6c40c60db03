"""Tools as LangChain's users give them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.utils.function_calling import convert_to_openai_tool

from aisp import forms
from aisp.errors import ConfigurationError


def read_tools(tools: Sequence[Any], strict: bool | None = None) -> tuple[forms.Tool, ...]:
    """Return OpenAI-style definitions of tools, functions, pydantic classes, TypedDicts and JSON schemas.

    Raises:
        ConfigurationError: What can't be a tool, or two of one name.
    """
    return forms.read_tools([_converted(tool, strict) for tool in tools])


def _converted(tool: Any, strict: bool | None) -> forms.Tool:
    try:
        return convert_to_openai_tool(tool, strict=strict)
    except Exception as error:
        raise ConfigurationError(f"{tool!r} can't be made a tool: {error}") from error
