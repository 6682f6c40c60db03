"""The linear reward against brute force and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aisp.strategies.tilted_restart import linear
from aisp.strategies.tilted_restart.linear import fit_linear


def bags_and_rewards(n=24, dim=6, noise=0.5, seed=0):
    rng = np.random.default_rng(seed)
    bags = rng.normal(size=(n, dim)) * np.linspace(0.3, 2.0, dim) + 5.0
    return bags, bags @ rng.normal(size=dim) + noise * rng.normal(size=n) - 3.0


def leave_one_out_error(bags, rewards, penalty):
    """Fit n times without one response, as slowly as it is defined; the Gram matrix is that of all bags' centre."""
    total = 0.0
    for i in range(len(rewards)):
        rest = np.arange(len(rewards)) != i
        mean, centre = rewards[rest].mean(), bags[rest].mean(0)
        x, y = bags[rest] - centre, rewards[rest] - mean
        slope = np.linalg.solve(x.T @ x + penalty * np.eye(bags.shape[1]), x.T @ y)
        total += (rewards[i] - mean - (bags[i] - centre) @ slope) ** 2
    return total


def test_the_error_is_that_of_fitting_n_times_without_one(monkeypatch):
    bags, rewards = bags_and_rewards()
    x = bags - bags.mean(0)
    largest = np.linalg.eigvalsh(x @ x.T)[-1]
    of_mean = leave_one_out_error(np.zeros_like(bags), rewards, 1.0)
    for share in (1e-3, 1e-2, 1e-1):
        monkeypatch.setattr(linear, "_PENALTIES", np.array([share]))
        fitted = fit_linear(bags, rewards)
        slope = np.linalg.solve(x.T @ x + share * largest * np.eye(6), x.T @ (rewards - rewards.mean()))
        np.testing.assert_allclose(fitted.slope, slope, rtol=1e-8)
        assert fitted.spread == pytest.approx((x @ slope).std(ddof=1))
        expected = 1 - leave_one_out_error(bags, rewards, share * largest) / of_mean
        assert fitted.r_squared == pytest.approx(expected, abs=1e-9)


def test_the_penalty_is_the_one_of_least_error(monkeypatch):
    bags, rewards = bags_and_rewards(n=12, noise=2.0)
    chosen = fit_linear(bags, rewards).r_squared
    alone = []
    for share in linear._PENALTIES.copy():
        monkeypatch.setattr(linear, "_PENALTIES", np.array([share]))
        alone.append(fit_linear(bags, rewards).r_squared)
    assert chosen == pytest.approx(max(alone), rel=1e-12)
    assert len(set(alone)) > 5


def test_noise_is_not_predicted():
    rng = np.random.default_rng(2)
    found = [fit_linear(rng.normal(size=(32, 64)), rng.normal(size=32)).r_squared for _ in range(40)]
    standard_error = np.std(found) / np.sqrt(40)
    assert np.mean(found) < 0.1 + 3 * standard_error  # what choosing the best of 21 penalties may earn


@given(factor=st.floats(1e-3, 1e3), offset=st.floats(-100, 100))
def test_the_tilt_doesnt_see_the_rewards_scale_and_shift(factor, offset):
    bags, rewards = bags_and_rewards()
    plain, moved = fit_linear(bags, rewards), fit_linear(bags, factor * rewards + offset)
    np.testing.assert_allclose(moved.slope, factor * plain.slope, rtol=1e-6)
    np.testing.assert_allclose(moved.tilt(3.0), plain.tilt(3.0), rtol=1e-6)
    assert moved.r_squared == pytest.approx(plain.r_squared, abs=1e-8)


def test_a_tilt_costs_its_nats():
    """A language of single tokens: the KL divergence of softmax(W(z + u)) from softmax(W z) is what was asked for."""
    rng = np.random.default_rng(5)
    weight, probabilities = rng.normal(size=(40, 4)), np.full(40, 1 / 40)
    fitted = fit_linear(weight, weight @ np.array([1.0, -2.0, 0.5, 0.0]))
    for nats in (1e-4, 1e-3):
        tilted = probabilities * np.exp(weight @ fitted.tilt(nats))
        tilted /= tilted.sum()
        kl = float((tilted * np.log(tilted / probabilities)).sum())
        assert kl == pytest.approx(nats, rel=0.06)  # 1/40 for ddof, and the third order


@pytest.mark.parametrize(
    ("bags", "rewards"),
    [
        (np.eye(3), np.arange(3.0)),
        (np.eye(8), np.full(8, 2.0)),
        (np.ones((8, 5)), np.arange(8.0)),
        (np.zeros((0, 5)), np.zeros(0)),
    ],
    ids=["too few", "rewards tied", "bags equal", "none"],
)
def test_nothing_to_learn_from(bags, rewards):
    assert fit_linear(bags, rewards) is None
