"""A model in memory with its tokenizer, and what follows from the two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from aisp.errors import ConfigurationError, UnsupportedModelError
from aisp.models.chat import ChatEncoder
from aisp.models.codec import ChatCodec
from aisp.records import Message


@dataclass(frozen=True, kw_only=True, eq=False, slots=True, weakref_slot=True)
class LoadedModel:
    """A causal language model with its tokenizer. Nothing here changes either.

    Two of them are equal only if they are the same object: engines are shared by it.

    Args:
        model: A transformers causal language model, in evaluation mode.
        codec: Its tokenizer and chat template. Tokens that end a response are the generation configuration's, the
            tokenizer's, and the one that the chat template ends an assistant's turn with.
    """

    model: Any = field(repr=False)
    codec: ChatCodec

    @property
    def name(self) -> str:
        """What it was loaded as."""
        return self.codec.name

    @property
    def tokenizer(self) -> Any:
        """Its tokenizer."""
        return self.codec.tokenizer

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Tokens that end a response, ascending."""
        return self.codec.eos_token_ids

    @property
    def context_length(self) -> int | None:
        """Tokens that prompt and response may have together; None where the model sets no limit."""
        return self.codec.context_length

    @property
    def supports_tools(self) -> bool:
        """Whether the chat template has a place for tools."""
        return self.codec.supports_tools

    def encode(
        self, messages: Sequence[Message], tools: Sequence[Any] | None = None, **template_kwargs: Any
    ) -> list[int]:
        """Turn messages into prompt tokens; see `ChatCodec.encode`."""
        return self.codec.encode(messages, tools, **template_kwargs)


def wrap(name: str, model: Any, tokenizer: Any) -> LoadedModel:
    """Put a model and its tokenizer together.

    Raises:
        ConfigurationError: The model is in training mode.
        UnsupportedModelError: It is spread over several devices, or part of it is not in memory.
    """
    if model.training:
        raise ConfigurationError(
            "the model is in training mode, where dropout changes its logits; call model.eval() first"
        )
    check_placement(name, model)
    encoder = ChatEncoder(tokenizer, name)
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    codec = ChatCodec(
        name=name,
        tokenizer=tokenizer,
        eos_token_ids=_eos_token_ids(model, tokenizer, encoder),
        context_length=None if limit is None else int(limit),
        encoder=encoder,
    )
    return LoadedModel(model=model, codec=codec)


def check_placement(name: str, model: Any) -> None:
    """Refuse models that are not on one device: rows of several requests are decoded by one cache, which is on one.

    Raises:
        UnsupportedModelError: The model is spread over several devices, or part of it is not in memory.
    """
    mapped = {str(device) for device in (getattr(model, "hf_device_map", None) or {}).values()}
    held = {str(weight.device) for weight in model.parameters()}
    if "meta" in held or "disk" in mapped or len(held) > 1:
        raise UnsupportedModelError(
            f"{name} is spread over {', '.join(sorted(mapped | held))}; expected one device. Choose a device that "
            "holds all of it, a smaller dtype, a quantised checkpoint, or a serving engine that splits models"
        )


def _eos_token_ids(model: Any, tokenizer: Any, chat: ChatEncoder) -> tuple[int, ...]:
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    found = set(configured if isinstance(configured, (list, tuple)) else [configured])
    found |= {tokenizer.eos_token_id, chat.end_token_id()}
    return tuple(sorted(int(token) for token in found if token is not None))
