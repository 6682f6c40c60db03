"""Length in words, sentences, characters or a tokenizer's tokens."""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import Any, Literal

from aisp.errors import ConfigurationError
from aisp.rewards.rules.base import Counted
from aisp.rewards.rules.units import count_sentences, count_words

Unit = Literal["words", "sentences", "characters", "tokens"]
_COUNTERS: dict[str, Callable[[str], int]] = {
    "words": count_words,
    "sentences": count_sentences,
    "characters": len,
}


class Length(Counted):
    """Between two numbers of words, sentences, characters or tokens.

    1 within the bounds; outside them it falls with the ratio to the nearer bound (twice or half as long scores 0.5).

    Args:
        low: At least this many; 0 for no lower bound.
        high: At most this many; None for no upper bound.
        unit: What is counted: words are runs without blanks, sentences end by . ! ?, or by the text's end.
        tokenizer: For tokens: a Hugging Face tokenizer, or a function from a text to its tokens.
    """

    def __init__(
        self,
        low: int = 0,
        high: int | None = None,
        *,
        unit: Unit = "words",
        tokenizer: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(low, high, **options)
        if unit not in (*_COUNTERS, "tokens"):
            raise ConfigurationError(f'unit is {unit!r}; expected "words", "sentences", "characters" or "tokens"')
        if (unit == "tokens") != (tokenizer is not None):
            raise ConfigurationError(
                f"unit is {unit!r} and tokenizer {tokenizer!r}; tokens need one, nothing else does"
            )
        self.unit = unit
        self._count = _COUNTERS[unit] if tokenizer is None else _token_counter(tokenizer)
        if tokenizer is not None:
            self.tokenizer = getattr(tokenizer, "name_or_path", None) or _name_of(tokenizer)

    def count(self, text: str) -> int:
        return self._count(text)


def _token_counter(tokenizer: Any) -> Callable[[str], int]:
    encode: Callable[..., Sized] | None = getattr(tokenizer, "encode", None)
    if encode is not None:
        return lambda text: len(encode(text, add_special_tokens=False))
    if callable(tokenizer):
        return lambda text: len(tokenizer(text))
    raise ConfigurationError(
        f"tokenizer is a {type(tokenizer).__name__}; expected a Hugging Face tokenizer, or a function from a text to "
        "its tokens"
    )


def _name_of(tokenizer: Any) -> str:
    kind = tokenizer if hasattr(tokenizer, "__qualname__") else type(tokenizer)
    return f"{kind.__module__}.{kind.__qualname__}"
