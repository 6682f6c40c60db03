"""What LangChain's users bring keeps the contract of a reward once it is one."""

from __future__ import annotations

import pytest
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda

from aisp.rewards import Criterion, Length
from aisp.testing import RewardContract
from aisp_langchain.rewards import Reward, as_reward, normalize, veto
from tests.langchain.test_judge import judge_of


def words(outputs: AIMessage) -> float:
    return float(len(outputs.text.split()))


async def slow_words(outputs: AIMessage) -> float:
    return words(outputs)


def evaluator(*, inputs, outputs, reference_outputs=None, **kwargs):
    return {"key": "words", "score": words(outputs) / len(inputs), "comment": "counted"}


def batch(completions, prompts, **kwargs):
    return [float(len(completion[0]["content"])) for completion in completions]


async def slow_batch(completions, **kwargs):
    return batch(completions, None)


KIND = Criterion(name="kind", description="Is the answer kind?")
SOURCES = {
    "function": lambda: words,
    "async function": lambda: slow_words,
    "openevals": lambda: evaluator,
    "trl": lambda: batch,
    "async trl": lambda: slow_batch,
    "runnable": lambda: RunnableLambda(lambda x: x["outputs"]) | RunnableLambda(words),
    "async runnable": lambda: RunnableLambda(lambda x: x["outputs"]) | RunnableLambda(slow_words),
    "own runnable": lambda: (2 * Reward(words) - Reward(slow_words)).clip(0, 9) + veto(Length(1, 9)) + normalize(words),
    "mapping": lambda: {"a": words, "b": slow_words},
    "judge": lambda: judge_of(
        lambda messages, n: {"kind": 1 + len(messages[1].content) % 5, "comment": "-"}, rubric=[KIND]
    ),
}


class TestCoerced(RewardContract):
    @pytest.fixture(autouse=True, params=sorted(SOURCES))
    def _give(self, request):
        self.reward = as_reward(SOURCES[request.param]())
        self.others = [2 * self.reward]
