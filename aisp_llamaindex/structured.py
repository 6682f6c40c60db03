"""Structured answers: the complete object, and of streams the partial ones before it.

    prompt --chat, held to the schema--> pieces of JSON --partial_objects--> objects with fields so far, ..., the whole

`AISPLLM` takes LlamaIndex's structured prediction from here. Core's streams ask for a call without forcing one, so that
an answer in words became an object of nothing; its whole answers fail for a class that leads into itself, and don't say
which limit cut an answer off.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Generator, Iterable, Mapping
from typing import Any, TypeVar, cast

from llama_index.core.base.llms.types import ChatResponse, CompletionResponse
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined] # core re-exports it
from llama_index.core.instrumentation.events.llm import LLMStructuredPredictEndEvent, LLMStructuredPredictStartEvent
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.program.utils import create_flexible_model
from llama_index.core.prompts import BasePromptTemplate
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from aisp.errors import StructuredOutputError
from aisp.forms.cut import why_incomplete
from aisp.forms.schemas import inlined, read_schema

Model = TypeVar("Model", bound=BaseModel)
_dispatcher = get_dispatcher(__name__)


class StructuredPrediction(FunctionCallingLLM):
    """Structured prediction over the `chat`, `stream_chat` and their awaited twins that it is mixed with."""

    @_dispatcher.span
    def structured_predict(
        self,
        output_cls: type[Model],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Model:
        """Return an object of a class. The answer is held to the class, whatever `pydantic_program_mode` is.

        Raises:
            StructuredOutputError: The answer was cut off, or breaks the class's rules.
        """
        _dispatcher.event(
            LLMStructuredPredictStartEvent(output_cls=output_cls, template=prompt, template_args=prompt_args)
        )
        messages = self._extend_messages(prompt.format_messages(**prompt_args))
        options = {**(llm_kwargs or {}), "response_format": response_format_of(output_cls)}
        found: Model = whole_object(self.chat(messages, **options), output_cls)
        _dispatcher.event(LLMStructuredPredictEndEvent(output=found))
        return found

    @_dispatcher.span
    async def astructured_predict(
        self,
        output_cls: type[Model],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Model:
        """Return what `structured_predict` does, awaited."""
        _dispatcher.event(
            LLMStructuredPredictStartEvent(output_cls=output_cls, template=prompt, template_args=prompt_args)
        )
        messages = self._extend_messages(prompt.format_messages(**prompt_args))
        options = {**(llm_kwargs or {}), "response_format": response_format_of(output_cls)}
        found: Model = whole_object(await self.achat(messages, **options), output_cls)
        _dispatcher.event(LLMStructuredPredictEndEvent(output=found))
        return found

    def _structured_stream_call(  # type: ignore[override] # core names a narrower template
        self,
        output_cls: type[BaseModel],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Generator[BaseModel, None, None]:
        messages = self._extend_messages(prompt.format_messages(**prompt_args))
        options = {**(llm_kwargs or {}), "response_format": response_format_of(output_cls)}
        yield from partial_objects(self.stream_chat(messages, **options), output_cls)

    async def _structured_astream_call(  # type: ignore[override] # likewise
        self,
        output_cls: type[BaseModel],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> AsyncGenerator[BaseModel, None]:
        messages = self._extend_messages(prompt.format_messages(**prompt_args))
        options = {**(llm_kwargs or {}), "response_format": response_format_of(output_cls)}
        return apartial_objects(await self.astream_chat(messages, **options), output_cls)


def response_format_of(output_cls: type[BaseModel]) -> dict[str, Any]:
    """Return the `response_format` that holds an answer to a class, and tells the model of it."""
    read = read_schema(output_cls)
    return {"type": "json_schema", "json_schema": {"name": read.name, "schema": inlined(read.schema)}}


def whole_object(response: ChatResponse, output_cls: type[Model]) -> Model:
    """Return the object that a whole answer in JSON is.

    Raises:
        StructuredOutputError: The answer was cut off, or breaks the class's rules.
    """
    reader = _Reader(output_cls)
    reader.read(response)
    found: Any = reader.whole()
    return cast("Model", found)


def partial_objects(pieces: Iterable[ChatResponse], output_cls: type[BaseModel]) -> Generator[BaseModel, None, None]:
    """Yield an object for every piece that brings more of one, and at the end the complete object.

    Args:
        pieces: Of an answer in JSON, each with all text so far; the last one with `raw`.
        output_cls: What the last object is. The others have its fields as far as they are known, None else.

    Raises:
        StructuredOutputError: The answer was cut off, or breaks the class's rules.
    """
    reader = _Reader(output_cls)
    for piece in pieces:
        found = reader.read(piece)
        if found is not None:
            yield found
    yield reader.whole()


async def apartial_objects(
    pieces: AsyncIterable[ChatResponse], output_cls: type[BaseModel]
) -> AsyncGenerator[BaseModel, None]:
    """Yield what `partial_objects` does, of pieces that are awaited."""
    reader = _Reader(output_cls)
    async for piece in pieces:
        found = reader.read(piece)
        if found is not None:
            yield found
    yield reader.whole()


def to_completion(piece: ChatResponse) -> CompletionResponse:
    """Return a piece of a chat as one of a completion, with its delta, which core drops of whole answers."""
    return CompletionResponse(
        text=piece.message.content or "",
        delta=piece.delta,
        raw=piece.raw,
        additional_kwargs={**piece.message.additional_kwargs, **piece.additional_kwargs},
    )


class _Reader:
    """Reads JSON as it grows."""

    def __init__(self, output_cls: type[BaseModel]) -> None:
        self._class = output_cls
        self._flexible = create_flexible_model(output_cls)
        self._shown: Any = None
        self._last: ChatResponse | None = None

    def read(self, piece: ChatResponse) -> BaseModel | None:
        """Return the object so far, if it is more than the last one."""
        self._last = piece
        try:
            value = from_json(piece.message.content or "", allow_partial=True)
            if not isinstance(value, dict) or not value or value == self._shown:
                return None
            self._shown = value
            return self._flexible.model_validate(value)
        except (ValueError, ValidationError):
            return None

    def whole(self) -> BaseModel:
        raw = self._last.raw if self._last is not None else None
        reason = raw.get("finish_reason") if isinstance(raw, Mapping) else None
        text = (self._last.message.content or "") if self._last is not None else ""
        try:
            from_json(text)
        except ValueError as error:
            raise StructuredOutputError(
                f"the answer isn't complete JSON ({error}): {why_incomplete(reason)}", finish_reason=reason
            ) from None
        try:
            return self._class.model_validate_json(text)
        except ValidationError as error:
            raise StructuredOutputError(
                f"the answer doesn't follow {self._class.__name__}: {error}", finish_reason=reason
            ) from error
