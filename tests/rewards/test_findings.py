"""What a search's scores say about its reward."""

from __future__ import annotations

import math

import pytest

from aisp.bench.reward.findings import Thresholds
from aisp.records import Score
from aisp.rewards.findings import LEAST_RESPONSES, VETOED_FRACTION, findings

FAILED = Score(value=math.nan, error="no")
VETOED = Score(value=0.0, vetoed=True)
N = LEAST_RESPONSES


def scores(*values):
    return [Score(value=float(value)) for value in values]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (scores(*[1] * N), f"gives all {N} different responses exactly 1"),
        ([VETOED] * N, f"vetoes all {N} different responses"),
        ([VETOED] * 9 + scores(1), "vetoes 9 of 10 different responses"),
        ([FAILED] * N, f"can't score all {N} different responses"),
        ([VETOED, FAILED, *scores(*[0.5] * N)], f"gives all {N} different responses exactly 0.5"),
    ],
)
def test_a_reward_that_tells_nothing_apart_is_said_so(given, said):
    [finding] = findings(given)
    assert said in finding


@pytest.mark.parametrize(
    "given",
    [
        [],
        scores(*[1] * (N - 1)),
        scores(*[1] * (N - 1), 2),
        [VETOED] * (N - 1),
        [VETOED] * (N - 1) + scores(*range(N)),
        [VETOED] * 2 + scores(*[1] * (N - 2)),
        [FAILED] * (N - 1) + scores(*range(N)),
    ],
)
def test_nothing_is_said_without_enough_responses_or_of_a_reward_that_works(given):
    assert findings(given) == []


def test_equal_responses_are_no_evidence():
    given = scores(*[1] * N)
    assert findings(given, ["same"] * N) == []
    assert findings(given, [str(n) for n in range(N)]) != []


def test_the_threshold_is_that_of_the_check():
    assert Thresholds().vetoed_fraction == VETOED_FRACTION
