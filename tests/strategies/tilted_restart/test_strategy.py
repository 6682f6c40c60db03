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


def after_a_round(strategy, rewards, n=8, rollouts=None, budget=32):
    state = strategy.init(replace(SETTING, budget=budget))
    proposals = strategy.propose(state, n)
    rollouts = rollouts or [rollout_of(i) for i in range(n)]
    scores = [r if isinstance(r, Score) else Score(value=r) for r in rewards]
    return (*strategy.update(state, proposals, rollouts, scores), proposals)


def scores_of(rewards):
    return [Score(value=float(reward)) for reward in rewards]


def linear_rewards(n=8, factor=1.0):
    return [factor * float(rollout_of(i).measured["bag"] @ np.arange(DIM)) for i in range(n)]


def test_the_first_round_is_plain_samples_and_best_of_ns():
    from aisp.strategies.best_of_n import BestOfN

    ours, theirs = TiltedRestart(), BestOfN()
    mine, plain = ours.propose(ours.init(SETTING), 4), theirs.propose(theirs.init(SETTING), 4)
    assert [(p.seed, p.sampling, p.kept.ids, p.shift) for p in mine] == [
        (p.seed, p.sampling, p.kept.ids, p.shift) for p in plain
    ]


@pytest.mark.parametrize(("budget", "plain"), [(256, 16), (64, 16), (40, 10), (32, 8), (12, 8)])
def test_plain_samples_come_first_a_quarter_of_the_budget_but_eight_at_least_and_sixteen_at_most(budget, plain):
    strategy = TiltedRestart()
    state = strategy.init(replace(SETTING, budget=budget))
    first = strategy.propose(state, 64)
    assert len(first) == plain
    assert all(not p.kept.ids and p.shift is None and not p.excluded for p in first)
    state, _ = strategy.update(state, first, list(map(rollout_of, range(plain))), scores_of(range(plain)))
    assert all(p.excluded for p in strategy.propose(state, 64))


def test_a_budget_below_that_is_best_of_n():
    strategy = TiltedRestart()
    state = strategy.init(replace(SETTING, budget=3))
    assert [(p.excluded, p.sampling) for p in strategy.propose(state, 64)] == [((), strategy.plain)] * 3


def test_plain_samples_that_are_being_written_count():
    strategy = TiltedRestart()
    state = strategy.init(replace(SETTING, budget=64))
    first = strategy.propose(state, 10)
    assert len(strategy.propose(state, 10, first)) == 6, "of sixteen"


def test_the_first_restart_waits_for_half_of_the_plain_samples():
    strategy = TiltedRestart()
    state = strategy.init(replace(SETTING, budget=64))
    pending = strategy.propose(state, 16)
    for ended in range(8):
        assert strategy.propose(state, 4, pending) == ()
        state, _ = strategy.update(state, pending[:1], [rollout_of(ended)], scores_of([ended]))
        pending = pending[1:]
    more = strategy.propose(state, 4, pending)
    assert len(more) == 4
    assert all(p.excluded for p in more)


def test_where_plain_samples_are_vetoed_more_are_drawn_once_nothing_is_being_written():
    strategy = TiltedRestart()
    state = strategy.init(replace(SETTING, budget=64))
    pending = strategy.propose(state, 16)
    vetoed = [Score(value=0.0, vetoed=True)] * 10
    state, _ = strategy.update(state, pending[:10], list(map(rollout_of, range(10))), vetoed)
    assert strategy.propose(state, 4, pending[10:]) == ()
    state, _ = strategy.update(state, pending[10:], list(map(rollout_of, range(10, 16))), vetoed[:6])
    assert [p.excluded for p in strategy.propose(state, 4)] == [()] * 4


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
    cuts = [len(p.kept) for r in range(400) for p in strategy.propose(replace(state, updates=r), 8)]
    share = np.bincount(cuts, minlength=4) / len(cuts)
    explored, parent = state.restarts.explored, rollout_of(2).tokens
    gains = explored.gains([(member.rollout.tokens, member.reward) for member in state.population])
    behind = {explored.head(prefix).ids: gain for prefix, gain in enumerate(gains)}
    masses = parent.entropy * [behind[parent.ids[:cut]] for cut in range(4)]
    expected = masses / masses.sum()
    assert expected[1] == 0.0, "the model was sure"
    standard_error = np.sqrt(expected * (1 - expected) / len(cuts))
    assert (np.abs(share - expected) <= 4 * standard_error).all()


