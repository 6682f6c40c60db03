"""LangChain's own integration tests, on the embedded model, offline: plain and steered, in both output versions.

They take minutes on two cores: `make test-full` runs them.
"""

from __future__ import annotations

from typing import Any

import pytest
from langchain_tests.integration_tests import ChatModelIntegrationTests

from aisp_langchain import AISPChatModel


@pytest.mark.full
@pytest.mark.real
class TestPlain(ChatModelIntegrationTests):
    @property
    def chat_model_class(self) -> type[AISPChatModel]:
        return AISPChatModel

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {
            "model": "smollm2-135m",
            "dtype": "float32",
            "device": "cpu",
            "temperature": 0,
            "seed": 1,
            "max_tokens": 60,
        }

    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        return {}

    @property
    def supports_json_mode(self) -> bool:
        return True
