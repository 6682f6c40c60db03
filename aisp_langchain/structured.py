"""`with_structured_output`: a chat model that answers with objects of a schema, and the parser behind it.

    schema --aisp.forms.read_schema--> JSON Schema --bind--> the model, held to it --StructureParser--> an object

The parser reads finished answers only as a whole: one that was cut off is an error that names the limit.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Literal

from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.output_parsers import BaseTransformOutputParser
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.utils.function_calling import convert_to_json_schema
from langchain_core.utils.json import parse_partial_json
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import TypeAdapter, ValidationError
from typing_extensions import is_typeddict

from aisp import errors
from aisp.engines.bounds import resolve
from aisp.errors import ConfigurationError
from aisp.forms.cut import cut_by, why_incomplete
from aisp.forms.holding import violation
from aisp.forms.parsing import read_json
from aisp.forms.references import hoist
from aisp.forms.schemas import NamedSchema, inlined, made_strict, read_schema

Method = Literal["function_calling", "json_schema", "json_mode"]
METHODS = ("function_calling", "json_schema", "json_mode")
_VALUE = "value"  # the argument that holds what isn't an object


class StructuredOutputError(errors.StructuredOutputError, OutputParserException):
    """`aisp.errors.StructuredOutputError` as LangChain knows the errors of its parsers, with the answer's text."""

    def __init__(self, message: str, *, finish_reason: str | None, llm_output: str) -> None:
        OutputParserException.__init__(self, message, llm_output=llm_output)
        self.finish_reason = finish_reason


