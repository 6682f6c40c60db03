"""What rewards return: every finite real number is a verdict, and nothing else is, whoever wraps it."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aisp.errors import RewardError
from aisp.records import Candidate, Score
from aisp.rewards import FunctionReward
from aisp.rewards.function import BatchReward
from aisp.rewards.verdicts import as_number, shown

NUMBERS = [
    (1, 1.0),
    (True, 1.0),
    (np.bool_(False), 0.0),
    (np.float32(0.5), 0.5),
    (np.float16(0.5), 0.5),
    (np.int64(-3), -3.0),
    (np.array(2.0), 2.0),
    (np.array([[2.0]]), 2.0),
    (torch.tensor(0.5), 0.5),
    (torch.tensor([0.5]), 0.5),
    (torch.tensor([[0.5]], dtype=torch.bfloat16), 0.5),
    (torch.tensor(0.5, requires_grad=True), 0.5),
    (torch.tensor(True), 1.0),
    (Decimal("0.25"), 0.25),
    (Fraction(1, 4), 0.25),
    (-0.25, -0.25),
]
OTHERS = [
    None,
    math.nan,
    math.inf,
    -math.inf,
    "0.5",
    b"0.5",
    np.str_("0.5"),
    1j,
    np.complex128(1),
    torch.tensor(1j),
    10**400,
    10**5000,
    Fraction(10**400, 3),
    Decimal("1e999"),
    Decimal("NaN"),
    Decimal("sNaN"),
    np.array([1.0, 2.0]),
    np.array([]),
    torch.tensor([1.0, 2.0]),
    torch.tensor(math.nan),
    torch.empty(1, device="meta"),
    [0.5],
    {"score": 0.5},
    float,
    object(),
]
SCORES = [
    *(Score(value=value) for value in (None, math.nan, "0.5", 10**400, 1j)),
    Score(value=None, vetoed=True),
    *(Score(value=0.5, parts={"one": value}) for value in (None, math.inf, "0.5", 10**400)),
    Score(value=0.5, parts={1: 0.5}),
    Score(value=0.5, parts=[0.5]),
    Score(value=0.5, vetoed=np.array([True, False])),
]


def names(values):
    # Without addresses: processes that share the tests must call them the same.
    return [re.sub(" at 0x[0-9a-f]+", "", shown(value))[:40] for value in values]


def one():
    return Candidate(messages=[{"role": "user", "content": "Hi"}], text="an answer")


@pytest.mark.parametrize(("verdict", "value"), NUMBERS, ids=names(verdict for verdict, _ in NUMBERS))
def test_a_finite_number_of_any_kind_is_a_verdict(verdict, value):
    for given_ in (verdict, Score(value=verdict), Score(value=0.0, parts={"own": verdict})):
        [score] = FunctionReward(lambda text, v=given_: v, name="r").score([one()])
        part = score.parts["own"] if "own" in score.parts else score.parts["r"]
        assert part == value
        assert type(score.value) is type(part) is float


@pytest.mark.parametrize("verdict", [*OTHERS, *SCORES], ids=names([*OTHERS, *SCORES]))
def test_anything_else_is_an_error_that_names_reward_and_text_or_is_excluded(verdict):
    with pytest.raises(RewardError, match=r"reward 'r' returned .* on the candidate 'an answer'"):
        FunctionReward(lambda text: verdict, name="r").score([one()])
    [score] = FunctionReward(lambda text: verdict, name="r", on_error="exclude").score([one()])
    assert not score.usable
    assert math.isnan(score.value)
    assert "reward 'r' returned" in score.error


def test_an_int_that_python_will_not_write_out_can_be_shown():
    assert as_number(10**5000) is None
    assert shown(10**5000) == "a value of type int that can't be shown"


def test_all_verdicts_may_come_as_one_tensor():
    # A tensor's `size` is a method, not a number; taken for one, it kept every tensor from being a verdict.
    lengths = BatchReward(lambda candidates: torch.tensor([[float(len(c.text))] for c in candidates]), name="n")
    candidates = [Candidate(messages=[], text="a" * n) for n in (1, 2, 3)]
    assert [score.value for score in lengths.score(candidates)] == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    "verdicts",
    [None, 1.0, torch.tensor(1.0), np.array(1.0), "ab", {1.0: "a", 2.0: "b"}, {1.0, 2.0}, [1.0], iter([1.0, 2.0])],
    ids=["None", "number", "0-d tensor", "0-d array", "text", "mapping", "set", "too few", "iterator"],
)
def test_something_else_than_a_list_of_verdicts_is_an_error_or_excluded(verdicts):
    candidates = [Candidate(messages=[], text=text) for text in "ab"]
    with pytest.raises(RewardError, match=r"returned .* for 2 candidates; expected one verdict a candidate"):
        BatchReward(lambda _: verdicts, name="r").score(candidates)
    scores = BatchReward(lambda found: verdicts if len(found) > 1 else None, name="r", on_error="exclude").score(
        candidates
    )
    assert [score.usable for score in scores] == [False, False]


def test_flags_and_comments_are_plain_values():
    given_ = Score(value=np.float32(1), vetoed=np.bool_(True), comment=3)
    [score] = FunctionReward(lambda text: given_).score([one()])
    assert score == Score(value=1.0, vetoed=True, comment="3")
    assert type(score.vetoed) is bool


def test_a_score_keeps_nothing_of_the_rewards_own_mapping():
    parts = {"one": 1.0}
    [score] = FunctionReward(lambda text: Score(value=1.0, parts=parts)).score([one()])
    parts["one"] = math.nan
    assert score.parts == {"one": 1.0}


def test_the_failing_candidate_is_named_and_no_other_is_asked_twice():
    asked = []

    def judge(text):
        asked.append(text)
        if text == "bad":
            raise ValueError("no")
        return 1.0

    candidates = [Candidate(messages=[], text=text) for text in ("good", "bad", "fine")]
    with pytest.raises(RewardError, match="on the candidate 'bad'"):
        FunctionReward(judge).score(candidates)
    asked.clear()
    scores = FunctionReward(judge, on_error="exclude").score(candidates)
    assert [score.usable for score in scores] == [True, False, True]
    assert asked == ["good", "bad", "fine"]


def test_a_sum_of_parts_that_exclude_excludes_what_its_own_arithmetic_can_not_hold():
    huge = [FunctionReward(lambda text: 1.7e308, name=name, on_error="exclude") for name in "ab"]
    [score] = (huge[0] + huge[1]).score([one()])
    assert not score.usable
    with pytest.raises(RewardError, match="reward 'sum'"):
        (FunctionReward(lambda text: 1.7e308) + huge[1]).score([one()])


@given(st.one_of(st.floats(), st.integers(), st.decimals(), st.fractions(), st.complex_numbers(), st.text(), st.none()))
def test_a_verdict_is_finite_or_an_error(verdict):
    [score] = FunctionReward(lambda text: verdict, name="r", on_error="exclude").score([one()])
    assert score.usable == math.isfinite(score.value)
    assert score.usable or score.error.startswith("reward 'r' returned ")
