"""Stop strings, also across token borders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class StopStrings:
    """Finds stop strings in a response as its tokens come.

    Only a window of the last tokens is decoded at each step: a stop string of b bytes lies within the last b tokens,
        since
    every token gives at least one byte, and a few more tokens let the tokenizer decode what comes before it.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._window = max((len(string.encode()) for string in stop), default=0) + 8

    def hit(self, ids: Sequence[int]) -> bool:
        """Return whether the response so far holds a stop string, given that it held none a token ago."""
        if not self._stop:
            return False
        text = decode(self._tokenizer, ids[-self._window :])
        return any(string in text for string in self._stop)

    def cut(self, text: str) -> str:
        """Return the text before the first stop string."""
        ends = [text.index(string) for string in self._stop if string in text]
        return text[: min(ends)] if ends else text


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """Return the text of tokens, special ones left out, the spaces left as they are."""
    text: str = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text