def test_one_state_can_be_told_of_different_responses():
    strategy = TiltedRestart(parents=1.0)
    state, _, _ = after_a_round(strategy, linear_rewards())
    before = strategy.propose(state, 8)
    given = [(before[:1], [rollout_of(i)], scores_of([99.0])) for i in (20, 30)]
    one, other = (strategy.update(state, *told)[0] for told in given)
    again, _ = strategy.update(after_a_round(strategy, linear_rewards())[0], *given[0])
    for i, after in ((20, one), (30, other), (20, again)):
        assert {ids // 100 for p in strategy.propose(after, 8) for ids in p.kept.ids} == {i}
        assert len(after.drawn) == 9
    assert [(p.kept.ids, p.excluded) for p in strategy.propose(state, 8)] == [(p.kept.ids, p.excluded) for p in before]


def test_what_was_tried_behind_a_prefix_is_not_drawn_again():
    strategy = TiltedRestart(parents=1.0)
    state, _, _ = after_a_round(strategy, [0, 0, 9, 0, 0, 0, 0, 0])
    for proposal in strategy.propose(state, 8):
        tried = [100 * i for i in range(8)] if not proposal.kept.ids else [200 + len(proposal.kept)]
        assert list(proposal.excluded) == tried
    barred = [0, 0, 9, 0, 0, 0, 0, 0, Score(value=0.0, vetoed=True)]
    state, _, _ = after_a_round(strategy, barred, n=9, budget=36)
    proposals = [p for r in range(9) for p in strategy.propose(replace(state, updates=r), 8)]
    assert {p.excluded for p in proposals if not p.kept.ids} == {tuple(100 * i for i in range(9))}


def test_no_cut_is_made_where_everything_was_tried():
    strategy = TiltedRestart(parents=1.0)
    all_first_tokens = [rollout_of(i, shares=(1 / 8, 1.0, 0.2, 0.5)) for i in range(8)]
    state, _, _ = after_a_round(strategy, [0, 0, 9, 0, 0, 0, 0, 0], rollouts=all_first_tokens)
    assert {len(p.kept) for r in range(20) for p in strategy.propose(replace(state, updates=r), 8)} == {2, 3}


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


def expected_nats(state):
    """What the next tilt is to cost, in nats a token."""
    return state.predicted_nats * state.kl_ratio


@pytest.mark.parametrize("noise", [0.0, 0.5, 1.0])
def test_a_tilt_is_as_strong_as_the_linear_reward_predicts_out_of_sample(noise):
    rewards = [r + noise * [1, -1, -1, 1, 1, -1, 0, 0][i] for i, r in enumerate(linear_rewards())]
    linear = fit_linear(*bags_and(rewards))
    assert (linear.r_squared > 0.99) == (noise == 0)
    assert 0.1 < linear.r_squared <= 1.0, "the test could not tell"
    state, _, _ = after_a_round(TiltedRestart(tilt_nats=1.0), rewards)
    assert expected_nats(state) == pytest.approx(linear.r_squared * 1.0 / len(rollout_of(0).tokens))


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
    nats = {n: after_a_round(TiltedRestart(tilt_nats=n), linear_rewards())[0] for n in (1.0, 2.0, 16.0)}
    nats = {n: expected_nats(state) for n, state in nats.items()}
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
    assert expected_nats(state) * 4 == pytest.approx(predicted * rollouts[best].tokens.entropy.sum(), rel=1e-3)


def after_tilts(cost, tokens=4, strategy=None):
    """Return the state before and after eight restarts whose tilts cost so many nats a token, in what was expected."""
    strategy = strategy or TiltedRestart()
    state, _, _ = after_a_round(strategy, linear_rewards())
    proposals = strategy.propose(state, 8)

    def rollout(i, kept):
        figures = rollout_of(i, shares=(1 / 16, 1.0, 0.2, 0.5)[:tokens], kl=cost * expected_nats(state))
        costs = np.where(
            np.arange(tokens) < kept, 1e3, figures.tokens.kl_to_base
        )  # what the parent cost is not counted
        return replace(figures, tokens=replace(figures.tokens, kl_to_base=costs))

    rollouts = [rollout(i, len(proposal.kept)) for i, proposal in enumerate(proposals)]
    drawn = sum(len(r.tokens) - len(p.kept) for p, r in zip(proposals, rollouts, strict=True))
    return state, strategy.update(state, proposals, rollouts, scores_of(linear_rewards()))[0], drawn


def test_what_a_tilt_cost_is_measured_on_the_tokens_that_were_drawn():
    before, after, _ = after_tilts(1.0)
    assert after.kl_ratio == pytest.approx(before.kl_ratio)


@pytest.mark.parametrize("cost", [0.5, 2.0, 3.0])
def test_the_next_tilts_are_corrected_by_what_the_last_ones_cost_a_tenth_for_each_response(cost):
    """Told of one response at a time, a full correction multiplied at each, and the tilt ran away."""
    before, after, drawn = after_tilts(cost)
    share = 1 - 0.9 ** (drawn / 4)
    assert after.kl_ratio == pytest.approx(before.kl_ratio * (1 + share * (cost - 1)))
    _, as_expected, _ = after_tilts(1.0)
    ratio = after.kl_ratio / as_expected.kl_ratio
    np.testing.assert_allclose(after.shift, as_expected.shift / np.sqrt(ratio), rtol=1e-5)


def test_a_correction_is_bounded():
    assert after_tilts(1e9)[1].kl_ratio == 20.0
    strategy = TiltedRestart()
    state, _, _ = after_a_round(strategy, linear_rewards())
    for _ in range(12):
        proposals = strategy.propose(state, 8)
        state, _ = strategy.update(state, proposals, list(map(rollout_of, range(8))), scores_of(linear_rewards()))
    assert state.kl_ratio == 0.01, "after a hundred tilts that cost nothing"


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
    proposals = [p for r in range(40) for p in strategy.propose(replace(state, updates=r), 8)]
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
