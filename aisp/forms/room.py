"""What of a request's grammars can be known to be wrong before the model is run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aisp.engines.grammar import compile_grammar


def check_room(codec: Any, grammars: Sequence[str | None], max_tokens: int) -> None:
    """Raise unless every grammar can be compiled and has a response that fits. Engines find them compiled.

    Args:
        codec: Has a `tokenizer` and `eos_token_ids`.
        grammars: Lark, as `aisp.engines.grammar` reads it; None for nothing.
        max_tokens: Tokens that a response may have.

    Raises:
        ConfigurationError: A grammar can't be compiled, is too large, or needs more tokens for its shortest response.
        UnsupportedModelError: The tokenizer can't be read, or llguidance is not installed.
    """
    for source in grammars:
        if source is not None:
            compile_grammar(codec.tokenizer, source, codec.eos_token_ids).check_room(max_tokens)
