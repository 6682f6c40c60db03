"""Tools as LangChain's users give them."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass
from typing_extensions import is_typeddict

from aisp import forms
from aisp.errors import AISPError, ConfigurationError
from aisp.forms.schemas import inlined, made_strict, read_schema


def read_tools(tools: Sequence[Any], strict: bool | None = None) -> tuple[forms.Tool, ...]:
    """Return OpenAI-style definitions of tools, functions, pydantic classes, TypedDicts and JSON schemas.

    Raises:
        ConfigurationError: What can't be a tool, or two of one name.
    """
    return forms.read_tools([_converted(tool, strict) for tool in tools])


def _converted(tool: Any, strict: bool | None) -> forms.Tool:
    try:
        converted = dict(
            _read_typeddict(tool, strict) if is_typeddict(tool) else convert_to_openai_tool(tool, strict=strict)
        )
        own = _own_parameters(tool)
    except AISPError:
        raise
    except Exception as error:
        raise ConfigurationError(f"{tool!r} can't be made a tool: {error}") from error
    if own is not None and isinstance(converted.get("function"), Mapping):
        parameters = made_strict(inlined(own)) if strict else inlined(own)
        converted["function"] = {**converted["function"], "parameters": parameters}
    return converted


def _read_typeddict(tool: Any, strict: bool | None) -> Any:
    """Return the definition of a TypedDict: core's, with descriptions, where core can read it."""
    with contextlib.suppress(Exception):  # it knows fewer annotations, and none that leads into itself
        return convert_to_openai_tool(tool, strict=strict)
    read = read_schema(tool)
    parameters = made_strict(inlined(read.schema)) if strict else inlined(read.schema)
    about = {"description": inspect.getdoc(tool) or read.description}
    return {"type": "function", "function": {"name": read.name, **about, "parameters": parameters}}


def _own_parameters(tool: Any) -> dict[str, Any] | None:
    """Return the parameters that core's conversion loses a part of; None where it is faithful.

    Core puts references where they are used, so that a schema that leads into itself allows anything there; and it
    knows objects with properties only.
    """
    source = tool.tool_call_schema if isinstance(tool, BaseTool) else tool
    if isinstance(source, Mapping):
        if isinstance(source.get("inputSchema"), Mapping) and "name" in source:
            return dict(source["inputSchema"])  # as MCP has it
        if "title" not in source or source.get("type") == "function" or "parameters" in source:
            return None
        return {key: value for key, value in source.items() if key not in ("title", "description")}
    if not (inspect.isclass(source) and is_basemodel_subclass(source)):
        return None
    read = read_schema(source).schema
    return {key: value for key, value in read.items() if key not in ("title", "description")}
