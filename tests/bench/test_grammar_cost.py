"""What a grammar costs: both sides run the same steps, and only one is held to the schema."""

from __future__ import annotations

import json

import pytest

from aisp.bench.grammar_cost import grammar_scenarios
from aisp.bench.speed import Bench
from aisp.cli.bench_speed import _NumberTokenizer
from aisp.testing import tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def bench():
    return Bench(tiny_model(), tiny_tokenizer(), new_tokens=90, eos_token_ids=(2,))


@pytest.mark.parametrize("index", [0, 1])
def test_both_sides_run_the_same_tokens(bench, index, monkeypatch):
    scenario = grammar_scenarios(bench, n=3)[index]
    drawn = []
    for engine in (bench.ending, bench.engine):
        plain = engine.rollout
        monkeypatch.setattr(engine, "rollout", lambda *a, plain=plain: drawn.append(plain(*a)) or drawn[-1])
    assert scenario.ours(0) == scenario.theirs(0)
    held, free = drawn
    assert all(set(json.loads(one.text)) == {"title", "year", "tags", "summary"} for one in held)
    assert [len(one.tokens) for one in held] == [len(one.tokens) for one in free]
    assert not any(one.text.startswith('{"title"') for one in free)
    assert any(one.tokens.ids != other.tokens.ids for one, other in zip(held, free, strict=True))
    assert scenario.name == ("grammar", "grammar-perturbed")[index]


def test_a_model_without_words_has_no_grammar():
    bench = Bench(tiny_model(), _NumberTokenizer(200))
    assert grammar_scenarios(bench) == []
