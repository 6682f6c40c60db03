"""Decode steps on buffers that stay in place: run uncaptured here, they give the tokens of plain steps.

What CUDA does on top of it, capturing and replaying, needs CUDA.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from aisp.engines.transformers import batch as batch_module
from aisp.engines.transformers.cuda_graphs import CapturedSteps
from aisp.engines.transformers.engine import TransformersEngine
from aisp.engines.transformers.slot_cache import additive_mask, bucket
from aisp.records import GREEDY, Limits, NoiseTerm, Proposal, Sampling
from aisp.testing import tiny_model, tiny_tokenizer

PROMPT = [5, 17, 99, 42, 7, 120, 33, 64, 8, 9, 200, 31, 77, 18, 19, 250, 11, 12, 13, 14]
PROPOSALS = [
    Proposal(seed=1, sampling=GREEDY, scale=0.4, mean=(NoiseTerm(seed=91, spans=((9, 0.5),)),)),
    Proposal(seed=2, sampling=Sampling(temperature=0.8, top_p=0.9)),
    *(Proposal(seed=s, sampling=Sampling(), scale=0.1 * s, retain=True) for s in range(3, 8)),
]


def engine_of(model, **options):
    return TransformersEngine(model, tiny_tokenizer(), eos_token_ids=[2], **options)


def in_place(model, monkeypatch, **options):
    """Return an engine whose steps are taken in place, and a list of which were: None for one that was not."""
    engine, taken = engine_of(model, **options), []
    engine._parts.decoder.capture()
    assert engine._parts.decoder.captured is not None
    plain = engine._parts.decoder.captured.step

    def step(slots, tokens, *args):
        hidden = plain(slots, tokens, *args)
        taken.append(None if hidden is None else (len(tokens), slots.place))
        return hidden

    monkeypatch.setattr(engine._parts.decoder.captured, "step", step)
    return engine, taken


def tokens_of(engine, prompt, proposals, max_tokens=70):
    return [r.tokens.ids for r in engine.rollout(engine.prefill(prompt), proposals, Limits(max_tokens=max_tokens))]


@pytest.mark.parametrize("shared_from", [1, 10_000], ids=["shared", "copied"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "phi3", "cohere", "gpt_neox"])
def test_steps_in_place_give_the_tokens_of_plain_steps(architecture, shared_from, monkeypatch):
    monkeypatch.setattr(batch_module, "_SHARED_FROM", shared_from)
    model = tiny_model(architecture)
    engine, taken = in_place(model, monkeypatch)
    expected = tokens_of(engine_of(model), PROMPT, PROPOSALS)
    assert tokens_of(engine, PROMPT, PROPOSALS) == expected
    assert None not in taken
    sizes = [rows for rows, _ in taken]
    assert sizes[0] == 7
    assert len(taken) == max(map(len, expected)) - 1


def test_rows_of_several_prompts_take_plain_steps_and_those_of_one_go_on_in_place(monkeypatch):
    monkeypatch.setattr(batch_module, "_SHARED_FROM", 1)
    model = tiny_model("llama")
    engine, taken = in_place(model, monkeypatch)
    plain = engine_of(model)
    prompts = [PROMPT, PROMPT[3:], PROMPT]
    for prompt in prompts:  # one after the other, through the same buffers of a prompt
        assert tokens_of(engine, prompt, PROPOSALS) == tokens_of(plain, prompt, PROPOSALS)
    assert None not in taken
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda prompt: tokens_of(engine, prompt, PROPOSALS), prompts))
    assert together == [tokens_of(plain, prompt, PROPOSALS) for prompt in prompts]


def test_slots_stay_in_place_from_round_to_round_and_kept_tokens_are_found(monkeypatch):
    model = tiny_model("llama")
    engine, taken = in_place(model, monkeypatch)
    plain = engine_of(model)
    rounds = []
    for one in (engine, plain):
        prefix, limits = one.prefill(PROMPT), Limits(max_tokens=40)
        first = one.rollout(prefix, PROPOSALS, limits)
        again = [
            replace(proposal, seed=proposal.seed + 50, kept=rollout.tokens.head(len(rollout.tokens) // 2))
            for proposal, rollout in zip(PROPOSALS, first, strict=True)
        ]
        rounds.append([[r.tokens.ids for r in done] for done in (first, one.rollout(prefix, again, limits))])
    assert rounds[0] == rounds[1]
    assert len({place for _, place in taken}) == 1, "slots that move have to be captured again"


def test_a_response_that_outgrows_its_bucket_goes_on_in_the_next(monkeypatch):
    model = tiny_model("llama")
    engine, taken = in_place(model, monkeypatch)
    endless = [replace(proposal, seed=proposal.seed + 300) for proposal in PROPOSALS]
    expected = tokens_of(engine_of(model), PROMPT, endless, 200)
    assert max(map(len, expected)) > 64 + 1, "the test could not fail"
    assert tokens_of(engine, PROMPT, endless, 200) == expected
    views = {view for _, view, _ in engine._parts.decoder.captured._steps}
    assert len(views) > 1
    assert None not in taken


def test_what_cannot_be_captured_is_taken_plainly_and_said(monkeypatch, caplog):
    model = tiny_model("llama")
    engine = engine_of(model)
    engine._parts.decoder.capture()

    def broken(*_):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(CapturedSteps, "_made", broken)
    assert tokens_of(engine, PROMPT, PROPOSALS) == tokens_of(engine_of(model), PROMPT, PROPOSALS)
    assert caplog.text.count("decode steps can't be captured") == 1


def test_memory_that_runs_out_while_capturing_is_not_taken_for_that(monkeypatch):
    model = tiny_model("llama")
    engine = engine_of(model)
    engine._parts.decoder.capture()
    plain, calls = CapturedSteps._made, []

    def made(self, slots, size, *args):
        calls.append(size)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("no more")
        return plain(self, slots, size, *args)

    monkeypatch.setattr(CapturedSteps, "_made", made)
    assert tokens_of(engine, PROMPT, PROPOSALS) == tokens_of(engine_of(model), PROMPT, PROPOSALS)
    assert calls[:2] == [8, 4]


def test_buckets_and_masks():
    assert [bucket(n) for n in (1, 2, 3, 9, 256)] == [1, 2, 4, 16, 256]
    mask = additive_mask(torch.tensor([0, 2]), 4)
    assert (mask == 0).tolist() == [[True, False, False, False], [True, True, True, False]]
