"""The statistics of the quality benchmark against brute force, and what its report makes of rewards that are given."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aisp.bench.quality.answers import MEASURES, Answers
from aisp.bench.quality.picture import draw
from aisp.bench.quality.report import Report
from aisp.bench.quality.statistics import chosen_probabilities, diversity, paired
from aisp.bench.quality.tables import as_markdown


def made_of(baseline, ours, **measures):
    """A report on two prompts and one seed, of rewards given by response."""

    def answers(rewards, scale):
        table = np.array([[rewards], [rewards]], dtype=float)
        own = {name: table if name == "reward" else scale * np.ones_like(table) for name in ("reward", *MEASURES)}
        spent = np.broadcast_to(np.arange(1.0, len(rewards) + 1), table.shape)
        return Answers(measures=own, forward_tokens=scale * spent, seconds=2 * scale * spent)

    answered = {"plain": answers(baseline, 1.0), "ours": answers(ours, 0.5)}
    return Report(baseline="plain", answers=answered, spread=np.array([1.0, np.nan]))


@given(rewards=st.lists(st.integers(0, 4), min_size=1, max_size=7), data=st.data())
def test_the_expected_best_of_n_is_the_mean_over_all_subsets(rewards, data):
    n = data.draw(st.integers(1, len(rewards)))
    values = np.array(rewards, dtype=float)
    subsets = [max(values[list(chosen)]) for chosen in combinations(range(len(values)), n)]
    probabilities = chosen_probabilities(values, n)
    assert probabilities.sum() == pytest.approx(1.0)
    assert probabilities @ values == pytest.approx(np.mean(subsets))


def test_the_first_of_equals_is_chosen_and_what_is_vetoed_last():
    assert chosen_probabilities(np.array([2.0, 2.0, 1.0]), 3).tolist() == [1.0, 0.0, 0.0]
    assert chosen_probabilities(np.array([np.nan, 1.0]), 2).tolist() == [0.0, 1.0]
    with pytest.raises(ValueError, match="1 to 2"):
        chosen_probabilities(np.array([1.0, 2.0]), 3)


def test_intervals_cover_as_often_as_they_say():
    rng = np.random.default_rng(1)
    found = [paired((0.3 + rng.normal(size=(40, 1))).tolist(), seed=i) for i in range(200)]
    covered = np.mean([d.low <= 0.3 <= d.high for d in found])
    assert abs(covered - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 200)
    assert all(d.low <= d.bound <= d.mean <= d.high for d in found)


def test_prompts_are_what_is_drawn_not_seeds():
    few = paired([[1.0] * 50, [0.0] * 50])
    assert (few.low, few.high, few.prompts) == (0.0, 1.0, 2)


def test_diversity_counts_repeated_ngrams():
    assert diversity("one two three four five") == 1.0
    assert diversity("a b a b") == pytest.approx((2 / 3) * 1.0 * 1.0)
    assert diversity("a a a a a") == pytest.approx((1 / 4) * (1 / 3) * (1 / 2))
    assert diversity("") == 1.0


def test_budgets_beyond_the_pool_have_no_baseline_to_differ_from():
    made = made_of([1.0] * 8, [1.0] * 16)
    assert made.budgets("ours") == [8]
    assert "| ours | 8 |" in as_markdown(made)


def test_a_pool_below_the_least_budget_still_makes_a_picture(tmp_path):
    made = made_of([1.0] * 6, [1.0] * 7)
    assert made.budgets("ours") == []
    draw(made, tmp_path / "few.png")
    assert (tmp_path / "few.png").stat().st_size > 10_000


def test_what_it_takes_to_reach_the_baselines_end_is_told_in_responses_tokens_and_seconds():
    made = made_of([0.1 * n for n in range(1, 17)], [0.2 * n for n in range(1, 13)])
    assert made.answers["ours"].reaches(1.6) == 8
    text = as_markdown(made)
    assert "| ours | 1.600 | 8 | 8 to 8 | 0.25 | 0.25 |" in text
    equal = "| ours | 16 | 8 | surprisal | 0.500 | 1.000 | -0.500 | -0.500 to -0.500 |"
    assert equal in text, "surprisal where both have the baseline's reward"
    assert "| ours | 1.000 | not reached | not reached to not reached |  |  |" in as_markdown(
        made_of([1.0] * 8, [0.5] * 8)
    )


def test_the_interval_of_what_it_takes_is_over_prompts_and_holds_what_is_never_reached():
    rng = np.random.default_rng(0)
    starts = rng.uniform(0.0, 2.0, size=(12, 1, 1))  # prompts differ in how far along they begin
    rising = starts + np.linspace(0.0, 3.0, 30)

    def answered(rewards):
        return Answers(measures={"reward": rewards}, forward_tokens=rewards, seconds=rewards)

    def reach(goal):
        made = {"plain": answered(np.full((12, 1, 4), goal)), "ours": answered(rising)}
        return Report(baseline="plain", answers=made, spread=np.ones(12)).reach("ours")

    n, low, high = reach(2.0)
    mean, error = starts.mean(), starts.std() / np.sqrt(12)
    expected = [1 + np.ceil((2.0 - m) * 29 / 3) for m in (mean, mean + 1.96 * error, mean - 1.96 * error)]
    assert n == expected[0]
    assert (low, high) == pytest.approx(expected[1:], abs=1)
    n, low, high = reach(mean + 2.9)
    assert (n, high) == (30, np.inf)
    assert low < 30


def test_prompts_whose_samples_are_all_alike_have_no_unit():
    made = made_of([0.0] * 8, [1.0] * 8)
    assert made.difference("ours", 8).prompts == 1
    assert made.difference("ours", 8, standardised=False).prompts == 2
