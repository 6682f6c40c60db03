"""The estimate of the tilted distribution, on a language whose distribution is a table."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

import aisp
from aisp.bench.rivals import MISVO, Blockwise, QAlign
from aisp.errors import ConfigurationError
from aisp.noise import row_seed
from aisp.records import CAPABILITIES, GREEDY, NO_TOKENS, Limits, Proposal, Sampling
from aisp.search.estimate import tilted_estimate
from aisp.search.plan import Plan
from aisp.search.request import Request
from aisp.strategies import AISP, Info, TiltedRestart
from aisp.strategies.best_of_n import BestOfN
from aisp.strategies.tilted_restart import tree
from aisp.testing.toy import Toy, ToyEngine, ToyReward
from tests.engines.build import ChangedFlight
from tests.search.fakes import Searches

LAMBDA = 0.7
ONE = Sampling(temperature=0.6)


class NoisyEngine(ToyEngine):
    """Says of its tokens what an engine says of argmax draws."""

    offers = CAPABILITIES

    def start(self, prefix, proposals, limits):
        flight = super().start(prefix, list(map(_as_plain, proposals)), limits)
        add = flight.add
        flight.add = lambda more: add(list(map(_as_plain, more)))
        return ChangedFlight(flight, _without_proposal)


def _as_plain(proposal):
    return replace(proposal, sampling=Sampling(), scale=0.0, mean=(), measures=frozenset())


def _without_proposal(rollout):
    unknown = np.full(len(rollout.tokens), np.nan)
    return replace(rollout, tokens=replace(rollout.tokens, log_proposal=unknown))


def reward(ids):
    return float(sum(ids)) + 0.5 * ids[0] - 0.8 * ids[-1] * ids[0]


def rule(ids):
    return float(ids[0])


def search(strategy, seed, toy, budget=24, n=8, reward=reward, engine=None, partial=False, commit_tokens=None):
    aligner = Searches(
        engine or ToyEngine(toy),
        strategy,
        ToyReward(reward, partial=partial),
        Plan(budget=budget, num_samples=min(n, budget)),
        commit_tokens=commit_tokens,
    )
    return aligner.align(Request(messages=(), prompt_tokens=(1,), limits=Limits(max_tokens=toy.depth), seed=seed))


@pytest.mark.parametrize("reward", [reward, rule], ids=["graded", "kept or broken"])
@pytest.mark.parametrize("ends", [False, True], ids=["equal lengths", "any length"])
@pytest.mark.parametrize(("temperature", "tilt_nats"), [(1.0, 0.0), (0.7, 0.0), (1.0, 0.1)])
def test_weighted_sums_are_those_of_the_table(ends, tilt_nats, temperature, reward, monkeypatch):
    # With the first few responses alone, cuts are so uneven that no 300 searches see what they leave out.
    monkeypatch.setattr(tree, "expected_improvement", lambda parents, *others: np.ones(len(parents)))
    # A tilt needs a language that isn't drawn out: what is left of a small one is drawn plainly.
    toy, sampling = Toy(ends=ends, depth=9 if tilt_nats else 4), Sampling(temperature=temperature)
    responses, law = toy.responses(), toy.probabilities(sampling)
    values = np.array([reward(ids) for ids in responses])
    first = law[[ids[0] == 1 for ids in responses]].sum()
    truth = {"normaliser": law @ np.exp(values / LAMBDA), "all": 1.0, "first": first}
    found = {name: [] for name in truth}
    steered = 0
    for seed in range(300):
        strategy = TiltedRestart(sampling=sampling, tilt_nats=tilt_nats, parents=6.0)
        made = tilted_estimate(search(strategy, seed, toy, reward=reward), LAMBDA)
        ids = [response.rollout.tokens.ids for response in made.responses]
        ratios = np.exp(made.log_ratios)
        found["normaliser"].append(np.mean(ratios * np.exp(np.array([reward(y) for y in ids]) / LAMBDA)))
        found["all"].append(ratios.mean())
        found["first"].append(np.mean(ratios * [y[0] == 1 for y in ids]))
        steered += any(response.kl_to_base > 0 for response in made.responses)
        top = max(r.reward for r in made.responses)
        assert made.log_normaliser == pytest.approx(np.log(found["normaliser"][-1]) - top / LAMBDA)
    assert (steered > 100) == (tilt_nats > 0 and not ends), "of any length, two thirds of the language are one response"
    for name, expected in truth.items():
        error = np.std(found[name]) / np.sqrt(len(found[name]))
        assert abs(np.mean(found[name]) - expected) < 4 * error, name


@dataclass(frozen=True)
class Wanderer:
    """A user's strategy: plain samples, then restarts from any open place, each as probable as the others."""

    name = "wanderer"
    needs = frozenset({"kept", "excluded"})

    def init(self, context):
        return context, 0, ()

    def propose(self, state, n):
        context, index, drawn = state
        rng = np.random.default_rng([context.root_seed, index])
        children = {}
        for tokens in drawn:
            for t in range(len(tokens)):
                children.setdefault(tokens.ids[:t], (tokens.head(t), set()))[1].add(tokens.ids[t])
        places = [(head, tuple(tried)) for head, tried in children.values() if len(tried) == 1] or [(NO_TOKENS, ())]
        starts = [places[rng.integers(len(places))] for _ in range(n)]
        return tuple(
            Proposal(
                seed=row_seed(context.root_seed, index, row),
                sampling=Sampling(),
                kept=head,
                excluded=tried,
                log_start=-float(np.log(len(places))),
            )
            for row, (head, tried) in enumerate(starts)
        )

    def update(self, state, proposals, rollouts, scores):
        context, index, drawn = state
        return (context, index + 1, (*drawn, *(rollout.tokens for rollout in rollouts))), Info()


