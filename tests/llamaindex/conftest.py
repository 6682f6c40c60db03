"""An LLM over the fake engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("llama_index.core", reason="needs the extra llamaindex")

from aisp.records import CAPABILITIES
from aisp.testing import FakeEngine
from aisp_llamaindex import AISPLLM


@pytest.fixture
def engine(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """The engine of every model for the length of a test."""
    fake = FakeEngine(codec=tiny.codec, offers=CAPABILITIES)
    monkeypatch.setattr("aisp.engines.engine_for", lambda source, **placed: fake)
    return fake


@pytest.fixture
def llm(engine: FakeEngine, tiny: Any) -> Callable[..., AISPLLM]:
    """Build an LLM whose answers are the fake engine's."""

    def build(**fields: Any) -> AISPLLM:
        return AISPLLM(**{"model": tiny, "seed": 1, **fields})

    return build