def structured(
    llm: BaseChatModel,
    schema: Any,
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
    if schema is None:
        plain = llm.bind(response_format={"type": "json_object"}, ls_structured_output_format=told, **options)
        return _chain(plain, StructureParser(make=_same, json_schema={"type": "object"}), include_raw=include_raw)
    read = read_named(schema, strict=strict)
    make = _maker(schema)
    # Of what was given, core can read only some, and every call would fail with an error of its own.
    if not _core_reads(schema):
        told["schema"] = {"name": read.name, "description": read.description, "parameters": read.schema}
    if method == "function_calling":
        parameters, wrapped = _parameters(read.schema)
        function = {"name": read.name, "description": read.description, "parameters": parameters}
        bound = llm.bind_tools(
            [{"type": "function", "function": function}],
            tool_choice=read.name,
            parallel_tool_calls=False,
            ls_structured_output_format=told,
            **options,
        )
        parser = StructureParser(make=make, json_schema=read.schema, tool=read.name, wrapped=wrapped)
        return _chain(bound, parser, include_raw=include_raw)
    # In json_mode the prompt says what is wanted; decoding is held to it all the same.
    form: dict[str, Any] = (
        {"type": "json_object", "schema": read.schema}
        if method == "json_mode"
        else {"type": "json_schema", "json_schema": {"name": read.name, "schema": read.schema}}
    )
    bound = llm.bind(response_format=form, ls_structured_output_format=told, **options)
    return _chain(bound, StructureParser(make=make, json_schema=read.schema), include_raw=include_raw)


def read_named(schema: Any, *, strict: bool | None = None) -> NamedSchema:
    """Return the JSON schema of what LangChain's users give, references put where they are used if they end.

    Raises:
        ConfigurationError: It can't be read, or it is too large.
    """
    read = read_schema(schema)
    written = _described(schema, inlined(read.schema)) if is_typeddict(schema) else inlined(read.schema)
    return NamedSchema(name=read.name, description=read.description, schema=made_strict(written) if strict else written)


class StructureParser(BaseTransformOutputParser[Any]):
    """Reads an answer that is JSON, or a forced call, and makes an object of it.

    A stream of dicts shows the ones that the text so far amounts to, and ends with the whole, or with the error.

    Attributes:
        make: Makes the object of the JSON value.
        json_schema: What the answer follows; what is not checked by `make` is checked by this.
        tool: The tool whose call holds the answer; None where the text does.
        wrapped: Whether the answer is one argument of the call.
    """

    make: Callable[[Any], Any]
    json_schema: dict[str, Any]
    tool: str | None = None
    wrapped: bool = False

    @property
    def _type(self) -> str:
        return "aisp_structure"

    def parse(self, text: str) -> Any:
        return self.parse_result([Generation(text=text)])

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        """Return the object of a whole answer; with `partial`, of an unfinished one as far as it goes."""
        generation = result[0]
        message = generation.message if isinstance(generation, ChatGeneration) else AIMessage(generation.text)
        reason = message.response_metadata.get("finish_reason")
        if self.tool is not None and isinstance(message, AIMessage):
            return self._made(self._argument(message, reason), reason, str(message.tool_calls))
        text = str(message.text)
        if partial:
            return parse_partial_json(text)
        try:
            value = read_json(text)
        except ValueError as error:
            raise self._error(
                f"the answer isn't complete JSON ({error}): {why_incomplete(reason)}", reason, text
            ) from None
        cut = cut_by(reason or "")
        if cut is not None and isinstance(value, (int, float)) and not isinstance(value, bool):
            raise self._error(f"the answer is a number that may go on: {cut}", reason, text)
        return self._made(value, reason, text)

    def _argument(self, message: AIMessage, reason: str | None) -> Any:
        for call in message.tool_calls:
            if call["name"] == self.tool:
                return call["args"].get(_VALUE) if self.wrapped else call["args"]
        written = message.invalid_tool_calls
        if written:
            # Core forgets the error where it puts the pieces of a stream together.
            why = written[0]["error"] or f"it isn't complete: {why_incomplete(reason)}"
            raise self._error(f"the call of {self.tool} is invalid: {why}", reason, str(written[0]["args"]))
        raise self._error(
            f"the answer doesn't call {self.tool}: {cut_by(reason or '') or 'it is text'}", reason, str(message.content)
        )

    def _made(self, value: Any, reason: str | None, text: str) -> Any:
        if self.make is _same:
            broken = violation(value, self.json_schema)
            if broken is not None:
                raise self._error(f"the answer doesn't follow its schema: {broken}", reason, text)
        try:
            return self.make(value)
        except (ValidationError, ValueError) as error:
            raise self._error(f"the answer doesn't follow its schema: {error}", reason, text) from error

    def _error(self, message: str, reason: str | None, text: str) -> StructuredOutputError:
        return StructuredOutputError(message, finish_reason=reason, llm_output=text)

    def _transform(self, input: Iterator[str | BaseMessage]) -> Iterator[Any]:  # noqa: A002 - core's name
        whole: Any = None
        shown: Any = None
        for chunk in input:
            whole = chunk if whole is None else whole + chunk
            found = self._so_far(whole)
            if found is not None and found != shown:
                shown = found
                yield found
        last = self.parse_result([_generation(whole)])
        if last != shown:
            yield last

    async def _atransform(self, input: AsyncIterator[str | BaseMessage]) -> AsyncIterator[Any]:  # noqa: A002
        whole: Any = None
        shown: Any = None
        async for chunk in input:
            whole = chunk if whole is None else whole + chunk
            found = self._so_far(whole)
            if found is not None and found != shown:
                shown = found
                yield found
        last = self.parse_result([_generation(whole)])
        if last != shown:
            yield last

    def _so_far(self, whole: Any) -> Any:
        """Return the dict that the text so far amounts to; None for anything else, which is shown when it is whole."""
        if self.tool is not None or self.make is not _same:
            return None
        text = str(whole.text) if isinstance(whole, BaseMessage) else str(whole)
        with contextlib.suppress(ValueError, RecursionError):
            found = parse_partial_json(text) if text.strip() else None
            return found if isinstance(found, dict) else None
        return None


def _generation(whole: Any) -> Generation:
    if isinstance(whole, BaseMessage):
        return ChatGeneration(message=whole)
    return Generation(text="" if whole is None else str(whole))


def _chain(
    bound: Runnable[LanguageModelInput, Any], parser: StructureParser, *, include_raw: bool
) -> Runnable[LanguageModelInput, Any]:
    return bound | parser if not include_raw else _with_raw(bound, parser)


def _with_raw(bound: Runnable[LanguageModelInput, Any], parser: StructureParser) -> Runnable[LanguageModelInput, Any]:
    """Return a chain of what was answered, what that was parsed to, and the parser's error.

    Its options are the model's, as those of a chain without `include_raw` are: core's own map of steps drops them.
    """

    def parsed(raw: Any, config: RunnableConfig) -> dict[str, Any]:
        try:
            return {"raw": raw, "parsed": parser.invoke(raw, config), "parsing_error": None}
        except OutputParserException as error:
            return {"raw": raw, "parsed": None, "parsing_error": error}

    return bound | RunnableLambda(parsed, name="parsed")


def _parameters(schema: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """Return the parameters of a tool, and whether the schema is one of them, which has to be an object."""
    target = schema
    if "$ref" in schema and "properties" not in schema:
        with contextlib.suppress(LookupError):
            target = resolve(schema, schema["$ref"])
    if target.get("type") == "object" or "properties" in target:
        return schema, False
    moved, _ = hoist(schema)  # "#" means the schema, and not the arguments that it is put into
    inner: dict[str, Any] = dict(moved) if isinstance(moved, Mapping) else {}
    definitions: dict[str, Any] = {"$defs": inner.pop("$defs")} if "$defs" in inner else {}
    return {"type": "object", "properties": {_VALUE: inner}, "required": [_VALUE], **definitions}, True


def _maker(schema: Any) -> Callable[[Any], Any]:
    """Return what makes an object of a JSON value: dicts and TypedDicts stay what they are."""
    inner: Any = schema.get("schema") if isinstance(schema, Mapping) else schema
    if isinstance(schema, Mapping) and not isinstance(inner, type):
        return _same
    if is_typeddict(inner):
        return _same
    if is_basemodel_subclass(inner) and not hasattr(inner, "model_validate_json"):
        old: Callable[[Any], Any] = getattr(inner, "parse_obj")  # noqa: B009 - a class of pydantic 1
        return old
    return _from_json(TypeAdapter(inner))


def _from_json(adapter: TypeAdapter[Any]) -> Callable[[Any], Any]:
    # By way of JSON, in which bytes and dates are text, where strict models take nothing else from Python.
    return lambda value: adapter.validate_json(json.dumps(value, ensure_ascii=False))


def _same(value: Any) -> Any:
    return value


def _described(schema: Any, written: dict[str, Any]) -> dict[str, Any]:
    """Add what core reads out of a TypedDict's docstring and annotations, which pydantic passes over."""
    try:
        theirs = convert_to_json_schema(schema)
    except Exception:  # noqa: BLE001 - it is only for descriptions, and core refuses what pydantic can read
        return written
    described = theirs.get("properties", {})
    properties = {
        name: {
            **({"description": described[name]["description"]} if "description" in described.get(name, {}) else {}),
            **part,
        }
        if isinstance(part, Mapping)
        else part
        for name, part in written.get("properties", {}).items()
    }
    about = {"description": theirs["description"]} if theirs.get("description") else {}
    return {**about, **written, "properties": properties} if properties else {**about, **written}


def _core_reads(schema: Any) -> bool:
    """Return whether core's tracing can read a schema, which it does at every call."""
    try:
        convert_to_json_schema(schema)
    except Exception:  # noqa: BLE001 - TypeErrors, RecursionErrors and others of its own
        return False
    return True
