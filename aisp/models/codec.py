"""From messages to prompt tokens and back to text: what an engine has whether or not it runs the model itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from aisp.models.chat import ChatEncoder
from aisp.records import Message


@dataclass(frozen=True, kw_only=True, eq=False, slots=True, weakref_slot=True)
class ChatCodec:
    """A model's tokenizer and chat template.

    Args:
        name: What the model is called in messages and traces.
        tokenizer: A transformers tokenizer.
        eos_token_ids: Tokens that end a response, ascending.
        context_length: Tokens that prompt and response may have together; None where the model sets no limit.
        encoder: The chat template, made safe.
    """

    name: str
    tokenizer: Any = field(repr=False)
    eos_token_ids: tuple[int, ...]
    context_length: int | None
    encoder: ChatEncoder = field(repr=False)

    @property
    def supports_tools(self) -> bool:
        """Whether the chat template has a place for tools."""
        return self.encoder.supports_tools

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
            >>> codec = tiny_loaded_model().codec
            >>> codec.tokenizer.decode(codec.encode([{"role": "user", "content": "Hi"}]))
            '<|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\n'
        """
        return self.encoder.encode(messages, tools, **template_kwargs)
