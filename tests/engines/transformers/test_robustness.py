"""Many callers, little memory: all are answered, nothing goes beyond its bound, and what can't be done is said."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading

import pytest
import torch

from aisp.engines.transformers import batch as batch_module
from aisp.engines.transformers import decoder as decoder_module
from aisp.engines.transformers.attention import Group, SharingUnsupportedError, attend, shared_body
from aisp.engines.transformers.decoder import Decoder
from aisp.engines.transformers.slot_cache import SlotCache
from aisp.errors import EngineError
from aisp.records import Limits, Proposal, Sampling
from aisp.testing import tiny_model
from tests.engines.build import engine_of

TOKEN_BYTES = 2 * 2 * 2 * 16 * 4  # layers, keys and values, heads, their size, float32


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")


def prompt_of(i):
    return [20 + (7 * i + j) % 200 for j in range(5 + 11 * (i % 9))]


def ask(engine, i):
    proposals = [Proposal(seed=100 * i + row, sampling=Sampling()) for row in range(1 + i % 3)]
    rollouts = engine.rollout(engine.prefill(prompt_of(i)), proposals, Limits(max_tokens=3 + 4 * (i % 5)))
    return [rollout.tokens.ids for rollout in rollouts]


@pytest.mark.parametrize("shared_from", [1, 10_000], ids=["shared", "copied"])
def test_a_hundred_requests_of_several_event_loops_within_a_bound_of_memory(model, monkeypatch, shared_from):
    monkeypatch.setattr(batch_module, "SHARED_FROM", shared_from)
    bound, peak = 1500 * TOKEN_BYTES, [0]
    engine = engine_of(model, batch_bytes=bound, cache_bytes=bound)
    plain = SlotCache.begin

    def begin(self, device):
        mask, stats = plain(self, device), engine.stats()
        peak[0] = max(peak[0], stats.batch_bytes)
        assert stats.prefix_cache_bytes <= bound
        return mask

    monkeypatch.setattr(SlotCache, "begin", begin)
    answers = {}

    async def loop(first):
        async def one(i):
            answers[i] = await asyncio.to_thread(ask, engine, i)

        await asyncio.gather(*(one(i) for i in range(first, first + 25)))

    threads = [threading.Thread(target=asyncio.run, args=(loop(first),)) for first in range(0, 100, 25)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert sorted(answers) == list(range(100))
    assert bound // 3 < peak[0] <= bound
    monkeypatch.setattr(SlotCache, "begin", plain)
    roomy = engine_of(model)
    assert {i: ask(roomy, i) for i in range(0, 100, 7)} == {i: answers[i] for i in range(0, 100, 7)}


def test_prompts_that_wait_hold_no_memory_and_are_computed_again(model):
    frugal, roomy = engine_of(model, cache_bytes=0), engine_of(model)
    prefixes = [frugal.prefill(prompt_of(i)) for i in range(8)]
    assert not any(isinstance(getattr(prefix, name, None), list) for prefix in prefixes for name in dir(prefix))
    for i, prefix in enumerate(prefixes):
        proposals, limits = [Proposal(seed=i), Proposal(seed=i)], Limits(max_tokens=6)
        rollouts = frugal.rollout(prefix, proposals, limits)
        expected = roomy.rollout(roomy.prefill(prompt_of(i)), proposals, limits)
        assert [rollout.tokens.ids for rollout in rollouts] == [rollout.tokens.ids for rollout in expected]
        spent = sum(rollout.forward_tokens for rollout in rollouts) - sum(r.forward_tokens for r in expected)
        assert spent == len(prompt_of(i)), "what is computed again is counted, once"
    assert frugal.stats().batch_bytes == 0


def test_a_cancelled_request_makes_room_at_once(model):
    engine = engine_of(model, eos=(), max_sequences=4)
    cancel, started, second = threading.Event(), threading.Event(), []

    def progress(_):
        started.set()

    def first():
        proposals = [Proposal(seed=s, sampling=Sampling()) for s in range(4)]
        limits = Limits(max_tokens=450, cancel=cancel)
        second.append(engine.rollout(engine.prefill([5, 6]), proposals, limits, progress))

    thread = threading.Thread(target=first)
    thread.start()
    assert started.wait(20)
    threading.Timer(0.05, cancel.set).start()
    [other] = engine.rollout(engine.prefill([7, 8]), [Proposal(seed=1)], Limits(max_tokens=3))
    thread.join(20)
    assert len(other.tokens) == 3
    assert {rollout.finish_reason for rollout in second[0]} == {"cancelled"}
    assert all(len(rollout.tokens) < 450 for rollout in second[0])
    assert engine.stats().decoding == 0


@pytest.mark.parametrize(
    "error",
    [RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), MemoryError(), torch.OutOfMemoryError()],
)
def test_memory_that_runs_out_halves_the_batch_once_then_is_an_error_that_helps(model, monkeypatch, error):
    engine, sizes = engine_of(model), []

    def step(self, slots, *_):
        sizes.append(slots.rows)
        raise error

    monkeypatch.setattr(Decoder, "step", step)
    proposals = [Proposal(seed=s) for s in range(6)]
    with pytest.raises(EngineError, match=r"half the responses as well. Give the engine less \(batch_bytes"):
        engine.rollout(engine.prefill(prompt_of(1)), proposals, Limits(max_tokens=9))
    assert sizes == [6, 3]


def test_an_attention_argument_that_is_not_known_means_copies_and_one_line_in_the_log(model, monkeypatch, caplog):
    expected = ask(engine_of(model), 4)
    monkeypatch.setattr(
        decoder_module, "shared_body", lambda body: functools.partial(shared_body(body), novelty=torch.ones(4))
    )
    with caplog.at_level(logging.WARNING):
        engine = engine_of(model)
        assert ask(engine, 4) == expected
        assert ask(engine, 4) == expected
    assert not engine.stats().shares_prompts
    assert caplog.text.count("can't be shared: attention with novelty") == 1


@pytest.mark.parametrize("extra", [{"softcap": 30.0}, {"sliding_window": 8}, {"s_aux": torch.ones(4)}, {"anything": 1}])
def test_what_changes_the_scores_is_not_shared(extra):
    query, key = torch.randn(2, 4, 1, 16), torch.randn(2, 2, 3, 16)
    mask, group = torch.zeros(2, 1, 1, 3), Group(rows=torch.arange(2), kv=[])
    attend(None, query, key, key, mask, sliding_window=None, use_cache=True, position_ids=torch.zeros(2, 1))
    with pytest.raises(SharingUnsupportedError, match=next(iter(extra))):
        attend(None, query, key, key, mask, groups=[group], **extra)
