"""Importance weights against what they must be exactly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from aisp.errors import ConfigurationError
from aisp.strategies.weights import effective_sample_size, log_weights, normalise, solve_reward_temperature, tilt

finite = st.floats(-1e3, 1e3, allow_nan=False)
rewards_of_many = arrays(np.float64, st.integers(2, 40), elements=finite)


def weights_of(rewards, mean_dots, **numbers):
    settings = {"reward_temperature": 0.3, "scale": 0.7, "prior_shift": 0.999, **numbers}
    return normalise(log_weights(np.asarray(rewards), np.asarray(mean_dots), **settings))


@pytest.mark.parametrize("prior_shift", [0.0, 0.9])
def test_all_weights_are_equal_at_the_optimum_of_a_linear_reward(prior_shift):
    """For r = <C, V> the target is N(sigma^2 C / ((1 - alpha) lambda), sigma^2 I): there every sample is worth the
    same.

    A first update from U = 0 would not notice a wrong sign, a wrong factor, or the importance correction left out.
    """
    rng = np.random.default_rng(3)
    n, size, scale, temperature = 24, 30, 0.7, 0.4
    c = rng.exponential(size=size) - 0.3  # asymmetric
    mean = scale**2 * c / ((1 - prior_shift) * temperature)
    perturbations = mean + scale * rng.standard_normal((n, size))
    weights = weights_of(
        perturbations @ c, perturbations @ mean, reward_temperature=temperature, scale=scale, prior_shift=prior_shift
    )
    assert effective_sample_size(weights) == pytest.approx(n, rel=1e-6)


def test_the_prior_term_alone_prefers_what_lies_against_the_mean():
    weights = weights_of([0.0, 0.0], [1.0, -1.0], scale=0.5, prior_shift=0.5)
    assert np.log(weights[1] / weights[0]) == pytest.approx(2 * 0.5 / 0.25)


@given(rewards_of_many)
def test_towards_zero_the_best_takes_all(rewards):
    zeros = np.zeros(len(rewards))
    best = rewards == rewards.max()
    np.testing.assert_allclose(weights_of(rewards, zeros, reward_temperature=0), best / best.sum())


@given(rewards_of_many, st.floats(-100, 100))
def test_a_shift_of_the_rewards_changes_nothing(rewards, shift):
    dots = np.linspace(-1, 2, len(rewards))
    np.testing.assert_allclose(weights_of(rewards, dots), weights_of(rewards + shift, dots), atol=1e-8)


@given(rewards_of_many, st.sampled_from([0.25, 4.0, 1024.0]))
def test_scaling_rewards_and_temperature_together_changes_nothing(rewards, factor):
    dots = np.linspace(-1, 2, len(rewards))
    scaled = weights_of(factor * rewards, dots, reward_temperature=0.3 * factor)
    np.testing.assert_allclose(weights_of(rewards, dots), scaled, atol=1e-12)


@given(rewards_of_many, st.randoms(use_true_random=False))
def test_permuting_samples_permutes_weights(rewards, random):
    order = random.sample(range(len(rewards)), len(rewards))
    dots = np.linspace(-1, 2, len(rewards))
    np.testing.assert_allclose(weights_of(rewards, dots)[order], weights_of(rewards[order], dots[order]), atol=1e-12)


def test_a_row_without_reward_gets_no_weight():
    weights = weights_of([1.0, -np.inf, 1.5], [0.0, 0.0, 0.0])
    assert weights[1] == 0
    assert weights.sum() == pytest.approx(1)


@given(rewards_of_many, st.floats(0.05, 0.95))
def test_the_solved_temperature_gives_the_wanted_effective_sample_size(rewards, fraction):
    rewards = np.round(rewards, 3)
    temperature = solve_reward_temperature(rewards, fraction)
    tied = int((rewards == rewards.max()).sum())
    target = max(1.0, fraction * len(rewards))
    if tied == len(rewards):
        assert temperature is None
    elif tied >= target:
        assert temperature == 0
    elif temperature:
        got = effective_sample_size(weights_of(rewards, np.zeros(len(rewards)), reward_temperature=temperature))
        assert got == pytest.approx(target, rel=1e-3)


@pytest.mark.parametrize("factor", [0.01, 1.0, 100.0])
def test_the_solved_temperature_follows_the_rewards_scale(factor):
    rewards = np.array([0.1, 0.9, 0.3, 0.35, 0.7])
    base = solve_reward_temperature(rewards, 0.5)
    assert base is not None
    assert solve_reward_temperature(factor * rewards + 7, 0.5) == pytest.approx(factor * base, rel=1e-6)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"reward_temperature": -1}, "reward_temperature is -1"),
        ({"scale": 0}, "scale is 0"),
        ({"prior_shift": 1.1}, "prior_shift is 1.1"),
    ],
)
def test_numbers_out_of_range_are_named(numbers, message):
    with pytest.raises(ConfigurationError, match=message):
        weights_of([1.0, 2.0], [0.0, 0.0], **numbers)


def test_no_reward_at_all_is_an_error():
    with pytest.raises(ConfigurationError, match="no row has a finite reward"):
        weights_of([-np.inf, -np.inf], [0.0, 0.0])


def test_a_target_fraction_out_of_range_is_named():
    with pytest.raises(ConfigurationError, match="target_ess_fraction is 0"):
        solve_reward_temperature(np.array([1.0, 2.0]), 0)


def test_a_target_of_all_rows_is_reached_at_a_million_spreads():
    assert solve_reward_temperature(np.array([1.0, 3.0, 5.0]), 1.0) == pytest.approx(4e6)


def test_the_largest_finite_rewards_are_weighed_as_others_are():
    """A difference of two finite rewards overflowed, and took the search with it."""
    rewards = np.array([1.0, -1.0, 0.5, -0.9, 0.2])
    usual, huge = (solve_reward_temperature(factor * rewards, 0.5) for factor in (1.0, 1.7e308))
    np.testing.assert_allclose(normalise(tilt(1.7e308 * rewards, huge)), normalise(tilt(rewards, usual)), rtol=1e-9)
    assert tilt(1.7e308 * rewards, 0.3).tolist() == [0.0, *[-np.inf] * 4]