@pytest.mark.parametrize("strategy", [Wanderer(), MISVO(sampling=Sampling(), step_size=1.0)], ids=lambda one: one.name)
def test_any_strategy_that_writes_the_probability_of_its_starts_can_be_estimated(strategy):
    toy = Toy()
    law = toy.probabilities()
    truth = {"all": 1.0, "reward": law @ [reward(ids) for ids in toy.responses()]}
    found = {name: [] for name in truth}
    for seed in range(200):
        made = tilted_estimate(search(strategy, seed, toy, budget=12, n=4), LAMBDA)
        ratios = np.exp(made.log_ratios)
        found["all"].append(ratios.mean())
        found["reward"].append(np.mean(ratios * [response.reward for response in made.responses]))
    for name, expected in truth.items():
        error = np.std(found[name]) / np.sqrt(len(found[name]))
        assert error < 0.1
        assert abs(np.mean(found[name]) - expected) < 4 * error, name


def test_restarts_without_weights_would_be_wrong():
    toy = Toy()
    law = toy.probabilities() @ np.array([ids[0] == 1 for ids in toy.responses()])
    shares = [
        np.mean([r.rollout.tokens.ids[0] == 1 for r in search(TiltedRestart(), seed, toy).responses])
        for seed in range(200)
    ]
    assert abs(np.mean(shares) - law) > 6 * np.std(shares) / np.sqrt(len(shares))


def test_plain_samples_are_weighted_by_their_reward_alone():
    made = tilted_estimate(search(BestOfN(sampling=Sampling()), 1, Toy()), LAMBDA)
    rewards = np.array([response.reward for response in made.responses])
    expected = np.exp(rewards / LAMBDA) / np.exp(rewards / LAMBDA).sum()
    np.testing.assert_allclose(made.weights, expected)
    assert made.ess == pytest.approx(1 / (expected**2).sum())
    assert made.mean_reward == pytest.approx(expected @ rewards)


