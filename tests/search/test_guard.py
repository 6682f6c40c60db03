"""The guard: bounds from plain samples, what they refuse, and what a search makes of it."""

from __future__ import annotations

import json

import numpy as np
import pytest

import aisp
from aisp.records import TOKEN_FIGURES, Limits, Rollout, Score, Tokens
from aisp.search.guard import bounds_of
from aisp.search.plan import Plan
from aisp.search.request import Request
from aisp.strategies import BestOfN
from aisp.testing import FakeEngine
from tests.search.fakes import FakeReward, Searches
from tests.search.recorded import Recording

LOOP = " ".join(["good", "day"] * 10)
TALES = tuple(
    " ".join(f"{word}{i}" for i in range(20)) for word in ("ash", "birch", "cedar", "elm", "fir", "gum", "ivy")
)


def rollout_of(ids, surprisal=1.0):
    figures = {name: np.zeros(len(ids)) for name in TOKEN_FIGURES}
    figures["log_prob"] = -np.broadcast_to(surprisal, len(ids)).astype(float)
    return Rollout(tokens=Tokens(ids=tuple(ids), **figures), text="", finish_reason="stop", forward_tokens=len(ids))


def plain(n=16, surprisals=(1.0,), repeated=0):
    """Return plain samples of 40 tokens, of which some say the first few again."""
    return [rollout_of([*range(40 - repeated), *range(repeated)], surprisals[i % len(surprisals)]) for i in range(n)]


def test_a_loop_is_refused_and_told_of():
    why = bounds_of(plain()).refuse(rollout_of([1, 2, 3] * 12))
    assert why.startswith("repeats itself: in a run of 32 tokens 100% of the pairs were said before")
    assert bounds_of(plain()).refuse(rollout_of(range(60))) is None


def test_what_plain_samples_repeat_is_allowed():
    """A refrain or a table is asked for: the model's own samples show it."""
    refrain = [1, 2, 3, 4, 5, 6, 7, 8, 50, 51, 1, 2, 3, 4, 5, 6, 7, 8, 60, 61, 62, 63, 64, 65]
    assert bounds_of(plain()).refuse(rollout_of(refrain)) is not None
    assert bounds_of([rollout_of(refrain)] * 16).refuse(rollout_of(refrain)) is None


def test_one_loop_among_sixteen_plain_samples_excuses_no_other():
    loop = rollout_of([1, 2] * 20)
    assert bounds_of([loop, *plain(15)]).refuse(loop) is not None
    assert bounds_of([loop, loop, *plain(14)]).repetition == 0.5, "nor do two"
    assert bounds_of([loop] * 9 + plain(7)).refuse(loop) is None, "most do"


def test_a_short_phrase_said_twice_is_no_loop():
    assert bounds_of(plain()).refuse(rollout_of([1, 2, 3, 4, *range(10, 30), 1, 2, 3, 4, *range(40, 60)])) is None


def test_salad_is_refused():
    bounds = bounds_of(plain(surprisals=(1.0, 2.0)))
    assert bounds.refuse(rollout_of(range(40), surprisal=1.9)) is None
    salad = np.array([1.0] * 20 + [2.5] * 12 + [1.0] * 8)
    why = bounds.refuse(rollout_of(range(40), salad))
    assert why == "not the model's language: 2.50 nats a token in a run of 12, in those of plain samples at most 2.00"


def test_what_the_model_knows_by_heart_is_refused_unless_it_says_it_plainly():
    bounds = bounds_of(plain(surprisals=(1.0, 2.0)))
    by_heart = np.array([1.5] * 20 + [0.1] * 12 + [1.5] * 8)
    assert "in those of plain samples at least 1.00" in bounds.refuse(rollout_of(range(40), by_heart))
    assert bounds.refuse(rollout_of(range(40), by_heart), plainly=True) is None


def test_a_rare_answer_that_the_model_gives_by_itself_is_not_refused():
    """One sample in a hundred is in the language that was asked for."""
    bounds = bounds_of(plain(surprisals=(1.0, 2.0)))
    rare = rollout_of(range(40), surprisal=2.4)
    assert bounds.refuse(rare) is not None
    assert bounds.refuse(rare, plainly=True) is None
    assert bounds.refuse(rollout_of(range(40), surprisal=3.0), plainly=True) is not None


