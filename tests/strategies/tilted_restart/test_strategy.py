"""Tilted restart as a function of its state: what it keeps, by how much it tilts, and what it leaves out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from aisp.errors import ConfigurationError
from aisp.records import TOKEN_FIGURES, Rollout, Sampling, Score, Tokens
from aisp.strategies.base import SearchContext
from aisp.strategies.tilted_restart.linear import fit_linear
from aisp.strategies.tilted_restart.strategy import TiltedRestart

SETTING = SearchContext(root_seed=11, budget=32, num_samples=8, max_tokens=10)
DIM = 5


def rollout_of(i, shares=(1 / 16, 1.0, 0.2, 0.5), kl=0.0, bag=None):
    """Return a response that shares no token with another's; `shares` are the probabilities of its tokens."""
    figures = {name: np.zeros(len(shares)) for name in TOKEN_FIGURES}
    figures |= {"log_prior": np.log(shares), "entropy": 1.0 - np.array(shares), "kl_to_base": np.full(len(shares), kl)}
    return Rollout(
        tokens=Tokens(ids=tuple(100 * i + t for t in range(len(shares))), **figures),
        text=str(i),
        finish_reason="stop",
        forward_tokens=4,
        measured={"bag": np.random.default_rng(i).normal(size=DIM) if bag is None else bag},
    )


def after_a_round(strategy, rewards, n=8, rollouts=None):
    state = strategy.init(SETTING)
    proposals = strategy.propose(state, n)
    rollouts = rollouts or [rollout_of(i) for i in range(n)]
    scores = [r if isinstance(r, Score) else Score(value=r) for r in rewards]
    return (*strategy.update(state, proposals, rollouts, scores), proposals)


def linear_rewards(n=8, factor=1.0):
    return [factor * float(rollout_of(i).measured["bag"] @ np.arange(DIM)) for i in range(n)]


def test_the_first_round_is_plain_samples_and_best_of_ns():
    from aisp.strategies.best_of_n import BestOfN

    ours, theirs = TiltedRestart(), BestOfN()
    mine, plain = ours.propose(ours.init(SETTING), 4), theirs.propose(theirs.init(SETTING), 4)
    assert [(p.seed, p.sampling, p.kept.ids, p.shift) for p in mine] == [
        (p.seed, p.sampling, p.kept.ids, p.shift) for p in plain
    ]


@pytest.mark.parametrize(("budget", "rounds"), [(64, 4), (32, 2), (8, 1), (3, 1)])
def test_plain_samples_come_first_a_quarter_of_a_small_budget(budget, rounds):
    strategy = TiltedRestart()
    state = strategy.init(replace(SETTING, budget=budget))
    for index in range(rounds + 1):
        proposals = strategy.propose(state, 4)
        plain = all(not p.kept.ids and p.shift is None for p in proposals)
        assert plain == (index < rounds)
        rollouts = [rollout_of(4 * index + i) for i in range(4)]
        state, _ = strategy.update(state, proposals, rollouts, [Score(value=float(i)) for i in range(4)])


@pytest.mark.parametrize(
    ("n", "budget", "sizes"),
    [
        (4, 64, [4] * 20),
        (8, 64, [8] * 5),
        (16, 16, [8, 8]),
        (16, 48, [12, 8, 10, 15, 16]),
        (16, 64, [16, 8, 12, 16, 16]),
        (64, 256, [16, 8, 12, 18, 27, 40, 60, 64]),
    ],
)
def test_a_round_grows_with_what_is_known(n, budget, sizes):
    strategy, seen = TiltedRestart(), 0
    state = strategy.init(replace(SETTING, budget=budget))
    for size in sizes:
        proposals = strategy.propose(state, n)
        assert len(proposals) == size
        rollouts = [rollout_of(seen + i) for i in range(size)]
        seen += size
        state, _ = strategy.update(state, proposals, rollouts, [Score(value=float(i)) for i in range(size)])


def test_kept_tokens_are_prefixes_of_parents_that_the_rewards_chose():
    strategy = TiltedRestart(parents=1.0)
    state, info, _ = after_a_round(strategy, [0, 1, 2, 9, 4, 5, 6, 7])
    assert info.ess == pytest.approx(1.0, abs=1e-3)
    for proposal in strategy.propose(state, 8):
        assert proposal.kept.ids == rollout_of(3).tokens.ids[: len(proposal.kept)]
        assert len(proposal.kept) < 4, "at least one token is drawn anew"


def test_the_effective_number_of_parents_is_the_one_asked_for():
    for parents in (1.5, 2.0, 4.0):
        _, info, _ = after_a_round(TiltedRestart(parents=parents), [0, 1, 2, 9, 4, 5, 6, 7])
        assert info.ess == pytest.approx(parents, rel=1e-6)


