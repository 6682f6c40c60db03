"""A chat model over the fake engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from aisp.records import CAPABILITIES
from aisp.testing import FakeEngine
from aisp_langchain import AISPChatModel


@pytest.fixture
def engine(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """The engine of every model for the length of a test."""
    fake = FakeEngine(codec=tiny.codec, offers=CAPABILITIES)
    monkeypatch.setattr("aisp.engines.engine_for", lambda source, **placed: fake)
    return fake


@pytest.fixture
def named(engine: FakeEngine, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., AISPChatModel]:
    """Build a chat model that names its model, as most do, so that two of them may share cache entries."""
    monkeypatch.setattr("aisp.models.load", lambda model, **options: tiny)

    def build(**fields: Any) -> AISPChatModel:
        return AISPChatModel(**{"model": "some-model", "seed": 1, **fields})

    return build


@pytest.fixture
def chat(engine: FakeEngine, tiny: Any) -> Callable[..., AISPChatModel]:
    """Build a chat model whose answers are the fake engine's."""

    def build(**fields: Any) -> AISPChatModel:
        return AISPChatModel(**{"model": tiny, "seed": 1, **fields})

    return build
