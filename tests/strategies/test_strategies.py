"""Strategies as pure functions of their state, without a model."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aisp.errors import ConfigurationError
from aisp.noise import gaussians, row_seed
from aisp.records import GREEDY, Rollout, Sampling, Score, Tokens
from aisp.strategies import AISP, BestOfN, SearchContext, TiltedRestart
from aisp.strategies.aisp import PAPER

SETTING = SearchContext(root_seed=7, budget=64, num_samples=4, max_tokens=10)
DIM = 6


def rollout_of(length, mean_dot=0.0, unused=0.0, natural_scale=None):
    figures = {name: np.zeros(length) for name in ("log_prob", "log_prior", "log_proposal", "kl_to_base", "entropy")}
    dots = np.full(length, mean_dot / length)
    return Rollout(
        tokens=Tokens(ids=tuple(range(length)), mean_dot=dots, **figures),
        text="x",
        finish_reason="stop",
        forward_tokens=length,
        measured={"unused_mean_dot": unused, "natural_scale": natural_scale},
    )


def scores_of(*values):
    return [Score(value=value) for value in values]


def mean_of(state, position):
    total = np.zeros(DIM)
    for term in state.mean:
        weight = next((weight for stop, weight in term.spans if position < stop), 0.0)
        total += weight * gaussians([term.seed], torch.tensor([[position]]), DIM)[0, 0].double().numpy()
    return total


def perturbation(state, proposal, position):
    noise = gaussians([proposal.seed], torch.tensor([[position]]), DIM)[0, 0].double().numpy()
    return mean_of(state, position) + proposal.scale * noise


def test_proposals_are_greedy_with_seeds_of_their_own():
    strategy = AISP(scale=0.5)
    state = strategy.init(SETTING)
    proposals = strategy.propose(state, 4)
    assert [proposal.seed for proposal in proposals] == [row_seed(7, 0, row) for row in range(4)]
    assert {proposal.sampling for proposal in proposals} == {GREEDY}
    assert {(proposal.scale, proposal.mean, proposal.horizon) for proposal in proposals} == {(0.5, (), 10)}
    later, _ = strategy.update(state, proposals, [rollout_of(5)] * 4, scores_of(1, 2, 3, 4))
    assert not {p.seed for p in proposals} & {p.seed for p in strategy.propose(later, 4)}


def test_auto_scale_spends_one_greedy_response_and_takes_what_it_measured():
    strategy = AISP()
    state = strategy.init(SETTING)
    [base] = strategy.propose(state, 4)
    assert (base.scale, base.mean, base.measures) == (0.0, (), {"natural_scale"})
    state, info = strategy.update(state, [base], [rollout_of(5, natural_scale=0.37)], scores_of(1.0))
    assert state.scale == 0.37
    assert state.mean == ()
    assert info.ess is None
    assert len(strategy.propose(state, 4)) == 4


def test_the_mean_moves_to_the_weighted_perturbations():
    """u_t <- sum_i w_i v_t^i, twice, so that the second update starts from a mean that is not zero."""
    strategy = AISP(scale=0.6, reward_temperature=0.5, prior_shift=0.9)
    state = strategy.init(SETTING)
    rng = np.random.default_rng(0)
    for _ in range(2):
        proposals = strategy.propose(state, 4)
        rewards, dots = rng.normal(size=4), rng.normal(size=4)
        rollouts = [rollout_of(10, mean_dot=dot) for dot in dots]
        logs = rewards / 0.5 - 0.1 / 0.36 * dots
        weights = np.exp(logs - logs.max()) / np.exp(logs - logs.max()).sum()
        expected = [
            sum(w * perturbation(state, p, t) for w, p in zip(weights, proposals, strict=True)) for t in range(10)
        ]
        state, info = strategy.update(state, proposals, rollouts, scores_of(*rewards))
        for position in range(10):
            np.testing.assert_allclose(mean_of(state, position), expected[position], atol=1e-6)
        assert info.ess == pytest.approx(1 / (weights**2).sum())
        assert info.reward_temperature == 0.5


def test_positions_past_a_responses_end_take_no_part():
    strategy = AISP(scale=1.0, reward_temperature=1.0, prior_shift=1.0)
    state = strategy.init(SETTING)
    proposals = strategy.propose(state, 3)
    ends, rewards = [2, 5, 8], [0.0, 1.0, -1.0]
    moved, _ = strategy.update(state, proposals, [rollout_of(end) for end in ends], scores_of(*rewards))
    for position in range(10):
        live = [i for i in range(3) if ends[i] > position]
        weights = np.exp([rewards[i] for i in live])
        expected = sum(
            (
                w / weights.sum() * perturbation(state, proposals[i], position)
                for i, w in zip(live, weights, strict=True)
            ),
            start=np.zeros(DIM),
        )
        np.testing.assert_allclose(mean_of(moved, position), expected, atol=1e-6)


def test_the_paper_lets_every_position_to_the_horizon_take_part():
    state = PAPER.init(SETTING)
    proposals = PAPER.propose(state, 3)
    assert all("unused_mean_dot" in proposal.measures for proposal in proposals)
    assert (PAPER.scale, PAPER.reward_temperature, PAPER.prior_shift) == (math.sqrt(0.5), 0.3, 0.999)
    rollouts = [rollout_of(2, mean_dot=1.0, unused=500.0), rollout_of(10), rollout_of(4)]
    moved, _ = PAPER.update(state, proposals, rollouts, scores_of(0.3, 0.3, 0.0))
    logs = np.array([1.0 - 0.001 / 0.5 * 501.0, 1.0, 0.0])
    weights = np.exp(logs) / np.exp(logs).sum()
    expected = sum(w * perturbation(state, p, 9) for w, p in zip(weights, proposals, strict=True))
    np.testing.assert_allclose(mean_of(moved, 9), expected, atol=1e-6)


def test_nothing_is_learned_from_a_tie_or_from_nothing():
    strategy = AISP(scale=1.0)
    state = strategy.init(SETTING)
    proposals = strategy.propose(state, 3)
    tied, info = strategy.update(state, proposals, [rollout_of(4)] * 3, scores_of(2.0, 2.0, 2.0))
    assert (tied.mean, info.ess) == ((), 3.0)
    vetoed = [Score(value=1.0, vetoed=True)] * 3
    assert strategy.update(state, proposals, [rollout_of(4)] * 3, vetoed)[0].mean == ()


def test_vetoed_and_unscored_responses_have_no_weight():
    strategy = AISP(scale=1.0, reward_temperature=1.0)
    state = strategy.init(SETTING)
    proposals = strategy.propose(state, 3)
    scores = [Score(value=0.1), Score(value=9.0, vetoed=True), Score(value=float("nan"), error="no")]
    moved, info = strategy.update(state, proposals, [rollout_of(4)] * 3, scores)
    assert [term.seed for term in moved.mean] == [proposals[0].seed]
    assert info.ess == pytest.approx(1.0)


@settings(deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=3, max_size=12), st.sampled_from([0.01, 100.0]), st.floats(-5, 5))
def test_auto_reward_temperature_is_indifferent_to_scale_and_shift(values, factor, shift):
    strategy = AISP(scale=1.0)
    state = strategy.init(SETTING)
    values = [round(value, 2) for value in values]
    proposals = strategy.propose(state, len(values))
    rollouts = [rollout_of(4)] * len(values)
    one, _ = strategy.update(state, proposals, rollouts, scores_of(*values))
    other, _ = strategy.update(state, proposals, rollouts, scores_of(*(factor * value + shift for value in values)))
    weights = [{term.seed: term.spans[0][1] for term in state.mean} for state in (one, other)]
    for seed in weights[0].keys() | weights[1].keys():
        assert weights[0].get(seed, 0.0) == pytest.approx(weights[1].get(seed, 0.0), abs=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": 0.0}, "scale is 0.0"),
        ({"reward_temperature": -0.1}, "reward_temperature is -0.1"),
        ({"prior_shift": 2.0}, "prior_shift is 2.0"),
        ({"target_ess_fraction": 0.0}, "target_ess_fraction is 0.0"),
        ({"horizon": 0}, "horizon is 0"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        AISP(**settings)


def test_settings_at_the_ends_of_their_ranges_are_taken():
    for own in ({"target_ess_fraction": 1.0}, {"prior_shift": 0.0}, {"prior_shift": 1.0}, {"horizon": 1}):
        assert AISP(reward_temperature=0.0, **own)


def test_a_fifth_of_the_samples_is_effective_unless_another_share_is_asked_for():
    for own, share in (({}, 0.2), ({"target_ess_fraction": 0.5}, 0.5)):
        strategy = AISP(scale=1.0, **own)
        state = strategy.init(SETTING)
        proposals = strategy.propose(state, 20)
        _, info = strategy.update(state, proposals, [rollout_of(4)] * 20, scores_of(*np.arange(20.0)))
        assert info.ess == pytest.approx(20 * share)


@pytest.mark.parametrize(
    ("strategy", "needs"),
    [
        (AISP(), {"noise", "natural_scale"}),
        (AISP(scale=0.5), {"noise"}),
        (PAPER, {"noise", "unused_mean_dot"}),
        (BestOfN(), set()),
        (TiltedRestart(), {"kept", "excluded", "shift", "bag"}),
        (TiltedRestart(tilt_nats=0.0), {"kept", "excluded"}),
    ],
)
def test_what_a_strategy_needs_depends_on_its_options(strategy, needs):
    assert strategy.needs == needs


def test_best_of_n_draws_independent_samples():
    strategy = BestOfN(sampling=Sampling(temperature=0.9))
    state = strategy.init(SETTING)
    first = strategy.propose(state, 4)
    state, info = strategy.update(state, first, [rollout_of(4)] * 4, scores_of(1, 2, 3, 4))
    second = strategy.propose(state, 3)
    assert len({proposal.seed for proposal in (*first, *second)}) == 7
    assert {(p.scale, p.mean, p.sampling.temperature) for p in (*first, *second)} == {(0.0, (), 0.9)}
    assert info.ess is None


def test_best_of_n_refuses_to_draw_the_same_response_many_times():
    greedy = BestOfN(sampling=GREEDY)
    with pytest.raises(ConfigurationError, match="same response 64 times"):
        greedy.init(SETTING)
    one = SearchContext(root_seed=7, budget=1, num_samples=1, max_tokens=10)
    assert len(greedy.propose(greedy.init(one), 1)) == 1
