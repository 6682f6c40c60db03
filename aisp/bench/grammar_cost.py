"""What holding responses to a grammar costs a decode step: the same rows, drawn under a JSON schema and free.

Responses under a schema end when it is satisfied. So that both sides run the same steps with the same rows in them, the
free responses are stopped where those of the same turn ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from aisp.bench.speed import SHORT, Bench, Scenario, samples
from aisp.engines.transformers.engine import TransformersEngine
from aisp.forms.grammars import json_grammar
from aisp.records import GREEDY, Limits, Proposal, Rollout

_SCHEMA = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "year": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "summary": {"type": "string"},
    },
    "required": ["title", "year", "tags", "summary"],
}
_SCALE = 0.1


def grammar_scenarios(bench: Bench, n: int = 16) -> list[Scenario]:
    """Return the scenarios of plain and of perturbed decoding; none where the tokenizer's text can't be masked."""
    if not getattr(bench.tokenizer, "is_fast", False):
        return []
    return [_scenario(bench, n, perturbed=False), _scenario(bench, n, perturbed=True)]


def _scenario(bench: Bench, n: int, *, perturbed: bool) -> Scenario:
    grammar = json_grammar(_SCHEMA)
    lengths: dict[int, list[int]] = {}

    def proposals(turn: int) -> list[Proposal]:
        drawn = samples(n, turn)
        return [replace(one, sampling=GREEDY, scale=_SCALE) for one in drawn] if perturbed else drawn

    def held(turn: int) -> int:
        rollouts = _rollout(bench, bench.ending, turn, [replace(one, grammar=grammar) for one in proposals(turn)])
        lengths[turn] = [len(rollout.tokens) for rollout in rollouts]
        return _tokens(rollouts)

    def free(turn: int) -> int:
        if turn not in lengths:
            held(turn)
        ended = zip(proposals(turn), lengths[turn], strict=True)
        return _tokens(_rollout(bench, bench.engine, turn, [replace(one, pause_after=length) for one, length in ended]))

    kind = "perturbed greedy responses" if perturbed else "samples"
    return Scenario(
        name="grammar-perturbed" if perturbed else "grammar",
        what=f"{n} {kind} held to a JSON schema, against free ones of the same lengths",
        ours=held,
        theirs=free,
    )


def _rollout(bench: Bench, engine: TransformersEngine, turn: int, proposals: Sequence[Proposal]) -> list[Rollout]:
    prefix = engine.prefill(bench.prompt(SHORT, turn))
    return engine.rollout(prefix, proposals, Limits(max_tokens=bench.new_tokens))


def _tokens(rollouts: Sequence[Rollout]) -> int:
    return SHORT + sum(rollout.forward_tokens for rollout in rollouts)
