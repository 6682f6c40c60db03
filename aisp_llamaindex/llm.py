"""A LlamaIndex LLM whose answers are searched for by reward.

    ChatMessages --to_openai--> dicts
       --> Service.run (one search a request; requests share the engine's batch)
       --> the best response --to_response--> ChatResponse, `raw["aisp"]` with what the search found

No weights are loaded before the first call, or the first look at `metadata`.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
)
from llama_index.core.constants import DEFAULT_CONTEXT_WINDOW
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.tools import BaseTool
from pydantic import ConfigDict, Field, field_serializer, field_validator, model_validator

from aisp.call import hold_model, model_name
from aisp.errors import ConfigurationError
from aisp.models import DEFAULT_MODEL
from aisp.rewards.base import Reward
from aisp.search.events import TextCommitted
from aisp.service import Run, Service
from aisp.settings import DEFAULT_MAX_TOKENS, SearchFields, override
from aisp.threads import iterate_in_thread, run_in_thread
from aisp_llamaindex.messages import calls_of, mapping_of, to_openai, to_openai_tools, to_pieces, to_response
from aisp_llamaindex.rewards import as_reward
from aisp_llamaindex.structured import StructuredPrediction, to_completion


class AISPLLM(StructuredPrediction, SearchFields, FunctionCallingLLM):
    """A local LLM, steered per request towards what its rewards like. Calls tools, and is held to their schemas.

    All fields of `aisp.settings.SearchFields` may be given to the constructor and, as keyword arguments, to every
    call; so may `engine`, `rewards`, `preferences`, `template_kwargs` and `explore_calls`, and to calls `reference`,
    `tools` and `response_format`. Unknown names are errors. Without rewards it is an ordinary LLM that draws one
    sample.

    A search chooses among whole answers, so a stream begins when the answer is chosen, unless `commit_tokens` lets it
    choose block by block.

    Attributes:
        model: A model's name (embedded, hub id, checkpoint folder or GGUF file), a `LoadedModel`, or a transformers
            model and its tokenizer as a tuple.
        engine: An `aisp.engines.Engine` in place of a model.
        rewards: What `aisp_llamaindex.as_reward` takes: rewards of `aisp`, functions of `query` and `response`,
            LlamaIndex's evaluators, or a mapping of names to them, which is their sum.
        dtype: Of the weights; None takes bfloat16 where the device is fast at it, else float32.
        device: None takes CUDA, else MPS, else the CPU.
        template_kwargs: Variables of the chat template, as `{"enable_thinking": False}`.
        explore_calls: Where tools are given and the model may choose, let every second of the first responses be a
            call, so that the rewards choose between calling and answering.

    Raises:
        ValidationError: pydantic's, for an unknown name, a value out of range, settings that contradict each other, or
            rewards that can't be made one.

    Example:
        >>> from aisp.rewards import Length
        >>> llm = AISPLLM(model="smollm2-135m", rewards=Length(10, 20), budget=8, seed=1)
        >>> llm.complete("Hello!").raw["aisp"]["reward"]  # doctest: +SKIP
        1.0
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())

    model: Any = DEFAULT_MODEL
    engine: Any = Field(default=None, exclude=True)
    rewards: Any = Field(default=None, exclude=True)
    dtype: str | None = None
    device: str | None = None
    template_kwargs: dict[str, Any] = Field(default_factory=dict)
    explore_calls: bool = False

    @field_validator("model", mode="before")
    @classmethod
    def _hold(cls, value: Any) -> Any:
        """Wrap objects once, here: nobody else holds what wraps them, and engines are shared by it."""
        return hold_model(value)

    @field_validator("rewards", mode="before")
    @classmethod
    def _coerce_rewards(cls, value: Any) -> Reward | None:
        return None if value is None else as_reward(value)

    @field_serializer("model")
    def _named(self, value: Any) -> str:
        return model_name(value)

    @model_validator(mode="after")
    def _check_settings(self) -> AISPLLM:
        if self.engine is not None and "model" in self.model_fields_set:
            raise ConfigurationError("both model and engine were given; give the one that is to answer")
        self._service.check()
        return self

    @classmethod
    def class_name(cls) -> str:
        return "AISPLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """What query engines and agents may expect. The length of the context is the model's, so this loads it."""
        context = self._service.codec.context_length
        return LLMMetadata(
            context_window=DEFAULT_CONTEXT_WINDOW if context is None else context,
            num_output=DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens,
            is_chat_model=True,
            is_function_calling_model=True,
            model_name=model_name(self._source),
        )

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return self._answer(messages, kwargs)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return to_completion(self._answer(self._asked(prompt, formatted), kwargs))

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        return self._pieces(messages, kwargs)

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        return (to_completion(piece) for piece in self._pieces(self._asked(prompt, formatted), kwargs))

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return await run_in_thread(lambda cancel: self._answer(messages, kwargs, cancel))

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        asked = self._asked(prompt, formatted)
        return to_completion(await run_in_thread(lambda cancel: self._answer(asked, kwargs, cancel)))

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        return iterate_in_thread(lambda cancel: self._pieces(messages, kwargs, cancel))

    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        asked = self._asked(prompt, formatted)
        return iterate_in_thread(lambda cancel: map(to_completion, self._pieces(asked, kwargs, cancel)))

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        tool_choice: Any = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        messages = list(chat_history or ())
        if user_msg is not None:
            messages.append(ChatMessage(content=user_msg) if isinstance(user_msg, str) else user_msg)
        return {
            "messages": messages,
            "tools": list(tools),
            "tool_choice": "any" if tool_choice is None and tool_required and tools else tool_choice,
            "parallel_tool_calls": allow_parallel_tool_calls,
            **kwargs,
        }

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """Return the tool calls of an answer, to be made.

        Raises:
            ValueError: There is none, where that is an error.
        """
        calls = [
            ToolSelection(
                tool_id=call.tool_call_id or "", tool_name=call.tool_name, tool_kwargs=mapping_of(call.tool_kwargs)
            )
            for call in calls_of(response.message)
        ]
        if not calls and error_on_no_tool_call:
            invalid = response.message.additional_kwargs.get("invalid_tool_calls") or ()
            what = invalid[0]["error"] if invalid else f"it says {(response.message.content or '')[:60]!r}"
            raise ValueError(f"the answer holds no tool call: {what}; force one with tool_required=True")
        return calls

    def _asked(self, prompt: str, formatted: bool) -> list[ChatMessage]:
        text = prompt if formatted or self.completion_to_prompt is None else self.completion_to_prompt(prompt)
        return [ChatMessage(role=MessageRole.USER, content=text)]

    def _answer(
        self, messages: Sequence[ChatMessage], given: Mapping[str, Any], cancel: threading.Event | None = None
    ) -> ChatResponse:
        return to_response(self._run(messages, given, cancel).alignment, model_name=model_name(self._source))

    def _pieces(
        self, messages: Sequence[ChatMessage], given: Mapping[str, Any], cancel: threading.Event | None = None
    ) -> ChatResponseGen:
        """Yield the answer so far as more of it is settled: block by block where blocks are committed."""
        shown = ""
        with self._run(messages, given, cancel) as run:
            for event in run:
                if isinstance(event, TextCommitted) and not event.last:  # the response holds the rest
                    shown += event.text
                    message = ChatMessage(role=MessageRole.ASSISTANT, content=shown)
                    yield ChatResponse(message=message, delta=event.text)
            yield from to_pieces(to_response(run.alignment, model_name=model_name(self._source)), shown)

    def _run(self, messages: Sequence[ChatMessage], given: Mapping[str, Any], cancel: threading.Event | None) -> Run:
        call = dict(given)
        if call.get("tools"):
            call["tools"] = to_openai_tools(call["tools"])
        if call.get("rewards") is not None:
            call["rewards"] = as_reward(call["rewards"])
        return self._service.run(to_openai(messages), cancel=cancel, **call)

    @property
    def _source(self) -> Any:
        """What draws the answers."""
        return self.model if self.engine is None else self.engine

    @property
    def _service(self) -> Service:
        """What answers. Building it costs next to nothing: models and engines are shared by what names them."""
        return Service(
            self._source,
            self.rewards,
            override(self, {}),
            dtype=self.dtype,
            device=self.device,
            template_kwargs=self.template_kwargs,
            explore_calls=self.explore_calls,
        )
