"""The tree of what was drawn, and the law of leaving it, on a language that can be listed."""

from __future__ import annotations

import numpy as np
import pytest

from aisp.records import Proposal, Sampling
from aisp.strategies.tilted_restart.restarts import Restarts, parent_weights, restarts_from
from aisp.strategies.tilted_restart.tree import Explored
from aisp.strategies.weights import solve_reward_temperature
from aisp.testing.toy import Toy, ToyEngine, alike, next_token


def drawn(n):
    return drawn_of(Toy(), n)


def drawn_of(toy, n):
    proposals = [Proposal(seed=i, sampling=Sampling()) for i in range(n)]
    return [rollout.tokens for rollout in ToyEngine(toy).rollout(None, proposals, None)]


def alike_places(explored, one, other):
    """Return whether two responses leave the tree at one place."""
    cut = explored.leaves(one)
    return explored.leaves(other) == cut and one[:cut] == other[:cut]


def test_a_place_is_open_where_a_token_was_not_tried():
    responses = drawn(4)
    explored, known = Explored(responses), {response.ids for response in responses}
    for ids in known:
        for cut, is_open in enumerate(explored.is_open(ids)):
            tried = {other[cut] for other in known if other[:cut] == ids[:cut]}
            assert is_open == (len(tried) < 2)
            assert set(explored.tried(ids[:cut])) == tried


def test_a_response_leaves_the_tree_where_no_other_begins_alike():
    explored = Explored(drawn(3))
    known = {response.ids for response in drawn(3)}
    for ids in Toy().responses():
        assert explored.leaves(ids) == max(alike(ids, other) for other in known)


def figures(explored):
    """Return all that a tree tells."""
    prefixes = [explored.head(prefix).ids for prefix in range(len(explored.exit_masses()))]
    known = {response.ids for response in explored.responses}
    return (
        [(ids, explored.exit_prefix(ids), explored.tried(ids)) for ids in prefixes],
        explored.exit_masses().tolist(),
        [explored.is_open(ids).tolist() for ids in known],
        [explored.leaves(ids) for ids in Toy(ends=True).responses()],
    )


def test_each_prefix_of_the_responses_is_there_once():
    responses = drawn_of(Toy(ends=True), 12)
    explored = Explored(responses)
    prefixes = [explored.head(prefix).ids for prefix in range(len(explored.exit_masses()))]
    assert sorted(prefixes) == sorted({response.ids[:t] for response in responses for t in range(len(response) + 1)})
    assert [explored.exit_prefix(ids) for ids in prefixes] == list(range(len(prefixes)))


def test_a_tree_that_grows_is_the_tree_of_all_its_responses():
    responses, grown = drawn_of(Toy(ends=True), 12), Explored()
    assert any(one.ids == other.ids for i, one in enumerate(responses) for other in responses[:i])
    for n, response in enumerate(responses):
        assert figures(grown) == figures(Explored(responses[:n]))
        grown = grown.followed_by([response])
    assert figures(Explored(responses[:5]).followed_by(responses[5:])) == figures(grown) == figures(Explored(responses))


def test_a_tree_stays_what_it_was_when_others_grow_from_it():
    responses = drawn_of(Toy(ends=True), 12)
    tree, before = Explored(responses[:4]), figures(Explored(responses[:4]))
    one, other = tree.followed_by(responses[4:8]), tree.followed_by(responses[8:])
    assert figures(tree) == before
    assert figures(one) == figures(Explored(responses[:8])) != figures(other)
    assert figures(other) == figures(Explored(responses[:4] + responses[8:]))


def test_parents_are_those_that_something_is_left_behind_each_once():
    [one] = drawn(1)
    assert Explored([one]).open_parents([one, one]) == [0]
    everything = drawn(400)
    assert len({response.ids for response in everything}) == 16
    assert Explored(everything).open_parents(everything) == []


