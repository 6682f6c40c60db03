"""LangChain's own integration tests, on the embedded model, offline: unsteered and steered, in both output versions.

Two of the classes run on every change; the rest take minutes each, and `make test-full` runs them.
"""

from __future__ import annotations

import pytest
from langchain_tests.integration_tests import ChatModelIntegrationTests

from aisp.errors import ModelNotFoundError
from aisp.models import load
from aisp_langchain import AISPChatModel
from tests.langchain.standard import GREEDY, SEARCH, Standard, judge, rule

pytestmark = pytest.mark.real

ONE = {**SEARCH, "budget": 1}
FOUR = {**SEARCH, "budget": 4, "num_samples": 2}


class TestPlain(Standard):
    pass


class TestRuleAndJudge4V1(Standard):
    fields = {**FOUR, "rewards": {"rule": rule(), "judge": judge()}, "output_version": "v1"}


@pytest.mark.full
class TestPlainV1(Standard):
    fields = {**GREEDY, "output_version": "v1"}
    method = "function_calling"


@pytest.mark.full
class TestRule1(Standard):
    fields = {**ONE, "rewards": {"rule": rule()}}
    method = "json_mode"


@pytest.mark.full
class TestRule1V1(Standard):
    fields = {**ONE, "rewards": {"rule": rule()}, "output_version": "v1"}


@pytest.mark.full
class TestRule4(Standard):
    fields = {**FOUR, "rewards": {"rule": rule()}}
    method = "function_calling"


@pytest.mark.full
class TestRule4V1(Standard):
    fields = {**FOUR, "rewards": {"rule": rule()}, "output_version": "v1"}
    method = "json_mode"


@pytest.mark.full
class TestJudge1(Standard):
    fields = {**ONE, "rewards": {"judge": judge()}}


@pytest.mark.full
class TestJudge1V1(Standard):
    fields = {**ONE, "rewards": {"judge": judge()}, "output_version": "v1"}
    method = "function_calling"


@pytest.mark.full
class TestJudge4(Standard):
    fields = {**FOUR, "rewards": {"judge": judge()}}
    method = "json_mode"


@pytest.mark.full
class TestJudge4V1(Standard):
    fields = {**FOUR, "rewards": {"judge": judge()}, "output_version": "v1"}


@pytest.mark.full
@pytest.mark.parametrize("version", ["v0", "v1"])
def test_a_model_trained_on_tools_decides_by_itself(version):
    name = "qwen2.5-coder-0.5b"
    try:
        load(name, dtype="float32", device="cpu")
    except ModelNotFoundError as error:
        pytest.skip(str(error))
    llm = AISPChatModel(**{**GREEDY, "model": name, "output_version": version})
    ChatModelIntegrationTests.test_agent_loop(Standard(), llm)
