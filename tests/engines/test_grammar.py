"""Constrained decoding: what is drawn is in the grammar, complete at any limit, and honest about its probabilities."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import jsonschema
import numpy as np
import pytest

from aisp.engines.grammar import compile_grammar
from aisp.engines.transformers.engine import TransformersEngine
from aisp.errors import ConfigurationError, UnsupportedModelError
from aisp.records import GREEDY, Limits, NoiseTerm, Proposal, Sampling

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "kinds": {"type": "array", "items": {"enum": ["oak", "elm"]}},
        "size": {"type": "object", "properties": {"m": {"type": "number"}}, "required": ["m"]},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    },
    "required": ["name", "kinds", "size"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "},
}
SOURCE = "start: %json " + json.dumps(SCHEMA)
WARM = Sampling(temperature=1.0)
PROMPT = (5, 6, 7)


@pytest.fixture(scope="module")
def engine(tiny):
    return TransformersEngine(tiny.model, tiny.codec)


@pytest.fixture(scope="module")
def shortest(tiny):
    return compile_grammar(tiny.tokenizer, SOURCE, tiny.eos_token_ids).shortest


def draw(engine, proposals, max_tokens, **limits):
    return engine.rollout(engine.prefill(PROMPT), proposals, Limits(max_tokens=max_tokens, **limits))


@pytest.mark.parametrize("room", [0, 1, 2, 3, 5, 8, 13, 40, 100])
@pytest.mark.parametrize("sampling", [GREEDY, WARM, Sampling(temperature=3.0)])
def test_every_response_is_complete_and_valid_at_any_limit(engine, shortest, room, sampling):
    proposals = [Proposal(seed=seed, sampling=sampling, scale=2.0 * (seed % 2), grammar=SOURCE) for seed in range(6)]
    for rollout in draw(engine, proposals, shortest + room):
        jsonschema.validate(json.loads(rollout.text), SCHEMA)
        assert len(rollout.tokens) <= shortest + room


def test_a_response_ends_as_soon_as_nothing_may_follow(engine):
    rollout = draw(engine, [Proposal(seed=1, sampling=WARM, grammar='start: "yes" | "no"')], 30)[0]
    assert rollout.text in ("yes", "no")
    assert rollout.finish_reason == "stop"


@pytest.mark.parametrize("pattern", ["[a-z]+;", "[;]+a", "(ab|c){3,5}!", "[0-9]{3}-[0-9]{2}"])
def test_regular_expressions_are_closed_too(engine, pattern):
    proposals = [Proposal(seed=seed, sampling=WARM, grammar=f"start: /{pattern}/") for seed in range(4)]
    for rollout in draw(engine, proposals, 12):
        assert re.fullmatch(pattern, rollout.text), rollout.text


def test_rows_without_a_grammar_draw_what_they_draw_alone(engine):
    free = [Proposal(seed=seed, sampling=WARM, scale=0.5 * (seed % 2)) for seed in range(4)]
    held = [replace(proposal, grammar=SOURCE) for proposal in free]
    alone = draw(engine, free, 60)
    together = draw(engine, [proposal for pair in zip(free, held, strict=True) for proposal in pair], 60)[::2]
    assert [rollout.tokens.ids for rollout in together] == [rollout.tokens.ids for rollout in alone]


def test_a_grammar_of_any_text_allows_any_text_and_no_control_token(tiny):
    matcher = compile_grammar(tiny.tokenizer, r"start: /(.|\n)*/", tiny.eos_token_ids).matcher()
    allowed = set(matcher.mask(len(tiny.tokenizer)).nonzero()[0].tolist())
    texts = {token: tiny.tokenizer.decode([token]) for token in range(len(tiny.tokenizer))}
    plain = {token for token, text in texts.items() if text.isascii() and token not in tiny.tokenizer.all_special_ids}
    assert plain <= allowed
    assert allowed & set(tiny.tokenizer.all_special_ids) == set(tiny.eos_token_ids)


def test_figures_are_of_the_constrained_distribution(engine):
    rollout = draw(engine, [Proposal(seed=3, sampling=WARM, grammar='start: "yes" | "no"')], 30)[0]
    tokens = rollout.tokens
    np.testing.assert_allclose(tokens.log_prior, tokens.log_proposal)
    assert tokens.log_prior[0] < 0  # y or n
    np.testing.assert_allclose(tokens.log_prior[1:], 0.0, atol=1e-6)  # what follows is forced
    assert np.all(tokens.log_prob < tokens.log_prior)  # the base model did not know
    y_or_n = [draw(engine, [Proposal(seed=s, sampling=WARM, grammar='start: "yes" | "no"')], 30)[0] for s in range(30)]
    first = {r.text: np.exp(r.tokens.log_prior[0]) for r in y_or_n}
    assert first.keys() == {"yes", "no"}
    assert sum(first.values()) == pytest.approx(1.0, abs=1e-5)


def test_a_forced_token_has_probability_one(engine, shortest):
    """At the least limit the way to the end is all that is left, whatever was drawn."""
    tokens = draw(engine, [Proposal(seed=3, sampling=Sampling(temperature=3.0), grammar=SOURCE)], shortest)[0].tokens
    assert np.mean(tokens.log_proposal > -1e-3) > 0.9
    np.testing.assert_allclose(tokens.log_prior, tokens.log_proposal)


def test_steering_goes_on_within_the_grammar(engine):
    term = NoiseTerm(seed=9, spans=((40, 1.5),))
    rollout = draw(engine, [Proposal(seed=1, mean=(term,), scale=0.5, grammar=SOURCE)], 60)[0]
    json.loads(rollout.text)
    assert rollout.tokens.kl_to_base[:40].sum() > 0


def test_kept_tokens_count(engine):
    parent = draw(engine, [Proposal(seed=1, sampling=WARM, grammar=SOURCE, retain=True)], 80)[0]
    kept = parent.tokens.head(len(parent.tokens) // 2)
    child = draw(engine, [Proposal(seed=2, sampling=WARM, grammar=SOURCE, kept=kept)], 80)[0]
    assert child.tokens.ids[: len(kept)] == kept.ids
    jsonschema.validate(json.loads(child.text), SCHEMA)


def test_a_limit_below_the_shortest_response_is_refused(engine, shortest):
    with pytest.raises(ConfigurationError, match=rf"max_tokens is {shortest - 1}.*{shortest} tokens"):
        draw(engine, [Proposal(seed=1, grammar=SOURCE)], shortest - 1)


@pytest.mark.parametrize("source", ["start: missing", 'start: %json {"type": "nothing"}', "start: /[/", ""])
def test_what_can_not_be_compiled_is_refused(engine, source):
    with pytest.raises(ConfigurationError, match="can't be compiled"):
        draw(engine, [Proposal(seed=1, grammar=source)], 20)


def test_a_slow_tokenizer_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(UnsupportedModelError, match="Slow"):
        compile_grammar(Slow(), "start: /a/", [0])


def test_grammars_are_compiled_once(tiny):
    first = compile_grammar(tiny.tokenizer, SOURCE, tiny.eos_token_ids)
    assert compile_grammar(tiny.tokenizer, SOURCE, tiny.eos_token_ids) is first
