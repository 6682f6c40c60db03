"""Constrained decoding: which tokens may come next, and how a response is closed in time.

    source --compile--> Grammar --matcher()--> Matcher: mask -> (a token is drawn) -> hold -> advance

A grammar is a string, Lark as llguidance reads it (JSON schemas within it as `%json {...}`), so that a proposal stays
data. llguidance says what may come next; it doesn't know how to end. A JSON string may go on for ever, so that near the
token limit `hold` takes the shortest way to the end that it finds in place of a token from which the end is too far.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aisp.engines.bounds import check_source
from aisp.engines.closing import Closer, Ways
from aisp.errors import ConfigurationError, UnsupportedModelError

_KEPT = 128  # compiled grammars a tokenizer: tools and schemas come again with every request
_ITEMS = 50_000  # of a row of the parser: an object with many optional properties has some of each
_LOOK_AHEAD = 16  # tokens between two looks at how far the end is, at least
_lock = threading.Lock()
_vocabularies: weakref.WeakKeyDictionary[Any, Vocabulary] = weakref.WeakKeyDictionary()


class Vocabulary:
    """A tokenizer as llguidance knows it, and the grammars that were compiled for it. Thread-safe.

    Args:
        tokenizer: A fast transformers tokenizer.
        eos_token_ids: Tokens that end a response.

    Raises:
        UnsupportedModelError: The tokenizer is not one of the `tokenizers` library, or llguidance is not installed.
    """

    def __init__(self, tokenizer: Any, eos_token_ids: Sequence[int]) -> None:
        try:
            from llguidance.hf import from_tokenizer
        except ImportError as error:
            raise UnsupportedModelError(
                "constrained decoding needs llguidance; install it: pip install 'aisp-langchain[grammar]'"
            ) from error
        if not getattr(tokenizer, "is_fast", False):
            raise UnsupportedModelError(
                f"constrained decoding can't read a {type(tokenizer).__name__}; use the model's fast tokenizer"
            )
        self.eos_token_ids = tuple(eos_token_ids)
        # Without slices: masks then cost the same whatever the grammar, about 50 us for 49,152 tokens.
        self.tokens = from_tokenizer(tokenizer, eos_token=list(eos_token_ids))
        self.closer = Closer(tokenizer, eos_token_ids)
        self._lock = threading.Lock()
        self._compiled: OrderedDict[str, Grammar] = OrderedDict()

    def compile(self, source: str) -> Grammar:
        """Return a grammar, compiled unless it was before."""
        with self._lock:
            grammar = self._compiled.get(source)
            if grammar is None:
                grammar = self._compiled[source] = Grammar(self, source)
            self._compiled.move_to_end(source)
            while len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)
            return grammar


class Grammar:
    """A compiled grammar. See `compile_grammar`.

    Args:
        vocabulary: The tokenizer's.
        source: Lark, as llguidance reads it.

    Raises:
        ConfigurationError: It can't be compiled; the message says where.
    """

    def __init__(self, vocabulary: Vocabulary, source: str) -> None:
        from llguidance import LLMatcher, LLParserLimits

        check_source(source)
        self.source = source
        self.vocabulary = vocabulary
        wrong, messages = LLMatcher.validate_grammar_with_warnings(source, vocabulary.tokens)
        if wrong:
            raise ConfigurationError(
                f"the grammar or JSON schema can't be compiled: {'; '.join(messages)}; simplify it, or leave out what "
                "llguidance doesn't know"
            )
        self._start = LLMatcher(vocabulary.tokens, source, log_level=0, limits=LLParserLimits(max_items_in_row=_ITEMS))
        self.ways = Ways()
        path = self.path(self._start, midway=False)
        self.shortest = None if path is None else len(path)

    def matcher(self) -> Matcher:
        """Return what follows one response, from its start."""
        return Matcher(self, self._start.deep_copy())

    def path(self, state: Any, *, midway: bool = True) -> list[int] | None:
        """Return a short way to the end from a state of the grammar; None where none was found."""
        return self.vocabulary.closer.path(state, self.ways, midway=midway)

    def check_room(self, max_tokens: int) -> None:
        """Raise if no response of this grammar fits.

        Raises:
            ConfigurationError: The shortest response that was found takes more than `max_tokens`.
        """
        if self.shortest is not None and self.shortest > max_tokens:
            raise ConfigurationError(
                f"max_tokens is {max_tokens}, and the shortest response of this grammar or JSON schema takes about "
                f"{self.shortest} tokens; raise max_tokens"
            )


class Matcher:
    """Follows one response through a grammar.

    Args:
        grammar: What it follows.
        state: llguidance's matcher, which is changed.
    """

    def __init__(self, grammar: Grammar, state: Any) -> None:
        self._grammar = grammar
        self._vocabulary = grammar.vocabulary
        self._state = state
        self._path: list[int] | None = None  # the shortest known way to the end, while it is known
        self._zone = 0  # from how many remaining tokens on every token is looked at
        self._until_look = 0

    @property
    def done(self) -> bool:
        """Whether nothing but the end can follow."""
        return bool(self._state.is_stopped())

    def mask(self, vocab_size: int) -> NDArray[np.bool_]:
        """Return which tokens may come next, bool, shape (vocab_size,)."""
        bits = np.frombuffer(self._state.compute_bitmask(), dtype=np.uint8)
        allowed = np.unpackbits(bits, bitorder="little")[:vocab_size].astype(bool)
        if not allowed.any():  # an error inside llguidance, or nothing can follow
            allowed[[token for token in self._vocabulary.eos_token_ids if token < vocab_size]] = True
        return allowed

    def hold(self, token: int, remaining: int) -> int:
        """Return the token to take: the drawn one, or where the end would be too far behind it, one that leads there.

        Args:
            token: The drawn one, which the mask allows.
            remaining: Tokens that the response may still have, this one included.
        """
        if token in self._vocabulary.eos_token_ids or (self._path and token == self._path[0]):
            return token
        if self._until_look <= 0:
            self._look(remaining)
        if remaining > self._zone:
            return token
        after = self._state.deep_copy()
        if after.consume_token(token):
            path = self._grammar.path(after)
            if path is not None and len(path) < remaining:
                return token
        if self._path is None:
            self._path = self._grammar.path(self._state)
        if self._path is None:
            return token
        return self._path[0] if self._path else self._vocabulary.eos_token_ids[0]

    def advance(self, token: int) -> None:
        """Take note of the token that was taken."""
        self._path = self._path[1:] if self._path and self._path[0] == token else None
        self._until_look -= 1
        if token not in self._vocabulary.eos_token_ids:
            self._state.consume_token(token)

    def _look(self, remaining: int) -> None:
        self._path = self._grammar.path(self._state)
        length = len(self._path or ())
        # What is far from its end may wait longer for the next look.
        self._until_look = max(_LOOK_AHEAD, (remaining - length) // _LOOK_AHEAD)
        # One token may open what takes as much again to close.
        self._zone = max(self._zone, 2 * length + 2 * self._until_look)


def compile_grammar(tokenizer: Any, source: str, eos_token_ids: Sequence[int]) -> Grammar:
    """Return the compiled grammar, made once a tokenizer and source.

    Args:
        tokenizer: A fast transformers tokenizer.
        source: Lark, as llguidance reads it: `start: %json {"type": "object"}` for a JSON schema, `start: /[a-z]+/`
            for a regular expression.
        eos_token_ids: Tokens that end a response.

    Raises:
        ConfigurationError: The grammar can't be compiled.
        UnsupportedModelError: The tokenizer can't be read, or llguidance is not installed.

    Example:
        >>> from aisp.testing import tiny_tokenizer
        >>> tokenizer = tiny_tokenizer()
        >>> grammar = compile_grammar(tokenizer, 'start: "yes" | "no"', [tokenizer.eos_token_id])
        >>> allowed = grammar.matcher().mask(len(tokenizer)).nonzero()[0].tolist()
        >>> sorted(tokenizer.convert_ids_to_tokens(allowed))
        ['n', 'y']
    """
    with _lock:
        vocabulary = _vocabularies.get(tokenizer)
        if vocabulary is None or vocabulary.eos_token_ids != tuple(eos_token_ids):
            vocabulary = _vocabularies[tokenizer] = Vocabulary(tokenizer, eos_token_ids)
    return vocabulary.compile(source)
