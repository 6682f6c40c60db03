"""A LangChain chat model whose answers are searched for by reward.

    messages --to_openai--> dicts --> Service.run (one search a request; requests share the engine's batch)
       --> the best response --to_ai_message--> AIMessage + usage_metadata + response_metadata["aisp"]
       --> or as a stream: `aisp_langchain.streaming`

No weights are loaded before the first call; every chat model of the process that names the same model shares them.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LangSmithParams, LanguageModelInput, ModelProfile
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig
from pydantic import ConfigDict, Field, PrivateAttr, SecretStr, field_validator, model_validator

from aisp.call import hold_model, model_name
from aisp.errors import ConfigurationError
from aisp.forms import read_choice
from aisp.models import DEFAULT_MODEL
from aisp.rewards.base import Reward
from aisp.service import SETTINGS, Service
from aisp.settings import SearchFields, override
from aisp.threads import iterate_in_thread, run_in_thread
from aisp.version import __version__
from aisp_langchain.messages import to_openai
from aisp_langchain.profile import profile_of
from aisp_langchain.rewards import as_reward
from aisp_langchain.settings import read_call
from aisp_langchain.streaming import Chunker, Piece, answer_pieces, whole
from aisp_langchain.structured import Method, structured
from aisp_langchain.tools import read_tools
from aisp_langchain.tracing import EventSink, awith_run_id, event_sink_of, with_run_id


class AISPChatModel(SearchFields, BaseChatModel):
    """A local chat model, steered per request towards what its rewards like.

    All fields of `aisp.settings.SearchFields` may be given to the constructor and, as keyword arguments, to every
    call; so may `model`, `rewards`, `template_kwargs` and `explore_calls`, and to calls `reference_outputs`. Unknown
    names are errors. Without rewards it is an ordinary chat model that draws one sample.

    With a seed, a call's answer depends on its prompt and settings alone: `batch` gives what `invoke` gives one by one.
    A cache (`cache=True`, or LangChain's global one) keeps one answer a prompt and settings, unseeded searches' too.

    Attributes:
        model: A model's name (embedded, hub id, checkpoint folder or GGUF file), a `LoadedModel`, or a transformers
            model and its tokenizer as a tuple. `model_name` is the same.
        engine: An `aisp.engines.Engine` in place of a model.
        rewards: What `aisp_langchain.rewards.as_reward` takes: rewards of `aisp`, functions, Runnables, or a mapping of
            names to them, which is their sum.
        dtype: Of the weights; None takes bfloat16 where the device is fast at it, else float32.
        device: None takes CUDA, else MPS, else the CPU.
        template_kwargs: Variables of the chat template, as `{"enable_thinking": False}`.
        explore_calls: Where tools are bound and the model may choose, let every second of the first responses be a
            call, so that the rewards choose between calling and answering even if the model hardly thinks of calling.
            With a budget of 1 there is nothing to choose from, and this does nothing.
        trace_rewards: Show the runs of rewards to the callbacks, as children of the call's. Tokens of a judge that is a
            chat model then reach the handlers too.
        streaming: As in other chat models: whether `invoke` goes through `stream`. A search chooses among whole
            answers, so a stream begins when the answer is chosen, unless `commit_tokens` lets it choose block by block.
            Meanwhile each round is a custom event (`aisp_langchain.tracing`).
        api_key: Accepted, so that a call that built another chat model builds this one; there is nothing to open.
        max_retries: Accepted likewise; nothing goes over a network.

    Raises:
        ValidationError: pydantic's, for an unknown name, a value out of range, settings that contradict each other, or
            rewards that can't be made one.

    Example:
        >>> from aisp.rewards import Length
        >>> llm = AISPChatModel(model="smollm2-135m", rewards=Length(10, 20), budget=8, seed=1)
        >>> llm.invoke("Hello!").response_metadata["aisp"]["reward"]  # doctest: +SKIP
        1.0
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())

    model: Any = DEFAULT_MODEL
    engine: Any = None
    rewards: Any = None
    dtype: str | None = None
    device: str | None = None
    template_kwargs: dict[str, Any] = Field(default_factory=dict)
    explore_calls: bool = False
    trace_rewards: bool = False
    streaming: bool = False
    api_key: SecretStr | None = Field(default=None, exclude=True)
    max_retries: int | None = None

    _nonce: str = PrivateAttr(default_factory=lambda: uuid.uuid4().hex)

    @model_validator(mode="before")
    @classmethod
    def _accept_model_name(cls, values: Any) -> Any:
        if isinstance(values, dict) and "model_name" in values:
            if "model" in values:
                raise ConfigurationError("both model and model_name were given; they are the same, give one")
            values = {**values, "model": values["model_name"]}
            del values["model_name"]
        return values

    @field_validator("model", mode="before")
    @classmethod
    def _hold(cls, value: Any) -> Any:
        """Wrap objects once, here: nobody else holds what wraps them, and engines are shared by it."""
        return hold_model(value)

    @field_validator("rewards", mode="before")
    @classmethod
    def _coerce_rewards(cls, value: Any) -> Reward | None:
        return None if value is None else as_reward(value)

    @model_validator(mode="after")
    def _set_aisp_version(self) -> AISPChatModel:
        self._add_version("aisp-langchain", __version__)
        return self

    @model_validator(mode="after")
    def _check_settings(self) -> AISPChatModel:
        if self.engine is not None and "model" in self.model_fields_set:
            raise ConfigurationError("both model and engine were given; give the one that is to answer")
        self._service.check()
        return self

    @property
    def model_name(self) -> str:
        """The name of the model."""
        return model_name(self._source)

    def _resolve_model_profile(self) -> ModelProfile:
        return profile_of(self._source, self.model_name, self.max_tokens)

    @property
    def _llm_type(self) -> str:
        return "aisp-chat"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """What makes two models answer alike: caches are keyed by it, so the rewards' fingerprint is part of it."""
        return {
            "model_name": self.model_name,
            "model": self._source if isinstance(self._source, str) else self._nonce,
            "dtype": self.dtype,
            "device": self.device,
            "template_kwargs": self.template_kwargs,
            "explore_calls": self.explore_calls,
            "rewards": None if self.rewards is None else self.rewards.fingerprint,
            **self.model_dump(include=set(SETTINGS)),
        }

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        """Return the cache's key, in which a call's own rewards stand by their fingerprint and objects by a nonce."""
        if kwargs.get("rewards") is not None:
            kwargs["rewards"] = as_reward(kwargs["rewards"]).fingerprint
        for name in ("model", "engine"):
            if not isinstance(kwargs.get(name, ""), str):
                kwargs[name] = uuid.uuid4().hex
        return super()._get_llm_string(stop=stop, **kwargs)

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = LangSmithParams(
            ls_provider="aisp",
            ls_model_name=model_name(kwargs.get("model") or kwargs.get("engine") or self._source),
            ls_model_type="chat",
        )
        temperature, max_tokens = kwargs.get("temperature", self.temperature), kwargs.get("max_tokens", self.max_tokens)
        if temperature is not None:
            params["ls_temperature"] = temperature
        if max_tokens is not None:
            params["ls_max_tokens"] = max_tokens
        if stop or self.stop:
            params["ls_stop"] = list(stop or self.stop or ())
        return params

    def get_token_ids(self, text: str) -> list[int]:
        """Return the model's own token ids of a text."""
        ids: list[int] = self._service.codec.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """Return the number of tokens of the prompt that the messages become."""
        return len(self._service.encode(to_openai(messages), read_tools(tools or ())))

    def bind_tools(
        self,
        tools: Sequence[Any],
        *,
        tool_choice: str | bool | Mapping[str, Any] | None = None,
        parallel_tool_calls: bool | None = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Return this chat model with tools that it may or must call.

        Once the model begins a call, decoding is held to the schemas of the tools, so that a call is well-formed.

        Args:
            tools: Tools, functions, pydantic classes, TypedDicts or JSON schemas.
            tool_choice: "auto" (None) leaves the choice to the model, "none" hides the tools; "any" ("required", True)
                or a name forces a call.
            parallel_tool_calls: Whether there may be several calls in an answer. None allows them where the model may
                choose, and one where a call is forced.
            strict: Make every argument required, as OpenAI's strict mode does.
            **kwargs: Options of the calls, as `response_format`.

        Raises:
            ConfigurationError: What can't be a tool, or a choice of none of them.
        """
        read = read_tools(tools, strict)
        read_choice(tool_choice, read)
        options = {"tool_choice": tool_choice, "parallel_tool_calls": parallel_tool_calls, **kwargs}
        return self.bind(tools=list(read), **{key: value for key, value in options.items() if value is not None})

    def with_structured_output(
        self,
        schema: dict[str, Any] | type | None = None,
        *,
        method: Method = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """Return a chain whose answers are objects of a schema. Decoding is held to it, whatever the method.

        Args:
            schema: A pydantic class (of either version), whose objects are returned; or a TypedDict or a JSON schema,
                for which it is dicts.
            method: "json_schema" describes the schema in the prompt; "json_mode" doesn't, so that the prompt has to,
                and takes None for any JSON object; "function_calling" forces a call of a tool that has it.
            include_raw: Return `{"raw", "parsed", "parsing_error"}`, and raise no error of the parser.
            strict: Make every field required.
            **kwargs: Options of the calls.

        Raises:
            ConfigurationError: An unknown method, or no schema where one is needed.
        """
        return structured(self, schema, method=method, include_raw=include_raw, strict=strict, options=kwargs)

    def stream(  # core tells `_stream` nothing of its run, whose handlers are to hear of rounds
        self,
        input: LanguageModelInput,  # noqa: A002 - core's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        """Stream, as core does. Closing the iterator ends the search."""
        plain = super().stream
        return with_run_id(lambda config: plain(input, config, stop=stop, **kwargs), config, self.callbacks)

    def astream(
        self,
        input: LanguageModelInput,  # noqa: A002 - core's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        """Stream, as core does. Cancelling the task or closing the iterator ends the search within a decode step."""
        plain = super().astream
        return awith_run_id(lambda config: plain(input, config, stop=stop, **kwargs), config, self.callbacks)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        message = whole(self._pieces(messages, stop, kwargs, event_sink_of(run_manager)))
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        sink = event_sink_of(run_manager, asyncio.get_running_loop())
        message = await run_in_thread(lambda cancel: whole(self._pieces(messages, stop, kwargs, sink, cancel)))
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        chunker = Chunker()
        for piece in self._pieces(messages, stop, kwargs, event_sink_of(run_manager)):
            for chunk in chunker.chunks(piece):
                if run_manager is not None:
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        sink = event_sink_of(run_manager, asyncio.get_running_loop())
        chunker = Chunker()
        async with aclosing(
            iterate_in_thread(lambda cancel: self._pieces(messages, stop, kwargs, sink, cancel))
        ) as pieces:
            async for piece in pieces:
                for chunk in chunker.chunks(piece):
                    if run_manager is not None:
                        await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk

    def _pieces(
        self,
        messages: Sequence[BaseMessage],
        stop: list[str] | None,
        given: dict[str, Any],
        sink: EventSink,
        cancel: threading.Event | None = None,
    ) -> Iterator[Piece]:
        call = read_call(given, stop)
        run = self._service.run(to_openai(messages), cancel=cancel, **call)
        name = model_name(call["engine"] or self._source)
        return answer_pieces(run, sink, traced=self.trace_rewards, model_name=name)

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
