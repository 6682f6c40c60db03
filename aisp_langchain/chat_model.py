"""A LangChain chat model whose answers are searched for by reward.

    messages --to_openai--> dicts --chat template--> prompt tokens
       --> Aligner.rounds (one loop a request; requests share the engine's batch)
       --> the best response --to_ai_message--> AIMessage + usage_metadata + response_metadata["aisp"]

No weights are loaded before the first call; they are shared by every chat model of the process that names the same model.
"""

from __future__ import annotations

import asyncio
import functools
import re
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LangSmithParams
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables.config import set_config_context
from pydantic import ConfigDict, Field, PrivateAttr, SecretStr, ValidationError, field_validator, model_validator

from aisp.aligner import Request
from aisp.errors import ConfigurationError
from aisp.rewards.base import Reward
from aisp.settings import SearchSettings
from aisp.trace import Alignment
from aisp.version import __version__
from aisp_langchain.messages import to_ai_message, to_openai
from aisp_langchain.rewards import as_reward

T = TypeVar("T")

_PIECE = re.compile(r"\s*\S+|\s+")
_SEARCH_FIELDS = frozenset(SearchSettings.model_fields)
# Requests that wait for the engine side by side; the engine's own limit is on rows.
_EXECUTOR = ThreadPoolExecutor(max_workers=128, thread_name_prefix="aisp-request")


class AISPChatModel(SearchSettings, BaseChatModel):
    """A local chat model, steered per request towards what its rewards like.

    All fields of `aisp.settings.SearchSettings` may be given to the constructor and, as keyword arguments, to every call.
    Unknown names are errors. Without rewards it is an ordinary chat model that draws one sample.

    Attributes:
        model: A model's name (embedded, hub id, checkpoint folder or GGUF file) or a `LoadedModel`. `model_name` is the same.
        rewards: What `aisp_langchain.rewards.as_reward` takes: rewards of `aisp`, functions, Runnables, or a mapping of them.
        dtype: Of the weights; None takes bfloat16 where the device is fast at it, else float32.
        device: None takes CUDA, else MPS, else the CPU.
        streaming: As in other chat models: whether `invoke` goes through `stream`.
        api_key: Accepted, so that a call that built another chat model builds this one; there is nothing to open.
        max_retries: Accepted likewise; nothing goes over a network.

    Example:
        >>> from aisp.rewards import Length
        >>> llm = AISPChatModel(model="smollm2-135m", rewards=Length(10, 20), budget=8, seed=1)
        >>> llm.invoke("Hello!").response_metadata["aisp"]["reward"]  # doctest: +SKIP
        1.0
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())

    model: Any = "smollm2-135m"
    rewards: Any = None
    dtype: str | None = None
    device: str | None = None
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

    @field_validator("rewards", mode="before")
    @classmethod
    def _coerce_rewards(cls, value: Any) -> Reward | None:
        return None if value is None else as_reward(value)

    @field_validator("stop", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _set_aisp_version(self) -> AISPChatModel:
        self._add_version("aisp-langchain", __version__)
        return self

    @model_validator(mode="after")
    def _check_settings(self) -> AISPChatModel:
        self.make_plan(rewarded=self.rewards is not None)
        self.make_strategy(rewarded=self.rewards is not None)
        return self

    @property
    def model_name(self) -> str:
        """The name of the model."""
        return self.model if isinstance(self.model, str) else str(getattr(self.model, "name", type(self.model).__name__))

    @property
    def _llm_type(self) -> str:
        return "aisp-chat"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """What makes two models answer alike: caches are keyed by it, so the rewards' fingerprint is part of it."""
        settings = self.model_dump(include=set(_SEARCH_FIELDS))
        return {
            "model_name": self.model_name,
            "model": self.model if isinstance(self.model, str) else self._nonce,
            "dtype": self.dtype,
            "device": self.device,
            "rewards": None if self.rewards is None else self.rewards.fingerprint,
            **settings,
        }

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = LangSmithParams(
            ls_provider="aisp", ls_model_name=str(kwargs.get("model", self.model_name)), ls_model_type="chat"
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
        from aisp.models import load

        ids: list[int] = load(self.model, dtype=self.dtype, device=self.device).tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """Return the number of tokens of the prompt that the messages become."""
        return len(self._load().encode(to_openai(messages), tools))

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        message = self._answer(messages, stop, kwargs, threading.Event())
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        message = await _cancellable(lambda cancel: self._answer(messages, stop, kwargs, cancel))
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for chunk in _chunks(self._answer(messages, stop, kwargs, threading.Event())):
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
        message = await _cancellable(lambda cancel: self._answer(messages, stop, kwargs, cancel))
        for chunk in _chunks(message):
            if run_manager is not None:
                await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    def _answer(
        self, messages: Sequence[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any], cancel: threading.Event
    ) -> AIMessage:
        model, reference = kwargs.pop("model", None), kwargs.pop("reference_outputs", None)
        settings = self._settings(kwargs)
        loaded = self._load(model)
        openai = to_openai(messages)
        request = Request(
            messages=openai,
            prompt_tokens=loaded.encode(openai),
            limits=settings.make_limits(stop, cancel),
            seed=settings.seed,
            reference=reference,
        )
        alignment = self._align(settings, loaded, request)
        name = self.model_name if model is None else str(getattr(model, "name", model))
        return to_ai_message(alignment, model_name=name, prompt_tokens=len(request.prompt_tokens))

    def _align(self, settings: SearchSettings, loaded: Any, request: Request) -> Alignment:
        from aisp.engines import engine_for

        aligner = settings.make_aligner(engine_for(loaded), self.rewards)
        # A model that judges must not write into the stream of the one that is judged: it runs without our callbacks.
        with set_config_context({"callbacks": []}) as context:
            return context.run(aligner.align, request)

    def _settings(self, kwargs: dict[str, Any]) -> SearchSettings:
        """Return the settings of a call: the instance's, with the call's put over them."""
        unknown = sorted(kwargs.keys() - _SEARCH_FIELDS)
        if unknown:
            raise ConfigurationError(
                f"a call got {', '.join(unknown)}; expected model, stop, reference_outputs or any of {', '.join(sorted(_SEARCH_FIELDS))}"
            )
        try:
            return SearchSettings(**{**self.model_dump(include=set(_SEARCH_FIELDS)), **kwargs})
        except ValidationError as error:
            raise ConfigurationError(str(error)) from error

    def _load(self, model: Any = None) -> Any:
        from aisp.models import load

        return load(self.model if model is None else model, dtype=self.dtype, device=self.device)


async def _cancellable(work: Callable[[threading.Event], T]) -> T:
    """Run blocking work on a thread; if the caller is cancelled, so is the work, within a decode step."""
    import contextvars

    cancel = threading.Event()
    context = contextvars.copy_context()
    try:
        call = functools.partial(context.run, work, cancel)
        return await asyncio.get_running_loop().run_in_executor(_EXECUTOR, call)
    except asyncio.CancelledError:
        cancel.set()
        raise


def _chunks(message: AIMessage) -> Iterator[ChatGenerationChunk]:
    """Cut an answer into pieces of a word each; the last chunk, an empty one, carries what is known of the whole."""
    for piece in _PIECE.findall(str(message.content)):
        yield ChatGenerationChunk(message=AIMessageChunk(content=piece))
    yield ChatGenerationChunk(
        message=AIMessageChunk(
            content="",
            usage_metadata=message.usage_metadata,
            response_metadata=message.response_metadata,
            chunk_position="last",
        )
    )
