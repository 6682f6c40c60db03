"""LangChain's own unit tests: no weights are loaded."""

from __future__ import annotations

from typing import Any

from langchain_tests.unit_tests import ChatModelUnitTests

from aisp.rewards import Length
from aisp_langchain import AISPChatModel


class TestPlain(ChatModelUnitTests):
    @property
    def chat_model_class(self) -> type[AISPChatModel]:
        return AISPChatModel

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "smollm2-135m"}

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_model_override(self) -> bool:
        return True


class TestSteered(TestPlain):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "smollm2-135m", "rewards": Length(0, 5), "budget": 4}
