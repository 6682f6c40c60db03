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
        self.parents = np.array([self.nodes[prefix[:-1]] for prefix in prefixes])
        self.depths = np.array([len(prefix) for prefix in prefixes])
        self.ends = np.array([self.nodes[ids] for ids in responses])

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


def node_by_node(tree, rewards):
    """Return what messages from each node to the next yield: slow, and nothing to get wrong about runs."""
    n, covered = len(rewards), 4.0 * (tree.depths / tree.depths[tree.ends].mean()) ** 0.25
    steps, size = covered - covered[tree.parents], len(tree.parents)
    precision, weighted, means, variances = (np.zeros(size) for _ in range(4))
    for node, score in zip(tree.ends, norm.ppf((rankdata(rewards) - 0.5) / n), strict=True):
        precision[node] += 1.0 / 0.05
        weighted[node] += score / 0.05
    passed = np.ones(size)
    for node in range(size - 1, 0, -1):
        passed[node] = 1.0 / (1.0 + steps[node] * precision[node])
        precision[tree.parents[node]] += passed[node] * precision[node]
        weighted[tree.parents[node]] += passed[node] * weighted[node]
    variances[0] = 1.0 / (1.0 + precision[0])
    means[0] = variances[0] * weighted[0]
    for node in range(1, size):
        above = tree.parents[node]
        others = 1.0 / variances[above] - passed[node] * precision[node]
        mean = (means[above] / variances[above] - passed[node] * weighted[node]) / others
        variance = 1.0 / others + steps[node]
        variances[node] = 1.0 / (1.0 / variance + precision[node])
        means[node] = variances[node] * (mean / variance + weighted[node])
    spread = np.sqrt(variances + np.maximum(4.0 - covered, 0.0) + 0.05)
    gap = (means - norm.ppf((n - 0.5) / n)) / spread
    return spread * (norm.pdf(gap) + gap * norm.cdf(gap))


@pytest.mark.parametrize("seed", range(8))
def test_messages_between_junctions_are_those_between_all_nodes(seed):
    rng = np.random.default_rng(seed)
    responses = [tuple(rng.integers(0, 2, size=rng.integers(1, 30)).tolist()) for _ in range(30)]
    responses += [responses[0], responses[1][:4], (*responses[2], 7, 7), (*responses[2], 8, 8), ()]
    rng.shuffle(responses)
    tree = Tree(responses)
    tree.ends = tree.ends[rng.random(len(responses)) < 0.7]  # the rest has no reward
    rewards = rng.normal(size=len(tree.ends)).tolist()
    found = expected_improvement(tree.parents, tree.depths, tree.ends, rewards)
    np.testing.assert_allclose(found, node_by_node(tree, rewards), rtol=1e-9)


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
