"""The contract of an engine: it owns the model and knows nothing of rewards or strategies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from aisp.records import Limits, Prefix, Proposal, Rollout

Progress = Callable[[int], None]
"""Called between decode steps with the number of response tokens generated since the last call."""


@runtime_checkable
class Engine(Protocol):
    """Draws responses from a model. Thread-safe."""

    @property
    def context_length(self) -> int | None:
        """Tokens that prompt and response may have together; None where the model sets no limit."""

    def prefill(self, token_ids: Sequence[int]) -> Prefix:
        """Run the prompt through the model, once.

        Raises:
            PromptError: An empty prompt, or one that leaves no room for a response.
        """

    def rollout(
        self, prefix: Prefix, proposals: Sequence[Proposal], limits: Limits, progress: Progress | None = None
    ) -> list[Rollout]:
        """Draw one response a proposal, in one batch; the result runs parallel to the proposals.

        Raises:
            EngineError: Decoding failed.
        """
