"""How a text reads, by its tokens: repetition and surprisal in windows."""

from __future__ import annotations

import numpy as np
import pytest

from aisp.search.typicality import repetition, window_surprisals


def test_surprisal_is_averaged_over_each_run_of_tokens():
    np.testing.assert_allclose(window_surprisals(-np.arange(14.0), 12), [5.5, 6.5, 7.5])
    np.testing.assert_allclose(window_surprisals(-np.ones(3), 12), [1.0])
    assert window_surprisals(np.zeros(0)).size == 0


@pytest.mark.parametrize(
    ("ids", "share"),
    [
        ([], 0.0),
        ([7], 0.0),
        (list(range(80)), 0.0),
        ([1, 2, 1, 2], 1 / 3),
        ([5] * 20, 18 / 19),
        ([1, 2, 3] * 20, 1.0),
    ],
)
def test_repetition_is_the_share_of_pairs_that_were_said_before(ids, share):
    assert repetition(ids) == pytest.approx(share)


def test_a_pair_that_was_said_long_ago_is_no_repetition_but_a_phrase_is():
    once = list(range(60))
    assert repetition([*once, 0, 1, 2, 100, 101, 102]) == 0.0, "three tokens, sixty ago"
    assert repetition([*once, *range(10), *range(100, 120)]) == pytest.approx(9 / 31), "ten tokens are nine pairs"
    assert repetition(once * 2) == 1.0, "a loop of sixty tokens"


def test_a_loop_shows_however_long_the_text_around_it():
    assert repetition([*range(200), *[300, 301] * 20, *range(400, 600)]) > 0.9
