"""The judge that is a chat model: what it is asked, how it is read, when it is asked again."""

from __future__ import annotations

import threading

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import RunnableLambda

from aisp.errors import ConfigurationError, RewardError
from aisp.records import Candidate
from aisp.rewards import Criterion
from aisp.rewards.retry import RetryPolicy
from aisp_langchain.rewards import RubricJudge

KIND = Criterion(name="kind", description="Is the answer kind?")
SHORT = Criterion(name="how short", description="Is it short?", weight=3.0, levels=("no", "yes"))
QUICK = RetryPolicy(attempts=3, first_wait=0.001, longest_wait=0.002)


class FakeJudge(BaseChatModel):
    """Gives verdicts by a function of what it is asked; a verdict that is an exception is raised."""

    verdict: object = None
    asked: object = None

    def with_structured_output(self, schema, **kwargs):
        lock = threading.Lock()

        def answer(messages):
            with lock:
                self.asked.append(messages)
                verdict = self.verdict(messages, len(self.asked))
            if isinstance(verdict, Exception):
                raise verdict
            return verdict if verdict is None else schema(**verdict)

        return RunnableLambda(answer)

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        return ChatResult(generations=[ChatGeneration(message=AIMessage("x"))])

    @property
    def _llm_type(self):
        return "fake-judge"


def candidate(text="Take a walk."):
    return Candidate(messages=[{"role": "user", "content": "I am sad."}], text=text)


def judge_of(verdict, rubric=(KIND, SHORT), **options):
    return RubricJudge(FakeJudge(verdict=verdict, asked=[]), list(rubric), retry=QUICK, **options)


def test_levels_become_shares_and_the_comment_stays():
    judge = judge_of(lambda messages, n: {"kind": 4, "criterion_2": 1, "comment": "warm but long"})
    [score] = judge.score([candidate()])
    assert score.parts == {"kind": 0.75, "how short": 0.0}
    assert score.value == pytest.approx(0.75 / 4)
    assert score.comment == "warm but long"


def test_what_it_is_asked():
    judge = judge_of(lambda messages, n: {"kind": 1, "criterion_2": 1, "comment": ""})
    judge.score([candidate("Cheer <|im_end|> up.")])
    system, human = judge.llm.asked[0]
    assert "rubric" in system.content
    assert "I am sad." in human.content
    assert "Is it short?" in human.content
    assert "<|im_end|>" not in human.content


def test_each_candidate_gets_its_own_verdict_whatever_the_order():
    judge = judge_of(
        lambda messages, n: {"kind": 5 if "oak" in messages[1].content else 1, "comment": "-"}, rubric=[KIND]
    )
    assert [s.value for s in judge.score([candidate(t) for t in ("oak", "ash", "an oak")])] == [1.0, 0.0, 1.0]


@pytest.mark.parametrize("failure", [RuntimeError("busy"), None, {"kind": 7, "comment": "-"}, {"comment": "-"}])
def test_what_fails_is_asked_again(failure):
    judge = judge_of(lambda messages, n: failure if n < 3 else {"kind": 3, "comment": "-"}, rubric=[KIND])
    assert judge.score([candidate()])[0].value == 0.5
    assert len(judge.llm.asked) == 3


def test_what_goes_on_failing_is_an_error_or_excluded():
    broken = judge_of(lambda messages, n: RuntimeError("busy"), rubric=[KIND])
    with pytest.raises(RewardError, match="busy"):
        broken.score([candidate()])
    picky = judge_of(
        lambda messages, n: RuntimeError("busy") if "ash" in messages[1].content else {"kind": 5, "comment": "-"},
        rubric=[KIND],
        on_error="exclude",
    )
    good, bad = picky.score([candidate("oak"), candidate("ash")])
    assert good.value == 1.0
    assert "busy" in bad.error


def test_what_is_no_chat_model_is_an_error():
    with pytest.raises(ConfigurationError, match="chat model"):
        RubricJudge(lambda x: x, "Is it kind?")


def test_the_fingerprint_knows_the_rubric_and_the_model():
    def verdict(messages, n):
        return None

    one, two = judge_of(verdict, rubric=[KIND]), judge_of(verdict, rubric=[SHORT])
    assert one.fingerprint != two.fingerprint
    assert one.fingerprint == RubricJudge(one.llm, [KIND]).fingerprint


def test_it_steers(chat):
    judge = judge_of(
        lambda messages, n: {"kind": 5 if "cedar" in messages[1].content else 1, "comment": "-"}, rubric=[KIND]
    )
    message = chat(rewards=judge, budget=32).invoke("Hi")
    assert message.content == "cedar"
    assert message.response_metadata["aisp"]["parts"] == {"kind": 1.0}
