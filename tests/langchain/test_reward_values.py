"""What LangChain's evaluators return is checked as every verdict is."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from langchain_core.runnables import RunnableLambda

from aisp.errors import RewardError
from aisp.records import Candidate
from aisp.rewards import FunctionReward, Length
from aisp_langchain.rewards import Reward, as_reward

CANDIDATES = [Candidate(messages=[{"role": "user", "content": "Hi"}], text=text) for text in ("a", "bb")]


@pytest.mark.parametrize("value", [torch.tensor(0.5), torch.tensor([0.5]), np.float32(0.5), np.array(0.5), 0.5])
@pytest.mark.parametrize(
    "shape",
    [
        lambda v: v,
        lambda v: {"score": v},
        lambda v: {"key": "k", "score": v, "comment": "fine"},
        lambda v: {"results": [{"key": "a", "score": v}, {"key": "b", "score": v, "comment": "fine"}]},
        lambda v: [SimpleNamespace(key="a", score=v, comment=None)],
    ],
    ids=["plain", "mapping", "with comment", "several", "objects"],
)
def test_scalars_of_any_library_are_scores_wherever_they_stand(shape, value):
    for source in (lambda outputs: shape(value), RunnableLambda(lambda inputs: shape(value))):
        assert [score.value for score in as_reward(source, name="r").score(CANDIDATES)] == [0.5, 0.5]


@pytest.mark.parametrize("value", [10**400, None, "0.5", float("nan"), 1j])
@pytest.mark.parametrize(
    "shape",
    [
        lambda v: {"score": v, "comment": "odd"},
        lambda v: {"results": [{"key": "a", "score": 1.0}, {"key": "b", "score": v}]},
    ],
    ids=["with comment", "several"],
)
def test_anything_else_is_an_error_of_the_reward(shape, value):
    with pytest.raises(RewardError, match=r"reward 'r' .*finite number"):
        as_reward(lambda outputs: shape(value), name="r").score(CANDIDATES)


def test_results_of_one_name_all_count():
    results = {"results": [{"key": "a", "score": 1.0}, {"key": "a", "score": 0.0}]}
    [score, _] = as_reward(lambda outputs: results).score(CANDIDATES)
    assert (score.value, dict(score.parts)) == (0.5, {"a": 1.0, "a_2": 0.0})


def test_functions_of_trl_may_return_a_tensor():
    lengths = as_reward(lambda completions, **kwargs: torch.tensor([float(len(c[0]["content"])) for c in completions]))
    assert [score.value for score in lengths.score(CANDIDATES)] == [1.0, 2.0]


def test_a_runnable_reward_is_unwrapped_and_other_runnables_are_not():
    inner = FunctionReward(len, name="n")
    assert as_reward(Reward(inner)) is inner
    scaled = 2.0 * Length(1, 2)
    assert as_reward(scaled) is scaled


def test_a_runnable_that_exits_fails_alone():
    async def exits(inputs):
        raise SystemExit(3)

    async def fine(inputs):
        return 1.0

    with pytest.raises(RewardError, match=r"SystemExit\(3\)"):
        as_reward(RunnableLambda(exits), name="r").score(CANDIDATES)
    assert as_reward(RunnableLambda(fine), name="r").score(CANDIDATES)[0].value == 1.0
