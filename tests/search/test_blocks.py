"""Searches that commit block after block: one loop, an honest budget, and text that stays."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

import aisp
from aisp.call import make_aligner, make_request
from aisp.engines import engine_for
from aisp.errors import AllCandidatesExcludedError, ConfigurationError, DeadlineExceededError
from aisp.records import NO_TOKENS, Candidate, Limits, NoiseTerm, Proposal, Score
from aisp.rewards import Length, Reward
from aisp.search.blocks import Block, next_block
from aisp.search.events import TextCommitted
from aisp.search.plan import Plan
from aisp.search.request import Request
from aisp.search.stopping import Stops
from aisp.service import Service
from aisp.settings import SearchSettings
from aisp.strategies import BestOfN
from aisp.testing import FakeClock, FakeEngine
from tests.search.fakes import FakeReward, Searches

SEARCH = {"budget": 24, "num_samples": 4, "max_tokens": 24, "commit_tokens": 6, "seed": 1}
STRATEGIES = ["tilted_restart", "aisp", "best_of_n", "soft_best_of_n", "pessimism", "qalign", "misvo"]


class Vowels(Reward):
    """The share of vowels: it can be read off any text."""

    partial = True

    def __init__(self, veto=None, seconds=0.0):
        super().__init__()
        self.veto = veto
        self.seconds = seconds
        self.scored = []

    def _score(self, candidates):
        time.sleep(self.seconds)
        self.scored += [candidate.text for candidate in candidates]
        return [self._one(candidate) for candidate in candidates]

    def _one(self, candidate: Candidate) -> Score:
        value = sum(candidate.text.count(vowel) for vowel in "aeiou") / (1 + len(candidate.text))
        return Score(value=value, vetoed=self.veto is not None and self.veto(candidate.text))


def streamed(tiny, **settings):
    """Return the pieces of an answer, and its alignment."""
    answer = aisp.stream("q", model=tiny, **{**SEARCH, **settings})
    return list(answer), answer.alignment


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_writes_blocks_that_build_on_each_other(tiny, strategy):
    alignment = aisp.align("q", model=tiny, rewards=Vowels(), strategy=strategy, **SEARCH)
    final = alignment.best.rollout.tokens.ids
    assert alignment.stopped_by == "complete"
    blocks = sorted({round_.block for round_ in alignment.rounds})
    assert blocks == list(range(len(blocks)))
    assert len(blocks) > 1
    for round_ in alignment.rounds:
        start = 6 * round_.block
        assert round_.start == start
        for response in round_.responses:
            assert response.rollout.tokens.ids[:start] == final[:start], "each goes on from what is committed"
            assert len(response.rollout.tokens) <= start + 6
    drawn = sum(len(round_.responses) for round_ in alignment.rounds)
    assert alignment.cost.responses == drawn <= SEARCH["budget"]


def test_each_block_commits_its_best(tiny):
    alignment = aisp.align("q", model=tiny, rewards=Vowels(), **SEARCH)
    rounds = alignment.rounds
    ends = [
        one for one, after in zip(rounds, [*rounds[1:], None], strict=True) if after is None or after.start > one.start
    ]
    for end, following in pairwise(ends):
        own = [r for round_ in rounds if round_.block == end.block for r in round_.responses]
        assert max(r.reward for r in own) == end.best.reward
        ids = following.responses[0].rollout.tokens.ids
        assert ids[: len(end.best.rollout.tokens)] == end.best.rollout.tokens.ids
    assert alignment.best is ends[-1].best
    assert alignment.best.reward == Vowels()._one(alignment.best.candidate).value, "of the whole text"


def test_the_text_grows_and_never_changes(tiny):
    for seed in range(6):
        pieces, alignment = streamed(tiny, rewards=Vowels(), seed=seed)
        assert "".join(pieces) == alignment.text
        assert len(pieces) > 1
        # The tiny model writes bytes: a character whose bytes aren't all there is waited for, so none is taken back.
        assert not any(response.score.vetoed for response in alignment.responses)
        shown = ""
        for round_ in alignment.rounds:
            shown += round_.committed
            assert alignment.text.startswith(shown)
        assert alignment.text == aisp.align("q", model=tiny, rewards=Vowels(), **{**SEARCH, "seed": seed}).text


def test_a_possible_stop_string_is_held_back(tiny):
    one = {"budget": 1, "num_samples": None, "max_tokens": 40}
    tokenizer = tiny.tokenizer
    for seed in range(20):  # to one whose second block ends in text of whole characters
        _, free = streamed(tiny, **one, seed=seed)
        text, ids = free.text, free.best.rollout.tokens.ids
        end = len(tokenizer.decode(ids[:12], skip_special_tokens=True))
        stop = text[end - 2 : end + 2]
        if len(ids) > 13 and len(stop) == 4 and "\ufffd" not in stop and text.index(stop) == end - 2:
            break
    pieces, alignment = streamed(tiny, **one, seed=seed, stop=[stop])
    assert alignment.text == text[: end - 2]
    assert "".join(pieces) == alignment.text
    never, held = streamed(tiny, **one, seed=seed, stop=[stop + "never"])
    assert "".join(never) == held.text == text
    assert "".join(never[:2]) == text[: end - 2], "it might have been the beginning of it"


def test_one_response_is_one_however_many_blocks_it_is_written_in(tiny):
    pieces, alignment = streamed(tiny, budget=1, num_samples=None, rewards=None)
    plain = aisp.align("q", model=tiny, max_tokens=24, seed=1)
    assert alignment.text == plain.text, "without a choice, blocks change nothing"
    assert alignment.cost.responses == alignment.budget == 1
    assert alignment.cost.forward_tokens == plain.cost.forward_tokens
    assert alignment.selection_kl_bound == 0
    assert len(pieces) > 1


def test_without_commit_tokens_the_whole_text_comes_at_once(tiny):
    pieces, alignment = streamed(tiny, rewards=Vowels(), commit_tokens=None)
    assert pieces == [alignment.text]
    assert not any(round_.committed for round_ in alignment.rounds)
    assert {(round_.block, round_.start) for round_ in alignment.rounds} == {(0, 0)}


def test_nothing_is_decoded_between_pieces_nor_after_the_stream_is_closed(tiny):
    engine = engine_for(tiny)
    before = engine.stats().steps
    search = aisp.stream("q", model=tiny, rewards=Vowels(), **SEARCH)
    next(search)
    after = engine.stats().steps
    assert 0 < after - before <= 2 * 6
    search.close()
    assert engine.stats().steps == after
    assert engine.stats().decoding == 0


def test_selection_adds_nats_once_a_block(tiny):
    alignment = aisp.align("q", model=tiny, rewards=Vowels(), strategy="best_of_n", **SEARCH)
    sizes = [sum(len(r.responses) for r in alignment.rounds if r.block == block) for block in range(4)]
    assert alignment.selection_kl_bound == pytest.approx(sum(np.log(n) - (n - 1) / n for n in sizes if n))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rewards": Vowels() + Length(1, 5)}, "partial=True"),
        ({"commit_tokens": 0}, "commit_tokens"),
        ({"budget": 3, "num_samples": 3}, "budget=3 is too little for the 4 blocks"),
        ({"strategy": "blockwise"}, "leave commit_tokens out"),
    ],
)
def test_what_cannot_be_committed_is_refused_before_decoding(tiny, monkeypatch, settings, message):
    monkeypatch.setattr(engine_for(tiny), "start", lambda *args: pytest.fail("it was decoded"))
    with pytest.raises(ConfigurationError, match=message):
        aisp.align("q", model=tiny, **{**SEARCH, "rewards": Vowels(), **settings})


def test_a_block_whose_responses_are_all_vetoed_draws_on_what_later_ones_can_spare(tiny):
    plainly = {**SEARCH, "strategy": "best_of_n"}  # which draws the same block again, whatever is vetoed
    first = aisp.align("q", model=tiny, rewards=Vowels(), **plainly)
    seen = {r.text for round_ in first.rounds if round_.block == 0 for r in round_.responses}
    alignment = aisp.align("q", model=tiny, rewards=Vowels(veto=lambda text: text in seen), **plainly)
    own = sum(len(round_.responses) for round_ in alignment.rounds if round_.block == 0)
    assert own > 6, "its share"
    assert alignment.cost.responses <= 24
    with pytest.raises(AllCandidatesExcludedError, match="none of 21 responses"):  # three are the other blocks'
        aisp.align("q", model=tiny, rewards=Vowels(veto=lambda text: True), **SEARCH)


def test_what_takes_back_committed_text_is_never_returned(tiny):
    def shouted(request, rollout):
        text = rollout.text if rollout.paused else rollout.text.upper()
        return Candidate(messages=request.messages, text=text)

    service = Service(tiny, Vowels(), SearchSettings(**SEARCH))
    call = service.read({})
    aligner = make_aligner(service.engine, call)
    aligner.parse = shouted
    search = aligner.search(make_request(service.codec, "q", call))
    with pytest.raises(AllCandidatesExcludedError, match="vetoed"):
        list(search.events())


@pytest.mark.parametrize("on_timeout", ["best", "raise"])
def test_at_the_deadline_what_was_committed_is_returned(on_timeout):
    """A round takes a second, so that the first of two blocks is committed and the second is cut."""
    clock = FakeClock()
    engine = FakeEngine(["one two three four five six", "uno due tre quattro cinque sei"], seconds=1.0, clock=clock)
    reward = FakeReward(lambda text: float(len(text)))
    reward.partial = True
    plan, stops = Plan(budget=4, num_samples=2), Stops(on_timeout=on_timeout)
    aligner = Searches(engine, BestOfN(), reward, plan, commit_tokens=3, clock=clock, stops=stops)
    request = Request(messages=[], prompt_tokens=[1], limits=Limits(max_tokens=6, deadline=1.5), seed=1)
    events = aligner.search(request).events()
    if on_timeout == "raise":
        with pytest.raises(DeadlineExceededError):
            list(events)
        return
    *told, last = events
    pieces = [event.text for event in told if isinstance(event, TextCommitted)]
    assert last.alignment.stopped_by == "deadline"
    assert last.alignment.best.rollout.finish_reason == "cancelled"
    assert pieces[0] in ("one two three", "uno due tre")
    assert "".join(pieces) == last.alignment.text


def test_a_cancelled_search_returns_what_was_committed(tiny):
    cancel = threading.Event()
    run = Service(tiny, Vowels(), SearchSettings(**SEARCH)).run("q", cancel=cancel)
    shown = next(run.texts())
    cancel.set()
    alignment = run.alignment
    assert (alignment.stopped_by, alignment.best.rollout.finish_reason) == ("cancelled", "cancelled")
    assert alignment.text.startswith(shown)


def test_the_budget_is_divided_evenly_and_what_is_left_goes_on(tiny):
    plan = Plan(budget=10, num_samples=16)
    block, spent, shares = None, 0, []
    committed = aisp.align("q", model=tiny, max_tokens=24, seed=1).best.rollout
    for end in (0, 6, 12, 18):
        part = replace(committed, tokens=committed.tokens.head(end)) if end else None
        block = next_block(plan, spent, 6, 24, block, part)
        shares.append((block.index, block.start, block.budget, block.reserve))
        spent += block.budget
    assert shares == [(0, 0, 3, 4), (1, 6, 3, 2), (2, 12, 2, 1), (3, 18, 2, 0)]


def test_proposals_are_moved_behind_what_is_committed(tiny):
    committed = aisp.align("q", model=tiny, max_tokens=6, seed=1).best.rollout
    block = Block(index=1, committed=committed, length=8, budget=4)
    start = len(committed.tokens)
    shift = np.ones((3, 2), dtype=np.float32)
    term = NoiseTerm(seed=5, spans=((2, 0.5), (9, 0.25)))
    [placed] = block.to_response(
        [Proposal(seed=1, kept=committed.tokens.head(2), horizon=5, mean=(term,), shift=shift)]
    )
    assert placed.kept.ids == committed.tokens.ids + committed.tokens.ids[:2]
    assert (placed.pause_after, placed.horizon, placed.retain) == (6, start + 5, True)
    assert placed.mean[0].spans == ((start, 0.0), (start + 2, 0.5), (start + 9, 0.25))
    assert (placed.shift[:start] == 0).all()
    assert (placed.shift[start:] == shift).all()
    [everywhere] = block.to_response([Proposal(seed=1, shift=shift[:1])])
    assert (everywhere.shift == shift[:1]).all()
    assert Block(budget=4).to_response([Proposal(seed=1)])[0].kept is NO_TOKENS


def test_a_block_is_its_share_of_the_response_in_what_a_strategy_is_told():
    block = Block(budget=4, length=6)
    told = block.context(root_seed=1, num_samples=16, max_tokens=24, partial=True, kl_budget=None)
    assert (told.block_share, told.max_tokens, told.num_samples, told.budget) == (0.25, 6, 4, 4)
    whole = Block(budget=4).context(root_seed=1, num_samples=2, max_tokens=24, partial=True, kl_budget=None)
    assert (whole.block_share, whole.max_tokens, whole.num_samples) == (1.0, 24, 2)


def test_the_budget_is_shared_among_the_blocks_that_the_tokens_make():
    first = next_block(Plan(budget=20, num_samples=4), 0, 6, 25, None, None)
    assert (first.budget, first.reserve, first.start) == (4, 12, 0), "five blocks, one response left for each other"
    only = next_block(Plan(budget=20, num_samples=4), 0, None, 25, None, None)
    assert (only.budget, only.reserve, only.length) == (20, 0, None)
