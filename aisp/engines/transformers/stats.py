"""What an engine says about itself, for operators and tests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """What an engine holds and has done since it was made.

    Args:
        decoding: Responses that are being decoded.
        waiting: Responses that wait for room in the batch.
        driven: Whether a thread decodes just now.
        max_sequences: Responses that may be decoded at once; fewer than at first where memory ran out.
        batch_bytes: What the keys and values of those that are decoded take, their prompts' included.
        prefix_cache_tokens: Tokens of prompts and responses whose keys and values are kept.
        prefix_cache_bytes: What those take.
        prefills: Forward passes over prompts and over kept tokens that had to be computed again.
        prefilled_tokens: Tokens of those passes.
        steps: Decode steps, each one token of every response in the batch.
        graphs: Captured decode steps that are held.
        graph_generations: How often capturing began anew, because buffers had moved.
        replayed_steps: Steps that were taken by replaying a graph.
        shares_prompts: Whether the model's attention lets responses share one copy of a prompt's keys and values.
    """

    decoding: int
    waiting: int
    driven: bool
    max_sequences: int
    batch_bytes: int
    prefix_cache_tokens: int
    prefix_cache_bytes: int
    prefills: int
    prefilled_tokens: int
    steps: int
    graphs: int
    graph_generations: int
    replayed_steps: int
    shares_prompts: bool
