"""QAlign, blockwise search and MISVO on the toy language, whose tilted law and gradients are tables."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import chisquare

from aisp.bench.rivals import MISVO, Blockwise, Pessimism, QAlign, SoftBestOfN
from aisp.bench.rivals.qalign import Chain, _ratio
from aisp.errors import ConfigurationError
from aisp.records import GREEDY, Limits, Proposal, Sampling, Score
from aisp.search.plan import Plan
from aisp.search.request import Request
from aisp.search.stopping import Stops
from aisp.strategies import SearchContext
from aisp.testing.toy import DIM, WEIGHT, Toy, ToyEngine, ToyReward, next_token, run_rounds
from tests.search.fakes import Searches


def reward(ids):
    return float(sum(ids)) + 0.5 * ids[0] - 0.8 * ids[-1] * ids[0]


def context(n, rounds, **changes):
    return SearchContext(**{"root_seed": 5, "budget": n * rounds, "num_samples": n, "max_tokens": 4, **changes})


@pytest.mark.parametrize("ends", [False, True], ids=["equal lengths", "any length"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_qaligns_chains_come_to_follow_the_tilted_law(ends, temperature):
    toy, n, rounds, sampling = Toy(ends=ends), 1500, 25, Sampling(temperature=temperature)
    strategy = QAlign(sampling=sampling, reward_temperature=0.8)
    state, _ = run_rounds(strategy, ToyEngine(toy), context(n, rounds), reward, rounds)
    counts = dict.fromkeys(toy.responses(), 0)
    for chain in state.chains:
        counts[chain.tokens.ids] += 1
    # Chains are independent of each other, so that their last steps are as good as independent draws.
    law = toy.tilted(reward, 0.8, sampling)
    assert chisquare(list(counts.values()), law * n).pvalue > 0.001
    assert chisquare(list(counts.values()), toy.probabilities(sampling) * n).pvalue < 1e-6, "and not the plain one"


def test_qalign_finds_its_lambda_once_and_keeps_to_it():
    def run(factor, rounds):
        return run_rounds(QAlign(), ToyEngine(), context(20, rounds), lambda ids: factor * reward(ids), rounds)[0]

    assert run(1.0, 1).reward_temperature == run(1.0, 6).reward_temperature > 0
    small, large = run(0.01, 6), run(100.0, 6)
    assert [c.tokens.ids for c in small.chains] == [c.tokens.ids for c in large.chains]
    assert large.reward_temperature == pytest.approx(1e4 * small.reward_temperature)


def test_qalign_leaves_what_is_vetoed_and_never_enters_it():
    strategy, engine = QAlign(reward_temperature=1.0), ToyEngine()
    state = strategy.init(context(20, 50))
    for _ in range(50):
        proposals = strategy.propose(state, 20)
        rollouts = engine.rollout(None, proposals, None)
        scores = [Score(value=0.0, vetoed=rollout.tokens.ids[3] == 1) for rollout in rollouts]
        before = state.chains
        state, _ = strategy.update(state, proposals, rollouts, scores)
        for old, new in zip(before, state.chains, strict=False):
            assert not (old.reward == 0 and new.reward == -math.inf)
    assert {chain.tokens.ids[3] for chain in state.chains} == {0}


def test_a_short_last_round_moves_the_leading_chains_only():
    strategy, engine = QAlign(), ToyEngine()
    state, _ = run_rounds(strategy, engine, context(8, 2), reward, 1)
    proposals = strategy.propose(state, 3)
    rollouts = engine.rollout(None, proposals, None)
    after, _ = strategy.update(state, proposals, rollouts, [Score(value=99.0)] * 3)
    assert len(proposals) == 3
    assert after.chains[3:] == state.chains[3:]
    assert [p.kept.ids for p in proposals] == [
        c.tokens.ids[: len(p.kept)] for p, c in zip(proposals, state.chains, strict=False)
    ]


def test_qalign_tells_a_responses_chain_whatever_the_order_and_the_number_they_come_in():
    strategy, engine = QAlign(reward_temperature=1.0), ToyEngine()
    state, _ = run_rounds(strategy, engine, context(8, 4), reward, 2)
    proposals = strategy.propose(state, 8)
    rollouts = engine.rollout(None, proposals, None)
    scores = [Score(value=reward(rollout.tokens.ids)) for rollout in rollouts]

    def chains(state, *rows):
        for part in rows:
            given = ([each[row] for row in part] for each in (proposals, rollouts, scores))
            state, _ = strategy.update(state, *given)
        return [chain.tokens.ids for chain in state.chains]

    together = chains(state, range(8))
    assert together != [chain.tokens.ids for chain in state.chains]
    assert chains(state, [5, 2, 7, 0, 1, 6, 3, 4]) == together
    likely = [Score(value=99.0)] * 8  # accepted whatever was drawn
    scores = likely
    assert chains(state, [6], [1, 0], [7, 2, 3, 5, 4]) == [rollout.tokens.ids for rollout in rollouts]


def test_qaligns_first_round_may_come_in_parts():
    strategy, engine = QAlign(reward_temperature=1.0), ToyEngine()
    state = strategy.init(context(6, 2))
    proposals = strategy.propose(state, 6)
    rollouts = engine.rollout(None, proposals, None)
    for part in ([4, 0], [5], [1, 2, 3]):
        told = [proposals[i] for i in part], [rollouts[i] for i in part], [Score(value=1.0)] * len(part)
        state, _ = strategy.update(state, *told)
    assert [chain.tokens.ids for chain in state.chains] == [rollouts[i].tokens.ids for i in (4, 0, 5, 1, 2, 3)]


def test_a_step_of_misvo_that_float32_can_not_hold_is_not_taken():
    """It became an infinite shift of the pre-logits, at which every row of the batch failed."""
    strategy, engine = MISVO(), ToyEngine()
    state, _ = run_rounds(strategy, engine, context(8, 4), reward, 1)
    proposals = strategy.propose(state, 8)
    rollouts = engine.rollout(None, proposals, None)
    after, _ = strategy.update(state, proposals, rollouts, [Score(value=1e300 * i) for i in range(8)])
    np.testing.assert_array_equal(after.mean, state.mean)


@pytest.mark.parametrize(
    ("strategy", "needs"),
    [
        (QAlign(), {"kept"}),
        (Blockwise(), {"kept"}),
        (MISVO(), {"shift", "score_vectors"}),
        (SoftBestOfN(), set()),
        (Pessimism(), set()),
    ],
)
def test_what_rivals_need(strategy, needs):
    assert strategy.needs == needs


def test_blockwise_commits_nothing_before_its_end():
    with pytest.raises(ConfigurationError, match="leave commit_tokens out"):
        Blockwise().init(context(4, 4, partial=True, commits=True))


@pytest.mark.parametrize("kind", [QAlign, Blockwise, MISVO])
def test_greedy_draws_are_refused(kind):
    with pytest.raises(ConfigurationError, match="temperature=0"):
        kind(sampling=GREEDY).init(context(4, 4, partial=True))
    assert kind(sampling=GREEDY).init(context(1, 1, partial=True))


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (QAlign, {"reward_temperature": 0}),
        (QAlign, {"target_ess_fraction": 2}),
        (Blockwise, {"beams": 0}),
        (Blockwise, {"block_tokens": 0}),
        (MISVO, {"step_size": 0.0}),
        (MISVO, {"fisher_penalty": -1.0}),
    ],
)
def test_numbers_out_of_range_are_refused(kind, wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        kind(**wrong)


def align(strategy, toy_reward, budget, samples, stops=None, **limits):
    aligner = Searches(ToyEngine(), strategy, toy_reward, Plan(budget=budget, num_samples=samples), stops=stops)
    request = Request(messages=[], prompt_tokens=[1], limits=Limits(max_tokens=4, **limits), seed=1)
    return aligner.align(request)


def ones(ids):
    return float(sum(ids)) - 0.1 * len(ids)


def test_blockwise_with_a_token_a_block_climbs_a_reward_of_tokens_to_the_top():
    alignment = align(Blockwise(), ToyReward(ones, partial=True), 80, 20)
    assert alignment.best.rollout.tokens.ids == (1, 1, 1, 1)
    lengths = [{len(r.rollout.tokens) for r in round_.responses} for round_ in alignment.rounds]
    assert lengths == [{1}, {2}, {3}, {4}]
    assert alignment.cost.forward_tokens == 80, "a token each: what is kept is not written again"


def test_blockwise_goes_on_with_the_best_beams_only():
    strategy, engine = Blockwise(beams=2, block_tokens=2), ToyEngine()
    state, drawn = run_rounds(strategy, engine, context(12, 3, partial=True), ones, 1)
    seen = sorted({r.tokens.ids for r in drawn[0]}, key=ones, reverse=True)
    assert state.beams[0].ids == seen[0]
    assert ones(state.beams[1].ids) == ones(seen[1])
    kept = [proposal.kept.ids for proposal in strategy.propose(state, 12)]
    assert [kept.count(beam.ids) for beam in state.beams] == [6, 6]


def test_blockwise_keeps_its_beams_where_a_round_has_nothing_usable():
    strategy, engine = Blockwise(beams=2, block_tokens=1), ToyEngine()
    state = strategy.init(context(8, 3, partial=True))
    for verdict in ({}, {"vetoed": True}):
        proposals = strategy.propose(state, 8)
        rollouts = engine.rollout(None, proposals, None)
        scores = [Score(value=float(sum(rollout.tokens.ids)), **verdict) for rollout in rollouts]
        before, (state, _) = state, strategy.update(state, proposals, rollouts, scores)
    assert state.beams == before.beams != ()


@pytest.mark.parametrize("temperature", [None, 0.5, math.inf])
def test_a_chain_leaves_what_is_vetoed_whatever_lambda(temperature):
    [tokens] = [rollout.tokens for rollout in ToyEngine().rollout(None, [Proposal(seed=1, sampling=Sampling())], None)]
    vetoed, usable = Chain(tokens=tokens, reward=-math.inf), Chain(tokens=tokens, reward=1.0)
    assert (_ratio(vetoed, usable, temperature), _ratio(usable, vetoed, temperature)) == (1.0, 0.0)


def test_blockwise_starts_anew_once_everything_is_written_and_ends_whole():
    alignment = align(Blockwise(block_tokens=4), ToyReward(ones, partial=True), 12, 4)
    assert [r.rollout.finish_reason for r in alignment.responses] == ["length"] * 12
    assert all(r.rollout.forward_tokens == 4 for r in alignment.responses)


def test_unfinished_responses_are_never_the_answer_however_good():
    def short_is_good(ids):
        return -float(len(ids))

    alignment = align(Blockwise(), ToyReward(short_is_good, partial=True), 40, 10, stops=Stops(patience=1))
    assert len(alignment.rounds) == 4, "blocks don't try anyone's patience"
    assert alignment.best.rollout.finish_reason == "length"
    assert alignment.rounds[2].best is None


def test_blockwise_refuses_a_reward_of_whole_responses():
    with pytest.raises(ConfigurationError, match="partial=True"):
        align(Blockwise(), ToyReward(ones), 8, 4)


def exact_gradient(toy, u, temperature):
    """The derivative of the expected reward by u, over all responses."""
    responses = toy.responses()
    p = toy.probabilities(Sampling(temperature=temperature), u)
    gradient = np.zeros_like(u)
    for ids, probability in zip(responses, p, strict=True):
        for t, token in enumerate(ids):
            q = next_token(ids[:t], temperature, u[t])
            gradient[t] += probability * reward(ids) * (WEIGHT[token] - q @ WEIGHT) / temperature
    return gradient


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_misvos_step_is_the_gradient_of_the_expected_reward_less_the_fisher_penalty(temperature):
    toy, n = Toy(), 12_000
    strategy = MISVO(sampling=Sampling(temperature=temperature), step_size=2.0, fisher_penalty=0.5)
    first, _ = run_rounds(strategy, ToyEngine(toy), context(n, 2), reward, 1)
    expected = 2.0 * exact_gradient(toy, np.zeros((4, DIM)), temperature)
    # Each number is a mean of n products, of which the deviation is below that of the reward times |s| (at most 2/T).
    error = 2.0 * 2.0 / temperature * 1.2 / math.sqrt(n)
    np.testing.assert_allclose(first.mean, expected, atol=3 * error)
    assert np.abs(expected).max() > 5 * error, "the test could not fail"
    second, _ = run_rounds(strategy, ToyEngine(toy), context(n, 2), reward, 2)
    u = first.mean
    fisher = np.zeros((4, DIM, DIM))
    for ids, probability in zip(toy.responses(), toy.probabilities(Sampling(temperature=temperature)), strict=True):
        for t in range(4):
            p = next_token(ids[:t], temperature)
            fisher[t] += probability * (WEIGHT.T @ (np.diag(p) - np.outer(p, p)) @ WEIGHT) / temperature**2
    wanted = exact_gradient(toy, u, temperature) - 0.5 * np.einsum("tde,te->td", fisher, u)
    np.testing.assert_allclose((second.mean - u) / 2.0, wanted, atol=3 * error)


def test_misvo_raises_the_reward_and_its_penalty_holds_the_nats():
    def run(penalty):
        strategy = MISVO(sampling=Sampling(), step_size=1.0, fisher_penalty=penalty)
        _, drawn = run_rounds(strategy, ToyEngine(), context(100, 15), reward, 15)
        last = drawn[-1]
        return np.mean([reward(r.tokens.ids) for r in last]), np.mean([r.tokens.kl_to_base.sum() for r in last])

    plain = Toy().probabilities() @ [reward(ids) for ids in Toy().responses()]
    (free, drift), (held, nats) = run(0.0), run(2.0)
    assert free > held > plain + 0.2
    assert nats < drift / 4


def test_misvo_leaves_positions_past_the_end_and_vetoed_responses_out():
    toy = Toy(ends=True)
    strategy, engine = MISVO(sampling=Sampling()), ToyEngine(toy)
    state = strategy.init(context(30, 2, max_tokens=6))
    proposals = strategy.propose(state, 30)
    rollouts = engine.rollout(None, proposals, None)
    scores = [Score(value=reward(r.tokens.ids)) for r in rollouts]
    after, _ = strategy.update(state, proposals, rollouts, scores)
    assert after.mean.shape == (6, DIM)
    assert not after.mean[4:].any()
    assert after.mean[:3].any()
    mixed = [*scores, Score(value=1e6, vetoed=True)]
    again, _ = strategy.update(state, [*proposals, proposals[0]], [*rollouts, rollouts[0]], mixed)
    np.testing.assert_array_equal(again.mean, after.mean)
    lone, _ = strategy.update(state, proposals[:1], rollouts[:1], scores[:1])
    assert lone.mean is None, "one response has no others to be compared with"