def test_cuts_are_where_tokens_were_open_and_improvement_is_expected():
    strategy = TiltedRestart(parents=1.0)
    state, _, _ = after_a_round(strategy, [0, 0, 9, 0, 0, 0, 0, 0])
    cuts = [len(p.kept) for r in range(400) for p in strategy.propose(replace(state, round_index=r), 8)]
    share = np.bincount(cuts, minlength=4) / len(cuts)
    explored, parent = state.restarts.explored, rollout_of(2).tokens
    gains = explored.gains([(member.rollout.tokens, member.reward) for member in state.population])
    behind = {explored.head(prefix).ids: gain for prefix, gain in enumerate(gains)}
    masses = parent.entropy * [behind[parent.ids[:cut]] for cut in range(4)]
    expected = masses / masses.sum()
    assert expected[1] == 0.0, "the model was sure"
    standard_error = np.sqrt(expected * (1 - expected) / len(cuts))
    assert (np.abs(share - expected) <= 4 * standard_error).all()


def test_what_was_tried_behind_a_prefix_is_not_drawn_again():
    strategy = TiltedRestart(parents=1.0)
    state, _, _ = after_a_round(strategy, [0, 0, 9, 0, 0, 0, 0, 0])
    for proposal in strategy.propose(state, 8):
        tried = [100 * i for i in range(8)] if not proposal.kept.ids else [200 + len(proposal.kept)]
        assert list(proposal.excluded) == tried
    barred = [0, 0, 9, 0, 0, 0, 0, 0, Score(value=0.0, vetoed=True)]
    state, _, _ = after_a_round(strategy, barred, n=9)
    proposals = [p for r in range(9) for p in strategy.propose(replace(state, round_index=r), 8)]
    assert {p.excluded for p in proposals if not p.kept.ids} == {tuple(100 * i for i in range(9))}


def test_no_cut_is_made_where_everything_was_tried():
    strategy = TiltedRestart(parents=1.0)
    all_first_tokens = [rollout_of(i, shares=(1 / 8, 1.0, 0.2, 0.5)) for i in range(8)]
    state, _, _ = after_a_round(strategy, [0, 0, 9, 0, 0, 0, 0, 0], rollouts=all_first_tokens)
    assert {len(p.kept) for r in range(20) for p in strategy.propose(replace(state, round_index=r), 8)} == {2, 3}


def test_where_nothing_is_left_to_try_rounds_begin_from_nothing():
    strategy = TiltedRestart(parents=1.0)
    said_before = [rollout_of(0, shares=(1.0, 1.0)) for _ in range(8)]
    state, info, _ = after_a_round(strategy, [float(i) for i in range(8)], rollouts=said_before)
    assert info.ess is None
    assert all(not p.kept.ids and not p.excluded and p.shift is None for p in strategy.propose(state, 8))


def test_a_response_that_was_drawn_twice_is_one_parent():
    strategy = TiltedRestart(parents=2.0)
    twice = [rollout_of(0), rollout_of(0), *(rollout_of(i) for i in range(2, 8))]
    _, info, _ = after_a_round(strategy, [9, 9, 1, 2, 3, 4, 5, 6], rollouts=twice)
    assert info.ess == pytest.approx(2.0, rel=1e-6)
    state, _, _ = after_a_round(strategy, [9, 9, 1, 2, 3, 4, 5, 6], rollouts=twice)
    assert len(state.restarts.parents) == 7


@pytest.mark.parametrize("factor", [0.01, 100.0])
def test_the_rewards_scale_and_shift_change_nothing(factor):
    strategy = TiltedRestart()
    plain, _, _ = after_a_round(strategy, linear_rewards())
    moved, _, _ = after_a_round(strategy, [factor * r + 3 for r in linear_rewards()])
    for one, other in zip(strategy.propose(plain, 8), strategy.propose(moved, 8), strict=True):
        assert one.kept.ids == other.kept.ids
        np.testing.assert_allclose(one.shift, other.shift, rtol=1e-5)


def bags_and(rewards):
    return np.array([rollout_of(i).measured["bag"] for i in range(len(rewards))]), np.array(rewards)


@pytest.mark.parametrize("noise", [0.0, 0.5, 1.0])
def test_a_tilt_is_as_strong_as_the_linear_reward_predicts_out_of_sample(noise):
    rewards = [r + noise * [1, -1, -1, 1, 1, -1, 0, 0][i] for i, r in enumerate(linear_rewards())]
    linear = fit_linear(*bags_and(rewards))
    assert (linear.r_squared > 0.99) == (noise == 0)
    assert 0.1 < linear.r_squared <= 1.0, "the test could not tell"
    state, _, _ = after_a_round(TiltedRestart(tilt_nats=1.0), rewards)
    assert state.expected_nats == pytest.approx(linear.r_squared * 1.0 / len(rollout_of(0).tokens))