@pytest.mark.parametrize("fresh_share", [0.0, 0.4, 1.0])
def test_the_law_of_leaving_the_tree_sums_to_one_and_is_that_of_the_draws(fresh_share):
    toy, responses = Toy(), drawn(5)
    explored = Explored(responses)
    parents = tuple(responses[place] for place in explored.open_parents(responses))
    weights = parent_weights(np.arange(len(parents), dtype=float), 0.8)
    gains = np.random.default_rng(0).exponential(size=len(explored.exit_masses()))
    masses = [weight * explored.cuts([parent], gains) for weight, parent in zip(weights, parents, strict=True)]
    cuts = tuple(mass / np.sum(masses) for mass in masses)
    exits = explored.exit_masses() * gains
    restarts = Restarts(explored, parents, weights, cuts, exits / exits.sum(), fresh_share)
    law = {}
    for ids in toy.responses():
        cut = explored.leaves(ids)
        probability = np.exp(restarts.log_exit_probability(ids[:cut]))
        assert (probability == 0) == (cut == 4), "what was drawn before is not drawn again"
        assert restarts.log_exit_probability((*ids[: cut + 1], 0)) == -np.inf, "what is not in the tree is not kept"
        if probability:  # the rest is drawn from the model, the token at the cut being the only one left
            law[ids] = probability * np.prod([next_token(ids[:t])[ids[t]] for t in range(cut + 1, 4)])
    assert sum(law.values()) == pytest.approx(1.0)

    rng, counts, n = np.random.default_rng(1), dict.fromkeys(law, 0), 8000
    starts = [start for _ in range(n // 8) for start in restarts.draw(8, rng)]
    proposals = [
        Proposal(seed=seed, sampling=Sampling(), kept=start.kept, excluded=start.excluded)
        for seed, start in enumerate(starts)
    ]
    for start in starts[:200]:
        assert start.log_probability == restarts.log_exit_probability(start.kept.ids)
    for rollout in ToyEngine(toy).rollout(None, proposals, None):
        counts[rollout.tokens.ids] += 1
    for ids, probability in law.items():
        assert abs(counts[ids] / n - probability) < 5 * np.sqrt(probability / n), ids


def test_cuts_are_in_proportion_to_weight_entropy_and_gain():
    responses = drawn(5)
    usable = [(response, float(i)) for i, response in enumerate(responses)]
    restarts, _ = restarts_from(Explored(responses), usable, lambda _: 0.8)
    explored, gains = restarts.explored, restarts.explored.gains(usable)
    behind = {explored.head(prefix).ids: prefix for prefix in range(len(gains))}
    ratios = []
    for parent, weight, cuts in zip(restarts.parents, restarts.weights, restarts.cuts, strict=True):
        is_open = explored.is_open(parent.ids)
        assert not cuts[~is_open].any()
        share = parent.entropy / parent.entropy[is_open].sum()
        gain = np.array([gains[behind[parent.ids[:cut]]] for cut in range(4)])
        ratios += (cuts / (weight * share * gain))[is_open].tolist()
    assert len(ratios) > 5
    np.testing.assert_allclose(ratios, ratios[0])
    assert sum(cuts.sum() for cuts in restarts.cuts) == pytest.approx(1.0)


def test_exits_weigh_the_models_probability_of_leaving_the_tree():
    toy, responses = Toy(ends=True), drawn_of(Toy(ends=True), 6)
    explored, known = Explored(responses), {response.ids for response in responses}
    law = dict(zip(toy.responses(), toy.probabilities(), strict=True))
    left = sum(probability for ids, probability in law.items() if ids not in known)
    assert 0.04 < left < 0.5
    assert explored.exit_masses().sum() == pytest.approx(left)
    for ids in law.keys() - known:
        here = sum(p for other, p in law.items() if other not in known and alike_places(explored, ids, other))
        assert explored.exit_masses()[explored.exit_prefix(ids)] == pytest.approx(here)


def test_fresh_responses_leave_the_tree_by_mass_and_gain():
    responses = drawn(4)
    usable = [(response, 0.0) for response in responses]
    restarts, _ = restarts_from(Explored(responses), usable, lambda _: None)
    masses, gains = restarts.explored.exit_masses(), restarts.explored.gains(usable)
    assert np.ptp(gains[masses > 0]) > 0
    np.testing.assert_allclose(restarts.exits, masses * gains / (masses @ gains))


def test_a_share_starts_fresh_where_rewards_are_tied():
    responses = drawn(6)
    parents = [
        response for place, response in enumerate(responses) if place in Explored(responses).open_parents(responses)
    ]
    n = len(parents)
    assert n > 3

    def fresh_share(rewards):
        usable = list(zip(parents, rewards, strict=True))
        return restarts_from(Explored(responses), usable, lambda r: solve_reward_temperature(r, 2.0 / n))[0].fresh_share

    assert fresh_share([float(i) for i in range(n)]) == 0.0
    assert fresh_share([0.0] * (n - 1) + [1.0]) == 0.0, "one that was found is gone on from"
    assert fresh_share([1.0] * n) == 1.0
    assert fresh_share([0.0] + [1.0] * (n - 1)) == pytest.approx((n - 2) / n)


def test_no_share_starts_fresh_where_rewards_tell_parents_apart_or_one_parent_is_left():
    responses = drawn(6)
    tied = [(response, 1.0) for response in responses]
    assert restarts_from(Explored(responses), tied, lambda _: None)[0].fresh_share == 1.0
    assert restarts_from(Explored(responses), tied, lambda _: 0.8)[0].fresh_share == 0.0
    assert restarts_from(Explored(responses[:1]), tied[:1], lambda _: None)[0].fresh_share == 0.0


def test_parents_count_by_their_rewards_and_alike_where_these_are_tied():
    np.testing.assert_allclose(parent_weights(np.array([0.0, np.log(3.0)]), 1.0), [0.25, 0.75])
    np.testing.assert_allclose(parent_weights(np.array([2.0, 2.0, 2.0]), None), 1 / 3)
