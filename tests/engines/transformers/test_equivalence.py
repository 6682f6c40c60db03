"""The engine against plain one-by-one decoding: same tokens in float32, same figures, whatever shares the batch."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from aisp.engines.transformers import batch as batch_module
from aisp.engines.transformers.head import Head
from aisp.records import GREEDY, Limits, NoiseTerm, Proposal, Sampling
from aisp.testing import tiny_model, tiny_tokenizer
from tests.engines.build import engine_of
from tests.engines.reference import decode, shifted_logits

ARCHITECTURES = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "granite", "cohere", "phi"]
SHARING = {"llama", "mistral", "qwen2", "qwen3", "phi3", "granite", "cohere", "phi"}
PROMPT = [5, 17, 99, 42, 7, 120, 33, 64, 8, 9, 200, 31, 77, 18, 19, 250, 11, 12, 13, 14]
STEERED = Proposal(
    seed=4,
    sampling=GREEDY,
    scale=0.4,
    mean=(NoiseTerm(seed=91, spans=((3, 0.5), (9, 0.2))), NoiseTerm(seed=92, spans=((6, -0.3),))),
    horizon=8,
)
SAMPLED = Proposal(
    seed=5, sampling=Sampling(temperature=0.8, top_p=0.9), mean=(NoiseTerm(seed=93, spans=((12, 0.4),)),)
)
DENSE = Proposal(
    seed=6,
    sampling=Sampling(),
    scale=0.1,
    mean=(NoiseTerm(seed=94, spans=((4, 0.3),)),),
    shift=np.random.default_rng(3).normal(0.0, 0.3, (5, 64)).astype(np.float32),
    measures=frozenset({"unused_mean_dot"}),
)
COLDER = Proposal(seed=4, sampling=Sampling(), prior=Sampling(temperature=0.6))
CONSTANT = Proposal(seed=7, sampling=Sampling(), shift=np.full((1, 64), 0.2, dtype=np.float32), horizon=6)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request):
    return tiny_model(request.param)


@pytest.fixture(scope="module")
def llama():
    return tiny_model("llama")


@pytest.fixture(params=[1, 10_000], ids=["shared", "copied"])
def sharing(request, monkeypatch):
    """Run a test with the prompt's keys and values held once, and held in every row."""
    monkeypatch.setattr(batch_module, "SHARED_FROM", request.param)


def test_zero_perturbation_is_the_librarys_greedy_generate(model, sharing):
    expected = model.generate(
        torch.tensor([PROMPT]), attention_mask=torch.ones(1, len(PROMPT)), do_sample=False, max_new_tokens=24
    )[0, len(PROMPT) :].tolist()
    engine = engine_of(model)
    rollouts = engine.rollout(engine.prefill(PROMPT), [Proposal(seed=s) for s in range(3)], Limits(max_tokens=24))
    assert [list(rollout.tokens.ids) for rollout in rollouts] == [expected] * 3
    assert engine.stats().shares_prompts == (model.config.model_type in SHARING)


@pytest.mark.parametrize(
    "proposal",
    [STEERED, SAMPLED, DENSE, CONSTANT, COLDER],
    ids=["greedy", "softmax", "dense", "constant", "colder prior"],
)
def test_a_perturbation_is_the_same_shift_of_the_heads_input(model, proposal, sharing):
    expected = decode(model, PROMPT, proposal, 14, eos=[2])
    engine = engine_of(model)
    [rollout] = engine.rollout(engine.prefill(PROMPT), [proposal], Limits(max_tokens=14))
    assert list(rollout.tokens.ids) == expected.ids
    for figure in ("log_prob", "log_prior", "kl_to_base", "mean_dot", "entropy"):
        if figure == "log_prior" and proposal.sampling.greedy:
            continue
        np.testing.assert_allclose(
            getattr(rollout.tokens, figure), getattr(expected, figure), atol=2e-3, err_msg=figure
        )


def test_rows_of_many_kinds_in_one_batch_are_as_they_are_alone(llama, sharing):
    engine = engine_of(llama)
    prefix = engine.prefill(PROMPT)
    noisy = [Proposal(seed=s, sampling=Sampling(), scale=0.1 * s) for s in range(6)]
    proposals = [STEERED, SAMPLED, DENSE, CONSTANT, COLDER, replace(CONSTANT, seed=8), *noisy]
    together = engine.rollout(prefix, proposals, Limits(max_tokens=40))
    alone = [engine.rollout(prefix, [proposal], Limits(max_tokens=40))[0] for proposal in proposals]
    assert [rollout.tokens.ids for rollout in together] == [rollout.tokens.ids for rollout in alone]
    assert len({len(rollout.tokens) for rollout in together}) > 1, "rows that end early must leave the batch"
    for one, other in zip(together, alone, strict=True):
        for figure in ("log_prob", "log_prior", "kl_to_base", "mean_dot", "entropy"):
            np.testing.assert_allclose(
                getattr(one.tokens, figure), getattr(other.tokens, figure), atol=1e-4, err_msg=figure
            )


def test_a_shift_that_rows_share_passes_the_head_once_a_step(llama, monkeypatch):
    engine, columns = engine_of(llama, eos=()), []
    plain = Head.linear
    monkeypatch.setattr(Head, "linear", lambda self, vectors: columns.append(len(vectors)) or plain(self, vectors))
    proposals = [replace(CONSTANT, seed=s, horizon=None) for s in range(5)]
    engine.rollout(engine.prefill(PROMPT), proposals, Limits(max_tokens=4))
    assert columns == [5 + 1] * 4


