"""When rollouts end, what they cost, and what goes wrong."""

from __future__ import annotations

import copy
import statistics
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from aisp.engines.transformers.decoder import Decoder
from aisp.engines.transformers.engine import TransformersEngine
from aisp.engines.transformers.head import Head
from aisp.errors import ConfigurationError, EngineError, PromptError, UnsupportedModelError
from aisp.records import NO_TOKENS, Limits, Proposal, Sampling
from aisp.testing import tiny_model, tiny_tokenizer
from tests.engines.build import codec_of, engine_of

PROMPT = list(range(20, 60))
SAMPLES = [Proposal(seed=s, sampling=Sampling()) for s in range(6)]


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")


@pytest.fixture
def engine(model):
    return engine_of(model)


@pytest.fixture
def endless(model):
    """An engine whose responses never end by themselves."""
    return engine_of(model, eos=())


def test_a_response_ends_with_its_end_of_sequence_token_or_at_its_limit(engine):
    rollouts = engine.rollout(engine.prefill(PROMPT), SAMPLES * 4, Limits(max_tokens=60))
    ended = [rollout for rollout in rollouts if rollout.finish_reason == "stop"]
    assert ended
    assert all(rollout.tokens.ids[-1] == 2 and 2 not in rollout.tokens.ids[:-1] for rollout in ended)
    rest = [rollout for rollout in rollouts if rollout.finish_reason != "stop"]
    assert all(rollout.finish_reason == "length" and len(rollout.tokens) == 60 for rollout in rest)
    assert all(rollout.forward_tokens == len(rollout.tokens) - 1 for rollout in rollouts)


def test_a_stop_string_ends_a_response_also_across_tokens(endless):
    prefix = endless.prefill(PROMPT)
    [whole] = endless.rollout(prefix, SAMPLES[:1], Limits(max_tokens=40))
    # A stop string from the middle of one token into the middle of a later one.
    stop = whole.text[len(whole.text) // 2 : len(whole.text) // 2 + 5]
    [cut] = endless.rollout(prefix, SAMPLES[:1], Limits(max_tokens=40, stop=("never there", stop)))
    assert cut.finish_reason == "stop"
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.tokens.ids == whole.tokens.ids[: len(cut.tokens)]
    assert stop not in tiny_tokenizer().decode(cut.tokens.ids[:-1])


def test_an_empty_stop_string_is_an_error():
    with pytest.raises(ConfigurationError, match="empty string"):
        Limits(max_tokens=3, stop=("",))


@pytest.mark.parametrize("how", ["deadline", "cancel"])
def test_rows_end_at_the_deadline_or_when_cancelled(endless, how):
    prefix = endless.prefill(PROMPT)
    cancel = threading.Event()
    seen = []

    def progress(new):
        seen.append(new)
        if how == "cancel" and sum(seen) > 10:
            cancel.set()

    deadline = time.monotonic() + 0.3 if how == "deadline" else None
    limits = Limits(max_tokens=400, deadline=deadline, cancel=cancel)
    rollouts = endless.rollout(prefix, SAMPLES, limits, progress)
    assert {rollout.finish_reason for rollout in rollouts} == {"cancelled"}
    assert sum(seen) == sum(len(rollout.tokens) for rollout in rollouts)
    if how == "cancel":
        assert sum(seen) <= 10 + 2 * len(SAMPLES), "one decode step and no more after the event"


def test_an_interrupted_caller_frees_its_rows(endless):
    prefix = endless.prefill(PROMPT)

    def interrupt(new):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        endless.rollout(prefix, SAMPLES, Limits(max_tokens=400), interrupt)
    [rollout] = endless.rollout(prefix, SAMPLES[:1], Limits(max_tokens=3))
    assert len(rollout.tokens) == 3
    assert endless.stats().decoding == 0


def test_a_prompt_is_prefilled_once_and_only_behind_what_it_shares(engine):
    prefix = engine.prefill(PROMPT)
    engine.rollout(prefix, SAMPLES, Limits(max_tokens=5))
    engine.rollout(prefix, SAMPLES, Limits(max_tokens=5))
    assert (engine.stats().prefills, engine.stats().prefilled_tokens) == (1, len(PROMPT))
    assert engine.prefill(PROMPT) is prefix
    del prefix
    engine.prefill([*PROMPT, 3, 4, 5])
    assert engine.stats().prefilled_tokens == len(PROMPT) + 3
    engine.prefill([*PROMPT[:10], 9, 9])
    assert (engine.stats().prefills, engine.stats().prefilled_tokens) == (3, len(PROMPT) + 3 + 2)


def test_a_tree_without_memory_gives_the_same_tokens(model):
    frugal = engine_of(model, cache_bytes=0)
    lavish = engine_of(model)
    for prompt in (PROMPT, [*PROMPT, 8], PROMPT[:20]):
        got = [
            [r.tokens.ids for r in engine.rollout(engine.prefill(prompt), SAMPLES, Limits(max_tokens=12))]
            for engine in (frugal, lavish)
        ]
        assert got[0] == got[1]
    assert frugal.stats().prefix_cache_bytes == 0 < lavish.stats().prefix_cache_bytes


def test_what_does_not_fit_waits(model):
    engine = engine_of(model, batch_bytes=1)
    narrow = engine_of(model, max_sequences=2)
    expected = engine_of(model)
    limits = Limits(max_tokens=12)
    texts = [[r.text for r in e.rollout(e.prefill(PROMPT), SAMPLES, limits)] for e in (engine, narrow, expected)]
    assert texts[0] == texts[1] == texts[2]


def test_out_of_memory_halves_the_batch_once_and_goes_on_where_it_was(engine, monkeypatch, caplog):
    prefix = engine.prefill(PROMPT)
    expected = [r.tokens.ids for r in engine.rollout(prefix, SAMPLES, Limits(max_tokens=12))]
    plain, calls = Decoder.step, []

    def step(self, slots, *args):
        calls.append(slots.rows)
        if len(calls) == 4:
            raise torch.OutOfMemoryError("no more")
        return plain(self, slots, *args)

    monkeypatch.setattr(Decoder, "step", step)
    assert [r.tokens.ids for r in engine.rollout(prefix, SAMPLES, Limits(max_tokens=12))] == expected
    assert max(calls[4:]) == calls[3] // 2
    assert "out of memory" in caplog.text


def test_out_of_memory_again_is_an_error_for_its_callers_and_not_for_the_next(engine, monkeypatch):
    prefix = engine.prefill(PROMPT)

    def step(*args):
        raise torch.OutOfMemoryError("no more")

    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "step", step)
        with pytest.raises(EngineError, match="no more"):
            engine.rollout(prefix, SAMPLES, Limits(max_tokens=12))
    assert len(engine.rollout(prefix, SAMPLES, Limits(max_tokens=4))) == len(SAMPLES)


