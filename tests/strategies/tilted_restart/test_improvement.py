"""Expected improvement on the tree: the pass up and down it against the dense Gaussian process, and what it does."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm, rankdata

from aisp.strategies.tilted_restart.improvement import expected_improvement
from aisp.testing.toy import alike


class Tree:
    """The prefix tree of some responses, as `expected_improvement` takes it."""

    def __init__(self, responses):
        prefixes = dict.fromkeys(ids[:t] for ids in [(), *responses] for t in range(len(ids) + 1))
        self.nodes = {prefix: node for node, prefix in enumerate(prefixes)}
        self.parents = [self.nodes[prefix[:-1]] for prefix in prefixes]
        self.depths = [len(prefix) for prefix in prefixes]
        self.ends = [self.nodes[ids] for ids in responses]

    def gains(self, rewards):
        found = expected_improvement(self.parents, self.depths, self.ends, rewards)
        return {prefix: found[node] for prefix, node in self.nodes.items()}


def test_it_is_that_of_the_gaussian_process_whose_covariance_is_what_responses_share():
    rng = np.random.default_rng(3)
    responses = [tuple(rng.integers(0, 3, size=rng.integers(4, 10)).tolist()) for _ in range(40)]
    responses += responses[:3]  # what is drawn twice counts twice
    rewards = rng.normal(size=len(responses)).round(1)  # some are tied
    length = np.mean([len(ids) for ids in responses])

    def shared(one, other):
        return 4.0 * (alike(one, other) / length) ** 0.25

    scores = norm.ppf((rankdata(rewards) - 0.5) / len(rewards))
    covariance = 1.0 + np.array([[shared(one, other) for other in responses] for one in responses])
    inverse = np.linalg.inv(covariance + 0.05 * np.eye(len(responses)))
    for prefix, gain in Tree(responses).gains(rewards).items():
        with_others = 1.0 + np.array([shared(prefix, other) for other in responses])
        mean = with_others @ inverse @ scores
        variance = 1.0 + shared(prefix, prefix) - with_others @ inverse @ with_others
        variance += max(4.0 - shared(prefix, prefix), 0.0) + 0.05
        law, best = norm(mean, np.sqrt(variance)), norm.ppf(1.0 - 0.5 / len(rewards))
        far = max(best, mean) + 12 * np.sqrt(variance)
        expected, _ = quad(lambda r, law=law, best=best: (r - best) * law.pdf(r), best, far, epsabs=0, limit=200)
        assert gain == pytest.approx(expected, rel=1e-6)


def test_rewards_count_by_their_ranks():
    tree, rewards = Tree([(1, 1, 1), (1, 2, 1), (2, 1, 1), (2, 2, 2)]), np.array([0.1, 0.4, -3.0, 2.0])
    assert tree.gains(np.exp(100 * rewards)) == tree.gains(rewards)


def test_more_is_expected_behind_prefixes_of_better_responses():
    gains = Tree([(1, 1, 1), (1, 2, 1), (2, 1, 1), (2, 2, 2)]).gains([3.0, 4.0, 1.0, 2.0])
    assert gains[1,] > gains[2,]
    assert gains[1, 2] > gains[1, 1] > gains[2, 1]


def test_less_is_expected_the_more_has_failed_behind_a_prefix():
    good, others = (1, 1, 1), [(5, 1, 1), (6, 1, 1)]
    gains = []
    for tries in range(4):
        responses = [good, *others, *[(1, 1, 2 + i) for i in range(tries)]]
        gains.append(Tree(responses).gains([9.0, *range(2 + tries)]))
    behind = [found[1, 1] / found[6,] for found in gains]
    assert behind == sorted(behind, reverse=True)
    assert behind[0] > 1.5 * behind[-1]


def test_where_all_are_tied_more_is_expected_where_less_was_tried():
    gains = Tree([(1, 1), (1, 2), (1, 3), (2, 1)]).gains([7.0] * 4)
    assert gains[2,] > gains[1,] > 0


def test_the_more_are_tied_the_more_is_expected_of_first_tokens():
    ratios = []
    for n in (4, 16, 64):
        gains = Tree([(token, *[1] * 15) for token in range(n)]).gains([0.0] * n)
        ratios.append(gains[()] / gains[(0, *[1] * 8)])
    assert ratios == sorted(ratios)
    assert ratios[0] > 1.0
    assert ratios[-1] > 2 * ratios[0]
