"""How to end what a grammar has begun: a short way from a state of it to an accepting one.

llguidance knows what may follow, not what ends it soonest. The way is found greedily: forced tokens are taken, quotes
and brackets closed, empty values put where one is needed, and a token that leads nowhere is tried less and less. For
JSON that is close to the shortest; for a grammar of one's own it may fail, and then a response ends at its limit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

_LONGEST = 256
_LETTER = "a"  # allowed within strings, and nowhere else where a quote is
_OFTEN = 3
# From best to worst, of texts with a space in front or none. What isn't here comes after them, longer tokens first,
# since they make more of a text that has a least length.
_OUTSIDE = (r"[}\]]+\n?", r"(\[\]|\{\}|\"\")[}\]]*", "null", "0", r"\[", r"\{", '"', "", "[,:]", r"[^\w\s]+")
_INSIDE = (r"\"[}\]]*\n?", r"[^\w\s\"\\]+")


class Closer:
    """Finds ways to the end for a tokenizer.

    Args:
        tokenizer: A fast transformers tokenizer.
        eos_token_ids: Tokens that end a response.
    """

    def __init__(self, tokenizer: Any, eos_token_ids: Sequence[int]) -> None:
        vocabulary: dict[str, int] = tokenizer.get_vocab()
        size = max(vocabulary.values()) + 1
        self._outside = _ranks(vocabulary, size, _OUTSIDE)
        self._inside = _ranks(vocabulary, size, _INSIDE)
        self._eos = [token for token in eos_token_ids if token < size]
        self._letter = vocabulary.get(_LETTER)

    def path(self, state: Any) -> list[int] | None:
        """Return tokens that lead from a state to an accepting one; None if they were not found.

        Args:
            state: llguidance's matcher, which stays as it is.
        """
        if state.is_accepting():
            return []
        here = state.deep_copy()
        taken: list[int] = []
        used: dict[int, int] = {}
        while len(taken) < _LONGEST:
            forced = here.compute_ff_tokens()
            tokens = list(forced) or self._pick(here, used)
            for token in tokens:
                if not here.consume_token(token):
                    return None
                taken.append(token)
                if here.is_accepting():
                    return taken
            if not tokens:
                return None
        return None

    def _pick(self, state: Any, used: dict[int, int]) -> list[int]:
        """Return the one token that looks best, or none where nothing is allowed."""
        bits = np.frombuffer(state.compute_bitmask(), dtype=np.uint8)
        allowed = np.unpackbits(bits, bitorder="little")[: len(self._outside)].astype(bool)
        allowed[self._eos] = False
        if not allowed.any():
            return []
        inside = self._letter is not None and bool(allowed[self._letter])
        ranks = np.where(allowed, self._inside if inside else self._outside, np.inf)
        for token, times in used.items():  # what was tried often leads nowhere
            ranks[token] += 100.0 * max(0, times - _OFTEN)
        token = int(ranks.argmin())
        used[token] = used.get(token, 0) + 1
        return [token]


def _ranks(vocabulary: dict[str, int], size: int, patterns: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return how good each token is for closing, less is better."""
    compiled = [re.compile(pattern) for pattern in patterns]
    ranks = np.full(size, np.inf)
    for text, token in vocabulary.items():
        # As byte-level tokenizers write a line's end and a space, and others a space.
        plain = text.replace("\u010a", "\n").replace("\u0120", " ").replace("\u2581", " ").removeprefix(" ")
        place = next((i for i, pattern in enumerate(compiled) if pattern.fullmatch(plain)), len(compiled))
        ranks[token] = 100 * place - min(len(text), 99)
    return ranks
