"""How texts read, on texts made by hand: loops, salad, repetition, each against plain samples of its prompt."""

from __future__ import annotations

import numpy as np
import pytest

from aisp.bench.quality.reading import (
    MEASURED,
    OUTSIDE,
    PlainRange,
    columns,
    held_out_shares,
    longest_run,
    reading,
    share_in_loops,
)
from aisp.records import Tokens

PHRASE = (5, 6, 7, 8)


def tokens(ids, surprisal=1.0):
    figure = -np.broadcast_to(np.asarray(surprisal, dtype=float), (len(ids),))
    names = ("log_prob", "log_prior", "log_proposal", "kl_to_base", "mean_dot", "entropy")
    return Tokens(ids=tuple(ids), **dict.fromkeys(names, figure))


def readings(least, greatest, repetition):
    of = {"least_window": least, "greatest_window": greatest, "repetition": repetition}
    return {name: np.array(values, dtype=float) for name, values in of.items()}


@pytest.mark.parametrize(
    ("ids", "run", "looped"),
    [
        (range(20), 0, 0.0),
        ([1, 2, 3, 3, 3, 4], 2, 0.5),  # "brilliant brilliant brilliant"
        ([1, 2, 3, 3, 4, 5], 1, 0.0),  # twice is emphasis
        ([*PHRASE, *PHRASE], 4, 0.0),
        ([*PHRASE, *PHRASE, *PHRASE, 1, 2], 8, 12 / 14),  # "I smiled. I smiled. I smiled."
        ([*PHRASE, 1, *PHRASE, 2, *PHRASE], 4, 0.0),  # said again, not in a row
        ([9, 9, 9, 1, 2, 3, 4, 4, 4, 4], 3, 0.7),
        ([1], 0, 0.0),
        ([], 0, 0.0),
    ],
)
def test_runs_that_occur_twice_and_what_is_said_three_times_in_a_row(ids, run, looped):
    assert longest_run(np.array(ids, dtype=np.int64)) == run
    assert share_in_loops(np.array(ids, dtype=np.int64)) == pytest.approx(looped)


def test_a_loops_windows_surprise_less_though_its_mean_does_not():
    surprisal = [4.0] * 12 + [0.1] * 12  # what leads into a loop is surprising
    found = reading(tokens([*range(12), *[7] * 12], surprisal))
    assert found["least_window"] == pytest.approx(0.1)
    assert found["greatest_window"] == pytest.approx(4.0)
    assert found["distinct_2"] == pytest.approx((11 + 1 + 1) / 23)
    assert found["in_loops"] == pytest.approx(0.5)
    assert tuple(found) == MEASURED


def test_an_answer_without_tokens_has_no_windows_and_is_outside_of_nothing():
    found = reading(tokens([]))
    assert (found["least_window"], found["greatest_window"], found["distinct_2"]) == (None, None, 1.0)
    typical = PlainRange.of(readings([1.0, 2.0], [3.0, 4.0], [0.1, 0.2]))
    empty = {"least_window": np.nan, "greatest_window": np.nan, "repetition": 0.0}
    assert typical.outside(empty) == {"loop": 0.0, "salad": 0.0, "repeats": 0.0}


def test_below_the_range_is_a_loop_and_above_it_salad():
    typical = PlainRange.of(readings([0.5, 0.8], [2.0, 3.0], [0.0, 0.1]))
    inside = {"least_window": 0.5, "greatest_window": 3.0, "repetition": 0.1}
    assert set(typical.outside(inside).values()) == {0.0}, "the bounds are within"
    for name, word in (("least_window", "loop"), ("greatest_window", "salad"), ("repetition", "repeats")):
        beyond = inside | {name: inside[name] + (-0.01 if word == "loop" else 0.01)}
        assert [key for key, value in typical.outside(beyond).items() if value] == [word]


@pytest.mark.parametrize(("size", "left_out"), [(2, 0), (15, 0), (16, 1), (31, 1), (32, 2), (64, 4)])
def test_one_outlier_in_sixteen_is_left_out_on_each_side(size, left_out):
    values = np.arange(size)
    typical = PlainRange.of(readings(values, values, values))
    assert typical.least_window == left_out
    assert (typical.greatest_window, typical.repetition) == (size - 1 - left_out,) * 2


def test_a_sample_of_the_pool_is_judged_by_the_others():
    values = np.arange(40)
    shares = held_out_shares(readings(values, values, values))
    assert tuple(shares) == OUTSIDE
    # Of 39 others two are left out, so that the three least are below the fourth, and no two of them save one another.
    assert np.flatnonzero(shares["loop"]).tolist() == [0, 1, 2]
    assert np.flatnonzero(shares["salad"]).tolist() == [37, 38, 39]
    assert shares["repeats"].mean() == 3 / 40
    alike = held_out_shares(readings(np.ones(40), np.ones(40), np.zeros(40)))
    assert all(values.sum() == 0 for values in alike.values()), "equals are not outside of each other"


def test_columns_are_readings_by_name():
    made = columns([reading(tokens([1, 2])), reading(tokens([]))])
    assert made["least_window"] == [1.0, None]
    assert tuple(made) == MEASURED