def test_an_error_while_decoding_reaches_every_caller(engine, monkeypatch):
    prefix = engine.prefill(PROMPT)

    def step(*args):
        raise RuntimeError("broken kernel")

    monkeypatch.setattr(Decoder, "step", step)
    failures = []

    def call():
        try:
            engine.rollout(prefix, SAMPLES[:2], Limits(max_tokens=12))
        except EngineError as error:
            failures.append(str(error))

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert len(failures) == 3
    assert all("broken kernel" in failure for failure in failures)


def test_a_hundred_callers_are_all_answered(engine):
    limits = Limits(max_tokens=6)
    answers = {}

    def call(i):
        prefix = engine.prefill([*PROMPT[: 5 + i % 7], i])
        answers[i] = engine.rollout(prefix, [Proposal(seed=i, sampling=Sampling())], limits)[0].tokens.ids

    threads = [threading.Thread(target=call, args=(i,)) for i in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert sorted(answers) == list(range(100))
    alone = {}
    for i in (0, 37, 99):
        prefix = engine.prefill([*PROMPT[: 5 + i % 7], i])
        alone[i] = engine.rollout(prefix, [Proposal(seed=i, sampling=Sampling())], limits)[0].tokens.ids
    assert {i: answers[i] for i in alone} == alone


def test_bad_prompts_say_what_is_wrong(engine):
    with pytest.raises(PromptError, match="no tokens"):
        engine.prefill([])
    with pytest.raises(PromptError, match="512 tokens and the model's context holds 512"):
        engine.prefill([5] * 512)
    with pytest.raises(PromptError, match="token 100000"):
        engine.prefill([5, 100_000])


def test_a_response_is_shortened_to_what_the_context_holds(endless):
    [rollout] = endless.rollout(endless.prefill([5] * 500), SAMPLES[:1], Limits(max_tokens=100))
    assert (len(rollout.tokens), rollout.finish_reason) == (12, "length")


def test_kept_tokens_must_leave_room(engine):
    prefix = engine.prefill(PROMPT)
    [rollout] = engine.rollout(prefix, [Proposal(seed=1)], Limits(max_tokens=5))
    with pytest.raises(ConfigurationError, match=f"keeps {len(rollout.tokens)} tokens"):
        engine.rollout(prefix, [Proposal(seed=1, kept=rollout.tokens)], Limits(max_tokens=len(rollout.tokens)))
    assert engine.rollout(prefix, [], Limits(max_tokens=5)) == []
    assert len(NO_TOKENS) == 0


def test_the_natural_scale_leaves_the_argmax_as_often_as_softmax_draws_do(endless, model):
    prefix = endless.prefill(PROMPT)
    [base] = endless.rollout(prefix, [Proposal(seed=3, measures=frozenset({"natural_scale"}))], Limits(max_tokens=60))
    scale = base.measured["natural_scale"]
    assert scale > 0
    head = Head(model, len(tiny_tokenizer()))
    decoder = Decoder(model, head)
    prompts = [[*PROMPT, *base.tokens.ids[:length]] for length in range(60)]
    pre_logits = [decoder.prefill(prompt)[1] for prompt in prompts]
    logits = head.finish(head.raw(torch.stack(pre_logits)))
    leaving = 1 - logits.softmax(-1).amax(-1)
    noise = torch.randn(400, 60, head.dim, generator=torch.Generator().manual_seed(0))
    moved = torch.stack([head.raw(torch.stack(pre_logits) + scale * eps).argmax(-1) for eps in noise])
    share = (moved != logits.argmax(-1)).double().mean()
    # The meter sees 16 directions, the same at all 60 positions: its own error is the larger one.
    error = float((leaving.mean() * (1 - leaving.mean()) / 16) ** 0.5)
    assert abs(float(share - leaving.mean())) < 2 * error


def test_unused_mean_dot_reaches_to_the_horizon(engine):
    from aisp.noise import gaussians
    from aisp.records import NoiseTerm

    term = NoiseTerm(seed=9, spans=((50, 0.2),))
    proposals = [
        Proposal(
            seed=s,
            scale=0.3,
            mean=(term,),
            horizon=40,
            measures=frozenset({"unused_mean_dot"}),
            sampling=Sampling(temperature=2),
        )
        for s in range(12)
    ]
    rollouts = engine.rollout(engine.prefill(PROMPT), proposals, Limits(max_tokens=60))
    row = min(range(12), key=lambda i: len(rollouts[i].tokens))
    start, dim = len(rollouts[row].tokens), 64
    assert start < 40
    positions = torch.arange(start, 40)[None]
    mean = 0.2 * gaussians([9], positions, dim)[0]
    noise = 0.3 * gaussians([row], positions, dim)[0]
    assert rollouts[row].measured["unused_mean_dot"] == pytest.approx(float((mean * (mean + noise)).sum()), rel=1e-4)


def test_a_model_without_a_plain_linear_head_is_refused(model):
    broken = tiny_model("llama")
    broken.set_output_embeddings(torch.nn.Bilinear(2, 2, 2))
    with pytest.raises(UnsupportedModelError, match="Bilinear"):
        engine_of(broken)


def test_a_model_whose_logits_are_not_its_heads_is_refused(model):
    class Twisted(type(model)):
        def forward(self, *args, **kwargs):
            out = super().forward(*args, **kwargs)
            out.logits = out.logits * 2
            return out

    twisted = tiny_model("llama")
    twisted.__class__ = Twisted
    with pytest.raises(UnsupportedModelError, match="are not its LM head"):
        engine_of(twisted)


def test_a_model_in_training_mode_is_refused():
    model = tiny_model("llama")
    codec = codec_of(model)
    with pytest.raises(ConfigurationError, match=r"model.eval\(\)"):
        TransformersEngine(model.train(), codec)


def test_the_scheduler_admits_first_come_first_served(model):
    engine = engine_of(model, eos=(), max_sequences=3)
    prefix, limits = engine.prefill(PROMPT), Limits(max_tokens=7)
    with engine.start(prefix, SAMPLES[:3], limits) as first, engine.start(prefix, SAMPLES[3:6], limits) as second:
        assert len(second.wait()) == 3
        steps = engine.stats().steps
        assert len(first.wait()) == 3
        assert engine.stats().steps == steps, "they had ended before"


@pytest.mark.parametrize("kept", [0, 3])
def test_the_first_token_drawn_is_none_of_those_excluded(endless, kept):
    prefix, limits = endless.prefill(PROMPT), Limits(max_tokens=8)
    [parent] = endless.rollout(prefix, [replace(SAMPLES[0], retain=True)], limits)
    head = parent.tokens.head(kept)
    rows = [Proposal(seed=s, sampling=Sampling(temperature=0.5), kept=head) for s in range(40)]
    free = endless.rollout(prefix, rows, limits)
    token = statistics.mode(rollout.tokens.ids[kept] for rollout in free)
    other = endless.rollout(prefix, [replace(row, excluded=(token,)) for row in rows], limits)
    assert token not in {rollout.tokens.ids[kept] for rollout in other}
    [log_p] = {round(r.tokens.log_prior[kept], 4) for r in free if r.tokens.ids[kept] == token}
    for rollout in other:
        tokens = rollout.tokens
        gained = tokens.log_proposal[kept:] - tokens.log_prior[kept:]
        assert gained[0] == pytest.approx(-np.log1p(-np.exp(log_p)), abs=1e-3)
        np.testing.assert_allclose(gained[1:], 0.0, atol=1e-6, err_msg="it is barred at one position only")


def test_a_paused_response_goes_on_as_if_it_had_not_been(engine):
    prefix, limits = engine.prefill(PROMPT), Limits(max_tokens=12)
    whole = engine.rollout(prefix, [Proposal(seed=3, sampling=Sampling())], limits)[0]
    part, other = engine.rollout(
        prefix,
        [
            Proposal(seed=3, sampling=Sampling(), pause_after=5, retain=True),
            Proposal(seed=4, sampling=Sampling(), pause_after=100),
        ],
        limits,
    )
    assert len(whole.tokens) > 7, "the test could not fail"
    assert (part.finish_reason, part.paused, len(part.tokens), part.forward_tokens) == ("paused", True, 5, 4)
    assert not other.paused
    rest = engine.rollout(
        prefix, [Proposal(seed=3, sampling=Sampling(), kept=part.tokens, pause_after=2, retain=True)], limits
    )[0]
    assert (len(rest.tokens), rest.paused) == (7, True)
    end = engine.rollout(prefix, [Proposal(seed=3, sampling=Sampling(), kept=rest.tokens)], limits)[0]
    assert end.tokens.ids == whole.tokens.ids
    assert end.finish_reason == whole.finish_reason
    assert part.forward_tokens + rest.forward_tokens + end.forward_tokens == whole.forward_tokens


def test_score_vectors_are_of_what_the_token_was_drawn_from(engine, model):
    prefix, limits = engine.prefill(PROMPT), Limits(max_tokens=3)
    samplings = [Sampling(temperature=0.5), Sampling(temperature=1.0, top_k=2), Sampling(temperature=0.0)]
    proposals = [Proposal(seed=1, sampling=sampling, measures=frozenset({"score_vectors"})) for sampling in samplings]
    weight = model.get_output_embeddings().weight.detach().numpy()
    for sampling, rollout in zip(samplings, engine.rollout(prefix, proposals, limits), strict=True):
        for t, token in enumerate(rollout.tokens.ids):
            with torch.no_grad():
                logits = model(torch.tensor([[*PROMPT, *rollout.tokens.ids[:t]]])).logits[0, -1].numpy()
            logits = logits / (sampling.temperature or 1.0)
            if sampling.top_k is not None:
                logits[logits < np.sort(logits)[-sampling.top_k]] = -np.inf
            q = np.exp(logits - logits.max())
            q /= q.sum()
            np.testing.assert_allclose(rollout.measured["score_vectors"][t], weight[token] - q @ weight, atol=1e-3)


def test_the_embedded_model_shares_prompts_in_bfloat16_too(smollm):
    half = copy.deepcopy(smollm.model).to(torch.bfloat16)
    assert Decoder(half, Head(half, len(smollm.tokenizer))).sharing


@pytest.mark.parametrize("flaw", ["position", "prompt"])
def test_the_probe_sees_a_position_or_a_token_that_is_off_by_one(monkeypatch, flaw):
    """In bfloat16, where the two forms differ by their roundings anyhow."""
    half, plain = tiny_model("llama").to(torch.bfloat16), Decoder.step

    def step(self, slots, tokens, positions, groups):
        if flaw == "position":
            positions = [position + 1 for position in positions]
        else:
            short = [[(keys[:, :-1], values[:, :-1]) for keys, values in group.kv] for group in groups]
            groups = [replace(group, kv=kv) for group, kv in zip(groups, short, strict=True)]
        return plain(self, slots, tokens, positions, groups)

    monkeypatch.setattr(Decoder, "step", step)
    if flaw == "position":  # then the other form is as wrong
        with pytest.raises(UnsupportedModelError, match="differs from its own forward pass"):
            Decoder(half, Head(half))
    else:
        assert not Decoder(half, Head(half)).sharing
