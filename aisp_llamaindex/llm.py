"""A LlamaIndex LLM whose answers are searched for by reward.

    ChatMessages --to_openai--> dicts --chat template--> prompt tokens
       --> Aligner (one loop a request; requests share the engine's batch)
       --> the best response --to_response--> ChatResponse, `raw["aisp"]` with what the search found

No weights are loaded before the first call, or the first look at `metadata`.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.generic_utils import chat_response_to_completion_response
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

from aisp.errors import ConfigurationError
from aisp.forms import make_form
from aisp.models import DEFAULT_MODEL, LoadedModel
from aisp.rewards.base import Reward
from aisp.settings import DEFAULT_MAX_TOKENS, SearchSettings, override
from aisp.threads import cancellable
from aisp_llamaindex.messages import calls_of, mapping_of, to_openai, to_openai_tools, to_pieces, to_response
from aisp_llamaindex.rewards import as_reward

_FORM = frozenset({"tools", "tool_choice", "parallel_tool_calls", "response_format"})
_OTHER = frozenset({"rewards", "reference", "template_kwargs"})


class AISPLLM(SearchSettings, FunctionCallingLLM):
    """A local LLM, steered per request towards what its rewards like. Calls tools, and is held to their schemas.

    All fields of `aisp.settings.SearchSettings` may be given to the constructor and, as keyword arguments, to every
    call; so may `rewards` and `template_kwargs`, and to calls `reference`, `tools` and `response_format`. Unknown names
    are errors. Without rewards it is an ordinary LLM that draws one sample.

    A search chooses among whole answers, so a stream begins when the answer is chosen.

    Attributes:
        model: A model's name (embedded, hub id, checkpoint folder or GGUF file), a `LoadedModel`, or a transformers
            model and its tokenizer as a tuple.
        rewards: What `aisp_llamaindex.as_reward` takes: rewards of `aisp`, functions of `query` and `response`,
            LlamaIndex's evaluators, or a mapping of names to them, which is their sum.
        dtype: Of the weights; None takes bfloat16 where the device is fast at it, else float32.
        device: None takes CUDA, else MPS, else the CPU.
        template_kwargs: Variables of the chat template, as `{"enable_thinking": False}`.

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
    rewards: Any = Field(default=None, exclude=True)
    dtype: str | None = None
    device: str | None = None
    template_kwargs: dict[str, Any] = Field(default_factory=dict)

    @field_validator("model", mode="before")
    @classmethod
    def _hold(cls, value: Any) -> Any:
        """Wrap objects once, here: nobody else holds what wraps them, and engines are shared by it."""
        if not isinstance(value, tuple):
            return value
        from aisp.models import load

        if len(value) != 2:
            raise ConfigurationError(f"model is a tuple of {len(value)}; expected (model, tokenizer)")
        return load(value[0], tokenizer=value[1])

    @field_validator("rewards", mode="before")
    @classmethod
    def _coerce_rewards(cls, value: Any) -> Reward | None:
        return None if value is None else as_reward(value)

    @field_validator("stop", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_serializer("model")
    def _named(self, value: Any) -> str:
        return _name(value)

    @model_validator(mode="after")
    def _check_settings(self) -> AISPLLM:
        settings = override(self, {})
        settings.make_plan(rewarded=self.rewards is not None)
        settings.make_strategy(rewarded=self.rewards is not None)
        return self

    @classmethod
    def class_name(cls) -> str:
        return "AISPLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """What query engines and agents may expect. The length of the context is the model's, so this loads it."""
        context = self._load().context_length
        return LLMMetadata(
            context_window=DEFAULT_CONTEXT_WINDOW if context is None else context,
            num_output=DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens,
            is_chat_model=True,
            is_function_calling_model=True,
            model_name=_name(self.model),
        )

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return self._answer(messages, kwargs)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return chat_response_to_completion_response(self._answer(self._asked(prompt, formatted), kwargs))

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        return (piece for piece in to_pieces(self._answer(messages, kwargs)))

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        response = self._answer(self._asked(prompt, formatted), kwargs)
        return (chat_response_to_completion_response(piece) for piece in to_pieces(response))

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return await cancellable(lambda cancel: self._answer(messages, kwargs, cancel))

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        asked = self._asked(prompt, formatted)
        response = await cancellable(lambda cancel: self._answer(asked, kwargs, cancel))
        return chat_response_to_completion_response(response)

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        async def pieces() -> ChatResponseAsyncGen:
            for piece in to_pieces(await cancellable(lambda cancel: self._answer(messages, kwargs, cancel))):
                yield piece

        return pieces()

    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        asked = self._asked(prompt, formatted)

        async def pieces() -> CompletionResponseAsyncGen:
            for piece in to_pieces(await cancellable(lambda cancel: self._answer(asked, kwargs, cancel))):
                yield chat_response_to_completion_response(piece)

        return pieces()

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
        known = SearchSettings.model_fields.keys() | _FORM | _OTHER
        unknown = sorted(given.keys() - known)
        if unknown:
            raise ConfigurationError(f"a call got {', '.join(unknown)}; expected any of {', '.join(sorted(known))}")
        search = override(self, given)
        rewards = given.get("rewards", self.rewards)
        form = make_form(
            to_openai_tools(given.get("tools") or ()),
            tool_choice=given.get("tool_choice"),
            parallel_tool_calls=given.get("parallel_tool_calls"),
            response_format=given.get("response_format"),
        )
        loaded = self._load()
        request = form.request(
            loaded,
            to_openai(messages),
            search,
            template={**self.template_kwargs, **(given.get("template_kwargs") or {})},
            cancel=cancel,
            reference=given.get("reference"),
        )
        from aisp.engines import engine_for

        reward = None if rewards is None else as_reward(rewards)
        aligner = search.make_aligner(engine_for(loaded), reward, form.parse, form.settle)
        return to_response(aligner.align(request), model_name=_name(self.model))

    def _load(self) -> LoadedModel:
        from aisp.models import load

        placed: dict[str, Any] = {"dtype": self.dtype, "device": self.device} if isinstance(self.model, str) else {}
        return load(self.model, **placed)


def _name(model: Any) -> str:
    return model if isinstance(model, str) else str(getattr(model, "name", type(model).__name__))
