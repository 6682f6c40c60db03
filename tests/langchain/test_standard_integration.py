"""LangChain's own integration tests, on the embedded model, offline: unsteered and steered, in both output versions.

Two of the classes run on every change; the rest take minutes each, and `make test-full` runs them.
"""

from __future__ import annotations

import pytest
from langchain_tests.integration_tests import ChatModelIntegrationTests

from aisp.errors import ModelNotFoundError
from aisp.models import load
from aisp_langchain import AISPChatModel
from tests.langchain.standard import GREEDY, Standard, judge, plain, rule, steered

pytestmark = pytest.mark.real


class TestPlain(Standard):
    pass


class TestRuleAndJudge4V1(Standard):
    fields = steered(4, "v1", rule=rule(), judge=judge())


@pytest.mark.full
class TestPlainV1(Standard):
    fields = plain("v1")
    method = "function_calling"


@pytest.mark.full
class TestRule1(Standard):
    fields = steered(1, rule=rule())
    method = "json_mode"


@pytest.mark.full
class TestRule1V1(Standard):
    fields = steered(1, "v1", rule=rule())


@pytest.mark.full
class TestRule4(Standard):
    fields = steered(4, rule=rule())
    method = "function_calling"


@pytest.mark.full
class TestRule4V1(Standard):
    fields = steered(4, "v1", rule=rule())
    method = "json_mode"


@pytest.mark.full
class TestJudge1(Standard):
    fields = steered(1, judge=judge())


@pytest.mark.full
class TestJudge1V1(Standard):
    fields = steered(1, "v1", judge=judge())
    method = "function_calling"


@pytest.mark.full
class TestJudge4(Standard):
    fields = steered(4, judge=judge())
    method = "json_mode"


@pytest.mark.full
class TestJudge4V1(Standard):
    fields = steered(4, "v1", judge=judge())


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