def test_requests_of_several_threads_meet_and_get_what_they_get_alone(llama, sharing):
    engine = engine_of(llama)
    prompts = [PROMPT[i:] + PROMPT[: i % 3] for i in range(6)]
    proposals = [[Proposal(seed=10 * i + s, sampling=Sampling()) for s in range(3)] for i in range(6)]
    limits = Limits(max_tokens=20)

    def run(i):
        return [r.tokens.ids for r in engine.rollout(engine.prefill(prompts[i]), proposals[i], limits)]

    alone = [run(i) for i in range(6)]
    met: dict[int, list[tuple[int, ...]]] = {}
    threads = [threading.Thread(target=lambda i=i: met.__setitem__(i, run(i))) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [met[i] for i in range(6)] == alone


@pytest.mark.parametrize("cached", [True, False], ids=["cached", "evicted"])
def test_kept_tokens_restart_where_they_were_left(model, cached, sharing):
    engine = engine_of(model, **({} if cached else {"cache_bytes": 0}))
    prefix = engine.prefill(PROMPT)
    first = [Proposal(seed=s, sampling=Sampling(), scale=0.2, retain=True) for s in range(4)]
    originals = engine.rollout(prefix, first, Limits(max_tokens=24))
    cut = [max(0, len(rollout.tokens) - 1 - s) for s, rollout in enumerate(originals)]
    again = [
        Proposal(seed=s, sampling=Sampling(), scale=0.2, kept=rollout.tokens.head(cut[s]))
        for s, rollout in enumerate(originals)
    ]
    rollouts = engine.rollout(prefix, again, Limits(max_tokens=24))
    assert [rollout.tokens.ids for rollout in rollouts] == [rollout.tokens.ids for rollout in originals]
    for one, other in zip(rollouts, originals, strict=True):
        np.testing.assert_allclose(one.tokens.log_prob, other.tokens.log_prob, atol=1e-4)
    if cached:  # only what was dropped is run again, the last kept token included
        expected = [len(r.tokens) - max(kept, 1) for r, kept in zip(originals, cut, strict=True)]
        assert [rollout.forward_tokens for rollout in rollouts] == expected


def test_softmax_draws_at_scale_zero_know_their_probability(llama):
    engine = engine_of(llama)
    plain = Proposal(seed=1, sampling=Sampling(temperature=0.7, top_k=20))
    steered = Proposal(seed=1, sampling=plain.sampling, mean=STEERED.mean)
    rollouts = engine.rollout(engine.prefill(PROMPT), [plain, steered, STEERED], Limits(max_tokens=10))
    np.testing.assert_allclose(rollouts[0].tokens.log_proposal, rollouts[0].tokens.log_prior)
    assert np.isfinite(rollouts[1].tokens.log_proposal).all()
    assert not np.allclose(rollouts[1].tokens.log_proposal[:9], rollouts[1].tokens.log_prior[:9])
    assert np.isnan(rollouts[2].tokens.log_proposal).all()


def test_bfloat16_agrees_with_itself_teacher_forced(llama):
    half = tiny_model("llama").to(torch.bfloat16)
    engine = engine_of(half)
    rollouts = engine.rollout(
        engine.prefill(PROMPT), [Proposal(seed=s, sampling=Sampling()) for s in range(8)], Limits(max_tokens=16)
    )
    for rollout in rollouts:
        ids = torch.tensor([[*PROMPT, *rollout.tokens.ids]])
        with torch.inference_mode():
            log_p = half(input_ids=ids).logits[0, len(PROMPT) - 1 : -1].float().log_softmax(-1)
        forced = log_p.gather(-1, torch.tensor(rollout.tokens.ids)[:, None])[:, 0].numpy()
        np.testing.assert_allclose(rollout.tokens.log_prob, forced, atol=0.1)


def test_a_padded_vocabulary_is_never_drawn_from():
    tokenizer = tiny_tokenizer()
    padded = tiny_model("llama", vocab_size=len(tokenizer) + 64)
    engine = engine_of(padded)
    hot = Proposal(seed=1, sampling=Sampling(temperature=50.0))
    [rollout] = engine.rollout(engine.prefill(PROMPT), [hot], Limits(max_tokens=200))
    assert max(rollout.tokens.ids) < len(tokenizer)


def test_the_users_model_is_left_as_it_was(llama):
    before = llama.config.to_dict(), llama.config._attn_implementation
    engine = engine_of(llama)
    engine.rollout(engine.prefill(PROMPT), [STEERED], Limits(max_tokens=4))
    assert (llama.config.to_dict(), llama.config._attn_implementation) == before
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in llama.modules())


def test_the_bag_and_the_score_vectors_are_sums_over_the_heads_rows(model, sharing):
    engine, weight = engine_of(model), model.get_output_embeddings().weight.detach().double().numpy()
    prefix = engine.prefill(PROMPT)
    shift = np.random.default_rng(4).normal(0.0, 0.3, (1, 64)).astype(np.float32)
    first = Proposal(seed=8, sampling=Sampling(), shift=shift, measures=frozenset({"bag", "score_vectors"}))
    [whole] = engine.rollout(prefix, [first], Limits(max_tokens=9))
    [part] = engine.rollout(prefix, [replace(first, kept=whole.tokens.head(4), seed=9)], Limits(max_tokens=9))
    for rollout in (whole, part):
        np.testing.assert_allclose(rollout.measured["bag"], weight[list(rollout.tokens.ids)].sum(0), rtol=1e-5)
    assert not part.measured["score_vectors"][:4].any()
    for t, token in enumerate(whole.tokens.ids):
        ids = torch.tensor([[*PROMPT, *whole.tokens.ids[:t]]])
        q = shifted_logits(model, ids, torch.from_numpy(shift[0])).softmax(-1).double().numpy()[: len(weight)]
        np.testing.assert_allclose(whole.measured["score_vectors"][t], weight[token] - q @ weight, atol=2e-4)
