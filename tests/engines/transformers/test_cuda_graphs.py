"""Captured decode steps, under a stand-in for CUDA graphs that knows what a graph doesn't own.

On CUDA the first request once killed the process: a graph read an index tensor that nobody held any more, and went on
with a memory pool whose graphs had been dropped. On the CPU nothing showed.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from aisp.engines.transformers import batch as batch_module
from aisp.engines.transformers import cuda_graphs
from aisp.engines.transformers.slot_cache import additive_mask, bucket
from aisp.errors import EngineError
from aisp.records import GREEDY, Limits, NoiseTerm, Proposal, Sampling
from aisp.testing import tiny_model
from aisp.testing.tiny import ARCHITECTURES
from tests.engines.build import engine_of
from tests.engines.graphs import FreedMemoryError, TapeGraphs

PROMPT = [5, 17, 99, 42, 7, 120, 33, 64, 8, 9, 200, 31, 77, 18, 19, 250, 11, 12, 13, 14]
SHIFT = np.random.default_rng(3).normal(0.0, 0.3, (1, 64)).astype(np.float32)
NOISY = Proposal(seed=1, sampling=GREEDY, scale=0.4, mean=(NoiseTerm(seed=91, spans=((9, 0.5),)),))
PROPOSALS = [
    NOISY,
    Proposal(seed=2, sampling=Sampling(temperature=0.8, top_p=0.9)),
    Proposal(seed=3, sampling=Sampling(), shift=SHIFT),
    *(Proposal(seed=s, sampling=Sampling(), scale=0.1 * s, retain=True) for s in range(4, 8)),
]
ENDLESS = [replace(proposal, seed=proposal.seed + 300) for proposal in PROPOSALS]


@pytest.fixture(params=[1, 10_000], ids=["shared", "copied"])
def sharing(request, monkeypatch):
    """Run a test with prompts on either side of the border from which on their keys and values are held once."""
    monkeypatch.setattr(batch_module, "SHARED_FROM", request.param)


@pytest.fixture(scope="module")
def llama():
    return tiny_model("llama")


@pytest.fixture
def graphs():
    return TapeGraphs()


def tokens_of(engine, prompt, proposals, max_tokens=70):
    return [r.tokens.ids for r in engine.rollout(engine.prefill(prompt), proposals, Limits(max_tokens=max_tokens))]


def a_search(engine, prompt):
    """Fresh rows, then rows that keep, rows that also leave out a token, and rows that pause and are gone on with."""
    prefix, limits = engine.prefill(prompt), Limits(max_tokens=12)
    first = engine.rollout(prefix, PROPOSALS, limits)
    kept = [
        replace(proposal, seed=proposal.seed + 50, kept=rollout.tokens.head(len(rollout.tokens) // 2))
        for proposal, rollout in zip(PROPOSALS, first, strict=True)
    ]
    barred = [
        replace(one, sampling=Sampling(), excluded=rollout.tokens.ids[len(one.kept) : len(one.kept) + 1])
        for one, rollout in zip(kept, first, strict=True)
    ]
    paused = engine.rollout(prefix, [replace(one, pause_after=3) for one in PROPOSALS[:3]], limits)
    on = [replace(one, kept=part.tokens) for one, part in zip(PROPOSALS, paused, strict=False) if part.paused]
    rounds = [first, engine.rollout(prefix, kept, limits), engine.rollout(prefix, barred, limits), paused]
    return [[r.tokens.ids for r in done] for done in [*rounds, engine.rollout(prefix, on, limits)]]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_captured_steps_give_the_tokens_of_plain_steps(architecture, sharing, graphs):
    model = tiny_model(architecture)
    engine = engine_of(model, graphs=graphs)
    assert a_search(engine, PROMPT) == a_search(engine_of(model), PROMPT)
    stats = engine.stats()
    assert stats.replayed_steps == (stats.steps if stats.shares_prompts else 0)


def test_a_replay_of_what_the_step_does_not_own_is_seen(llama, graphs, monkeypatch):
    """The stand-in can fail: here no step owns its index of rows, which lives until another shape is captured."""
    plain = cuda_graphs.CapturedSteps._capture

    def forgetful(self, *args):
        step = plain(self, *args)
        return replace(step, inputs=replace(step.inputs, rows=torch.zeros(1)))

    engine = engine_of(llama, graphs=graphs)
    monkeypatch.setattr(cuda_graphs.CapturedSteps, "_capture", forgetful)
    tokens_of(engine, PROMPT, PROPOSALS)
    with pytest.raises(EngineError, match=r"FreedMemoryError\('a torch.int64 of shape \(8,\)"):
        tokens_of(engine, PROMPT, PROPOSALS)


def test_rows_of_several_prompts_take_plain_steps_and_those_of_one_go_on_in_place(llama, graphs, monkeypatch):
    monkeypatch.setattr(batch_module, "SHARED_FROM", 1)
    engine, plain = engine_of(llama, graphs=graphs), engine_of(llama)
    prompts = [PROMPT, PROMPT[3:], PROMPT]
    for prompt in prompts:  # one after the other, through the same buffers of a prompt
        assert tokens_of(engine, prompt, PROPOSALS) == tokens_of(plain, prompt, PROPOSALS)
    assert engine.stats().replayed_steps == engine.stats().steps
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda prompt: tokens_of(engine, prompt, PROPOSALS), prompts))
    assert together == [tokens_of(plain, prompt, PROPOSALS) for prompt in prompts]


def test_graphs_serve_from_round_to_round_while_their_buffers_stay(llama, graphs):
    engine, plain = engine_of(llama, graphs=graphs), engine_of(llama)
    before = engine.stats().graph_generations
    rounds = [[tokens_of(one, PROMPT, PROPOSALS[:count], 40) for count in (7, 3, 5)] for one in (engine, plain)]
    assert rounds[0] == rounds[1]
    rounds = [[tokens_of(one, PROMPT, PROPOSALS, 40) for _ in range(3)] for one in (engine, plain)]
    assert rounds[0] == rounds[1]
    captures = len(graphs.captures)
    tokens_of(engine, PROMPT, PROPOSALS, 40)
    assert len(graphs.captures) == captures, "nothing has to be captured again"
    assert engine.stats().graph_generations - before == len({bucket(7), bucket(3), bucket(5)}) + 1


def test_each_generation_of_graphs_has_a_pool_of_its_own_and_dies_as_one(llama, graphs):
    engine = engine_of(llama, graphs=graphs)
    for count, max_tokens in ((2, 40), (7, 40), (3, 200)):  # more rows, then longer ones: the slots move
        expected = tokens_of(engine_of(llama), PROMPT, ENDLESS[:count], max_tokens)
        assert tokens_of(engine, PROMPT, ENDLESS[:count], max_tokens) == expected
        *old, new = graphs.pools
        assert [len(pool.graphs) for pool in old] == [0] * len(old)
        assert len(new.graphs) == engine.stats().graphs > 0
    assert engine.stats().graph_generations == len(graphs.pools) - 1 == 3, "the first was the probe's"


def test_more_shapes_than_are_kept_begin_a_new_generation(llama, graphs, monkeypatch):
    monkeypatch.setattr(cuda_graphs, "_KEPT", 2)
    engine = engine_of(llama, graphs=graphs)
    assert tokens_of(engine, PROMPT, ENDLESS, 200) == tokens_of(engine_of(llama), PROMPT, ENDLESS, 200)
    assert max(len(pool.graphs) for pool in graphs.pools) <= 2
    assert tokens_of(engine, PROMPT, PROPOSALS) == tokens_of(engine_of(llama), PROMPT, PROPOSALS)


def test_a_response_that_outgrows_its_bucket_goes_on_in_the_next(llama, graphs):
    engine = engine_of(llama, graphs=graphs)
    expected = tokens_of(engine_of(llama), PROMPT, ENDLESS, 200)
    assert max(map(len, expected)) > 64 + 1, "the test could not fail"
    assert tokens_of(engine, PROMPT, ENDLESS, 200) == expected
    stats = engine.stats()
    assert stats.graphs > 1
    assert stats.replayed_steps == stats.steps


def test_rows_that_join_while_others_are_decoded_make_the_slots_grow(llama, graphs):
    engine, plain = engine_of(llama, eos=(), graphs=graphs), engine_of(llama, eos=())
    texts = []
    for one in (engine, plain):
        first = replace(PROPOSALS[1], pause_after=4)
        with one.start(one.prefill(PROMPT), [*PROPOSALS[:1], first], Limits(max_tokens=30)) as flight:
            found = dict(flight.wait())
            flight.add(PROPOSALS)
            while finished := flight.wait():
                found.update(finished)
        texts.append([found[place].tokens.ids for place in range(9)])
    assert texts[0] == texts[1]


def test_freed_graphs_are_captured_again(llama, graphs):
    engine = engine_of(llama, graphs=graphs)
    expected = tokens_of(engine, PROMPT, PROPOSALS)
    engine.close()
    assert engine.stats().graphs == 0
    assert not any(pool.graphs for pool in graphs.pools)
    assert tokens_of(engine, PROMPT, PROPOSALS) == expected


def test_what_cannot_be_captured_is_taken_plainly_and_said(llama, graphs, caplog):
    engine = engine_of(llama, graphs=graphs)
    graphs.failing.append(RuntimeError("operation not permitted when stream is capturing"))
    assert tokens_of(engine, PROMPT, PROPOSALS) == tokens_of(engine_of(llama), PROMPT, PROPOSALS)
    assert caplog.text.count("decode steps can't be captured") == 1
    assert engine.stats().graphs == 0


def test_memory_that_runs_out_while_capturing_is_not_taken_for_that(llama, graphs):
    engine = engine_of(llama, graphs=graphs)
    graphs.captures.clear()
    graphs.failing.append(torch.OutOfMemoryError("no more"))
    assert tokens_of(engine, PROMPT, PROPOSALS) == tokens_of(engine_of(llama), PROMPT, PROPOSALS)
    assert graphs.captures[:2] == [8, 4]
    assert engine.stats().graphs > 0


def test_freed_memory_is_an_error_of_its_own():
    assert not issubclass(FreedMemoryError, RuntimeError), "else the engine would take it for what can't be captured"


def test_buckets_and_masks():
    assert [bucket(n) for n in (1, 2, 3, 9, 256)] == [1, 2, 4, 16, 256]
    mask = additive_mask(torch.tensor([0, 2]), 4)
    assert (mask == 0).tolist() == [[True, False, False, False], [True, True, True, False]]
