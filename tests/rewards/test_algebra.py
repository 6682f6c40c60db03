"""The algebra: values, named parts, vetoes, errors, and who is asked when."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aisp.errors import ConfigurationError
from aisp.records import Candidate, Score
from aisp.rewards import Avoids, FunctionReward, Length, minimum, normalize, product, veto, when
from aisp.rewards.algebra import part_signs

finite = st.floats(-1e6, 1e6)


def candidate_of(text="abc"):
    return Candidate(messages=[], text=text)


def constant(value, name="c", **options):
    return FunctionReward(lambda text: value, name=name, **options)


def counted(function, name, cost):
    asked = []

    def judge(text):
        asked.append(text)
        return function(text)

    return FunctionReward(judge, name=name, cost=cost), asked


def value_of(reward, text="abc"):
    return reward.score([candidate_of(text)])[0]


@given(finite, finite, finite)
def test_sums_weights_and_constants(a, b, w):
    one, other = constant(a, "one"), constant(b, "other")
    score = value_of(w * one - other + 3)
    assert score.value == pytest.approx(w * a - b + 3, rel=1e-9, abs=1e-6)
    assert score.parts == {"one": a, "other": b}
    assert value_of(2 - one).value == pytest.approx(2 - a)
    assert value_of(-one).value == -a


@given(finite, finite, finite)
def test_addition_is_associative_and_flat(a, b, c):
    parts = [constant(value, name) for value, name in ((a, "a"), (b, "b"), (c, "c"))]
    left, right = (parts[0] + parts[1]) + parts[2], parts[0] + (parts[1] + parts[2])
    assert value_of(left) == value_of(right)
    assert len(left.parts) == len(right.parts) == 3


@pytest.mark.parametrize(("value", "expected"), [(-5.0, 0.0), (0.5, 0.5), (9.0, 1.0)])
def test_clip(value, expected):
    assert value_of(constant(value).clip(0, 1)) == Score(value=expected, parts={"c": value})
    assert value_of(constant(value).clip(low=0)).value == max(value, 0)


def test_minimum_and_product_keep_the_names_of_their_parts():
    score = value_of(minimum(constant(0.4, "a"), constant(0.2, "b")) + product(constant(0.5, "a"), constant(0.5, "b")))
    assert score.value == pytest.approx(0.2 + 0.25)
    assert score.parts == {"minimum.a": 0.4, "minimum.b": 0.2, "product.a": 0.5, "product.b": 0.5}


def test_parts_of_one_name_are_numbered():
    assert value_of(constant(1.0) + constant(2.0) + constant(3.0)).parts == {"c": 1.0, "c_2": 2.0, "c_3": 3.0}


def test_a_veto_adds_nothing_and_takes_a_candidate_out():
    reward = constant(2.0, "a") + veto(FunctionReward(lambda text: "x" not in text, name="no_x"))
    assert value_of(reward, "fine").value == 2.0
    vetoed = value_of(reward, "xx")
    assert vetoed.vetoed
    assert vetoed.parts == {"no_x": 0.0}
    assert not value_of(veto(constant(0.3), below=0.2)).vetoed


def test_a_closed_gate_saves_the_dear_parts_and_cheap_ones_go_first():
    gate, gate_asked = counted(lambda text: "x" not in text, "gate", cost=5)
    dear, dear_asked = counted(len, "dear", cost=100)
    cheap, cheap_asked = counted(len, "cheap", cost=1)
    reward = dear + cheap + veto(gate)
    scores = reward.score([candidate_of("ax"), candidate_of("b")])
    assert [score.vetoed for score in scores] == [True, False]
    assert gate_asked == ["ax", "b"]
    assert cheap_asked == dear_asked == ["b"]
    assert list(scores[1].parts) == ["dear", "cheap", "gate"], "parts stay in the order in which they were written"


def test_what_a_part_cannot_score_the_sum_cannot():
    broken = FunctionReward(lambda text: math.nan, name="broken", on_error="exclude", cost=0.1)
    later, asked = counted(len, "later", cost=1)
    score = value_of(0.5 * broken + later)
    assert not score.usable
    assert "reward 'broken' returned nan" in score.error
    assert asked == []


def test_when_asks_only_where_its_condition_holds():
    bonus, asked = counted(lambda text: 1.0, "bonus", cost=1)
    reward = when(lambda candidate: candidate.text.startswith("a"), bonus)
    assert [score.value for score in reward.score([candidate_of("ab"), candidate_of("b")])] == [1.0, 0.0]
    assert asked == ["ab"]
    assert value_of(when(constant(0.0), bonus)).value == 0.0
    assert value_of(when(constant(2.0, "kind"), bonus)).parts == {"kind": 2.0, "bonus": 1.0}
    assert value_of(when(constant(-2.0, "kind"), bonus)).parts == {"kind": -2.0, "bonus": 0.0}
    assert value_of(when(lambda candidate: True, bonus)).parts == {"bonus": 1.0}
    unsure = FunctionReward(lambda text: None, name="unsure", on_error="exclude")
    assert "unsure" in value_of(when(unsure, bonus)).error


def test_a_part_that_occurs_twice_is_asked_once_a_request():
    dear, asked = counted(lambda text: len(text) / 4, "dear", cost=1)
    session = (dear + veto(dear, below=0.3) + when(dear, normalize(dear) * 0)).session()
    scores = session.score([candidate_of("abc"), candidate_of("a")])
    assert [score.vetoed for score in scores] == [False, True]
    assert scores[0].value == 0.75
    session.score([candidate_of("abc"), candidate_of("abcd")])
    assert asked == ["abc", "a", "abcd"]
    assert session.fingerprint == (dear + veto(dear, below=0.3) + when(dear, normalize(dear) * 0)).fingerprint


def test_how_parts_enter_the_whole():
    a, b, c, d = (constant(1.0, name) for name in "abcd")
    assert part_signs(a - 2 * b + veto(c) + 0 * d) == {"a": 1, "b": -1, "c": 0, "d": 0}
    assert part_signs(a - minimum(b, c)) == {"a": 1, "minimum.b": -1, "minimum.c": -1}
    assert part_signs(a + a) == {"a": 1, "a_2": 1}
    for reward in (when(a, b), when(lambda candidate: True, b), a - when(a, minimum(b, c))):
        assert part_signs(reward).keys() == value_of(reward).parts.keys()
    assert part_signs(when(a, b)) == {"a": 0, "b": 1}


def test_normalize_is_calibrated_on_the_first_round_and_then_frozen():
    session = (normalize(FunctionReward(len, name="n")) + 0).session()
    alone = session.score([candidate_of("abcd")])  # a calibration round of one response
    assert alone[0].value == 0.0
    first = session.score([candidate_of("a" * n) for n in (1, 3)])
    assert [score.value for score in first] == [-1.0, 1.0]
    later = session.score([candidate_of("a" * 5)])
    assert later[0].value == 3.0
    assert later[0].parts == {"n": 5.0}


def test_two_requests_calibrate_apart():
    reward = normalize(FunctionReward(len, name="n"))
    one, other = reward.session(), reward.session()
    one.score([candidate_of("a"), candidate_of("aaa")])
    scores = other.score([candidate_of("a" * 10), candidate_of("a" * 30)])
    assert [score.value for score in scores] == [-1.0, 1.0]


def test_weights_of_a_sum_can_be_set_anew_by_name():
    reward = 0.5 * constant(1.0, "a") + constant(2.0, "b")
    assert value_of(reward.with_weights({"a": 3.0})).value == 5.0
    assert value_of(reward).value == 2.5
    with pytest.raises(ConfigurationError, match="no part is called c; this reward has a, b"):
        reward.with_weights({"c": 1.0})


def test_fingerprints_follow_the_tree():
    a, b = constant(1.0, "a", version="1"), constant(2.0, "b", version="1")
    rewards = [a + b, a + 2 * b, a + b + 1, b + a, minimum(a, b), product(a, b), veto(a), veto(a, 0.1), a.clip(0, 1)]
    assert len({reward.fingerprint for reward in rewards}) == len(rewards)
    assert (a + b).fingerprint == (a + b).fingerprint


@pytest.mark.parametrize(
    "build",
    [
        lambda r: r * math.nan,
        lambda r: r * r,
        lambda r: r.clip(1, 0),
        lambda r: r + "much",
        lambda r: minimum(),
        lambda r: r * True,
    ],
)
def test_what_makes_no_reward_is_an_error(build):
    with pytest.raises(ConfigurationError):
        build(constant(1.0))


def test_a_veto_stops_what_breaks_a_rule_however_nearly_it_is_kept():
    two = veto(Avoids("sorry", "sadly"))
    assert value_of(two, "I am sorry.").vetoed, "one of two phrases scores 0.5"
    assert not value_of(two, "I am glad.").vetoed
    assert value_of(veto(Length(3, 9)), "two words").vetoed
    assert not value_of(veto(Length(3, 9), below=0.5), "two words").vetoed, "an explicit bound wins"
    assert value_of(veto(Length(3, 9), below=0.0), "").vetoed is False
