"""Engines over tiny models, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from aisp.engines.transformers.engine import TransformersEngine
from aisp.models.codec import ChatCodec
from aisp.models.loaded import wrap
from aisp.testing import FakeEngine, tiny_tokenizer


def codec_of(model: Any, eos: Sequence[int] = (2,)) -> ChatCodec:
    """The tiny tokenizer's codec, with the tokens that end a response."""
    return replace(wrap("tiny", model, tiny_tokenizer()).codec, eos_token_ids=tuple(eos))


def engine_of(model: Any, eos: Sequence[int] = (2,), **options: Any) -> TransformersEngine:
    """An engine; without `eos` its responses never end by themselves."""
    return TransformersEngine(model, codec_of(model, eos), **options)


def canned(text: str) -> FakeEngine:
    """An engine that says one thing: the registry finds it by its place."""
    return FakeEngine([text])