def test_the_shift_is_the_linear_rewards_slope_at_that_strength_and_what_a_first_tilt_costs():
    rewards = linear_rewards()
    linear = fit_linear(*bags_and(rewards))
    state, _, _ = after_a_round(TiltedRestart(tilt_nats=1.0), rewards)
    assert float(state.shift[0] @ np.arange(DIM)) > 0, "towards the reward"
    np.testing.assert_allclose(state.shift[0], linear.tilt(linear.r_squared / 0.2), rtol=1e-5)
    assert {proposal.shift is state.shift for proposal in TiltedRestart().propose(state, 8)} == {True}


def test_a_reward_that_is_not_linear_in_tokens_is_left_to_the_restarts():
    unrelated = [3.0, -1.0, 2.0, -2.0, 0.5, 1.0, -3.0, 0.0]
    assert fit_linear(*bags_and(unrelated)).r_squared < 0
    state, _, _ = after_a_round(TiltedRestart(), unrelated)
    assert state.restarts is not None
    assert state.shift is None


def test_rewards_of_any_finite_size_tilt_alike():
    """Squares of rewards of 1e300 overflowed in the linear fit."""
    usual, _, _ = after_a_round(TiltedRestart(), linear_rewards())
    for factor in (1e300, 1e-300):
        extreme, _, _ = after_a_round(TiltedRestart(), linear_rewards(factor=factor))
        np.testing.assert_allclose(extreme.shift, usual.shift, rtol=1e-5)


@pytest.mark.parametrize(("tied", "plain"), [(8, True), (6, True), (5, False), (1, False)])
def test_a_round_that_mostly_starts_fresh_is_drawn_as_plain_samples_are(tied, plain):
    strategy = TiltedRestart()
    rewards = [1.0 if i < tied else linear_rewards()[i] / 100 - 1.0 for i in range(8)]
    state, _, _ = after_a_round(strategy, rewards)
    assert (state.restarts.fresh_share > 0.5) == plain
    shift = np.ones((1, DIM), dtype=np.float32)
    proposals = strategy.propose(replace(state, shift=shift), 8)
    assert {p.sampling for p in proposals} == {strategy.plain if plain else strategy.sampling}
    assert {p.shift is None for p in proposals} == {plain}


def test_restarts_are_colder_than_plain_samples_and_one_law_weighs_both():
    strategy = TiltedRestart()
    assert strategy.sampling.temperature < strategy.plain.temperature
    state, _, first = after_a_round(strategy, [float(i) for i in range(8)])
    restarts = strategy.propose(state, 8)
    assert {p.prior for p in (*first, *restarts)} == {strategy.sampling}
    assert {p.sampling for p in first} == {strategy.plain}
    assert {p.sampling for p in restarts} == {strategy.sampling}


def test_what_was_tried_behind_a_kept_prefix_is_excluded_and_its_probability_recorded():
    strategy = TiltedRestart(parents=4.0)
    state, _, first = after_a_round(strategy, [float(i) for i in range(8)])
    assert {(p.log_start, p.excluded) for p in first} == {(0.0, ())}
    for proposal in strategy.propose(state, 8):
        assert proposal.excluded == state.restarts.explored.tried(proposal.kept.ids) != ()
        assert proposal.log_start == state.restarts.log_exit_probability(proposal.kept.ids) <= 0
        assert np.isfinite(proposal.log_start)


def test_a_tilt_costs_no_more_than_its_parents_have_entropy():
    nats = {n: after_a_round(TiltedRestart(tilt_nats=n), linear_rewards())[0].expected_nats for n in (1.0, 2.0, 16.0)}
    assert nats[2.0] == pytest.approx(2 * nats[1.0])
    assert nats[16.0] == pytest.approx(rollout_of(0).tokens.entropy.sum() * nats[1.0])


def test_the_entropy_that_limits_a_tilt_is_that_of_the_parents_it_restarts_from():
    rewards = linear_rewards()
    best = int(np.argmax(rewards))
    rollouts = [
        rollout_of(i, shares=(1 / 16, 0.9, 0.9, 0.8) if i == best else (1 / 16, 1.0, 0.2, 0.5)) for i in range(8)
    ]
    state, _, _ = after_a_round(TiltedRestart(parents=1.0), rewards, rollouts=rollouts)
    predicted = fit_linear(*bags_and(rewards)).r_squared
    assert state.expected_nats * 4 == pytest.approx(predicted * rollouts[best].tokens.entropy.sum(), rel=1e-3)


