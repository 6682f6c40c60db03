"""What a further response is expected to gain, and searches that end when it is less than it costs."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

import aisp
from aisp.errors import ConfigurationError, RewardWarning
from aisp.records import NO_TOKENS, Candidate, Limits, Proposal, Rollout, Sampling, Score
from aisp.rewards import Reward
from aisp.search.gain import FEWEST, Prospect, prospect_of
from aisp.search.loop import Search
from aisp.search.plan import Plan
from aisp.search.request import Request
from aisp.search.stopping import Stops
from aisp.search.trace import Response
from aisp.strategies import BestOfN
from aisp.testing import FakeEngine
from tests.search.fakes import FakeReward, Searches
from tests.search.recorded import Recording
from tests.search.test_overlap import Judge

ROLLOUT = Rollout(tokens=NO_TOKENS, text="", finish_reason="stop", forward_tokens=0)
CANDIDATE = Candidate(messages=[], text="")


def responses_of(values, restarted_from=None):
    """Return a response for each reward; None is a veto, and those from a place on are no plain samples."""
    return [
        Response(
            candidate=CANDIDATE,
            score=Score(value=0.0, vetoed=True) if value is None else Score(value=value),
            rollout=ROLLOUT,
            proposal=Proposal(
                seed=0, sampling=Sampling(), excluded=(1,) if restarted_from is not None and i >= restarted_from else ()
            ),
            round_index=0,
            row=i,
        )
        for i, value in enumerate(values)
    ]


def gain_of(values, **options):
    prospect = prospect_of(responses_of(values, **options))
    return None if prospect is None else prospect.gain()


def test_the_expected_gain_is_what_the_next_response_gains_on_average():
    """Of three laws, heavy and light: within half of what the record rises by in the mean of many."""
    rng = np.random.default_rng(1)
    for draw in (rng.exponential, rng.normal, rng.gumbel):
        values = draw(size=(3000, 41))
        expected = np.mean([gain_of(row) for row in values[:400, :40].tolist()])
        spread = values[:, :16].std(axis=1, ddof=1)
        found = np.mean(np.maximum(values[:, 40] - values[:, :40].max(axis=1), 0.0) / spread)
        assert 0.5 < expected / found < 2.0, draw


def test_gains_are_told_in_the_rewards_own_spread():
    values = np.random.default_rng(2).normal(size=30)
    known = gain_of(values.tolist())
    assert known > 0
    for scale, offset in ((0.01, 0.0), (100.0, 0.0), (1.0, -5.0), (1e300, 0.0)):
        assert gain_of((values * scale + offset).tolist()) == pytest.approx(known, rel=1e-9)


def test_the_spread_is_that_of_plain_samples():
    """Restarts that end before plain samples do are not counted among these."""
    rng = np.random.default_rng(3)
    early, plain, late = (rng.normal(size=16) for _ in range(3))

    def gain(width):
        responses = responses_of([*early.tolist(), *(width * plain).tolist(), *(late + 10).tolist()])
        restart = responses_of([0.0], restarted_from=0)[0].proposal
        return prospect_of(
            [replace(r, proposal=restart) if not 16 <= i < 32 else r for i, r in enumerate(responses)]
        ).gain()

    assert gain(2.0) == pytest.approx(gain(1.0) / 2)


def test_where_too_little_is_known_nothing_is_said():
    values = np.random.default_rng(4).normal(size=FEWEST).tolist()
    assert gain_of(values) is not None
    assert gain_of(values[:-1]) is None
    assert gain_of([1.0] * 40) is None, "all equal: a reward that all fail, or one that all pass"
    assert gain_of([None] * 40) is None
    assert gain_of([*values, *[None] * 40]) is None, "none of the latest can be returned"


@pytest.mark.parametrize("passed", [1, 3, 30])
def test_a_pass_leaves_nothing_to_gain(passed):
    assert gain_of([0.0] * 20 + [2.5] * passed) == 0.0


def test_two_grades_of_many_are_no_pass():
    assert gain_of([7.0, 8.0, 8.0] * 10) != 0.0


def test_a_value_that_is_reached_again_and_again_is_the_highest():
    below = np.linspace(0, 0.9, 20).tolist()
    assert gain_of([*below, 1.0, 1.0, 1.0]) == 0.0
    assert gain_of([*below, 1.0]) > 0


def test_what_cannot_be_returned_counts_as_a_try():
    values = np.random.default_rng(5).normal(size=40).tolist()
    half = [value if i % 2 else None for i, value in enumerate(values)]
    prospect, dense = prospect_of(responses_of(half)), prospect_of(responses_of([v for v in half if v is not None]))
    assert prospect.chance < dense.chance


def test_a_response_gains_less_the_more_are_being_written():
    prospect, rng = Prospect(chance=0.2, excess=1.5), np.random.default_rng(6)
    better = np.where(rng.random((200_000, 4)) < 0.2, rng.exponential(1.5, (200_000, 4)), 0.0)
    records = np.maximum.accumulate(better, axis=1).mean(axis=0)
    gains = [prospect.gain(pending) for pending in range(4)]
    assert gains == pytest.approx(np.diff(records, prepend=0.0).tolist(), rel=0.05)
    assert prospect.worth(gains[2], 0, 16, together=False) == 3
    assert prospect.worth(gains[2], 2, 16, together=False) == 1
    assert prospect.worth(gains[2], 3, 16, together=False) == 0
    assert prospect.worth(np.mean(gains), 0, 4, together=True) == 4, "a round is drawn as a whole"
    assert prospect.worth(np.mean(gains) * 1.01, 0, 4, together=True) == 0


# --- searches

LONG = tuple(" ".join(["w"] * n) for n in range(1, 17))


def searched(strategy=None, reward=None, budget=64, num_samples=16, texts=LONG, price=0.01, **options):
    engine = FakeEngine(texts)
    plan = Plan(budget=budget, num_samples=num_samples)
    aligner = Searches(
        engine, strategy or BestOfN(), FakeReward(reward or len), plan, stops=Stops(response_price=price), **options
    )
    return aligner.align(Request(messages=[], prompt_tokens=[1], limits=Limits(max_tokens=20), seed=1)), engine


def capped(text):
    return min(len(text), 5) + 0.0


def fails_first(passes):
    """Return a reward that no response passes before a number of them was scored."""
    count = itertools.count(1)
    return lambda text: float(next(count) >= passes)


def test_a_search_ends_where_nothing_is_left_to_gain():
    alignment, engine = searched(reward=capped)
    assert (alignment.stopped_by, engine.calls) == ("converged", [16])
    assert alignment.best.reward == 5
    assert alignment.expected_gain == 0.0
    assert json.loads(json.dumps(alignment.summary()))["expected_gain"] == 0.0


def test_a_search_goes_on_until_something_passes():
    alignment, engine = searched(reward=fails_first(40))
    assert (alignment.stopped_by, engine.calls) == ("converged", [16, 16, 16])
    with pytest.warns(RewardWarning, match="exactly 0"):
        alignment, _ = searched(reward=fails_first(100))
    assert alignment.stopped_by == "budget"
    assert alignment.expected_gain is None


@pytest.mark.parametrize("price", [None, 0.0])
def test_without_a_price_the_budget_is_spent(price):
    alignment, engine = searched(reward=capped, price=price)
    assert (alignment.stopped_by, engine.drawn) == ("budget", 64)
    assert alignment.expected_gain == 0.0, "which is told all the same"


def test_the_more_a_response_costs_the_sooner_it_ends():
    rng = np.random.default_rng(7)
    values = rng.normal(size=500).tolist()

    def drawn(price):
        rest = iter(values)
        return searched(reward=lambda text: next(rest), price=price)[0].cost.responses

    counts = [drawn(price) for price in (0.0001, 0.02, 1.0)]
    assert counts == sorted(counts, reverse=True)
    assert (counts[0], counts[-1]) == (64, 16)


@pytest.mark.parametrize("steered", [False, True])
def test_without_rounds_what_is_being_written_ends_and_is_scored(steered):
    alignment, engine = searched(Recording(asynchronous=True, steered=steered), reward=capped)
    assert alignment.stopped_by == "converged"
    assert FEWEST <= alignment.cost.responses < 64
    assert alignment.cost.responses == engine.drawn, "nothing that was begun is thrown away"
    assert alignment.cost.forward_tokens == sum(r.rollout.forward_tokens for r in alignment.responses)


def test_no_search_ends_before_its_first_plain_samples_have():
    """Restarts, which are shorter, end before the slowest plain samples that they were begun beside."""

    class Mixed(Recording):
        def propose(self, state, n, pending=()):
            begun = sum(n for n, _ in self.pending)
            proposals = super().propose(state, n, pending)
            rows = range(begun, begun + len(proposals))
            return tuple(
                Proposal(seed=7 if row < 16 else 1, sampling=Sampling(), excluded=() if row < 16 else (0,))
                for row in rows
            )

    alignment, engine = searched(Mixed(asynchronous=True), num_samples=32, budget=128, reward=fails_first(2))
    assert engine.calls[0] == 32
    places = [i for i, response in enumerate(alignment.responses) if not response.proposal.excluded]
    assert len(places) == 16
    assert places[0] > FEWEST, "sixteen others had passed by then"
    assert engine.drawn > 32 + FEWEST, "and more were begun meanwhile"
    assert alignment.stopped_by == "converged"


def test_scores_that_are_on_their_way_are_waited_for():
    """A judge is asked while others are being written; what it has not answered yet may still be the best."""
    judge = Judge(capped)
    engine = FakeEngine(LONG)
    aligner = Searches(
        engine,
        Recording(asynchronous=True),
        judge,
        Plan(budget=64, num_samples=8),
        stops=Stops(response_price=0.01),
    )
    alignment = aligner.align(Request(messages=[], prompt_tokens=[1], limits=Limits(max_tokens=20), seed=1))
    assert alignment.stopped_by == "converged"
    assert FEWEST <= sum(judge.asked) == alignment.cost.responses == engine.drawn < 64


def test_what_is_not_scored_yet_counts_as_being_written(monkeypatch):
    engine, worth, told = FakeEngine(LONG), Search._worth, []

    def noted(self, unscored, room):
        told.append((len(unscored) + self._state.told, engine.drawn))
        return worth(self, unscored, room)

    monkeypatch.setattr(Search, "_worth", noted)
    plan = Plan(budget=64, num_samples=8)
    request = Request(messages=[], prompt_tokens=[1], limits=Limits(max_tokens=20), seed=1)
    Searches(engine, Recording(asynchronous=True), Judge(), plan, stops=Stops(response_price=0.01)).align(request)
    assert len(told) > 10
    assert [known for known, _ in told] == [drawn for _, drawn in told]


def test_equal_seeds_end_equally():
    found = [searched(Recording(asynchronous=True), reward=lambda text: len(text) ** 0.5) for _ in range(2)]
    assert [a.cost.responses for a, _ in found] == [found[0][0].cost.responses] * 2


class Words(Reward):
    """Passes a text with an odd number of letters, unfinished or not."""

    partial = True

    def _score(self, candidates):
        return [Score(value=float(len(set(candidate.text)) % 2)) for candidate in candidates]


def test_each_block_ends_by_itself_and_leaves_the_rest_to_those_behind_it(tiny):
    asked = {"model": tiny, "rewards": Words(), "max_tokens": 12, "commit_tokens": 6, "num_samples": 8, "seed": 1}
    whole = aisp.align("q", **asked, strategy="best_of_n")
    auto = aisp.align("q", **asked, strategy="best_of_n", budget="auto")
    blocks = [[len(r.responses) for r in auto.rounds if r.block == block] for block in (0, 1)]
    assert [sum(block) for block in blocks] == [16, 16]
    assert whole.cost.responses == 64
    assert auto.stopped_by == "complete"
    assert auto.best.reward == 1.0


def test_without_rewards_there_is_nothing_to_wait_for(tiny):
    assert aisp.align("q", model=tiny, max_tokens=3, budget="auto", seed=1).cost.responses == 1


def test_a_price_is_a_number_of_at_least_0():
    with pytest.raises(ConfigurationError, match="response_price is -1; expected a number >= 0"):
        Stops(response_price=-1)
    with pytest.raises(ConfigurationError, match="response_price is nan"):
        Stops(response_price=float("nan"))
