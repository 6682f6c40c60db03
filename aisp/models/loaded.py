"""A model in memory with its tokenizer, and what follows from the two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from aisp.errors import ConfigurationError, UnsupportedModelError
from aisp.models.chat import ChatEncoder
from aisp.records import Message


@dataclass(frozen=True, kw_only=True, eq=False, slots=True, weakref_slot=True)
class LoadedModel:
    """A causal language model and its tokenizer. Nothing here changes either.

    Two of them are equal only if they are the same object: engines are shared by it.

    Args:
        name: What it was loaded as.
        model: A transformers causal language model, in evaluation mode.
        tokenizer: Its tokenizer.
        eos_token_ids: Tokens that end a response: the generation configuration's, the tokenizer's, and the one that the
            chat template ends an assistant's turn with. Ascending.
    """

    name: str
    model: Any = field(repr=False)
    tokenizer: Any = field(repr=False)
    eos_token_ids: tuple[int, ...]
    _chat: ChatEncoder = field(repr=False)

    @property
    def context_length(self) -> int | None:
        """Tokens that prompt and response may have together; None where the model sets no limit."""
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return None if limit is None else int(limit)

    @property
    def supports_tools(self) -> bool:
        """Whether the chat template has a place for tools."""
        return self._chat.supports_tools

    def encode(
        self, messages: Sequence[Message], tools: Sequence[Any] | None = None, **template_kwargs: Any
    ) -> list[int]:
        """Turn messages into prompt tokens by the chat template, the assistant's turn opened at the end.

        Text in messages and tools that spells a control token is encoded as text.

        Args:
            messages: OpenAI-style messages, at least one.
            tools: OpenAI-style tool definitions.
            **template_kwargs: Variables of the template, as `enable_thinking`; also `add_generation_prompt` and
                `continue_final_message`, which leaves the last message open to be gone on with.

        Raises:
            PromptError: Messages that the template can't hold, or tools where it has no place for them.
            ConfigurationError: A keyword that the template does not use.
            UnsupportedModelError: There is no chat template, or the tokenizer can't tell text from control tokens.

        Example:
            >>> from aisp.testing import tiny_loaded_model
            >>> loaded = tiny_loaded_model()
            >>> loaded.tokenizer.decode(loaded.encode([{"role": "user", "content": "Hi"}]))
            '<|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\n'
        """
        return self._chat.encode(messages, tools, **template_kwargs)


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
    chat = ChatEncoder(tokenizer, name)
    return LoadedModel(
        name=name, model=model, tokenizer=tokenizer, eos_token_ids=_eos_token_ids(model, tokenizer, chat), _chat=chat
    )


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