@pytest.mark.parametrize("tokens", [1, 2, 12])
def test_what_is_too_short_to_tell_is_not_refused(tokens):
    """Of sixteen short answers one is right: it is no outlier to leave out."""
    assert bounds_of(plain()).refuse(rollout_of([1] * tokens, surprisal=9.0)) is None


@pytest.mark.parametrize("samples", [plain(3), [rollout_of(range(5))] * 16, []])
def test_too_few_plain_samples_bound_nothing(samples):
    assert bounds_of(samples) is None


def search_of(texts, reward, strategy=None, guarded=True, budget=32, num_samples=16):
    aligner = Searches(
        FakeEngine(texts), strategy or BestOfN(), reward, Plan(budget=budget, num_samples=num_samples), guarded=guarded
    )
    messages = [{"role": "user", "content": "x"}]
    return aligner.align(Request(messages=messages, prompt_tokens=[1], limits=Limits(max_tokens=40), seed=3))


def praise(text):
    return float(text == LOOP) + text.count("ash") / 100


LOVES_LOOPS = FakeReward(praise)


def test_the_best_that_reads_like_plain_samples_is_returned_and_the_trace_counts_the_rest():
    free = search_of([*TALES, LOOP], LOVES_LOOPS, guarded=False)
    assert (free.text, free.refused, free.summary()["guard"]) == (LOOP, (), None)
    held = search_of([*TALES, LOOP], LOVES_LOOPS)
    assert held.text == TALES[0]
    assert {response.text for response in held.refused} == {LOOP}
    assert json.loads(json.dumps(held.summary()))["guard"] == {
        "refused": sum(response.text == LOOP for response in free.responses),
        "best_refused_reward": 1.0,
    }
    assert all(response.score.vetoed and response.score.comment == response.refused for response in held.refused)
    assert held.rounds[0].best.text != LOOP, "what came before the bounds were known is judged too"


def test_the_strategy_is_told_again_of_what_turned_out_to_be_untypical():
    """Else it would restart from a plain sample that is a loop."""
    strategy = Recording(asynchronous=True)
    alignment = search_of([*TALES, LOOP], LOVES_LOOPS, strategy=strategy)
    loops = {response.text for response in alignment.refused}
    assert loops == {LOOP}
    assert all(score.vetoed == (rollout.text == LOOP) for rollout, score in strategy.told)
    assert len(strategy.told) == 32


def test_without_plain_samples_nothing_is_refused():
    strategy = Recording(steered=True)
    alignment = search_of([*TALES, LOOP], LOVES_LOOPS, strategy=strategy)
    assert (alignment.text, alignment.refused) == (LOOP, ())


def test_where_the_reward_allows_only_what_is_refused_that_is_returned_and_said():
    only_loops = FakeReward(lambda text: Score(value=1.0, vetoed=text != LOOP))
    with pytest.warns(aisp.errors.RewardWarning, match="vetoes"):
        alignment = search_of([*TALES, LOOP], only_loops)
    assert alignment.text == LOOP
    assert any("the guard refused every response that the reward allows" in said for said in alignment.warnings)


def test_an_answer_outside_the_range_of_plain_samples_is_said_to_be():
    short = "yes indeed"
    texts = [*TALES] * 4 + [short]
    found = search_of(texts, FakeReward(lambda text: float(text == short)), budget=64)
    assert found.text == short
    (said,) = [said for said in found.warnings if "tokens long" in said]
    assert "the answer is 3 tokens long, 16 plain samples 21 to 21" in said
    usual = search_of(texts, FakeReward(lambda text: float(text == TALES[0])), budget=64)
    assert not [said for said in usual.warnings if "tokens long" in said]


def test_the_setting_turns_it_off(tiny):
    options = {"model": tiny, "rewards": aisp.rewards.FunctionReward(len), "budget": 16, "max_tokens": 24, "seed": 1}
    assert aisp.align("q", **options).summary()["guard"].keys() == {"refused", "best_refused_reward"}
    assert aisp.align("q", guard=None, **options).summary()["guard"] is None
    assert aisp.align("q", guard="none", **options).summary()["guard"] is None
    with pytest.raises(aisp.errors.ConfigurationError, match="guard"):
        aisp.align("q", guard="strict", **options)
