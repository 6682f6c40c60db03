"""Decision models as rewards: a stand-in with their shapes, and the real base class where core has it."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.runnables import RunnableLambda

from aisp.errors import ConfigurationError
from aisp.records import Candidate
from aisp.testing import RewardContract
from aisp_langchain.rewards import DecisionReward, as_reward


@dataclass
class Question:
    """What `Noul`, `Score` and `Choice` have in common."""

    type: str
    instructions: str = "Is it about trees?"
    criteria: Any = field(default_factory=list)

    def model_dump(self, mode: str) -> dict[str, Any]:
        return vars(self)


NOUL, SCORE = Question("noul"), Question("score", criteria=["not", "a little", "much"])
CHOICE = Question("choice", criteria={"tree": "", "house": ""})


def answered(request: Any) -> Any:
    [(key, question)] = request["questions"].items()
    share = min(len(request["state"][-1].text) / 100, 1.0)
    answers = {
        "noul": SimpleNamespace(noul=share),
        "score": SimpleNamespace(score=2 * share),
        "choice": SimpleNamespace(probabilities={"tree": share, "house": 1 - share}),
    }
    return SimpleNamespace(answers={key: answers[question.type]})


MODEL = RunnableLambda(answered)


def candidates(*texts: str) -> list[Candidate]:
    return [Candidate(messages=[{"role": "user", "content": "Hi"}], text=text) for text in texts]


@pytest.mark.parametrize(
    ("question", "label", "expected"),
    [(NOUL, None, [0.03, 0.08]), (SCORE, None, [0.06, 0.16]), (CHOICE, "house", [0.97, 0.92])],
)
def test_each_type_of_question_gives_a_number(question: Any, label: Any, expected: Any) -> None:
    reward = DecisionReward(MODEL, question, label=label)
    values = [score.value for score in reward.score(candidates("oak", "ash tree"))]
    assert values == pytest.approx(expected)


@pytest.mark.parametrize(
    ("model", "question", "label"),
    [
        (lambda x: x, NOUL, None),
        (MODEL, "Is it good?", None),
        (MODEL, Question("box"), None),
        (MODEL, CHOICE, None),
        (MODEL, CHOICE, "car"),
        (MODEL, NOUL, "tree"),
    ],
)
def test_what_makes_no_reward_is_an_error_when_built(model: Any, question: Any, label: Any) -> None:
    with pytest.raises(ConfigurationError):
        DecisionReward(model, question, label=label)


class TestContract(RewardContract):
    reward = DecisionReward(MODEL, NOUL, version="1")
    others = (DecisionReward(MODEL, SCORE, version="1"), DecisionReward(MODEL, NOUL, version="2"))


def test_the_real_base_class() -> None:
    decisions = pytest.importorskip("langchain_core.decisions", reason="langchain-core has decision models from 1.8 on")

    class Lengths(decisions.BaseDecisionModel):  # type: ignore[misc, name-defined]
        model: str = "lengths"

        @property
        def _provider(self) -> str:
            return "nobody"

        def _classify(self, state: Any, questions: Any) -> Any:
            answer = {"type": "noul", "noul": len(state[-1].text) / 100}
            return decisions.ClassifierResponse(model=self.model, answers=dict.fromkeys(questions, answer))

    reward = DecisionReward(Lengths(), decisions.Noul(instructions="Is it long?"))
    assert [score.value for score in reward.score(candidates("oak"))] == [0.03]
    with pytest.raises(ConfigurationError, match="needs a question"):
        as_reward(Lengths())
