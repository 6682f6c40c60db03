"""Taking tokens: truncation, and draws by the inverse of the cumulative distribution."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from aisp.engines.transformers.softmax import inverse_cdf, log_probabilities, softmax
from aisp.engines.transformers.truncation import by_sorting, truncated
from aisp.noise import uniforms
from aisp.records import GREEDY, Sampling


def logits_of(n, vocab, seed=0):
    return 3 * torch.randn(n, vocab, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0.6),
        Sampling(temperature=1.4, top_k=5),
        Sampling(temperature=0.9, top_p=0.8),
        Sampling(temperature=5.0, top_p=0.95),
        Sampling(temperature=1.1, top_p=0.7, top_k=30),
    ],
)
def test_truncation_is_that_of_the_library(sampling):
    logits = logits_of(6, 3000)
    expected = TemperatureLogitsWarper(sampling.temperature)(None, logits)
    if sampling.top_k:
        expected = TopKLogitsWarper(sampling.top_k)(None, expected)
    if sampling.top_p < 1:
        expected = TopPLogitsWarper(sampling.top_p)(None, expected)
    torch.testing.assert_close(log_probabilities(logits, sampling), expected.log_softmax(-1), atol=1e-4, rtol=1e-4)


def kept_by_definition(row, top_p, top_k):
    """Return the tokens of one row that top-k and then top-p keep: by probability, the lower id first among equals."""
    order = sorted(range(len(row)), key=lambda token: (-row[token], token))[: top_k or len(row)]
    masses = (torch.tensor([row[token] for token in order]) - row[order[0]]).exp().double()
    before = (masses.cumsum(0) - masses) / masses.sum()
    return {token for i, token in enumerate(order) if before[i] < top_p or top_p == 1 if row[token] > -torch.inf}


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(1, 3000),
    st.integers(0, 10_000),
    st.sampled_from([0.01, 1.0, 4.0]),
    st.sampled_from([None, 0.5]),
    st.sampled_from([1e-9, 0.31, 0.907, 0.9993, 1.0]),
    st.sampled_from([None, 1, 2, 70, 2999, 10_000]),
    st.booleans(),
)
def test_truncation_keeps_what_the_definition_says(n, vocab, seed, spread, grid, top_p, top_k, forbidden):
    scores = spread * logits_of(n, vocab, seed)
    if grid is not None:  # as in bfloat16, many tokens are tied
        scores = (scores / grid).round() * grid
    if forbidden:  # as by a grammar
        scores[:, torch.arange(vocab) % 3 != seed % 3 if vocab > 3 else []] = -torch.inf
    expected = [kept_by_definition(row, top_p, top_k) for row in scores.tolist()]
    values, ids = truncated(scores, top_p, top_k)
    found = [set(i[v > -torch.inf].tolist()) for i, v in zip(ids, values, strict=True)]
    dense = by_sorting(scores, top_p, min(top_k or vocab, vocab))
    assert found == expected
    assert [set((row > -torch.inf).nonzero()[:, 0].tolist()) for row in dense] == expected
    for row, v, i in zip(scores, values, ids, strict=True):
        possible = v > -torch.inf
        assert torch.equal(row[i[possible]], v[possible])
        assert i[possible].tolist() == sorted(i[possible].tolist())


@pytest.mark.parametrize("sampling", [Sampling(temperature=0.7), Sampling(top_p=0.8), Sampling(top_k=7, top_p=0.99)])
def test_a_truncated_softmax_draws_and_measures_what_the_whole_one_does(sampling):
    logits = logits_of(40, 2000)
    logits[:, 5:900] = -torch.inf
    found, dense = softmax(logits, sampling), log_probabilities(logits, sampling)
    uniform = uniforms(range(40), torch.tensor([[3]]))[:, 0]
    tokens = found.draw(uniform)
    assert torch.equal(tokens, inverse_cdf(dense.exp(), uniform))
    torch.testing.assert_close(found.log_prob(tokens), dense.gather(-1, tokens[:, None])[:, 0])
    assert bool((found.log_prob(torch.full((40,), 100)) == -torch.inf).all())
    torch.testing.assert_close(found.entropy(), torch.special.entr(dense.exp()).sum(-1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sampling", [Sampling(temperature=0.7), Sampling(top_p=0.9), Sampling(top_k=7)])
def test_excluded_tokens_leave_the_rest_its_odds(sampling):
    logits = logits_of(3, 500)
    before = softmax(logits, sampling)
    likeliest = logits.topk(2).indices.tolist()
    after = before.without({0: likeliest[0], 2: likeliest[2][:1]})
    found, whole = after.log_probabilities(500).exp(), before.log_probabilities(500).exp()
    for row, gone in enumerate((likeliest[0], [], likeliest[2][:1])):
        expected = whole[row].index_fill(0, torch.tensor(gone, dtype=torch.int64), 0.0)
        torch.testing.assert_close(found[row], expected / expected.sum())
    drawn = torch.stack([after.draw(uniforms(range(k, k + 3), torch.tensor([[0]]))[:, 0]) for k in range(200)])
    assert not set(drawn[:, 0].tolist()) & set(likeliest[0])


def test_where_nothing_else_is_possible_the_excluded_are_drawn():
    before = softmax(logits_of(1, 500), Sampling(top_k=2))
    after = before.without({0: before.ids[0].tolist()})
    torch.testing.assert_close(after.log_probabilities(500), before.log_probabilities(500))


def test_greedy_settings_have_the_probabilities_of_temperature_one():
    logits = logits_of(2, 50)
    truncated = Sampling(temperature=0, top_p=0.5, top_k=3)
    for sampling in (GREEDY, truncated):
        torch.testing.assert_close(log_probabilities(logits, sampling), logits.log_softmax(-1))


def test_draws_have_the_distribution():
    probabilities = torch.tensor([[0.0, 0.05, 0.0, 0.5, 0.15, 0.3, 0.0]]).expand(20_000, -1)
    drawn = inverse_cdf(probabilities, uniforms(range(20_000), torch.tensor([[0]]))[:, 0])
    shares = torch.bincount(drawn, minlength=7) / 20_000
    errors = (probabilities[0] * (1 - probabilities[0]) / 20_000).sqrt()
    assert bool(((shares - probabilities[0]).abs() <= 4 * errors).all())


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 1000), st.integers(0, 1000), st.floats(1e-9, 1 - 1e-9))
def test_the_token_is_where_the_cumulative_distribution_passes_the_number(vocab, seed, number):
    probabilities = log_probabilities(logits_of(1, vocab, seed), Sampling(top_k=max(1, vocab // 3))).exp().double()
    drawn = int(inverse_cdf(probabilities, torch.tensor([number], dtype=torch.float64))[0])
    cumulative = probabilities[0].cumsum(0) / probabilities.sum()
    assert probabilities[0, drawn] > 0
    assert float(cumulative[drawn]) >= number - 1e-12
    assert drawn == 0 or float(cumulative[drawn - 1]) <= number + 1e-12


def test_a_number_at_the_end_still_takes_a_possible_token():
    probabilities = torch.zeros(1, 600)
    probabilities[0, 300] = 1.0
    for number in (1e-12, 1 - 2**-30):
        assert int(inverse_cdf(probabilities, torch.tensor([number], dtype=torch.float64))[0]) == 300
