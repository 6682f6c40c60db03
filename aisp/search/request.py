"""What is asked of a search: a prompt as rewards and as the model see it, limits, and what decoding is held to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from aisp.records import Limits, Message, Proposal


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request.

    Args:
        messages: The prompt's messages, OpenAI-style, as rewards see them.
        prompt_tokens: The same as the model sees them.
        limits: When a response ends; the deadline and the cancel event end the whole search.
        seed: Equal seeds give equal answers; None draws a fresh one, which the alignment names.
        reference: What rewards are given as `reference_outputs`.
        grammar: What every response is held to; see `aisp.records.Proposal`.
        explored: A grammar within it that every second response of the first round is held to, so that the reward sees
            what the model by itself would hardly write; None for none.
        reasoning: Whether the prompt ends within the model's reasoning, so that a response begins with it.
    """

    messages: Sequence[Message]
    prompt_tokens: Sequence[int]
    limits: Limits
    seed: int | None = None
    reference: Any = None
    grammar: str | None = None
    reasoning: bool = False
    explored: str | None = None

    def with_grammar(self, proposals: Sequence[Proposal], *, first: bool) -> tuple[Proposal, ...]:
        """Return a round's proposals, each with the grammar that it is held to."""
        if self.grammar is None:
            return tuple(proposals)
        every_second = self.explored if first and self.explored is not None else self.grammar
        both = (self.grammar, every_second)
        return tuple(replace(proposal, grammar=both[row % 2]) for row, proposal in enumerate(proposals))
