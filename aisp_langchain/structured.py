"""`with_structured_output`: a chat model that answers with objects of a schema, and the parser behind it."""

from __future__ import annotations

from operator import itemgetter
from typing import Any, Literal

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.output_parsers import BaseOutputParser, JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass

from aisp.errors import ConfigurationError

Method = Literal["function_calling", "json_schema", "json_mode"]
METHODS = ("function_calling", "json_schema", "json_mode")


def structured(
    llm: BaseChatModel,
    schema: dict[str, Any] | type | None,
    *,
    method: Method,
    include_raw: bool,
    strict: bool | None,
    options: dict[str, Any],
) -> Runnable[LanguageModelInput, Any]:
    """Build the chain of a chat model, held to a schema, and the parser that makes objects of it.

    See `AISPChatModel.with_structured_output`.
    """
    if method not in METHODS:
        raise ConfigurationError(f"method is {method!r}; expected {', '.join(METHODS)}")
    if schema is None and method != "json_mode":
        raise ConfigurationError(
            "schema is None; give a pydantic class, a TypedDict or a JSON schema, or method='json_mode'"
        )
    # Tracing reads this, and core takes it off before the model is called.
    told = {"kwargs": {"method": method, "strict": strict}, "schema": schema}
    if method == "function_calling":
        tool = convert_to_openai_tool(schema, strict=strict)  # type: ignore[arg-type] # it is not None here
        name = str(tool["function"]["name"])
        bound = llm.bind_tools(
            [schema],  # type: ignore[list-item]
            tool_choice=name,
            parallel_tool_calls=False,
            strict=strict,
            ls_structured_output_format=told,
            **options,
        )
        return _parsed(bound, _tool_parser(schema, name), include_raw=include_raw)
    form = _response_format(schema, method, strict)
    bound = llm.bind(response_format=form, ls_structured_output_format=told, **options)
    return _parsed(bound, _json_parser(schema), include_raw=include_raw)


def _response_format(schema: dict[str, Any] | type | None, method: Method, strict: bool | None) -> dict[str, Any]:
    if schema is None:
        return {"type": "json_object"}
    read = convert_to_json_schema(schema, strict=strict)
    if method == "json_mode":  # the prompt says what is wanted; decoding is held to it all the same
        return {"type": "json_object", "schema": read}
    return {"type": "json_schema", "json_schema": {"name": read.get("title", "answer"), "schema": read}}


def _tool_parser(schema: Any, name: str) -> BaseOutputParser[Any]:
    if is_basemodel_subclass(schema):
        return PydanticToolsParser(tools=[schema], first_tool_only=True)
    return JsonOutputKeyToolsParser(key_name=name, first_tool_only=True)


def _json_parser(schema: Any) -> BaseOutputParser[Any]:
    return PydanticOutputParser(pydantic_object=schema) if is_basemodel_subclass(schema) else JsonOutputParser()


def _parsed(
    bound: Runnable[LanguageModelInput, Any], parser: BaseOutputParser[Any], *, include_raw: bool
) -> Runnable[LanguageModelInput, Any]:
    if not include_raw:
        return bound | parser
    tried: Runnable[Any, Any] = RunnablePassthrough.assign(
        parsed=itemgetter("raw") | parser, parsing_error=lambda _: None
    )
    failed: Runnable[Any, Any] = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=bound) | tried.with_fallbacks([failed], exception_key="parsing_error")
