"""Counter-based noise: known integers, the distribution of the Gaussians, and what a row's noise depends on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from aisp.noise import (
    GAUSSIAN_STREAM,
    TOKEN_STREAM,
    fresh_seed,
    gaussians,
    philox,
    root_seed,
    row_seed,
    uniforms,
    words,
)

# Philox4x32-10 of the known-answer tests that come with Random123 (Salmon et al., SC 2011).
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_gives_the_known_answers(counter, key, expected):
    assert tuple(philox(torch.tensor(counter), torch.tensor(key)).tolist()) == expected


def test_words_are_pinned():
    # Ours: the layout of counter and key. Changing it changes every seeded answer that users have stored.
    drawn = words([0x0123456789ABCDEF], torch.tensor([[7]]), 1, GAUSSIAN_STREAM)[:, 0, 0, 0]
    low, high = 0x89ABCDEF, 0x01234567
    assert drawn.tolist() == philox(torch.tensor([0, 7, 0, 0]), torch.tensor([low, high])).tolist()


def test_gaussians_are_standard_normal_and_uncorrelated():
    n, steps, dim = 40, 50, 128
    seeds = [row_seed(11, 0, row) for row in range(n)]
    drawn = gaussians(seeds, torch.arange(steps)[None], dim).double()
    count = drawn.numel()
    assert abs(float(drawn.mean())) < 4 / count**0.5
    assert abs(float(drawn.var()) - 1) < 4 * (2 / count) ** 0.5
    assert stats.kstest(drawn.flatten().numpy(), "norm").pvalue > 1e-3
    # Neighbours along each axis: seeds, positions, coordinates (also at the distance of a Philox block's words).
    for axis, lag in ((0, 1), (1, 1), (2, 1), (2, 2), (2, 64)):
        one, other = drawn.narrow(axis, 0, drawn.shape[axis] - lag), drawn.narrow(axis, lag, drawn.shape[axis] - lag)
        assert abs(float((one * other).mean())) < 4 / one.numel() ** 0.5, (axis, lag)


def test_uniforms_are_uniform_inside_the_open_interval():
    drawn = uniforms(range(2000), torch.arange(20)[None]).flatten().numpy()
    assert stats.kstest(drawn, "uniform").pvalue > 1e-3
    assert drawn.min() > 0
    assert drawn.max() < 1


def test_streams_are_apart():
    position = torch.tensor([[3]])
    assert not torch.equal(words([5], position, 1, GAUSSIAN_STREAM), words([5], position, 1, TOKEN_STREAM))


def test_noise_depends_on_seed_and_absolute_position_alone():
    together = gaussians([1, 2, 3], torch.arange(10)[None], 30)
    alone = gaussians([2], torch.tensor([[4]]), 30)
    assert torch.equal(together[1, 4], alone[0, 0])
    own_positions = gaussians([1, 2], torch.tensor([[0, 1], [6, 7]]), 30)
    assert torch.equal(own_positions[1], together[1, 6:8])


def test_a_smaller_dimension_is_a_prefix_of_a_larger_one_within_its_blocks():
    small, large = (gaussians([9], torch.tensor([[0]]), dim) for dim in (7, 8))
    assert small.shape == (1, 1, 7)
    assert torch.equal(small, large[..., :7])


def test_seeds_come_from_request_prompt_round_and_row():
    assert root_seed(1, [5, 6]) == root_seed(1, [5, 6])
    others = {root_seed(1, [5, 6]), root_seed(2, [5, 6]), root_seed(1, [5, 7]), root_seed(1, [56])}
    assert len(others) == 4
    assert len({row_seed(root, turn, row) for root in (1, 2) for turn in range(3) for row in range(50)}) == 300


def test_a_fresh_seed_survives_json_in_any_language():
    seeds = {fresh_seed() for _ in range(100)}
    assert len(seeds) == 100
    assert max(seeds) < 2**53


def test_gaussians_match_a_reference_box_muller():
    bits = words([77], torch.tensor([[2]]), 1, GAUSSIAN_STREAM)[:, 0, 0, 0].numpy().astype(np.float64)
    unit = (bits + 0.5) / 2**32
    radius = np.sqrt(-2 * np.log(unit[0::2]))
    expected = [radius[0] * np.cos(2 * np.pi * unit[1]), radius[0] * np.sin(2 * np.pi * unit[1])]
    np.testing.assert_allclose(gaussians([77], torch.tensor([[2]]), 2)[0, 0].numpy(), expected, rtol=1e-6)