@pytest.mark.parametrize(("n", "ess"), [(4, 3.2), (10, 3.2), (16, 3.2)])
def test_lambda_is_that_of_a_fifth_of_the_plain_samples(n, ess):
    alignment = search(TiltedRestart(sampling=ONE, plain=ONE), 3, Toy(depth=6), n=n, budget=64)
    plain = tuple(response for response in alignment.responses if not response.proposal.excluded)
    assert len(plain) == 16
    first = replace(alignment, rounds=(replace(alignment.rounds[0], responses=plain),))
    assert tilted_estimate(first).ess == pytest.approx(ess)
    assert tilted_estimate(alignment).reward_temperature == tilted_estimate(first).reward_temperature


def test_what_is_vetoed_has_no_weight():
    alignment = search(TiltedRestart(), 3, Toy())
    head, *tail = alignment.rounds
    barred = replace(head.responses[0], score=replace(head.responses[0].score, vetoed=True))
    made = tilted_estimate(
        replace(alignment, rounds=(replace(head, responses=(barred, *head.responses[1:])), *tail)), LAMBDA
    )
    assert made.weights[0] == 0.0
    assert made.weights.sum() == pytest.approx(1.0)


def test_what_can_not_be_estimated():
    with pytest.raises(ConfigurationError, match="qalign"):
        aisp.tilted_estimate(search(QAlign(reward_temperature=1.0), 1, Toy()))
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigurationError, match=f"reward_temperature is {wrong}; give"):
            tilted_estimate(search(TiltedRestart(), 1, Toy()), wrong)
    with pytest.raises(ConfigurationError, match="tie for best"):
        tilted_estimate(search(TiltedRestart(), 1, Toy(), reward=rule))
    for strategy in (AISP(scale=0.5), BestOfN(sampling=GREEDY)):  # argmax draws: of no known probability
        with pytest.raises(ConfigurationError, match="no known probabilities"):
            tilted_estimate(search(strategy, 1, Toy(), budget=1, engine=NoisyEngine()), LAMBDA)
    with pytest.raises(ConfigurationError, match="no known probabilities"):
        tilted_estimate(search(Blockwise(), 1, Toy(), partial=True), LAMBDA)
    with pytest.raises(ConfigurationError, match="without commit_tokens"):
        tilted_estimate(search(TiltedRestart(), 1, Toy(), partial=True, commit_tokens=2), LAMBDA)


def test_a_search_that_its_records_do_not_tell_of_can_not_be_estimated():
    alignment = search(TiltedRestart(), 1, Toy())
    head, *tail = alignment.rounds

    def with_first(**changes):
        first = replace(head.responses[0], **changes)
        return replace(alignment, rounds=(replace(head, responses=(first, *head.responses[1:])), *tail))

    proposal = head.responses[0].proposal
    for unknown in (None, replace(proposal, log_start=None)):
        with pytest.raises(ConfigurationError, match="no known probabilities"):
            tilted_estimate(with_first(proposal=unknown), LAMBDA)
    with pytest.raises(ConfigurationError, match="weighed by 2 different laws"):
        tilted_estimate(with_first(proposal=replace(proposal, prior=Sampling(temperature=3.0))), LAMBDA)


def test_what_begins_with_a_token_that_was_tried_has_no_weight():
    alignment = search(TiltedRestart(), 3, Toy(depth=6))
    last = alignment.rounds[-1]
    first = last.responses[0]
    drawn = first.rollout.tokens.ids[len(first.proposal.kept)]
    assert first.proposal.excluded
    assert drawn not in first.proposal.excluded
    odd = replace(first, proposal=replace(first.proposal, excluded=(*first.proposal.excluded, drawn)))
    changed = replace(last, responses=(odd, *last.responses[1:]))
    made = tilted_estimate(replace(alignment, rounds=(*alignment.rounds[:-1], changed)), LAMBDA)
    assert made.log_ratios[-len(last.responses)] == -np.inf
    assert made.weights.sum() == pytest.approx(1.0)
