"""Selection rules against their closed forms and limits, and on the toy language against an enumeration."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from aisp.bench.rivals import RULES, Best, Pessimism, Pessimistic, SoftBest, SoftBestOfN, choose
from aisp.bench.rivals.pessimism import threshold
from aisp.errors import ConfigurationError
from aisp.records import Limits, Sampling
from aisp.search.plan import Plan
from aisp.search.request import Request
from aisp.strategies import BestOfN, SearchContext
from aisp.strategies.weights import effective_sample_size
from aisp.testing.toy import Toy, ToyEngine, ToyReward
from tests.search.fakes import Searches

REWARDS = st.lists(st.floats(-50, 50).map(lambda x: round(x, 3)), min_size=1, max_size=20).map(np.array)
EVERY_RULE = [
    Best(),
    *(
        rule(**own)
        for rule in (SoftBest, Pessimistic)
        for own in ({}, *({"reward_temperature": t} for t in (0.7, np.inf)))
    ),
]


@pytest.mark.parametrize("rule", EVERY_RULE, ids=repr)
@given(rewards=REWARDS, order=st.randoms(use_true_random=False), shift=st.floats(-5, 5))
def test_every_rule_is_a_law_that_knows_rewards_only(rule, rewards, order, shift):
    chosen = rule.probabilities(rewards)
    assert chosen.sum() == pytest.approx(1.0)
    assert (chosen >= 0).all()
    better = np.subtract.outer(rewards, rewards) > 0
    assert (np.subtract.outer(chosen, chosen)[better] >= -1e-9).all(), "a better response is at least as likely"
    np.testing.assert_allclose(rule.probabilities(rewards + shift), chosen, atol=1e-6)
    out = rule.probabilities(np.append(rewards, -np.inf))
    assert out[-1] == 0
    if not isinstance(rule, Best):  # which takes the first of equals
        places = list(range(len(rewards)))
        order.shuffle(places)
        np.testing.assert_allclose(rule.probabilities(rewards[places]), chosen[places], atol=1e-9)


@given(rewards=REWARDS, beta=st.floats(0.01, 100))
def test_the_threshold_is_the_root_of_its_equation(rewards, beta):
    floor = threshold(rewards, beta)
    assert np.maximum(rewards - floor, 0).mean() == pytest.approx(beta, rel=1e-6)


def test_closed_forms():
    rewards = np.array([1.0, 3.0, 2.0])
    np.testing.assert_allclose(SoftBest(reward_temperature=0.5).probabilities(rewards), softmax(rewards / 0.5))
    # b = 1.5: relu = 0, 1.5, 0.5, whose mean is 2/3
    np.testing.assert_allclose(Pessimistic(reward_temperature=2 / 3).probabilities(rewards), [0, 0.75, 0.25])
    np.testing.assert_allclose(Pessimistic(reward_temperature=1e9).probabilities(rewards), 1 / 3, atol=1e-6)
    assert Best().probabilities(np.array([1.0, 3.0, 3.0])).tolist() == [0, 1, 0]


@pytest.mark.parametrize("rule", [SoftBest, Pessimistic])
def test_temperature_zero_shares_among_the_best_and_auto_has_the_effective_size_asked_for(rule):
    rewards = np.array([5.0, 1.0, 5.0, 4.99])
    assert rule(reward_temperature=0).probabilities(rewards).tolist() == [0.5, 0, 0.5, 0]
    assert rule().probabilities(np.full(4, 2.0)).tolist() == [0.25] * 4
    spread = np.random.default_rng(0).normal(size=40)
    for factor in (0.01, 1, 100):
        chosen = rule(target_ess_fraction=0.3).probabilities(factor * spread)
        assert effective_sample_size(chosen) == pytest.approx(12, rel=1e-6)
    for wrong in ({"reward_temperature": -1}, {"target_ess_fraction": 0}, {"reward_temperature": "low"}):
        with pytest.raises(ConfigurationError):
            rule(**wrong)


def reward(ids):
    return float(sum(ids)) + 0.5 * ids[0] - 0.8 * ids[-1] * ids[0]


@pytest.mark.parametrize(
    ("strategy", "rule"),
    [
        (SoftBestOfN(sampling=Sampling(), reward_temperature=0.6), SoftBest(reward_temperature=0.6)),
        (Pessimism(sampling=Sampling(), reward_temperature=0.6), Pessimistic(reward_temperature=0.6)),
        (BestOfN(sampling=Sampling()), Best()),
    ],
)
def test_the_answers_law_on_the_toy_language_is_the_enumerated_one(strategy, rule):
    toy, n, trials = Toy(), 2, 3000
    responses, p = toy.responses(), toy.probabilities()
    expected = np.zeros(len(responses))
    for pair in product(range(len(responses)), repeat=n):
        chosen = rule.probabilities(np.array([reward(responses[i]) for i in pair]))
        for place, i in enumerate(pair):
            expected[i] += p[pair[0]] * p[pair[1]] * chosen[place]
    assert expected.sum() == pytest.approx(1.0)
    aligner = Searches(ToyEngine(toy), strategy, ToyReward(reward), Plan(budget=n, num_samples=n))
    counts = dict.fromkeys(responses, 0)
    for seed in range(trials):
        request = Request(messages=[], prompt_tokens=[1], limits=Limits(max_tokens=4), seed=seed)
        counts[aligner.align(request).best.rollout.tokens.ids] += 1
    found = np.array(list(counts.values())) / trials
    error = np.sqrt(expected * (1 - expected) / trials)
    assert (np.abs(found - expected) < 4 * error + 1e-12).all()


def test_soft_best_of_many_is_the_tilted_law():
    toy, rng = Toy(), np.random.default_rng(3)
    responses, p = toy.responses(), toy.probabilities()
    rewards = np.array([reward(ids) for ids in responses])
    draws = rng.choice(len(responses), p=p, size=200_000)
    law = np.bincount(draws, SoftBest(reward_temperature=0.6).probabilities(rewards[draws]), len(responses))
    np.testing.assert_allclose(law, toy.tilted(reward, 0.6), atol=4 / np.sqrt(len(draws)))


def test_equal_seeds_return_equal_answers():
    rewards = np.arange(20.0)
    picks = [choose(SoftBest(), rewards, np.random.default_rng(seed)) for seed in (1, 1, 2, 3, 4, 5)]
    assert picks[0] == picks[1]
    assert len(set(picks)) > 1


@pytest.mark.parametrize("temperature", ["auto", 0.0, 0.7])
@pytest.mark.parametrize("rule", [SoftBest, Pessimistic])
def test_the_largest_finite_rewards_are_told_apart(rule, temperature):
    """A difference of two finite rewards overflowed."""
    chosen = rule(reward_temperature=temperature).probabilities(np.array([-1.7e308, 1.7e308, 1.0]))
    assert chosen.tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize("kind", [SoftBestOfN, Pessimism])
def test_a_strategy_hands_its_options_to_the_rule_of_its_name(kind):
    own = {"reward_temperature": 0.7, "target_ess_fraction": 0.4}
    assert kind(**own).rule == RULES[kind.name](**own)
    with pytest.raises(ConfigurationError, match="target_ess_fraction is 0"):
        kind(target_ess_fraction=0)


@pytest.mark.parametrize("kind", [SoftBestOfN, Pessimism])
def test_its_responses_are_best_of_ns(kind):
    context = SearchContext(root_seed=3, budget=8, num_samples=4, max_tokens=4)
    ours, plain = kind(), BestOfN()
    assert ours.propose(ours.init(context), 4) == plain.propose(plain.init(context), 4)
