"""From settings to a search: defaults, presets, contradictions."""

from __future__ import annotations

import math
import time

import pytest
from pydantic import ValidationError

from aisp.bench.rivals import Best, Pessimistic, SoftBest
from aisp.errors import ConfigurationError
from aisp.records import GREEDY, Sampling
from aisp.search.plan import Plan
from aisp.settings import SearchSettings
from aisp.strategies import AISP, MISVO, BestOfN, Blockwise, QAlign, TiltedRestart


def strategy_of(rewarded=True, **settings):
    return SearchSettings(**settings).make_strategy(rewarded=rewarded)


def plan_of(rewarded=True, **settings):
    return SearchSettings(**settings).make_plan(rewarded=rewarded)


def test_defaults():
    assert strategy_of() == TiltedRestart()
    assert plan_of() == Plan(budget=64, num_samples=16)
    assert [plan_of(budget=budget).num_samples for budget in (4, 16, 48, 256)] == [4, 16, 16, 16]
    assert plan_of(strategy="best_of_n") == Plan(budget=64, num_samples=16)
    assert strategy_of(rewarded=False) == BestOfN()
    assert plan_of(rewarded=False) == Plan(budget=1, num_samples=1)


def test_the_papers_preset():
    paper = strategy_of(preset="paper")
    assert (paper.scale, paper.reward_temperature, paper.prior_shift) == (math.sqrt(0.5), 0.3, 0.999)
    assert (paper.mask_ended, paper.sampling) == (False, GREEDY)
    assert plan_of(preset="paper") == Plan(budget=1024, num_samples=32)
    assert plan_of(preset="paper", budget=64) == Plan(budget=64, num_samples=32)
    assert plan_of(preset="paper", budget=8) == Plan(budget=8, num_samples=8)
    assert plan_of(preset="paper", num_samples=16, num_rounds=16) == Plan(budget=256, num_samples=16)


def test_explicit_numbers_win_over_the_preset_and_zeros_are_zeros():
    mixed = strategy_of(preset="paper", scale=0.2, reward_temperature=0.0, prior_shift=0.0)
    assert (mixed.scale, mixed.reward_temperature, mixed.prior_shift) == (0.2, 0.0, 0.0)
    assert strategy_of(preset="paper", scale="auto").scale == "auto"


def test_how_tokens_are_drawn():
    assert strategy_of(strategy="best_of_n").sampling == Sampling(temperature=0.8)
    assert strategy_of(strategy="best_of_n", temperature=1.0, top_p=0.9).sampling == Sampling(top_p=0.9)
    assert strategy_of().plain == strategy_of(strategy="best_of_n").sampling
    given = strategy_of(temperature=0.7)
    assert given.sampling == given.plain == Sampling(temperature=0.7)
    nucleus = strategy_of(top_p=0.9)
    assert nucleus.sampling == nucleus.plain == Sampling(temperature=0.6, top_p=0.9)
    assert strategy_of(strategy="aisp", temperature=0.7) == AISP(sampling=Sampling(temperature=0.7))
    assert strategy_of(strategy="best_of_n", temperature=0.0).sampling == GREEDY


def test_greedy_draws_are_searched_by_the_strategy_that_is_made_for_them():
    assert strategy_of(temperature=0.0) == AISP()
    assert isinstance(strategy_of(temperature=0.0, budget=1), TiltedRestart)


def test_a_kl_budget_halves_into_the_tilt():
    assert strategy_of(tilt_nats=10.0, kl_budget=4.0).tilt_nats == 2.0
    assert strategy_of(tilt_nats=1.0, kl_budget=4.0).tilt_nats == 1.0
    assert strategy_of(kl_budget=0.0).tilt_nats == 0.0


def test_truncation_without_draws_is_warned_of():
    with pytest.warns(UserWarning, match="no effect on greedy draws"):
        strategy_of(strategy="aisp", top_p=0.9)


@pytest.mark.parametrize("settings", [{"scale": 0.5}, {"preset": "paper"}, {"horizon": 8}])
def test_settings_that_plain_sampling_has_not_are_errors(settings):
    with pytest.raises(ConfigurationError, match=r"best_of_n has no .* strategy=aisp"):
        strategy_of(strategy="best_of_n", **settings)
    with pytest.raises(ConfigurationError, match=r"best_of_n has no .* strategy=aisp"):
        strategy_of(rewarded=False, **settings)


@pytest.mark.parametrize(
    "settings",
    [{"budgte": 3}, {"budget": 0}, {"top_p": 0}, {"temperature": -1}, {"strategy": "magic"}, {"patience": 0}],
)
def test_unknown_names_and_values_out_of_range_are_errors(settings):
    with pytest.raises(ValidationError):
        SearchSettings(**settings)


def test_limits_start_the_clock():
    limits = SearchSettings(max_tokens=7, stop=["x"], timeout=5).make_limits()
    assert (limits.max_tokens, limits.stop) == (7, ("x",))
    assert 4 < limits.deadline - time.monotonic() <= 5
    assert SearchSettings(stop=["x"]).make_limits(stop=["y"]).stop == ("y",)
    assert SearchSettings().make_limits().deadline is None


def test_rivals_take_their_own_settings_and_the_draws():
    assert strategy_of(strategy="qalign", reward_temperature=0.5, temperature=1.0) == QAlign(
        reward_temperature=0.5, sampling=Sampling()
    )
    assert strategy_of(strategy="blockwise", beams=2, block_tokens=5) == Blockwise(beams=2, block_tokens=5)
    assert strategy_of(strategy="misvo", step_size=0.2, fisher_penalty=0.0) == MISVO(step_size=0.2, fisher_penalty=0.0)


def test_rules_choose_among_plain_samples():
    soft = SearchSettings(strategy="soft_best_of_n", reward_temperature=0.0, top_p=0.5)
    assert soft.make_strategy(rewarded=True) == BestOfN(sampling=Sampling(temperature=0.8, top_p=0.5))
    assert soft.make_selection() == SoftBest(reward_temperature=0.0)
    mild = SearchSettings(strategy="pessimism", target_ess_fraction=0.5)
    assert mild.make_selection() == Pessimistic(target_ess_fraction=0.5)
    for name in ("best_of_n", "tilted_restart", "aisp", None):
        assert SearchSettings(strategy=name).make_selection() == Best()


@pytest.mark.parametrize(
    ("strategy", "foreign"),
    [
        ("best_of_n", {"reward_temperature": 1.0}),
        ("soft_best_of_n", {"beams": 2}),
        ("pessimism", {"scale": 1.0}),
        ("qalign", {"step_size": 0.1}),
        ("blockwise", {"parents": 2}),
        ("misvo", {"reward_temperature": 1.0}),
        ("tilted_restart", {"fisher_penalty": 1.0}),
    ],
)
def test_settings_of_another_strategy_are_refused(strategy, foreign):
    with pytest.raises(ConfigurationError, match=next(iter(foreign))):
        strategy_of(strategy=strategy, **foreign)
