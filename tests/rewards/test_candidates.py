"""Candidates are read-only: whatever a reward writes into them, nobody else sees it."""

from __future__ import annotations

import asyncio
import copy
import threading
from types import MappingProxyType

import pytest
from pydantic import BaseModel

from aisp.errors import RewardError
from aisp.records import Candidate
from aisp.rewards import FunctionReward, Length, normalize, veto, when
from aisp.rewards.candidates import candidate_key
from aisp.rewards.function import BatchReward


class Person(BaseModel):
    names: list[str]


def candidate(**more):
    given = {
        "text": "a",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        "tool_calls": ({"name": "f", "args": {"x": [1]}, "id": "1"},),
        "invalid_tool_calls": ({"name": "g", "args": "{", "id": "2", "error": "no"},),
        "structure": {"a": [1]},
        "reference": {"b": [1]},
    }
    return Candidate(**{**given, **more})


def vandal(candidate):
    candidate.messages[0]["content"][0]["text"] = "forged"
    candidate.messages.append({"role": "user", "content": "forged"})
    candidate.tool_calls[0]["args"]["x"].append("forged")
    candidate.invalid_tool_calls[0]["name"] = "forged"
    candidate.structure["a"].append("forged")
    candidate.reference["b"].append("forged")
    return 1.0


async def async_vandal(candidate):
    await asyncio.sleep(0)
    return vandal(candidate)


REWARDS = {
    "sync": FunctionReward(vandal),
    "async": FunctionReward(async_vandal),
    "batch": BatchReward(lambda candidates: [vandal(candidate) for candidate in candidates]),
    "gate": veto(FunctionReward(vandal)),
    "condition": when(FunctionReward(vandal), Length(1, 2)),
    "predicate": when(lambda candidate: vandal(candidate) > 0, Length(1, 2)),
    "normalized": normalize(FunctionReward(vandal)),
}


@pytest.mark.parametrize("name", REWARDS)
def test_what_a_reward_writes_into_a_candidate_reaches_neither_the_caller_nor_other_rewards(name):
    seen = []

    def witness(candidate):
        seen.append(copy.deepcopy(candidate))
        return 0.0

    given, before = candidate(), candidate()
    both = REWARDS[name] + FunctionReward(witness)
    both.session().score([given])
    asyncio.run(both.ascore([given]))
    assert given == before
    assert seen == [before, before]


def test_nor_other_candidates_of_the_same_prompt():
    messages = [{"role": "user", "content": "Hi"}]

    def judge(messages, text):
        messages.append({"role": "assistant", "content": text})
        return float(len(messages))

    candidates = [Candidate(messages=messages, text=text) for text in "abc"]
    assert [score.value for score in FunctionReward(judge).score(candidates)] == [2.0, 2.0, 2.0]
    assert len(messages) == 1


def test_objects_are_copied_too_unless_they_can_not_be():
    person, lock = Person(names=["Ann"]), threading.Lock()

    def judge(structure, reference):
        structure.names.append("Eve")
        return float(reference is lock)

    [score] = FunctionReward(judge).score([candidate(structure=person, reference=lock)])
    assert person.names == ["Ann"]
    assert score.value == 1.0


def test_a_mapping_that_can_only_be_read_is_a_dict_to_rewards():
    given = candidate(reference=MappingProxyType({"b": [1]}))
    assert FunctionReward(vandal).score([given])[0].value == 1.0
    assert given.reference["b"] == [1]


class Unwritable:
    def __repr__(self):
        raise RuntimeError("no")


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "reference", [{1: "a", "b": 2}, {(1, 2): "a"}, Unwritable(), nested(5000)], ids=["mixed", "tuple", "repr", "deep"]
)
def test_references_of_any_shape_have_a_verdict_or_an_error_of_ours(reference):
    candidates = [candidate(reference=reference), candidate(text="b", reference=reference)]
    scores = FunctionReward(lambda text: 1.0, on_error="exclude").session().score(candidates)
    assert all(score.value == 1.0 or "RecursionError" in score.error for score in scores)
    try:
        FunctionReward(lambda text: 1.0).score(candidates)
    except RewardError as error:
        assert "RecursionError" in str(error)  # noqa: PT017 - either is right


def test_equal_candidates_have_one_key_whatever_the_ids_of_their_calls():
    one, other = candidate(), candidate(tool_calls=({"name": "f", "args": {"x": [1]}, "id": "another"},))
    assert candidate_key(one) == candidate_key(other)
    assert candidate_key(one) != candidate_key(candidate(reference={"b": [2]}))
    assert candidate_key(candidate(reference={1: "a", "b": 2})) == candidate_key(candidate(reference={1: "a", "b": 2}))