def test_what_a_tilt_cost_is_measured_on_the_tokens_that_were_drawn():
    strategy = TiltedRestart()
    state, _, _ = after_a_round(strategy, linear_rewards())
    proposals = strategy.propose(state, 8)

    def rollout(i, kept):
        figures = rollout_of(i, kl=state.expected_nats)
        costs = np.where(np.arange(4) < kept, 1e3, figures.tokens.kl_to_base)  # what the parent cost is not counted
        return replace(figures, tokens=replace(figures.tokens, kl_to_base=costs))

    rollouts = [rollout(i, len(proposal.kept)) for i, proposal in enumerate(proposals)]
    after, _ = strategy.update(state, proposals, rollouts, [Score(value=r) for r in linear_rewards()])
    assert after.kl_ratio == pytest.approx(state.kl_ratio)


def test_the_next_tilt_is_corrected_by_what_the_last_one_cost():
    strategy = TiltedRestart(tilt_nats=16.0)
    state, _, _ = after_a_round(strategy, linear_rewards())
    proposals = strategy.propose(state, 8)

    def following(measured):
        rollouts = [replace(rollout_of(i, kl=measured), tokens=rollout_of(i, kl=measured).tokens) for i in range(8)]
        return strategy.update(state, proposals, rollouts, [Score(value=r) for r in linear_rewards()])[0]

    as_expected, double = following(state.expected_nats), following(2 * state.expected_nats)
    assert as_expected.kl_ratio == pytest.approx(state.kl_ratio)
    assert double.kl_ratio == pytest.approx(2 * state.kl_ratio)
    np.testing.assert_allclose(double.shift, as_expected.shift / np.sqrt(2.0), rtol=1e-5)
    assert following(0.0).kl_ratio == 0.01, "a correction is bounded"
    assert following(1e6 * state.expected_nats).kl_ratio == 20.0


def test_what_is_vetoed_or_not_scorable_has_no_part():
    strategy = TiltedRestart(parents=1.0)
    rewards = [*linear_rewards()[:6], Score(value=99.0, vetoed=True), Score(value=float("nan"), error="no")]
    state, info, _ = after_a_round(strategy, rewards)
    assert len(state.population) == 6
    assert np.isfinite(info.reward_temperature)
    none, info, _ = after_a_round(strategy, [Score(value=1.0, vetoed=True)] * 8)
    assert none.population == ()
    assert info.ess is None
    assert all(not p.kept.ids for p in strategy.propose(none, 8))


def test_where_all_rewards_are_tied_a_round_is_plain_samples_that_are_new():
    strategy = TiltedRestart()
    state, info, _ = after_a_round(strategy, [1.0] * 8)
    assert state.shift is None
    assert info.reward_temperature is None
    assert info.ess == pytest.approx(8.0)
    proposals = [p for r in range(40) for p in strategy.propose(replace(state, round_index=r), 8)]
    assert len({p.kept.ids[0] // 100 for p in proposals if p.kept.ids}) == 8, "every response is left somewhere"
    assert {p.sampling for p in proposals} == {strategy.plain}
    assert all(p.excluded and p.shift is None for p in proposals)
    # The 8 first tokens have half of the model's probability: of plain samples, half begin with another one.
    fresh = np.mean([not p.kept.ids for p in proposals])
    assert fresh > 0.5 / (0.5 + 0.5 * 0.9) + 0.1, "and rather more where first tokens are what failed"
    assert fresh == pytest.approx(state.restarts.exits[0], abs=0.06)


def test_what_was_found_among_tied_rewards_is_gone_on_from():
    strategy = TiltedRestart(parents=1.0)
    state, _, _ = after_a_round(strategy, [0, 0, 0, 1, 0, 0, 0, 0])
    for proposal in strategy.propose(state, 8):
        assert proposal.sampling == strategy.sampling
        assert proposal.kept.ids == rollout_of(3).tokens.ids[: len(proposal.kept)]


def test_no_tilt_where_none_is_wanted():
    state, _, proposals = after_a_round(TiltedRestart(tilt_nats=0.0), linear_rewards())
    assert state.shift is None
    assert not any("bag" in p.measures for p in proposals)


@pytest.mark.parametrize("wrong", [{"parents": 0.5}, {"parents": np.inf}, {"tilt_nats": -1.0}, {"tilt_nats": np.nan}])
def test_numbers_outside_their_range(wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        TiltedRestart(**wrong)


def test_greedy_draws_are_refused_where_they_would_repeat_themselves():
    greedy = TiltedRestart(sampling=Sampling(temperature=0.0))
    with pytest.raises(ConfigurationError, match="strategy='aisp'"):
        greedy.init(SETTING)
    assert greedy.init(replace(SETTING, budget=1)).population == ()


def test_plain_samples_of_another_law_than_a_nucleus_are_refused():
    nucleus = Sampling(temperature=0.6, top_p=0.9)
    with pytest.raises(ConfigurationError, match="give both the same"):
        TiltedRestart(sampling=nucleus)
    assert TiltedRestart(sampling=nucleus, plain=nucleus).plain == nucleus
